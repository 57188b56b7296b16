"""Drafts from the text: matches against brute force, chances, and the length with the most expected tokens a second."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowvram_ft.inference.batch_shapes import BatchShapes, _shapes_that_agree
from lowvram_ft.inference.decoding import best_length
from lowvram_ft.inference.llama import TOKENS_A_BATCH, pays
from lowvram_ft.inference.lookup import MAX_NGRAM, MOST_REMEMBERED, Acceptance, Memory, NgramIndex

TOKENS = st.lists(st.integers(0, 3), max_size=60)


def brute_force(text: list[int], tail: list[int]) -> tuple[int, int]:
    """The latest place after the longest match that another token follows."""
    for n in range(min(MAX_NGRAM, len(tail)), 0, -1):
        for end in range(len(text) - 1, n - 1, -1):
            if text[end - n : end] == tail[len(tail) - n :]:
                return end, n
    return 0, 0


@given(TOKENS, TOKENS)
def test_the_longest_and_latest_match_is_found(text, tail):
    index = NgramIndex()
    index.extend(text)
    assert index.find(tail[-MAX_NGRAM:]) == brute_force(text, tail[-MAX_NGRAM:])


@given(st.lists(TOKENS, max_size=4))
def test_a_text_in_pieces_gives_the_same_matches(pieces):
    whole, grown = NgramIndex(), NgramIndex()
    for piece in pieces:
        grown.extend(piece)
    whole.extend([token for piece in pieces for token in piece])
    assert grown.find(whole.tokens[-MAX_NGRAM:]) == whole.find(whole.tokens[-MAX_NGRAM:])


def test_a_draft_comes_from_the_longer_match_and_the_text_itself_wins_a_tie():
    memory, own = Memory(), NgramIndex()
    memory.add([1, 2, 3, 9, 9])
    own.extend([3, 7, 7, 2, 3])
    assert memory.draft(own, 2) == ([9, 9], 2)
    own.extend([8, 2, 3])
    assert memory.draft(own, 2) == ([8, 2], 2)
    memory.clear()
    assert memory.draft(own, 5) == ([8, 2, 3], 2)
    assert Memory().draft(NgramIndex(), 4) == ([], 0)


def test_the_memory_has_a_bound():
    memory, own = Memory(), NgramIndex()
    own.extend([5])
    memory.add([5, 6])
    assert memory.draft(own, 1) == ([6], 1)
    memory.add([1] * MOST_REMEMBERED)
    assert memory.draft(own, 1) == ([], 0)


def test_chances_are_learnt_up_to_the_first_wrong_token():
    learnt, untouched = Acceptance(), Acceptance()
    for _ in range(200):
        learnt.learn(2, 4, 1)  # right after 2, wrong after 3; what comes after a wrong token says nothing
    assert learnt.chance(2) > 0.95 and learnt.chance(3) < 0.05
    assert [learnt.chance(n) for n in (1, 4, 5, 99)] == [untouched.chance(n) for n in (1, 4, 5, 99)]


def shapes(cost: list[float], least: int = 1, most: int = 8) -> BatchShapes:
    return BatchShapes(least, most, tuple(cost))


def test_the_length_has_the_most_expected_tokens_a_second():
    free, linear = [1.0] * 8, [float(n) for n in range(1, 9)]
    likely, unlikely = [0.9, 0.8, 0.7], [0.1, 0.01]
    assert best_length([likely], 1, shapes(free)) == 4
    assert best_length([likely], 1, shapes(linear)) == 1
    assert best_length([unlikely], 1, shapes([1, 1.3, 1.6, 2, 2, 2, 2, 2])) == 1
    assert best_length([[]], 1, shapes(free)) == 1
    # 1.9 tokens for 1.5 is more than 1 for 1, and than 2.0 for 1.9
    assert best_length([[0.9, 0.1]], 1, shapes([1, 1.5, 1.9, 2, 2, 2, 2, 2])) == 2


def test_the_length_keeps_to_the_sizes_that_agree():
    free = [1.0] * 8
    assert best_length([[]], 1, shapes(free, least=2)) == 2
    assert best_length([[0.9] * 7], 1, shapes(free, most=3)) == 3
    assert best_length([[0.9] * 7, [0.9] * 7], 3, shapes(free, most=7)) == 2
    assert best_length([[0.9] * 7] * 4, 4, shapes(free, most=3)) == 1, "nothing fits"


def test_sizes_agree_up_to_the_first_that_does_not():
    seconds = {n: [0.1 * n, 0.2 * n] for n in range(1, 9)}
    every = dict.fromkeys(range(1, 9), True)
    assert (_shapes_that_agree(every, seconds).least, _shapes_that_agree(every, seconds).most) == (1, 8)
    one_differs = _shapes_that_agree(every | {1: False}, seconds)
    assert (one_differs.least, one_differs.most) == (2, 8)
    four_differs = _shapes_that_agree(every | {4: False}, seconds)
    assert (four_differs.least, four_differs.most) == (1, 3)
    none = _shapes_that_agree(dict.fromkeys(range(1, 9), False), seconds)
    assert (none.most, none.drafts) == (1, False)
    assert one_differs.seconds == pytest.approx([0.1 * n for n in range(1, 9)])
    assert BatchShapes.from_json(one_differs.to_json()) == one_differs


def test_a_size_that_was_not_tried_costs_what_lies_between_and_more_tokens_never_less():
    found = _shapes_that_agree({1: True, 2: True, 4: True}, {1: [1.0], 2: [3.0], 4: [2.0]})
    assert found.seconds == pytest.approx((1.0, 3.0, 3.0, 3.0))


def test_drafts_pay_where_a_batch_costs_little_more_than_a_token():
    assert pays(shapes([1, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7]))
    assert not pays(shapes([1, 2, 3, 4, 5, 6, 7, 8]))
    assert not pays(shapes([1, 1.6, 2.2, 2.5, 2.6, 2.7, 2.7, 2.7]))
    assert list(TOKENS_A_BATCH) == sorted(TOKENS_A_BATCH)
