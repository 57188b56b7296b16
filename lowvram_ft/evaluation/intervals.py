"""Intervals of 95 % around what a sample of tasks tells.

========================================  ==============================================================
of                                        method
========================================  ==============================================================
a rate, one sample a task                 Wilson's score interval
a mean of shares, from 0 to 1             Wilson's, with the effective number of tasks
a mean of anything else, a ratio of sums  studentized bootstrap over tasks
a percentile                              order statistics
========================================  ==============================================================

The task is the unit throughout: samples of one task are not independent, so they are averaged first. How often each
interval holds the truth is simulated in ``benchmarks/intervals.py``; the figures stand in docs/evaluation.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Interval = tuple[float, float]

CONFIDENCE = 0.95
NORMAL = 1.959963984540054
"""The 97.5 % quantile of the normal distribution."""
RESAMPLES = 2000
_LEAST_VALUES = 5
"""Values below which a bootstrap has too few different resamples to speak of 95 %."""


def student_t(degrees: int) -> float:
    """The 97.5 % quantile of Student's t distribution.

    Exact for one and two degrees of freedom, else the expansion of Abramowitz and Stegun, 26.7.5, with its first four
    terms: right to 1 % for three, to 0.2 % for five, to 1e-4 for ten.

    Args:
        degrees: of freedom, at least 1.
    """
    if degrees < 1:
        raise ValueError(f"student_t needs a degree of freedom (got {degrees})")
    if degrees == 1:
        return math.tan(math.pi * (CONFIDENCE / 2))
    if degrees == 2:
        return CONFIDENCE * math.sqrt(2 / (1 - CONFIDENCE**2))
    z, v = NORMAL, degrees
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return float(z + sum(term / v**power for power, term in enumerate(terms, 1)))


def wilson(share: Any, n: Any, quantile: Any = NORMAL) -> tuple[Any, Any]:
    """Wilson's score interval, for numbers or arrays of them.

    Wilson 1927, "Probable inference, the law of succession, and statistical inference".

    Args:
        share: of successes, from 0 to 1.
        n: trials, or the effective number of them.
        quantile: of the distribution of the share's standardized error.

    Returns:
        Lower and upper ends.
    """
    square = quantile**2 / n
    centre = (share + square / 2) / (1 + square)
    half = np.sqrt(square * (share * (1 - share) + square / 4)) / (1 + square)
    return np.maximum(centre - half, 0.0), np.minimum(centre + half, 1.0)


def rate_interval(successes: int, n: int) -> Interval:
    """Interval of a rate: Wilson's.

    Raises:
        ValueError: there is no trial, or there are more successes than trials.
    """
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"a rate needs 0 <= successes <= n, and n above 0 (got {successes} of {n})")
    low, high = wilson(successes / n, n)
    return float(low), float(high)


def share_ends(values: Floats, widest: float = 2.0) -> tuple[Floats, Floats]:
    """Ends of the intervals of many means at once.

    Args:
        values: (..., tasks), each from 0 to 1.
        widest: how many tasks with the widest spread that the mean allows are added to the variance: few tasks that
            are not 0 show too little of it.

    Returns:
        Lower and upper ends, (...).
    """
    n = values.shape[-1]
    means = values.mean(-1)
    bound = means * (1 - means)
    variance = (n * values.var(-1) + widest * bound) / (n + widest)
    # values from 0 to 1 spread at the most as much as a coin of the same mean, so that n is the least
    effective = np.where(variance > 1e-12, np.maximum(n, n * bound / np.maximum(variance, 1e-12)), n)
    binary = ((values == 0) | (values == 1)).all(-1)
    quantile = np.where(binary | (n < 2), NORMAL, student_t(max(1, n - 1)))
    low, high = wilson(np.clip(means, 0.0, 1.0), effective, quantile)
    return np.minimum(low, means), np.maximum(high, means)


def share_interval(values: Sequence[float]) -> Interval:
    """Interval of a mean of shares: Wilson's with the effective number of tasks, ``n m (1 - m) / variance``.

    A rate with several samples a task is such a mean (design effect: Kish 1965; with Wilson's interval: Dean and
    Pagano 2015, "Evaluating confidence interval methods for binomial proportions in clustered surveys"), and so are
    coverage and mutation score. Of values that are all 0 or 1 it is Wilson's own. It never leaves 0 to 1, and values
    that are all the same do not make it a point.

    Args:
        values: one a task, each from 0 to 1; at least one.

    Raises:
        ValueError: there is no value, or one beyond 0 to 1.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0 or not ((array >= 0) & (array <= 1)).all():
        raise ValueError(f"a mean of shares needs values from 0 to 1 (got {list(values)[:5]})")
    low, high = share_ends(array)
    return float(low), float(high)


def bootstrap_interval(values: Sequence[float], seed: int = 0) -> Interval | None:
    """Interval of a mean: the symmetric studentized bootstrap over tasks.

    Each resample's mean is held against its own standard error (Hall 1988, "On symmetric bootstrap confidence
    intervals"); a percentile of resampled means alone is too narrow for the few and skewed values of an evaluation.

    Args:
        values: one a task.
        seed: of the resamples.

    Returns:
        The ends; None where there are below five values, or too few that differ.
    """
    array = np.asarray(values, dtype=np.float64)
    n = array.size
    if n < _LEAST_VALUES or np.ptp(array) == 0:
        return None
    drawn = array[np.random.default_rng(seed).integers(0, n, (RESAMPLES, n))]
    errors = drawn.std(-1, ddof=1)
    far = np.abs(drawn.mean(-1) - array.mean())
    scores = np.divide(far, errors, out=np.full(RESAMPLES, np.inf), where=errors > 1e-12 * np.ptp(array))
    quantile = np.sort(scores)[math.ceil(CONFIDENCE * RESAMPLES) - 1]
    if not np.isfinite(quantile):
        return None
    half = float(quantile * array.std(ddof=1))
    return float(array.mean()) - half, float(array.mean()) + half


def ratio_interval(numerators: Sequence[float], denominators: Sequence[float], seed: int = 0) -> Interval | None:
    """Interval of a ratio of two sums, such as tokens by seconds: `bootstrap_interval` of its linearized residuals.

    Args:
        numerators: one a unit.
        denominators: of the same units; their sum is above 0.
        seed: of the resamples.

    Returns:
        The ends; None as for `bootstrap_interval`.
    """
    above, below = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    ratio = above.sum() / below.sum()
    ends = bootstrap_interval(((above - ratio * below) / below.mean()).tolist(), seed)
    return None if ends is None else (float(ratio + ends[0]), float(ratio + ends[1]))


def quantile_interval(values: Sequence[float], share: float) -> tuple[float | None, float | None]:
    """Interval of a percentile, from order statistics: no assumption on how the values are distributed.

    The k-th smallest value lies above the percentile with the chance that fewer than k of n values lie below it, a sum
    of binomial terms; each end is missed in 2.5 % at the most (David and Nagaraja, Order Statistics, section 7.1).

    Args:
        values: independent of each other.
        share: 0.95 for the 95th percentile.

    Returns:
        The ends; one is None where so few values cannot bound it: above the 95th percentile it takes 72.
    """
    ordered = sorted(values)
    n = len(ordered)
    below = 0.0
    low: float | None = None
    high: float | None = None
    for rank in range(n):
        below += math.comb(n, rank) * share**rank * (1 - share) ** (n - rank)  # at most `rank` values lie below it
        if below <= (1 - CONFIDENCE) / 2:
            low = ordered[rank]
        if high is None and below >= (1 + CONFIDENCE) / 2:
            high = ordered[rank]
    return low, high
