"""Before against after: planted differences, exact enumeration, SciPy, and cases worked by hand."""

import json
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowvram_ft.evaluation.comparison import (
    compare,
    compare_steps,
    difference,
    mcnemar,
    rate_difference_ends,
    share_difference_ends,
    verdict,
)
from lowvram_ft.evaluation.metrics import Scores

PLANTED = [(0.05, 0.05), (0.05, 0.15), (0.05, 0.5), (0.05, 0.95), (0.5, 0.5), (0.5, 0.6), (0.5, 0.95), (0.95, 0.85)]
"""Rates before and after."""


@given(st.integers(0, 30), st.integers(0, 30))
def test_mcnemar_adds_up_all_that_is_at_least_as_odd(gained, lost):
    changed = gained + lost
    coins = [Fraction(math.comb(changed, k), 2**changed) for k in range(changed + 1)]
    assert mcnemar(gained, lost) == pytest.approx(float(sum(p for p in coins if p <= coins[gained])))


def test_mcnemar_by_hand():
    assert (mcnemar(0, 0), mcnemar(1, 0), mcnemar(5, 5)) == (1.0, 1.0, 1.0)
    assert mcnemar(6, 0) == mcnemar(0, 6) == 2 / 64
    assert mcnemar(8, 1) == pytest.approx(2 * (1 + 9) / 512)


def cells(before: float, after: float, together: float) -> tuple[float, float]:
    """Chances that a task is gained and lost, where the two sides are correlated by ``together``."""
    both = before * after + together * math.sqrt(before * (1 - before) * after * (1 - after))
    both = min(both, before, after)
    return after - both, before - both


def coverage(n: int, gain: float, loss: float) -> float:
    """Chance that Tango's interval holds the true difference: the sum over every outcome that there is."""
    gained, lost = (part[np.add.outer(range(n + 1), range(n + 1)) <= n] for part in np.indices((n + 1, n + 1)))
    logs = np.array([math.lgamma(k + 1) for k in range(n + 1)])
    kept = n - gained - lost
    chance = np.exp(
        logs[n] - logs[gained] - logs[lost] - logs[kept]
        + gained * math.log(gain) + lost * math.log(loss) + kept * math.log(1 - gain - loss)
    )  # fmt: skip
    assert chance.sum() == pytest.approx(1)
    low, high = rate_difference_ends(gained.astype(float), lost.astype(float), n)
    return float(chance[(low <= gain - loss) & (gain - loss <= high)].sum())


@pytest.mark.parametrize("n", [40, 164])
@pytest.mark.parametrize(("before", "after"), PLANTED)
def test_the_interval_of_a_rates_difference_holds_the_true_one_in_95_percent(before, after, n):
    gain, loss = cells(before, after, 0.0)
    assert 0.93 <= coverage(n, gain, loss) <= 0.97


@pytest.mark.parametrize("n", [40, 164])
@pytest.mark.parametrize(("before", "after"), PLANTED)
def test_planted_differences_of_rates_are_inside_in_95_percent_of_1000_simulations(before, after, n):
    gain, loss = cells(before, after, 0.0)
    drawn = np.random.default_rng(0).multinomial(n, (gain, loss, 1 - gain - loss), 1000).astype(float)
    low, high = rate_difference_ends(drawn[:, 0], drawn[:, 1], n)
    assert 0.93 <= ((low <= after - before) & (after - before <= high)).mean() <= 0.97


def test_where_hardly_a_task_changes_the_interval_is_too_wide_and_never_too_narrow():
    """Of few changes there are only a few outcomes: no interval can be right in exactly 95 %."""
    gain, loss = cells(0.05, 0.05, 0.8)
    assert 0.97 < coverage(40, gain, loss) <= 1
    # Wald's, difference ± 1.96 standard errors, is too narrow for 0.02 to 0.10
    drawn = np.random.default_rng(0).multinomial(40, (0.08, 0.001, 0.919), 2000) / 40
    found = drawn[:, 0] - drawn[:, 1]
    half = 1.96 * np.sqrt((drawn[:, 0] + drawn[:, 1] - found**2) / 40)
    assert (abs(found - 0.079) <= half).mean() < 0.9 < coverage(40, 0.08, 0.001)


