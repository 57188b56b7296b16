"""Intervals against SciPy, brute force, exact enumeration, and cases worked by hand."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowvram_ft.evaluation.intervals import (
    bootstrap_interval,
    quantile_interval,
    rate_interval,
    ratio_interval,
    share_ends,
    share_interval,
    student_t,
    wilson,
)


def test_students_t_is_that_of_the_tables():
    by_table = {1: 12.706, 2: 4.303, 5: 2.571, 10: 2.228, 39: 2.023, 120: 1.980}  # any textbook, two-sided 5 %
    for degrees, value in by_table.items():
        assert student_t(degrees) == pytest.approx(value, abs=8e-4)
    with pytest.raises(ValueError, match="degree of freedom"):
        student_t(0)


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 7, 39, 163])
def test_students_t_is_scipys(degrees):
    stats = pytest.importorskip("scipy.stats", reason="SciPy is the oracle")
    assert student_t(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=2e-3 if degrees < 5 else 3e-5)


@pytest.mark.parametrize(("successes", "n"), [(0, 40), (1, 40), (20, 40), (40, 40), (3, 164), (1, 1), (0, 1)])
def test_a_rates_interval_solves_wilsons_equation(successes, n):
    """Each end is the true rate from which the observed one is 1.96 standard errors away."""
    low, high = rate_interval(successes, n)
    for end in (low, high):
        if 0 < end < 1:
            assert abs(successes / n - end) == pytest.approx(1.959963985 * math.sqrt(end * (1 - end) / n), abs=1e-9)
    assert 0 <= low <= successes / n <= high <= 1
    assert (low == 0) == (successes == 0) and (high == 1) == (successes == n)


def test_wilson_by_hand():
    # n 10, 5 successes: centre 0.5, half z / sqrt(n + z²) / 2 = 1.96 / sqrt(13.8415) / 2
    assert rate_interval(5, 10) == pytest.approx((0.5 - 0.26341, 0.5 + 0.26341), abs=1e-4)
    for wrong in ((1, 0), (-1, 3), (4, 3)):
        with pytest.raises(ValueError, match="a rate needs"):
            rate_interval(*wrong)


@pytest.mark.parametrize("n", [40, 164])
@pytest.mark.parametrize("rate", [0.05, 0.5, 0.95])
def test_wilson_holds_the_true_rate_in_95_percent(rate, n):
    """Exactly: the sum over all outcomes, not a simulation."""
    covered = sum(
        math.comb(n, k) * rate**k * (1 - rate) ** (n - k)
        for k in range(n + 1)
        if rate_interval(k, n)[0] <= rate <= rate_interval(k, n)[1]
    )
    assert 0.93 <= covered <= 0.97
    # the textbook's interval, share ± 1.96 standard errors, does not
    if n == 40 and rate != 0.5:
        naive = sum(
            math.comb(n, k) * rate**k * (1 - rate) ** (n - k)
            for k in range(n + 1)
            if abs(k / n - rate) <= 1.96 * math.sqrt(k / n * (1 - k / n) / n)
        )
        assert naive < 0.93


@given(st.lists(st.booleans(), min_size=1, max_size=200))
def test_a_mean_of_yes_and_no_has_wilsons_interval(values):
    expected = rate_interval(sum(values), len(values))
    assert share_interval([float(value) for value in values]) == pytest.approx(expected, abs=1e-12)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60))
def test_a_mean_of_shares_lies_in_its_interval_and_the_interval_in_0_to_1(values):
    low, high = share_interval(values)
    mean = math.fsum(values) / len(values)
    assert 0 <= low <= mean + 1e-12 and mean - 1e-12 <= high <= 1
    assert high - low > 1e-3, "however alike the values are, so few do not make the mean certain"


def test_what_is_no_share_is_refused():
    for values in ([], [1.5], [-0.1, 0.5], [float("nan")]):
        with pytest.raises(ValueError, match="from 0 to 1"):
            share_interval(values)


def test_samples_of_one_task_do_not_count_as_tasks():
    """Three answers that always agree tell as much as one."""
    tasks = [1.0] * 10 + [0.0] * 30
    assert share_interval(tasks) == pytest.approx(rate_interval(10, 40))
    low, high = rate_interval(30, 120)  # each answer taken for a task: too narrow
    assert high - low < 0.65 * (share_interval(tasks)[1] - share_interval(tasks)[0])
    # independent answers tell more than one, and no more than three
    spread = [k / 3 for k, count in ((0, 17), (1, 17), (2, 5), (3, 1)) for _ in range(count)]
    low, high = share_interval(spread)
    assert rate_interval(10, 40)[1] - rate_interval(10, 40)[0] > high - low > 0.5 * (0.413 - 0.142)


@pytest.mark.parametrize("n", [40, 164])
@pytest.mark.parametrize("rate", [0.05, 0.5, 0.95])
def test_a_rate_over_three_samples_of_a_task_is_held_in_95_percent(rate, n):
    rng = np.random.default_rng(5)
    tasks = rng.beta(rate, 1 - rate, (1000, n))  # tasks differ: some are nearly always passed
    values = rng.binomial(3, tasks) / 3
    low, high = share_ends(values)
    assert 0.93 <= ((low <= rate) & (rate <= high)).mean() <= 0.97
    naive_low, naive_high = wilson(values.mean(-1), 3 * n)
    assert ((naive_low <= rate) & (rate <= naive_high)).mean() < 0.9, "answers are no tasks"


@pytest.mark.parametrize("share", [0.3, 0.5, 0.95])
@pytest.mark.parametrize("n", [5, 8, 40, 80])
def test_a_percentiles_interval_is_the_narrowest_that_misses_in_5_percent_at_the_most(n, share):
    def chance(rank):  # that the value of that rank (from 0) lies above the percentile
        share_ = Fraction(share)
        return sum(math.comb(n, k) * share_**k * (1 - share_) ** (n - k) for k in range(rank + 1))

    low, high = quantile_interval(range(n), share)
    lows = [rank for rank in range(n) if chance(rank) <= Fraction(1, 40)]
    highs = [rank for rank in range(n) if 1 - chance(rank) <= Fraction(1, 40)]
    assert low == (max(lows) if lows else None)
    assert high == (min(highs) if highs else None)


def test_few_values_do_not_bound_the_95th_percentile():
    assert quantile_interval([3.0, 1.0, 2.0, 4.0, 5.0, 6.0], 0.5) == (1.0, 6.0)
    assert quantile_interval(range(71), 0.95)[1] is None
    assert quantile_interval(range(72), 0.95)[1] == 71
    assert quantile_interval([], 0.5) == (None, None)


def test_the_bootstrap_is_repeatable_and_says_nothing_of_what_does_not_differ():
    values = np.random.default_rng(0).exponential(size=40).tolist()
    assert bootstrap_interval(values) == bootstrap_interval(values)
    assert bootstrap_interval(values) != bootstrap_interval(values, seed=1)
    assert bootstrap_interval([2.0] * 40) is None
    assert bootstrap_interval([1.0, 2.0, 3.0, 4.0]) is None
    assert bootstrap_interval([0.0] * 39 + [1.0]) is None, "most resamples hold no value that differs"


def test_the_bootstrap_is_a_loop_over_resamples():
    values = np.random.default_rng(3).exponential(size=30)
    low, high = bootstrap_interval(values.tolist())
    assert low + high == pytest.approx(2 * values.mean())
    scores, rng = [], np.random.default_rng(0)
    for places in rng.integers(0, 30, (2000, 30)):
        drawn = values[places]
        scores.append(abs(drawn.mean() - values.mean()) / (np.std(drawn, ddof=1) / math.sqrt(30)))
    half = sorted(scores)[1899] * np.std(values, ddof=1) / math.sqrt(30)
    assert (high - low) / 2 == pytest.approx(half)


def test_the_bootstrap_holds_a_skewed_mean_where_percentiles_of_resamples_do_not():
    rng = np.random.default_rng(2)
    ours = percentiles = 0
    for _ in range(400):
        values = rng.exponential(size=20)
        low, high = bootstrap_interval(values.tolist())
        ours += low <= 1 <= high
        low, high = np.quantile(values[rng.integers(0, 20, (500, 20))].mean(-1), [0.025, 0.975])
        percentiles += low <= 1 <= high
    assert percentiles < 0.93 * 400 <= ours <= 0.97 * 400


def test_a_ratio_of_sums_weighs_each_unit_by_its_size():
    tokens, seconds = [100.0, 10.0, 200.0, 50.0, 80.0, 120.0], [1.0, 0.2, 2.5, 0.4, 0.9, 1.0]
    low, high = ratio_interval(tokens, seconds)
    assert low < sum(tokens) / sum(seconds) < high
    assert low + high == pytest.approx(2 * sum(tokens) / sum(seconds))
    assert ratio_interval([5.0] * 6, [1.0] * 6) is None
