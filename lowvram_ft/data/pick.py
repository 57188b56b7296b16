"""Which rows to take where there are more than wanted: many kinds of code, rather than the first of a file."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_KINDS = (
    ("class",),
    ("for", "while"),
    ("if", "elif", "match"),
    ("raise", "try", "assert"),
    ("yield",),
    ("async", "await"),
    ("lambda",),
    ("import",),
    ("return",),
    ("with",),
    ("sorted", "sort"),
    ("dict", "set"),
    ("str", "join", "split"),
    ("range", "len"),
)
_WORDS = re.compile(rf"\b({'|'.join(word for words in _KINDS for word in words)})\b")
_LENGTHS = (10, 20, 40, 80, 160)
"""Lines of code at which another class of length begins."""


def stratum(code: str) -> int:
    """A number for the kinds of construct that a piece of code names, and how long it is."""
    there = frozenset(_WORDS.findall(code))
    bits = sum(1 << place for place, words in enumerate(_KINDS) if not there.isdisjoint(words))
    lines = code.count("\n")
    return bits * (len(_LENGTHS) + 1) + sum(lines > bound for bound in _LENGTHS)


def draw(seed: int, name: str) -> int:
    """A number for a row that hangs on the seed and its name alone: its place in the draw, 63 bits."""
    data = f"{seed}\0{name}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big") >> 1


def order_of_choice(
    strata: Sequence[int] | NDArray[np.signedinteger[Any]], draws: Sequence[int] | NDArray[np.int64]
) -> NDArray[np.int64]:
    """Places of all rows, those to take first in front; whatever the length of the front, it is diverse.

    Each stratum gives in proportion to the square root of its size, so that rare kinds of code are taken more often
    than they come, and frequent ones still more often than rare ones (the compromise between equal and proportional
    allocation: Bankier 1988, Power Allocations, The American Statistician 42(3)). Within a stratum, the draw decides.
    """
    kinds = np.asarray(strata, dtype=np.int64)
    chance = np.asarray(draws, dtype=np.int64)
    by_stratum = np.lexsort((chance, kinds))
    _, first, sizes = np.unique(kinds[by_stratum], return_index=True, return_counts=True)
    rank = np.arange(len(kinds)) - np.repeat(first, sizes)
    offset = np.repeat(chance[by_stratum[first]] / 2.0**63, sizes) if len(kinds) else np.empty(0)
    key = np.empty(len(kinds))
    key[by_stratum] = (rank + offset) / np.repeat(np.sqrt(sizes), sizes)
    return np.lexsort((chance, key))
