"""Metrics against brute force and against cases worked by hand."""

import itertools
from dataclasses import replace
from fractions import Fraction
from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowvram_ft.evaluation.evaluate import gate_verdict, gates, score
from lowvram_ft.evaluation.intervals import rate_interval, share_interval
from lowvram_ft.evaluation.metrics import METRICS, Scores, pass_at_k, speed, summarize
from lowvram_ft.execution import Coverage, Judgement, Mutant, MutationReport, TestResult, Verdict
from lowvram_ft.inference import percentile
from lowvram_ft.recipe import EvalSection


@pytest.mark.parametrize(
    ("n", "c", "k"), [(n, c, k) for n in range(1, 8) for c in range(n + 1) for k in range(1, n + 1)]
)
def test_pass_at_k_is_the_share_of_all_subsets_that_hold_a_pass(n, c, k):
    samples = [i < c for i in range(n)]
    subsets = list(itertools.combinations(samples, k))
    assert pass_at_k(n, c, k) == pytest.approx(float(Fraction(sum(map(any, subsets)), len(subsets))), abs=1e-12)


def test_pass_at_k_is_not_the_biased_estimate():
    assert pass_at_k(5, 2, 3) != pytest.approx(1 - (1 - 2 / 5) ** 3)


@pytest.mark.parametrize(("n", "c", "k"), [(2, 1, 3), (3, 4, 1), (3, -1, 1), (3, 1, 0), (0, 0, 1)])
def test_pass_at_k_refuses_what_has_no_meaning(n, c, k):
    with pytest.raises(ValueError, match="pass@k needs"):
        pass_at_k(n, c, k)


@given(st.lists(st.integers(-50, 50), min_size=1, max_size=120), st.integers(1, 100))
def test_the_percentile_is_the_smallest_value_with_that_share_at_or_below_it(values, hundredths):
    found = percentile(values, hundredths / 100)
    enough = [v for v in values if Fraction(sum(w <= v for w in values), len(values)) >= Fraction(hundredths, 100)]
    assert found == min(enough)


def test_percentiles_by_hand():
    values = [float(i) for i in range(1, 101)]
    assert (percentile(values, 0.5), percentile(values, 0.95), percentile(values, 1.0)) == (50.0, 95.0, 100.0)
    assert percentile(values, 0.55) == 55.0, "0.55 * 100 is 55.00000000000001"
    assert percentile([3.0], 0.5) == 3.0
    assert percentile([4.0, 1.0, 3.0, 2.0], 0.5) == 2.0


def scores(**changes) -> Scores:
    values = {
        "writes_tests": True, "n_tests": 4, "n_passed": 4, "passes": True, "useful": True,
        "line_coverage": 1.0, "branch_coverage": 1.0, "mutation_score": 1.0, "parses": True, "collects": True,
        "assertions_per_test": 1.5,
    }  # fmt: skip
    return Scores(**(values | changes))


NOTHING = Scores(False, 0, 0, False, False, 0.0, 0.0, 0.0)


def sample(task: str, value: Scores, suite: str = "s") -> dict:
    return {"suite": suite, "task": task, "scores": value.to_json()}


def test_a_summary_by_hand():
    half = scores(n_passed=1, passes=False, line_coverage=0.5, branch_coverage=0.25, mutation_score=0.1)
    found = summarize([sample("a", scores()), sample("b", half), sample("c", NOTHING), sample("d", NOTHING)])["s"]
    intervals = found.pop("intervals")
    assert found == {
        "parses": 0.5, "collects": 0.5, "passes_and_kills": 0.25, "assertions_per_test": 0.75, "test_lines": None,
        "n_tokens": None, "false_acceptance": None, "false_rejection": None, "reasons": {},
        "writes_tests": 0.5, "single_tests_pass": (1 + 0.25) / 4, "useful": 0.5, "passes": 0.25,
        "line_coverage": 1.5 / 4, "branch_coverage": 1.25 / 4, "mutation_score": pytest.approx(1.1 / 4),
        "pass@1": 0.25, "pass@3": None, "tests_passed": 5, "tests": 8, "tasks": 4, "samples_per_task": 1,
    }  # fmt: skip
    assert intervals["passes"] == intervals["pass@1"] == rate_interval(1, 4)
    assert intervals["line_coverage"] == share_interval([1.0, 0.5, 0.0, 0.0])
    assert set(intervals) == {*METRICS, "pass@1", "assertions_per_test"}, "each mean, and no other, has its interval"


