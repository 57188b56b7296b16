"""A sample of mutants where there are very many: which to run, and what it tells about all of them."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Collection, Mapping

_LEAST = 2
"""Members that a stratum has in a sample, so that its spread shows."""


def stratified(strata: Mapping[int, str], most: int | None) -> frozenset[int]:
    """Which members to take: from each stratum in proportion to its size, and at least two.

    Args:
        strata: member to the stratum that it is in.
        most: how many to take; None for all. Where every stratum needs its least, a few more are taken.
    """
    if most is None or len(strata) <= most:
        return frozenset(strata)
    members: dict[str, list[int]] = defaultdict(list)
    for member in sorted(strata):
        members[strata[member]].append(member)
    choice = random.Random(0)  # the same mutants each time
    taken: list[int] = []
    for name in sorted(members):
        share = max(_LEAST, round(most * len(members[name]) / len(strata)))
        taken += choice.sample(members[name], min(share, len(members[name])))
    return frozenset(taken)


def estimate(strata: Collection[tuple[int, int, int]], total: int) -> tuple[float, float, float]:
    """Share of successes among all, and its interval of 95 %.

    The stratified estimator with the correction for finite strata (Cochran, Sampling Techniques, 3rd edition,
    equations 5.1 and 5.13); the spread in a stratum from ``(k + 1) / (n + 2)``, so that a small one without a
    failure does not read as certain.

    Args:
        strata: (size, how many were taken, how many of these were successes) of each; a size counts all its
            members, also those that were not taken.
        total: size of all strata, and of what is known without sampling to be no success.

    Returns:
        (estimate, lower end, upper end), each from 0 to 1.
    """
    mean = sum(size * successes / taken for size, taken, successes in strata if taken) / total
    variance = 0.0
    for size, taken, successes in strata:
        if 0 < taken < size:
            share = (successes + 1) / (taken + 2)
            variance += (size / total) ** 2 * (1 - taken / size) * share * (1 - share) / max(1, taken - 1)
    half = 1.96 * math.sqrt(variance)
    return mean, max(0.0, mean - half), min(1.0, mean + half)
