"""Another order, another hash seed: what a test must not hang on."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

Item = TypeVar("Item")


@dataclasses.dataclass(frozen=True)
class Variation:
    """How a run differs from the usual one.

    Attributes:
        order: seed for the order of the tests; None for that of the file. The tests of a class stay together, so
            that its fixtures are set up as often as before.
        hash_seed: ``PYTHONHASHSEED``, which the order of a set of strings hangs on. Each needs a server of its own: run
            many jobs with one before going on to another.
    """

    order: int | None = None
    hash_seed: int = 0


USUAL = Variation()


def shuffled(items: Sequence[Item], owner: Callable[[Item], Hashable], seed: int) -> list[Item]:
    """``items`` in another order: those of one owner stay together, in another order too."""
    by_owner: dict[Hashable, list[Item]] = {}
    for place, item in enumerate(items):
        key = owner(item)
        by_owner.setdefault((place,) if key is None else key, []).append(item)
    groups = list(by_owner.values())
    chance = random.Random(seed)
    chance.shuffle(groups)
    for group in groups:
        chance.shuffle(group)
    return [item for group in groups for item in group]