def test_every_task_weighs_the_same_however_many_samples_and_tests_it_has():
    samples = [sample("a", scores(n_tests=100, n_passed=100))] + [sample("b", NOTHING)] * 9
    found = summarize(samples)["s"]
    assert found["single_tests_pass"] == found["useful"] == found["pass@1"] == 0.5
    assert found["samples_per_task"] == 1
    assert found["pass@3"] is None


def test_pass_at_three_needs_three_samples_of_every_task():
    three = [sample("a", scores()), sample("a", NOTHING), sample("a", NOTHING)]
    found = summarize(three + [sample("b", NOTHING)] * 3)["s"]
    assert (found["pass@1"], found["pass@3"]) == (pytest.approx(1 / 6), 0.5)
    assert summarize([*three, sample("b", NOTHING)])["s"]["pass@3"] is None


def test_suites_are_kept_apart():
    found = summarize([sample("a", scores(), "one"), sample("a", NOTHING, "two")])
    assert {suite: means["passes"] for suite, means in found.items()} == {"one": 1.0, "two": 0.0}


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.booleans(), st.floats(0, 1)), min_size=1))
def test_means_are_means_of_the_means_of_tasks(drawn):
    samples = [sample(task, scores(passes=passes, mutation_score=kills)) for task, passes, kills in drawn]
    found = summarize(samples)["s"]
    tasks = {task for task, _, _ in drawn}
    expected = mean(mean(k for t, _, k in drawn if t == task) for task in tasks)
    assert found["mutation_score"] == pytest.approx(expected)
    assert found["pass@1"] == pytest.approx(found["passes"])
    assert all(0 <= found[key] <= 1 for key in METRICS)


# --- from a judgement to scores


COVERED = Coverage(4, 3, 2, 1, (1, 2, 3), (4,))


def result(name: str, outcome: str = "passed") -> TestResult:
    return TestResult(name, outcome, 0.01, "")


def judgement(*results: TestResult, status="ran", assertions=3, coverage=COVERED, outcomes=()) -> Judgement:
    verdict = Verdict(status, results, assertions, "", coverage, 0.1)
    report = MutationReport.from_mutants(tuple(Mutant("op", 1, outcome, "") for outcome in outcomes))
    return Judgement.from_parts(verdict, report if outcomes else None)


def test_a_whole_file_that_passes_counts_in_full():
    found = score(judgement(result("a"), result("b"), outcomes=("killed", "killed", "survived", "not_covered")))
    assert found == Scores(True, 2, 2, True, True, 0.75, 0.5, 0.5, True, True, 1.5)
    assert found.single_tests_pass == 1.0


def test_a_file_of_which_some_tests_fail_is_useful_but_does_not_pass():
    found = score(judgement(result("a"), result("b", "failed"), outcomes=("killed", "survived")))
    assert (found.passes, found.useful, found.single_tests_pass, found.mutation_score) == (False, True, 0.5, 0.5)


def test_branch_coverage_is_that_of_the_lines_where_there_is_no_branch():
    found = score(judgement(result("a"), coverage=Coverage(4, 3, 0, 0, (1, 2, 3), (4,))))
    assert found.branch_coverage == found.line_coverage == 0.75


@pytest.mark.parametrize(
    "empty",
    [
        judgement(status="syntax_error", assertions=0, coverage=None),
        judgement(assertions=3),
        judgement(assertions=0),
        judgement(assertions=3, coverage=None),
    ],
    ids=["does not parse", "nothing collected, though the module was imported", "no assertion", "no coverage"],
)
def test_a_file_without_tests_counts_zero_everywhere(empty):
    assert replace(score(empty), parses=False, collects=False) == NOTHING
    assert score(empty).parses == (empty.verdict.status != "syntax_error")
    assert not score(empty).collects
    assert score(empty).single_tests_pass == 0.0
    means = summarize([sample("a", score(empty))])["s"]
    assert all(means[key] == 0.0 for key in METRICS if key != "parses")


