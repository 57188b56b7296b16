"""Train, validation and test: whole groups, each placed by its own name alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

SIDES = ("train", "eval", "test")


def group_hash(group: str, seed: int) -> int:
    """64 bits that a group and the seed decide."""
    data = f"{seed}\0{group}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "big")


def sides(groups: Sequence[int] | NDArray[np.uint64], eval_share: float, test_share: float) -> NDArray[np.int8]:
    """The side of each row: 0 to train on, 1 to validate, 2 kept out.

    Where a group lands depends on no other group, but for a set so small that a side would be empty: the group with the
    lowest hash is then kept back for validation.

    Args:
        groups: `group_hash` of each row.
        eval_share: share of the groups for validation.
        test_share: share of the groups that is kept out.

    Returns:
        Shape [rows].
    """
    hashes = np.asarray(groups, dtype=np.uint64)
    place = hashes / 2.0**64
    found = np.where(place < test_share, 2, np.where(place < test_share + eval_share, 1, 0)).astype(np.int8)
    if not (found == 0).any():  # a small set that fell on one side as a whole
        found[found == 1] = 0
    training = np.unique(hashes[found == 0])
    if not (found == 1).any() and len(training) > 1:
        found[hashes == training[0]] = 1
    return found
