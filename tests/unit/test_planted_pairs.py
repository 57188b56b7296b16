"""The short form of ``benchmarks/intervals.py``: 1,000 planted pairs of evaluations for some typical settings."""

import math

import numpy as np
import pytest

from lowvram_ft.evaluation.comparison import difference, rate_difference_ends, share_difference_ends
from lowvram_ft.evaluation.intervals import wilson

SIMULATIONS = 1000
SEED = 2026
SETTINGS = [
    (kind, n, rates)
    for kind in ("rate", "three samples", "score")
    for n in (40, 164)
    for rates in ((0.2, 0.2), (0.2, 0.45), (0.6, 0.5), (0.85, 0.95))
]


def planted(kind, n, rates):
    """(simulations, tasks) before and after, correlated by task, and the true difference of their means."""
    rng = np.random.default_rng([SEED, n, *(round(1000 * rate) for rate in rates)])
    hard = rng.random((SIMULATIONS, n))  # half of the tasks are as hard after as they were before
    again = np.where(rng.random((SIMULATIONS, n)) < 0.5, hard, rng.random((SIMULATIONS, n)))
    before, after = (values(kind, place, rate, rng) for place, rate in zip((hard, again), rates, strict=True))
    return before, after, mean(kind, rates[1]) - mean(kind, rates[0])


def values(kind, place, rate, rng):
    if kind == "rate":
        return (place < rate).astype(float)
    if kind == "three samples":
        return rng.binomial(3, np.where(place < rate, 0.5 + rate / 2, rate / 2)) / 3
    return np.where(place < rate, 1 - (place / rate) ** 2, 0.0)  # a score of 2/3 on the average where anything passes


def mean(kind, rate):
    if kind == "three samples":
        return rate * (0.5 + rate / 2) + (1 - rate) * rate / 2
    return rate if kind == "rate" else 2 / 3 * rate


def ends(kind, before, after):
    if kind == "rate":
        gained, lost = (after > before).sum(-1).astype(float), (after < before).sum(-1).astype(float)
        return rate_difference_ends(gained, lost, before.shape[-1])
    return share_difference_ends(before, after)


def held(low, high, true):
    return float(((low <= true + 1e-12) & (true - 1e-12 <= high)).mean())


@pytest.mark.parametrize(("kind", "n", "rates"), SETTINGS)
def test_the_planted_difference_is_inside_in_95_plus_or_minus_2_percent(kind, n, rates):
    before, after, true = planted(kind, n, rates)
    assert (after - before).mean() == pytest.approx(true, abs=4 / math.sqrt(SIMULATIONS * n)), "planted as it says"
    low, high = ends(kind, before, after)
    assert 0.93 <= held(low, high, true) <= 0.97
    for i in range(3):  # what a comparison shows is the same
        found = difference(before[i].tolist(), after[i].tolist(), shares=True)["interval"]
        assert found == pytest.approx((low[i], high[i]), abs=1e-9)


@pytest.mark.parametrize("n", [40, 164])
def test_tasks_taken_for_unpaired_would_be_too_wide(n):
    """Newcombe's interval of two independent rates: half of the tasks are the same on both sides."""
    before, after, true = planted("rate", n, (0.2, 0.2))
    sides = [(share.mean(-1), *wilson(share.mean(-1), n)) for share in (before, after)]
    (old, old_low, old_high), (new, new_low, new_high) = sides
    low = new - old - np.sqrt((new - new_low) ** 2 + (old_high - old) ** 2)
    high = new - old + np.sqrt((new_high - new) ** 2 + (old - old_low) ** 2)
    assert held(low, high, true) > 0.97


def test_samples_taken_for_tasks_would_be_too_narrow():
    """Ten answers that nearly agree are hardly more than one."""
    rng = np.random.default_rng(SEED)
    old, new = (rng.binomial(10, rng.beta(0.2, 0.3, (SIMULATIONS, 40))) / 10 for _ in range(2))
    low, high = share_difference_ends(old, new)
    assert 0.93 <= held(low, high, 0.0) <= 0.97
    found = new.mean(-1) - old.mean(-1)
    half = 1.96 * np.sqrt(sum(side.mean(-1) * (1 - side.mean(-1)) for side in (old, new)) / 400)
    assert held(found - half, found + half, 0.0) < 0.8


def test_the_percentile_bootstrap_would_be_too_narrow_where_few_tasks_pass():
    rng = np.random.default_rng(SEED)
    place = rng.random((SIMULATIONS, 40))
    after = values("score", place, 0.05, rng)
    true = mean("score", 0.05)
    drawn = after @ rng.multinomial(40, np.full(40, 1 / 40), 400).T / 40
    low, high = np.quantile(drawn, [0.025, 0.975], axis=-1)
    assert held(low, high, true) < 0.9
    assert held(*share_difference_ends(np.zeros_like(after), after), true) >= 0.93