def test_tangos_ends_solve_his_equation():
    """Each end is the difference that the score test just refuses, its estimate found by brute force."""
    for gained, lost, n in ((9, 0, 44), (5, 1, 54), (0, 0, 30)):
        low, high = (float(end) for end in rate_difference_ends(np.array(float(gained)), np.array(float(lost)), n))
        for end, sign in ((low, 1), (high, -1)):
            losses = np.linspace(max(0.0, -end) + 1e-9, (1 - abs(end)) / 2 + max(0.0, -end) - 1e-9, 400_001)
            gains = losses + end
            rest = n - gained - lost
            likelihood = gained * np.log(np.maximum(gains, 1e-300)) + lost * np.log(losses)
            likelihood += rest * np.log(np.maximum(1 - gains - losses, 1e-300))
            best = losses[likelihood.argmax()]
            score = (gained - lost - n * end) / math.sqrt(n * (2 * best + end * (1 - end)))
            assert score == pytest.approx(sign * 1.96, abs=5e-3)


def test_the_ends_stay_between_minus_1_and_1():
    everything = rate_difference_ends(np.array([40.0, 0.0]), np.array([0.0, 40.0]), 40)
    assert everything[1][0] == pytest.approx(1.0) and everything[0][1] == pytest.approx(-1.0)
    assert everything[0][0] > 0.8 and everything[1][1] < -0.8
    same = rate_difference_ends(np.array(0.0), np.array(0.0), 40)
    assert same[0] == pytest.approx(-same[1]) and 0.05 < same[1] < 0.1, "no change among 40 is no proof of none"


def planted(rng, kind: str, level: float, shape) -> np.ndarray:
    if kind == "three samples":
        return rng.binomial(3, rng.beta(level, 1 - level, shape)) / 3
    share = rng.beta(3, 1, shape)  # "scores": 0 where nothing passes, else spread out, with mean 0.75
    return np.where(rng.random(shape) < level, share, 0.0)


def mean_of(kind: str, level: float) -> float:
    return level if kind == "three samples" else 0.75 * level


@pytest.mark.parametrize("n", [40, 164])
@pytest.mark.parametrize("kind", ["three samples", "scores"])
@pytest.mark.parametrize(("before", "after"), [(0.05, 0.15), (0.05, 0.5), (0.5, 0.5), (0.5, 0.6), (0.95, 0.95)])
def test_planted_differences_of_means_are_inside_in_95_percent_of_1000_simulations(before, after, kind, n):
    rng = np.random.default_rng(11)
    low, high = share_difference_ends(planted(rng, kind, before, (1000, n)), planted(rng, kind, after, (1000, n)))
    true = mean_of(kind, after) - mean_of(kind, before)
    assert 0.93 <= ((low <= true) & (true <= high)).mean() <= 0.97


def test_the_interval_of_a_difference_of_means_by_hand():
    # changes 0.5, 0.5, 0, 0: mean 0.25; squares 0.5, about the mean 0.25; as many as (1² / 0.5) = 2 equal changes.
    # Typical: (0.5 + 0.5) / (2 + 0.5) = 0.4. Variance (0.25 + 0.8 * 0.4) / 3 = 0.19; Student's t of 3 is 3.182.
    low, high = share_difference_ends(np.array([0.0, 0.5, 0.25, 1.0]), np.array([0.5, 1.0, 0.25, 1.0]))
    half = 3.182 * math.sqrt(0.19 / 4)
    assert (low, high) == pytest.approx((0.25 - half, 0.25 + half), abs=0.01)
    # nothing changes: 0.8 of one change of 1 stands for what was not seen. Student's t of 39 is 2.0227
    low, high = share_difference_ends(np.full(40, 0.3), np.full(40, 0.3))
    assert (low, high) == pytest.approx(
        (-2.0227 * math.sqrt(0.8 / 39 / 40), 2.0227 * math.sqrt(0.8 / 39 / 40)), abs=1e-4
    )
    assert difference([0.2], [0.4], shares=True)["interval"] == (-1.0, 1.0), "one task shows no spread"


