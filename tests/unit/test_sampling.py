"""Choosing tokens: greedy, and temperature with min-p, against probabilities worked out beside it."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowvram_ft.inference import Sampling
from lowvram_ft.inference.decoding import choose


class Fixed:
    """A generator that always draws the same number."""

    def __init__(self, value: float) -> None:
        self.value = value

    def random(self) -> float:
        return self.value


class Forbidden:
    def random(self) -> float:
        raise AssertionError("greedy choice must not draw")


LOGITS = st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=40)


def expected(logits, temperature: float, min_p: float) -> list[float]:
    """Probabilities after temperature and min-p, in plain Python floats."""
    top = max(logits)
    weights = [math.exp((value - top) / temperature) for value in logits]
    kept = [weight if weight >= min_p else 0.0 for weight in weights]
    return [weight / sum(kept) for weight in kept]


@given(LOGITS)
def test_greedy_takes_the_first_of_the_most_likely_without_drawing(logits):
    array = np.array(logits, dtype=np.float32)
    assert choose(array, Sampling(temperature=0.0), Forbidden()) == logits.index(max(logits))


@given(LOGITS, st.floats(0.1, 3.0), st.floats(0.0, 1.0), st.floats(0, 1, exclude_max=True))
def test_a_token_below_min_p_is_never_drawn(logits, temperature, min_p, draw):
    array = np.array(logits, dtype=np.float32)
    chosen = choose(array, Sampling(temperature=temperature, min_p=min_p), Fixed(draw))
    share = math.exp((logits[chosen] - max(logits)) / temperature)
    assert share >= min_p * (1 - 1e-4)


@pytest.mark.parametrize(("temperature", "min_p"), [(1.0, 0.0), (0.6, 0.05), (2.0, 0.3)])
def test_tokens_come_as_often_as_their_probability(temperature, min_p):
    logits = [2.0, 1.0, 0.0, -1.0, 1.5]
    draws = 20_000
    rng = np.random.default_rng(0)
    sampling = Sampling(temperature=temperature, min_p=min_p)
    counts = Counter(choose(np.array(logits, dtype=np.float32), sampling, rng) for _ in range(draws))
    for token, chance in enumerate(expected(logits, temperature, min_p)):
        assert counts[token] / draws == pytest.approx(chance, abs=0.015)
    wrong = expected(logits, temperature * 2, min_p)
    assert any(abs(counts[token] / draws - chance) > 0.015 for token, chance in enumerate(wrong))


def test_the_ends_of_the_range_of_draws_give_the_first_and_the_last_kept_token():
    array = np.array([-50.0, 1.0, 1.0, -50.0], dtype=np.float32)
    sampling = Sampling(temperature=1.0, min_p=0.05)
    assert choose(array, sampling, Fixed(0.0)) == 1
    assert choose(array, sampling, Fixed(np.nextafter(1.0, 0.0))) == 2


def test_min_p_one_is_greedy():
    array = np.array([0.1, 0.3, 0.2], dtype=np.float32)
    sampling = Sampling(temperature=5.0, min_p=1.0)
    assert {choose(array, sampling, Fixed(draw)) for draw in (0.0, 0.5, 0.999)} == {1}


def test_the_logits_are_left_as_they_are():
    array = np.array([0.1, 0.3, 0.2], dtype=np.float32)
    choose(array, Sampling(temperature=0.7), Fixed(0.5))
    assert array.tolist() == np.array([0.1, 0.3, 0.2], dtype=np.float32).tolist()


@given(LOGITS, st.floats(0.05, 4.0), st.floats(0.0, 1.0), st.floats(0, 1, exclude_max=True))
def test_leaving_out_what_is_far_off_changes_no_choice(logits, temperature, min_p, draw):
    """Beside the plain way: all weights, those below the bound set to 0."""
    array = np.array(logits, dtype=np.float32)
    weights = np.exp((array - array.max()) / temperature)
    weights[weights < min_p] = 0.0
    total = np.cumsum(weights, dtype=np.float64)
    expected = int(np.searchsorted(total, draw * total[-1], side="right"))
    assert choose(array, Sampling(temperature=temperature, min_p=min_p), Fixed(draw)) == expected
