"""A model is replaced by a better one alone, however often it is tried."""

import itertools
import math
import random

import pytest

from lowvram_ft.improve.decide import decide, least_tasks, level, one_sided
from lowvram_ft.improve.ledger import Ledger


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (1, 0), (3, 1), (5, 5), (2, 7), (9, 0)])
def test_the_p_value_is_that_of_all_ways_in_which_the_changes_could_have_fallen(gained, lost):
    ways = list(itertools.product((0, 1), repeat=gained + lost))
    assert one_sided(gained, lost) == pytest.approx(sum(sum(way) >= gained for way in ways) / len(ways))


def test_the_levels_of_all_attempts_sum_to_five_percent():
    assert level(1) == 0.025
    assert sum(map(level, range(1, 100_000))) == pytest.approx(0.05, abs=1e-6)
    with pytest.raises(ValueError, match="counted from 1"):
        level(0)


def test_so_many_tasks_are_needed_that_gaining_all_of_them_is_enough():
    for k in range(1, 30):
        least = least_tasks(k)
        assert one_sided(least, 0) <= level(k) < one_sided(least - 1, 0)


def test_the_same_tasks_are_asked_for():
    for before, after in (({"a": True}, {"b": True}), ({}, {})):
        with pytest.raises(ValueError, match="the same tasks"):
            decide(before, after, 1)


def outcomes(rng, chances):
    return {str(place): rng.random() < chance for place, chance in enumerate(chances)}


def series(path, rng, make, attempts=10):
    """Ten attempts on one held-out part: which of the models that were adopted are no better.

    Args:
        make: chances of the model in use to those of the next one.
    """
    ledger, n = Ledger(path), rng.choice((20, 35, 50, 100, 200))
    # tasks are easy, hard or in between, as real ones are
    chances = [rng.choice((0.05, 0.3, 0.6, 0.95)) for _ in range(n)]
    before = outcomes(rng, chances)
    wrong = 0
    for attempt in range(attempts):
        new = make(rng, chances)
        k = ledger.begin(str(attempt), ["the part"], {})
        assert k == attempt + 1
        after = outcomes(rng, new)
        if decide(before, after, k).better:
            wrong += math.fsum(new) <= math.fsum(chances)
            chances, before = new, after
    return wrong


def worse(rng, chances):
    return [max(0.0, chance - 0.1) for chance in chances]


def equal(rng, chances):
    return chances


def equal_otherwise(rng, chances):
    """As good on the average, and good at other tasks."""
    return rng.sample(chances, len(chances))


@pytest.fixture
def quick(monkeypatch):
    """Thousands of attempts: without what a power cut would need, and without the interval, which decides nothing."""
    monkeypatch.setattr("os.fsync", lambda _: None)
    shown = {"before": 0.0, "after": 0.0, "interval": (0.0, 0.0)}
    monkeypatch.setattr("lowvram_ft.improve.decide.difference", lambda *_, **__: shown)


@pytest.mark.parametrize("make", [worse, equal, equal_otherwise])
def test_of_many_series_of_ten_attempts_few_ever_adopt_a_model_that_is_no_better(tmp_path, quick, make):
    rng = random.Random(f"series {make.__name__}")
    count = 400
    wrong = sum(series(tmp_path / f"{number}.jsonl", rng, make) > 0 for number in range(count))
    # three standard deviations of the count around 5 %
    assert wrong / count <= 0.05 + 3 * (0.05 * 0.95 / count) ** 0.5, wrong


def test_without_counting_attempts_far_more_series_would(tmp_path, quick, monkeypatch):
    """The check above can fail: this is what it guards against."""
    monkeypatch.setattr("lowvram_ft.improve.decide.level", lambda _: 0.05)
    rng = random.Random(1)
    wrong = sum(series(tmp_path / f"{number}.jsonl", rng, equal) > 0 for number in range(200))
    assert wrong / 200 > 0.1


def test_a_model_that_is_better_by_twenty_points_is_nearly_always_adopted(quick):
    rng = random.Random(5)
    found = 0
    for _ in range(200):
        before = {str(task): rng.random() < 0.4 for task in range(100)}
        # of what was not solved a third is, of what was solved little is lost: 40 % become about 59 %
        after = {task: rng.random() < (0.97 if solved else 0.34) for task, solved in before.items()}
        found += decide(before, after, 1).better
    assert found >= 190


def test_an_attempt_is_counted_once_before_its_outcome_and_again_by_no_other_name(tmp_path):
    ledger = Ledger(tmp_path / "attempts.jsonl")
    assert ledger.begin("a", ["1", "2"], {}) == 1
    assert ledger.begin("a", ["1", "2"], {}) == 1
    assert ledger.begin("b", ["2", "3"], {}) == 2
    assert ledger.count("c", ["3", "9"]) == 2
    assert ledger.count("c", ["9"]) == 1
    assert ledger.begin("c", ["1", "2", "3"], {}) == 3
    ledger.end("b", {"adopted": False})
    ledger.end("b", {"adopted": True})
    assert ledger.ended("a") is None
    assert ledger.ended("b")["adopted"] is False
    assert [line["event"] for line in ledger.lines()] == ["begun", "begun", "begun", "ended"]
