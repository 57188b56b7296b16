"""Intervals and tests held against published tables, another library's figures, and every resample that there is."""

import itertools
import math

import numpy as np
import pytest

from lowvram_ft.evaluation.comparison import difference, mcnemar
from lowvram_ft.evaluation.intervals import NORMAL, RESAMPLES, bootstrap_interval, rate_interval


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0000, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_is_that_of_newcombes_table(successes, n, low, high):
    """Newcombe 1998, "Two-sided confidence intervals for the single proportion: comparison of seven methods",
    Statistics in Medicine 17, 857-872, table I, method 3 (score, without correction)."""
    assert rate_interval(successes, n) == pytest.approx((low, high), abs=5e-5)
    # method 1 there, the textbook's, is another one
    share = successes / n
    half = NORMAL * math.sqrt(share * (1 - share) / n)
    assert (share - half, share + half) != pytest.approx((low, high), abs=5e-4)


def exact(n, rate, ends):
    """Chance that an interval holds the true rate: the sum over all numbers of successes."""
    return sum(
        math.comb(n, k) * rate**k * (1 - rate) ** (n - k)
        for k in range(n + 1)
        if ends(k, n)[0] <= rate <= ends(k, n)[1]
    )


def textbook(k, n):
    half = NORMAL * math.sqrt(k / n * (1 - k / n) / n)
    return k / n - half, k / n + half


@pytest.mark.parametrize(("n", "published"), [(17, 0.951), (20, 0.959), (40, 0.919), (50, 0.935), (100, 0.943)])
def test_coverage_of_the_textbooks_interval_is_the_published_one_and_wilsons_is_better(n, published):
    """Brown, Cai and DasGupta 2001, "Interval estimation for a binomial proportion", Statistical Science 16, 101-133,
    table 1: the standard interval at p = 0.5. It shows that coverage is added up here as it is there."""
    assert exact(n, 0.5, textbook) == pytest.approx(published, abs=6e-4)
    assert exact(n, 0.5, rate_interval) >= min(published, 0.95) - 6e-4


@pytest.mark.parametrize(
    ("n", "least", "greatest"),
    [(20, 0.928, 0.976), (40, 0.92, 0.98), (100, 0.92, 0.98), (164, 0.92, 0.98), (500, 0.92, 0.98)],
)
def test_wilsons_coverage_over_a_grid_of_rates(n, least, greatest):
    """Near 95 % on the average, as Brown, Cai and DasGupta 2001 have it; it goes up and down with the rate."""
    found = {rate: exact(n, rate, rate_interval) for rate in np.linspace(0.02, 0.98, 49)}
    assert 0.945 <= float(np.mean(list(found.values()))) <= 0.96
    usual = [share for rate, share in found.items() if n * min(rate, 1 - rate) >= 5]
    assert least <= min(usual) and max(usual) <= greatest
    assert min(exact(n, rate, textbook) for rate in found) < 0.93


STATSMODELS = [
    (0, 6, 0.03125), (1, 8, 0.0390625), (2, 9, 0.0654296875), (5, 12, 0.143463134765625), (10, 10, 1.0),
    (3, 17, 0.0025768280029296875), (20, 41, 0.009853448195259268), (1, 1, 1.0), (7, 0, 0.015625),
]  # fmt: skip
"""Gained, lost, and ``mcnemar([[30, lost], [gained, 50]], exact=True).pvalue`` of statsmodels 0.15.0, SciPy 1.17.1."""


@pytest.mark.parametrize(("gained", "lost", "p_value"), STATSMODELS)
def test_mcnemar_is_that_of_statsmodels(gained, lost, p_value):
    assert mcnemar(gained, lost) == mcnemar(lost, gained) == pytest.approx(p_value, rel=1e-9)


@pytest.mark.parametrize("changed", range(13))
def test_mcnemar_is_the_share_of_all_ways_to_turn_the_changes(changed):
    """Every one of the 2^n ways in which n changed tasks could have gone."""
    ways = [sum(way) for way in itertools.product((0, 1), repeat=changed)]
    for gained in range(changed + 1):
        odd = abs(gained - changed / 2)
        assert mcnemar(gained, changed - gained) == pytest.approx(
            sum(abs(way - changed / 2) >= odd for way in ways) / len(ways)
        )


# --- the paired bootstrap, with every resample


def every_resample(changes):
    """Distance of the mean of each of the n^n resamples, in its own standard errors, in order."""
    n = len(changes)
    drawn = np.asarray(list(itertools.product(changes, repeat=n)))
    errors = drawn.std(-1, ddof=1) / math.sqrt(n)
    far = np.abs(drawn.mean(-1) - np.mean(changes))
    return np.sort(np.divide(far, errors, out=np.full(len(drawn), np.inf), where=errors > 1e-12))


@pytest.mark.parametrize(
    "changes", [(1.0, 2.0, 4.0, 7.0, 11.0), (-3.0, 0.5, 0.75, 1.0, 6.0), (0.0, 1.0, 1.0, 2.0, 5.0)]
)
def test_the_bootstrap_of_five_paired_differences_is_that_of_all_3125_resamples(changes):
    before = [10.0, 40.0, 20.0, 30.0, 25.0]
    after = [old + change for old, change in zip(before, changes, strict=True)]
    low, high = difference(before, after, shares=False)["interval"]
    assert low + high == pytest.approx(2 * np.mean(changes))
    error = np.std(changes, ddof=1) / math.sqrt(5)
    scores = every_resample(changes)
    assert len(scores) == 5**5
    # 2,000 of them are drawn: the 95 % quantile is off by 1.5 points at the most, three times its standard error
    off = 3 * math.sqrt(0.95 * 0.05 / RESAMPLES)
    least, greatest = (scores[math.ceil(level * len(scores)) - 1] for level in (0.95 - off, 0.95 + off))
    assert least * error - 1e-9 <= (high - low) / 2 <= greatest * error + 1e-9
    # the percentile bootstrap is far narrower
    means = np.asarray(list(itertools.product(changes, repeat=5))).mean(-1)
    assert np.subtract(*np.quantile(means, [0.975, 0.025])) < 0.8 * (high - low)


def test_below_five_values_there_are_too_few_resamples():
    # of 2^2 resamples half, of 3^3 three, of 4^4 four hold one value alone: they say nothing of the spread
    for values in ((1.0, 2.0), (1.0, 2.0, 4.0), (1.0, 2.0, 4.0, 7.0)):
        assert np.isinf(every_resample(values)).sum() == len(values)
    for n in range(5):
        assert bootstrap_interval([1.0, 2.0, 4.0, 7.0][:n]) is None
    assert bootstrap_interval([1.0, 2.0, 4.0, 7.0, 11.0]) is not None
