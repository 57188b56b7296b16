"""Choosing rows: diverse whatever their number, by the seed and not by the order of a file."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lowvram_ft.data.pick import draw, order_of_choice, stratum


def kind(code: str) -> int:
    return stratum(code)


def test_kinds_of_construct_and_length_make_the_stratum():
    plain = kind("def f(n):\n    return n\n")
    assert kind("def g(m):\n    return m + 1\n") == plain
    assert kind("def f(n):\n    for i in n:\n        pass\n") != plain
    assert kind("def f(n):\n    return n\n" + "# more\n" * 20) != plain
    assert kind("class A:\n    pass\n") != kind("def f():\n    raise ValueError\n")


STRATA = st.lists(st.integers(0, 5), max_size=60)


@given(STRATA, st.integers(0, 3))
def test_every_row_has_a_place_in_the_order(strata, seed):
    draws = [draw(seed, str(i)) for i in range(len(strata))]
    assert sorted(order_of_choice(strata, draws).tolist()) == list(range(len(strata)))


@given(STRATA, st.integers(0, 3), st.randoms())
def test_the_order_of_the_file_does_not_matter(strata, seed, random):
    names = [str(i) for i in range(len(strata))]
    there = [names[i] for i in order_of_choice(strata, [draw(seed, name) for name in names])]
    mixed = list(range(len(strata)))
    random.shuffle(mixed)
    found = order_of_choice([strata[i] for i in mixed], [draw(seed, names[i]) for i in mixed])
    assert [names[mixed[i]] for i in found] == there


def test_rare_kinds_come_more_often_than_their_share_and_frequent_ones_still_more_often():
    strata = [0] * 900 + [1] * 90 + [2] * 9
    order = order_of_choice(strata, [draw(0, str(i)) for i in range(len(strata))])
    taken = Counter(strata[i] for i in order[:60])
    by_root = np.sqrt([900, 90, 9])
    for number, expected in enumerate(60 * by_root / by_root.sum()):
        assert abs(taken[number] - expected) <= 2, "in proportion to the square root of the size"
    first_rows = Counter(strata[:60])
    assert first_rows == {0: 60}, "the first rows would have been of one kind"


def test_the_seed_changes_the_choice_and_nothing_else_does():
    strata = [0] * 200
    orders = {seed: tuple(order_of_choice(strata, [draw(seed, str(i)) for i in range(200)])[:20]) for seed in (0, 0, 1)}
    assert orders[0] != orders[1]
    assert orders[0] == tuple(order_of_choice(strata, [draw(0, str(i)) for i in range(200)])[:20])