@pytest.mark.parametrize("n", [20, 40, 100])
def test_planted_differences_of_scores_that_go_together_are_inside_as_often(n):
    """Few tasks pass, mostly the same ones: what made intervals of gains and losses apart too narrow."""
    rng = np.random.default_rng(6)
    passed = rng.random((2000, n)) < 0.12
    old, new = (np.where(passed & (rng.random((2000, n)) < 0.6), rng.beta(3, 1, (2000, n)), 0.0) for _ in range(2))
    low, high = share_difference_ends(old, new)
    assert ((low <= 0) & (high >= 0)).mean() >= 0.93
    # Student's own is too narrow there
    spread = (new - old).std(-1, ddof=1) / math.sqrt(n)
    assert (np.abs((new - old).mean(-1)) <= 2 * spread).mean() < ((low <= 0) & (high >= 0)).mean()


def test_a_paired_percentile_bootstrap_would_be_too_narrow():
    rng = np.random.default_rng(4)
    before, after = np.zeros((300, 40)), planted(rng, "scores", 0.05, (300, 40))  # a base that writes nothing
    true = mean_of("scores", 0.05)
    drawn = (after - before)[:, rng.integers(0, 40, (400, 40))].mean(-1)
    low, high = np.quantile(drawn, [0.025, 0.975], axis=1)
    assert ((low <= true) & (high >= true)).mean() < 0.9
    low, high = share_difference_ends(before, after)
    assert ((low <= true) & (high >= true)).mean() > 0.93


PAIRS = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=60)


@given(PAIRS)
def test_a_difference_lies_in_its_interval_and_turns_round_with_the_sides(pairs):
    before, after = [a for a, _ in pairs], [b for _, b in pairs]
    found, turned = difference(before, after, shares=True), difference(after, before, shares=True)
    low, high = found["interval"]
    assert -1 <= low <= found["difference"] + 1e-9 and found["difference"] - 1e-9 <= high <= 1
    assert turned["interval"] == pytest.approx((-high, -low), abs=1e-9)
    assert turned["difference"] == pytest.approx(-found["difference"])


def test_pairing_tells_more_than_two_means():
    """Hard tasks stay hard: what every task gains is sure, though tasks differ far more among themselves."""
    rng = np.random.default_rng(8)
    before = rng.uniform(0, 0.85, 40)
    after = before + rng.uniform(0.02, 0.08, 40)
    paired = difference(before.tolist(), after.tolist(), shares=True)
    shuffled = difference(before.tolist(), rng.permutation(after).tolist(), shares=True)
    assert (verdict(paired), verdict(shuffled)) == ("better", "undecided")
    assert paired["difference"] == pytest.approx(shuffled["difference"])


def test_a_word_needs_the_interval_and_the_test():
    found = {"difference": 0.1, "interval": (0.01, 0.2)}
    assert verdict(found) == "better"
    assert verdict(found, higher_is_better=False) == "worse"
    assert verdict(found | {"difference": -0.1, "interval": (-0.2, -0.01)}) == "worse"
    assert verdict(found | {"interval": (-0.01, 0.2)}) == "undecided"
    assert verdict(found | {"interval": None}) == "undecided"
    assert verdict(found | {"p_value": 0.07}) == "undecided"


def test_no_difference_is_rarely_called_one():
    rng = np.random.default_rng(1)
    words = [
        verdict(difference(*rng.binomial(1, 0.3, (2, 40)).astype(float).tolist(), shares=True)) for _ in range(400)
    ]
    assert words.count("better") + words.count("worse") <= 0.05 * 400
    sure = [
        verdict(difference(rng.binomial(1, 0.1, 40).tolist(), rng.binomial(1, 0.7, 40).tolist(), shares=True))
        for _ in range(100)
    ]
    assert sure.count("better") >= 95, "and a large one is seen"


