"""Which tests are kept, against every subset of them."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowvram_ft.testgen.subject import Worth
from lowvram_ft.testgen.worth.select import choose, why_dropped

PLACES = st.frozensets(st.integers(0, 7), max_size=5)
WORTHS = st.builds(Worth, lines=PLACES, killed=PLACES, mutants=st.just(8))
TESTS = st.lists(WORTHS, max_size=7).map(lambda worths: {f"test_{place}": worth for place, worth in enumerate(worths)})
BY = st.sampled_from(["either", "coverage", "mutants"])


def added(tests, names, base, lines, by):
    """What tests add to what is there, by another way than the one under test: one pair a thing."""
    reached = {line for name in names for line in tests[name].lines if line not in base.lines}
    found = {place for name in names for place in tests[name].killed if place not in base.killed}
    if lines is not None:
        reached = {line for line in reached if line in lines}
    return (reached if by != "mutants" else set(), found if by != "coverage" else set())


@settings(max_examples=300, deadline=None)
@given(tests=TESTS, base=WORTHS, lines=st.none() | PLACES, by=BY)
def test_the_kept_tests_add_what_all_do_and_none_of_them_can_go(tests, base, lines, by):
    kept = choose(tests, base, lines=lines, by=by)
    everything = added(tests, list(tests), base, lines, by)
    assert kept == [name for name in tests if name in kept]
    assert added(tests, kept, base, lines, by) == everything
    for size in range(len(kept)):
        for fewer in itertools.combinations(kept, size):
            assert added(tests, fewer, base, lines, by) != everything


@settings(max_examples=200, deadline=None)
@given(tests=TESTS, base=WORTHS, lines=st.none() | PLACES, by=BY)
def test_greedy_keeps_few_more_than_the_smallest_set(tests, base, lines, by):
    """Chvatal's bound: at most the harmonic number of the largest set times as many as are needed."""
    kept = choose(tests, base, lines=lines, by=by)
    everything = added(tests, list(tests), base, lines, by)
    least = next(
        size
        for size in range(len(tests) + 1)
        if any(
            added(tests, names, base, lines, by) == everything
            for names in itertools.combinations(tests, size)
        )
    )  # fmt: skip
    largest = max((sum(map(len, added(tests, [name], base, lines, by))) for name in tests), default=0)
    assert least <= len(kept) <= max(1.0, sum(1 / n for n in range(1, largest + 1))) * least


@settings(max_examples=200, deadline=None)
@given(tests=TESTS, base=WORTHS, by=BY)
def test_each_dropped_test_is_told_and_what_it_adds_is_in_those_that_are_named(tests, base, by):
    kept = choose(tests, base, by=by)
    reasons = why_dropped(tests, kept, base, by=by)
    assert reasons.keys() == tests.keys() - set(kept)
    for name, reason in reasons.items():
        mine = added(tests, [name], base, None, by)
        if reason.startswith("adds nothing to: "):
            theirs = added(tests, reason.removeprefix("adds nothing to: ").split(", "), base, None, by)
            assert any(mine) and mine[0] <= theirs[0] and mine[1] <= theirs[1]
        else:
            assert mine == (set(), set())


def worth(lines="", killed=""):
    return Worth(frozenset(map(int, lines)), frozenset(map(int, killed)), 9)


def test_more_mutants_come_before_more_lines_and_then_the_first():
    tests = {"test_lines": worth("12345", "1"), "test_kills": worth("1", "12"), "test_same": worth("1", "12")}
    assert choose(tests, Worth(), by="mutants") == ["test_kills"]
    assert choose(tests, Worth()) == ["test_lines", "test_kills"]
    assert why_dropped(tests, ["test_lines", "test_kills"], Worth()) == {"test_same": "adds nothing to: test_kills"}


def test_a_test_that_later_ones_make_superfluous_goes():
    """The first that greed takes has four of six; the other two have all six."""
    tests = {"test_big": worth("", "2345"), "test_left": worth("", "123"), "test_right": worth("", "456")}
    assert choose(tests, Worth()) == ["test_left", "test_right"]
    assert why_dropped(tests, ["test_left", "test_right"], Worth()) == {
        "test_big": "adds nothing to: test_left, test_right"
    }


@pytest.mark.parametrize(
    ("by", "kept"), [("either", ["test_a", "test_b"]), ("coverage", ["test_a"]), ("mutants", ["test_b"])]
)
def test_what_counts_can_be_chosen(by, kept):
    assert choose({"test_a": worth("12", ""), "test_b": worth("1", "3")}, Worth(), by=by) == kept


def test_what_is_there_counts_for_nobody():
    tests = {"test_a": worth("12", "3"), "test_b": worth()}
    assert choose(tests, worth("12", "34")) == []
    assert why_dropped(tests, [], worth("12", "34")) == {
        "test_a": "adds nothing to what is there",
        "test_b": "reaches nothing and finds nothing",
    }
    assert choose(tests, worth("1", "34")) == ["test_a"]


def test_statements_outside_of_the_target_count_for_nobody():
    tests = {"test_a": worth("12"), "test_b": worth("34")}
    assert choose(tests, Worth(), lines=frozenset({3})) == ["test_b"]


def test_nothing_is_chosen_of_nothing():
    assert choose({}, Worth()) == [] and why_dropped({}, [], Worth()) == {}
