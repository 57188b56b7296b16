"""Samples of mutants: what is taken, and how far the estimate may be off."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowvram_ft.execution import judge, mutation_analysis
from lowvram_ft.execution.sampling import estimate, stratified

STRATA = st.dictionaries(st.integers(0, 500), st.sampled_from("abcde"), max_size=120)


@given(STRATA, st.none() | st.integers(1, 80))
def test_every_stratum_is_in_the_sample_and_all_of_it_where_there_is_room(strata, most):
    taken = stratified(strata, most)
    assert taken <= strata.keys()
    if most is None or len(strata) <= most:
        assert taken == strata.keys()
    for name in set(strata.values()):
        members = {member for member in strata if strata[member] == name}
        assert len(taken & members) >= min(2, len(members))
    assert stratified(strata, most) == taken, "the same each time"


@given(STRATA, st.integers(20, 80))
def test_a_sample_is_about_as_large_as_asked(strata, most):
    assert len(stratified(strata, most)) <= most + 2 * 5


def test_without_sampling_the_estimate_is_the_share():
    mean, low, high = estimate([(10, 10, 4), (30, 30, 30)], total=50)
    assert mean == low == high == 34 / 50


def test_a_small_sample_without_a_failure_is_not_certain():
    mean, low, high = estimate([(100, 5, 5)], total=100)
    assert mean == 1.0 and low < 0.9 and high == 1.0


def test_the_interval_holds_the_truth_as_often_as_it_says():
    """Brute force: populations of known shares, sampled many times."""
    choice = random.Random(1)
    inside = 0
    runs = 600
    for _ in range(runs):
        population = {
            n: (f"s{n % 4}", choice.random() < (0.95, 0.7, 0.4, 0.85)[n % 4]) for n in range(choice.randint(200, 900))
        }
        order = list(population)
        choice.shuffle(order)
        strata = {place: population[n][0] for place, n in enumerate(order)}
        taken = stratified(strata, 80)
        rows = []
        for name in set(strata.values()):
            members = [place for place in strata if strata[place] == name]
            chosen = [place for place in members if place in taken]
            rows.append((len(members), len(chosen), sum(population[order[place]][1] for place in chosen)))
        _, low, high = estimate(rows, len(order))
        inside += low <= sum(hit for _, hit in population.values()) / len(order) <= high
    assert 0.93 <= inside / runs <= 0.99


CODE = "def grade(points):\n" + "".join(
    f"    if points > {limit}:\n        return {limit} + points * {limit + 1}\n" for limit in range(60, 0, -5)
)
TEST = """\
from solution import grade


def test_high():
    assert grade(61) == 60 + 61 * 61
    assert grade(3) is None
"""


def test_a_sampled_score_lies_near_the_full_one_and_says_how_near():
    full = mutation_analysis(CODE, "solution", TEST)
    part = mutation_analysis(CODE, "solution", TEST, max_mutants=60)
    assert full.not_run == 0 and full.interval is None
    assert part.total == full.total and 0 < part.not_run < full.total
    assert part.killed + part.survived + part.timed_out + part.not_run == part.total
    assert part.interval is not None and part.score is not None and full.score is not None
    assert part.interval[0] <= full.score <= part.interval[1]
    assert part.not_covered == full.not_covered, "what no test reaches is known without a sample"


@pytest.mark.parametrize("most", [None, 20])
def test_a_judgement_keeps_what_its_report_says(most):
    found = judge(CODE, "solution", TEST, max_mutants=most)
    assert found.mutation is not None
    assert found.mutation_score == found.mutation.score and found.useful