# --- evaluations


def record(task: str, passes: bool, *, sample=0, suite="s", step="eval:before", mutants=0.0, **changes) -> dict:
    values = Scores(True, 2, 2 * passes, passes, passes and mutants > 0, 1.0, 1.0, mutants, True, True, 1.5).to_json()
    return {
        "key": f"{step}/{suite}/{task}/{sample}", "step": step, "suite": suite, "task": task, "sample": sample,
        "scores": values | changes, "test": "a\n\nb\n", "n_tokens": 30,
    }  # fmt: skip


def test_two_evaluations_are_paired_by_task():
    before = [record("a", False), record("b", True), record("c", False), record("only before", True)]
    after = [record("only after", False), record("c", True), record("b", False), record("a", True)]
    found = compare(before, after)["s"]["passes"]
    assert (found["tasks"], found["gained"], found["lost"], found["method"]) == (3, 2, 1, "tango")
    assert (found["before"], found["after"]) == pytest.approx((1 / 3, 2 / 3))
    assert found["p_value"] == 1.0
    assert found["verdict"] == "undecided"


def test_several_samples_are_averaged_within_their_task():
    before = [record("a", i == 0, sample=i) for i in range(3)] + [record("b", False, sample=i) for i in range(3)]
    after = [record("a", i > 0, sample=i) for i in range(3)] + [record("b", False, sample=i) for i in range(3)]
    found = compare(before, after)["s"]
    assert (found["passes"]["before"], found["passes"]["after"]) == pytest.approx((1 / 6, 2 / 6))
    assert found["passes"]["method"] == "student"
    assert "p_value" not in found["passes"], "samples of a task are no independent trials"
    assert (found["pass@3"]["before"], found["pass@3"]["after"]) == (0.5, 0.5)


def test_every_metric_is_compared_and_errors_are_better_below():
    tasks = [str(i) for i in range(40)]
    before = [record(t, True, false_acceptance=0.9, false_rejection=0.0) for t in tasks]
    after = [record(t, True, mutants=0.5, false_acceptance=0.1, false_rejection=0.0) for t in tasks]
    found = compare(before, after)["s"]
    words = {metric: one["verdict"] for metric, one in found.items() if "verdict" in one}
    assert words["false_acceptance"] == words["mutation_score"] == words["passes_and_kills"] == "better"
    assert words["false_rejection"] == words["passes"] == "undecided"
    assert compare(after, before)["s"]["false_acceptance"]["verdict"] == "worse"
    assert {metric for metric in found if metric not in words} == {"assertions_per_test", "test_lines", "n_tokens"}
    assert found["test_lines"] == {
        "before": 2.0, "after": 2.0, "difference": 0.0, "interval": None, "method": "bootstrap", "tasks": 40,
    }  # fmt: skip
    json.dumps(found)


def test_suites_and_metrics_of_one_side_alone_are_left_out():
    before = [record("a", True), record("a", True, suite="only before")]
    after = [record("a", True, false_acceptance=0.5), record("b", True, suite="only after")]
    found = compare(before, after)
    assert list(found) == ["s"]
    assert "false_acceptance" not in found["s"]
    assert compare([record("a", True)], [record("b", True)]) == {}


def test_steps_are_read_from_the_log_and_the_last_of_a_key_counts(tmp_path):
    samples = tmp_path / "samples.jsonl"
    lines = [
        record("a", True),
        record("a", False),
        record("a", True, step="eval:after"),
        record("b", True, step="eval:other"),
        record("c", True) | {"scores": None},
    ]
    samples.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = compare_steps(samples, "eval:before", "eval:after")["s"]["passes"]
    assert (found["tasks"], found["gained"], found["lost"]) == (1, 1, 0)