def test_gates_are_met_at_their_value_and_missed_below_it():
    section = EvalSection(gate_pass_rate=0.8, gate_mutation_score=0.5)
    ends = {"passes": (0.7, 0.9), "mutation_score": (0.4, 0.499)}
    means = {"passes": 0.8, "mutation_score": 0.49, "intervals": ends, "tasks": 40}
    assert gates({"suites": {"s": means, "read": {"static": True}}}, section) == [
        {"gate": "gate_pass_rate", "suite": "s", "value": 0.8, "wanted": 0.8, "met": True,
         "interval": (0.7, 0.9), "tasks": 40, "verdict": "undecided"},
        {"gate": "gate_mutation_score", "suite": "s", "value": 0.49, "wanted": 0.5, "met": False,
         "interval": (0.4, 0.499), "tasks": 40, "verdict": "missed"},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("interval", "word"),
    [((0.8, 0.9), "met"), ((0.79, 0.9), "undecided"), ((0.7, 0.8), "undecided"), ((0.7, 0.79), "missed")],
)
def test_a_gate_inside_the_interval_is_undecided(interval, word):
    assert gate_verdict(interval, 0.8) == word


def test_an_evaluation_of_before_there_were_intervals_decides_nothing():
    means = {"passes": 0.9, "mutation_score": 0.4, "tasks": 40}
    found = gates({"suites": {"s": means}}, EvalSection(gate_pass_rate=0.8))
    assert [(gate["met"], gate["verdict"]) for gate in found] == [(True, "undecided"), (False, "undecided")]


def test_more_tasks_decide_what_few_cannot():
    section = EvalSection(gate_pass_rate=0.8)
    for n, word in ((20, "undecided"), (200, "met")):
        samples = [sample(str(i), scores() if i % 10 else NOTHING) for i in range(n)]
        assert gates({"suites": summarize(samples)}, section)[0]["verdict"] == word


def test_error_rates_are_averaged_over_the_tasks_that_have_wrong_solutions():
    samples = [
        sample("a", replace(scores(), false_acceptance=0.5, false_rejection=0.0)),
        sample("b", replace(NOTHING, false_acceptance=1.0, false_rejection=1.0)),
        sample("c", scores()),
    ]
    found = summarize(samples)["s"]
    assert (found["false_acceptance"], found["false_rejection"]) == (0.75, 0.5)
    assert found["intervals"]["false_acceptance"] == share_interval([0.5, 1.0])


def test_lengths_and_reasons_are_those_of_the_log():
    records = [
        sample(str(i), scores()) | {"test": "import a\n\n" + "x = 1\n" * i, "n_tokens": 10 * i, "reason": reason}
        for i, reason in enumerate(["fails: 1 failed", "fails: 2 failed", "empty: no"] * 4)
    ]
    found = summarize(records)["s"]
    assert (found["test_lines"], found["n_tokens"]) == (1 + 5.5, 55.0)
    low, high = found["intervals"]["test_lines"]
    assert low < 6.5 < high
    assert found["reasons"] == {"fails": 8, "empty": 4}


def test_answers_of_a_batch_count_once_for_the_speed():
    batches = [[{"seconds": 0.5 + i / 10, "n_tokens": 40}] * 8 for i in range(8)]
    found = speed(batches)
    files, rate = found["seconds_per_file"], found["tok_per_s"]
    assert (files["p50"], files["p95"], files["batches"]) == pytest.approx((0.8, 1.2, 8))
    assert files["p50_interval"] == pytest.approx((0.5, 1.2)), "the least and the greatest of eight"
    assert files["p95_interval"][1] is None
    assert rate["value"] == pytest.approx(40 * 64 / (8 * (8 * 0.5 + 2.8)))
    assert rate["interval"][0] < rate["value"] < rate["interval"][1]
    assert speed([[{"seconds": 0.0, "n_tokens": 3}]])["tok_per_s"] is None


def test_a_file_that_only_skips_counts_zero():
    skipped = score(judgement(result("a", "skipped"), result("b", "skipped")))
    assert replace(skipped, parses=False, collects=False) == replace(NOTHING, n_tests=2)
    assert score(judgement(result("a", "skipped"), result("b"), outcomes=("killed",))).useful


def test_checks_are_counted_by_test_function_not_by_case():
    found = score(judgement(result("test_a[1]"), result("test_a[2]"), result("test_a[3]"), result("T::test_b")))
    assert found.assertions_per_test == 3 / 2


def test_tests_that_assert_nothing_count_zero_even_where_they_pass_and_crash_on_mutants():
    found = score(judgement(result("a"), assertions=0, outcomes=("killed",)))
    assert (found.n_passed, found.useful, found.mutation_score, found.line_coverage) == (0, False, 0.0, 0.0)
    assert score(judgement(result("a"), assertions=1, outcomes=("killed",))).useful
