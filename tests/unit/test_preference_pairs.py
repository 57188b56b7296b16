"""Which files win, which lose, which pairs are taken of them, and what is written."""

import dataclasses
import json
import random

import pytest

from lowvram_ft.data.pairs import Pair, Winner
from lowvram_ft.errors import DataError
from lowvram_ft.preference.choosing import (
    Chosen,
    first_choice,
    is_better,
    is_loser,
    is_winner,
    make_pool,
    rank,
    why_no_winner,
)
from lowvram_ft.preference.lengths import bound_lengths, unit_of
from lowvram_ft.preference.pairs import build_pairs
from lowvram_ft.progress import Progress
from lowvram_ft.recipe.preference import PreferenceSection
from tests.judged_files import loser, task, text, winner

SECTION = PreferenceSection(parts=False)
QUIET = Progress(quiet=True)


def section(**fields):
    return PreferenceSection(**{"parts": False, **fields})


def several(count, make=loser, name="t", **fields):
    return [make(text(*range(10 * number, 10 * number + 4)), name, **fields) for number in range(1, count + 1)]


def test_who_wins_and_who_does_not():
    one = winner(text(1))
    assert is_winner(one, SECTION)
    for fields, why in (
        ({"mutation_score": 0.49}, "passes, and kills less than 50 % of the mutants"),
        ({"fate": "passes", "mutation_score": 0.0}, "passes, and kills less than 50 % of the mutants"),
        ({"hacks": (("test_a", "looks"),)}, "a trick: looks"),
        ({"idle": ("test_a",)}, "holds a test that passes on code that always returns the same thing"),
        ({"flaky": "ran: test_a"}, "flaky"),
        ({"fate": "useful", "reason": "some tests fail: 1 of 2"}, "some tests fail"),
        ({"fate": "no_test", "reason": "no Python: line 1"}, "no Python"),
    ):
        other = dataclasses.replace(one, **fields)
        assert not is_winner(other, SECTION)
        assert why_no_winner(other, SECTION) == why
    assert not dataclasses.replace(one, flaky=None).may_win, "it was not run in another order"
    assert is_winner(dataclasses.replace(one, fate="passes", mutation_score=0.0, n_mutants=0), SECTION)
    assert is_winner(one, section(winning_score=0.8)) and not is_winner(one, section(winning_score=0.81))


def test_who_loses_and_who_is_neither():
    for fate in ("fails", "useful", "no_test"):
        assert is_loser(loser(text(1), fate=fate), SECTION)
    weak = winner(text(1), fate="passes", mutation_score=0.0)
    assert is_loser(weak, SECTION)
    assert not is_loser(dataclasses.replace(weak, hacks=(("", "a trick"),)), SECTION)
    assert not is_loser(dataclasses.replace(weak, flaky="ran: test_a"), SECTION)
    assert not is_loser(dataclasses.replace(weak, mutation_score=0.1), SECTION)
    assert is_loser(dataclasses.replace(weak, mutation_score=0.1), section(losing_score=0.1))
    assert not is_loser(loser("  \n"), SECTION), "there is nothing to learn from an empty answer"


def test_the_order_is_that_of_the_section():
    strong, weak = winner(text(1), mutation_score=0.9), winner(text(1, 2), mutation_score=0.6, coverage=1.0)
    assert is_better(strong, weak, SECTION)
    assert is_better(weak, strong, section(order=("coverage", "length"))) is False
    low = dataclasses.replace(strong, coverage=0.5)
    assert is_better(weak, low, section(order=("coverage", "mutation_score")))
    ranks = [rank(winner("x", fate=fate), ("fate",)) for fate in
             ("passes_and_kills", "passes", "useful", "fails", "no_test")]  # fmt: skip
    assert ranks == sorted(ranks, reverse=True) and len(set(ranks)) == 5


def test_of_equals_the_shorter_one_wins_but_length_alone_makes_no_pair():
    short, long = winner(text(1)), winner(text(5, 6, 7), mutation_score=0.8)
    pool = make_pool("t", [long, short, loser(text(9))], [], SECTION)
    assert pool.winners[0] == short
    both = section(losing_score=1.0)
    assert not make_pool("t", [long, short], [], both).allows(short, long, both)


def test_margins():
    high, low = winner(text(1), mutation_score=0.9), winner(text(5, 6, 7), mutation_score=0.4)
    wide = section(losing_score=1.0, min_margin=0.5)
    pool = make_pool("t", [high, low], [], wide)
    assert first_choice(pool, wide) == [Chosen(high, low)]
    assert not first_choice(pool, section(losing_score=1.0, min_margin=0.51))
    failing = make_pool("t", [high, loser(text(5))], [], wide)
    assert first_choice(failing, section(min_margin=1.0)), "a margin is asked for where both pass"


def test_near_duplicates_are_left_out():
    test = text(*range(20))
    renamed = test.replace("test_a", "test_doubling")
    pool = make_pool("t", [winner(test), winner(renamed), loser(text(1)), loser(text(1) + "\n# again\n")], [], SECTION)
    assert len(pool.winners) == len(pool.losers) == 1
    near = test.replace("    assert double(3) == 6\n", "    assert double(3) == 6\n    assert double(99) == 198\n")
    assert len(make_pool("t", [winner(test), winner(near)], [], SECTION).winners) == 1
    same = make_pool("t", [winner(test), loser(renamed)], [], SECTION)
    assert not first_choice(same, SECTION), "a winner and a loser of the same normal form teach nothing"


@pytest.mark.parametrize(
    ("wins", "losses", "quota"), [(1, 9, 4), (3, 9, 3), (5, 5, 2), (9, 1, 1), (3, 1, 1), (4, 0, 0)]
)
def test_hard_tasks_give_more_pairs_than_easy_ones(wins, losses, quota):
    answers = [*several(wins, winner), *several(losses, loser)]
    pool = make_pool("t", answers, [], SECTION)
    assert pool.quota == quota
    assert len(first_choice(pool, SECTION)) == min(quota, losses)


def test_what_is_made_of_parts_does_not_count_as_solved():
    made = winner(text(1, 2), made_of=("a", "b"))
    pool = make_pool("t", several(6), [made], SECTION)
    assert (pool.solved, pool.quota, pool.winners) == (0.0, 4, (made,))


def test_several_winners_take_turns_and_better_losers_come_first():
    wins = [winner(text(number, number + 1), mutation_score=0.9 - number / 100) for number in (1, 20, 40)]
    useful = loser(text(70), fate="useful", mutation_score=0.5)
    answers = [*wins[:1], *several(8), useful]
    found = first_choice(make_pool("t", answers, wins[1:], section(max_winners_per_task=2)),
                         section(max_winners_per_task=2))  # fmt: skip
    assert [pair.winner for pair in found] == [wins[0], wins[1]] * 2
    assert found[0].loser == useful
    assert len({pair.loser.text for pair in found}) == 4


def pools_of(lengths, chosen_section):
    """Tasks whose winner and losers have these lengths in tokens."""
    pools, pairs = {}, []
    for place, (wins, losses) in enumerate(lengths):
        name = f"t{place}"
        winners = [
            winner(text(100 * place + i, 7 * i), name, n_tokens=n, mutation_score=0.99 - i / 100)
            for i, n in enumerate(wins)
        ]
        losers = [loser(text(100 * place + 50 + i, i), name, n_tokens=n) for i, n in enumerate(losses)]
        pools[name] = make_pool(name, [*winners[:1], *losers], winners[1:], chosen_section)
        pairs += first_choice(pools[name], chosen_section)
    return pools, pairs


def ratio(pairs):
    return sum(pair.winner.n_tokens for pair in pairs) / sum(pair.loser.n_tokens for pair in pairs)


def test_lengths_in_bounds_are_left_alone():
    pools, pairs = pools_of([([100], [100, 90])] * 5, SECTION)
    bounded = bound_lengths(pairs, pools, SECTION, "tokens")
    assert bounded.pairs == pairs
    assert (bounded.exchanged, bounded.dropped) == (0, 0)
    assert bounded.facts["before"] == bounded.facts["after"]


def test_losers_are_exchanged_before_anything_is_left_out():
    one_each = section(max_pairs_per_task=1)
    pools, pairs = pools_of([([100], [n, 100]) for n in (400, 300, 100)], one_each)
    pairs = [Chosen(pool.winners[0], max(pool.losers, key=lambda one: one.n_tokens)) for pool in pools.values()]
    bounded = bound_lengths(pairs, pools, one_each, "tokens")
    assert (bounded.exchanged, bounded.dropped) == (2, 0)
    assert 1 / 1.1 <= ratio(bounded.pairs) <= 1.1
    assert bounded.facts["before"]["ratio"] == pytest.approx(300 / 800, abs=1e-4)
    assert bounded.facts["after"]["ratio"] == pytest.approx(1.0)


def test_then_winners_are_exchanged():
    one_each = section(max_pairs_per_task=1)
    pools, pairs = pools_of([([100, 300], [300]), ([100, 310], [310])], one_each)
    bounded = bound_lengths(pairs, pools, one_each, "tokens")
    assert (bounded.exchanged, bounded.dropped) == (2, 0)
    assert [pair.winner.n_tokens for pair in bounded.pairs] == [300, 310]


def test_then_the_worst_pairs_are_left_out():
    one_each = section(max_pairs_per_task=1)
    pools, pairs = pools_of([([100], [n]) for n in (100, 105, 1000, 110, 300)], one_each)
    bounded = bound_lengths(pairs, pools, one_each, "tokens")
    assert [pair.loser.n_tokens for pair in bounded.pairs] == [100, 105, 110]
    assert (bounded.exchanged, bounded.dropped) == (0, 2)


@pytest.mark.parametrize("seed", range(12))
def test_whatever_the_lengths_they_end_in_bounds_and_pairs_stay_pairs(seed):
    chance = random.Random(seed)
    few = section(
        max_pairs_per_task=3,
        max_winners_per_task=chance.choice((1, 2)),
        max_length_bias=chance.choice((1.02, 1.1, 1.5)),
    )
    scale = chance.choice((0.3, 1.0, 3.0))
    lengths = [
        ([round(chance.randint(40, 300) * scale) for _ in range(3)], [chance.randint(40, 300) for _ in range(5)])
        for _ in range(12)
    ]
    pools, pairs = pools_of(lengths, few)
    bounded = bound_lengths(pairs, pools, few, "tokens")
    most = few.max_length_bias
    assert not bounded.pairs or 1 / most <= ratio(bounded.pairs) <= most
    assert len({pair.loser.text for pair in bounded.pairs}) == len(bounded.pairs)
    for pair in bounded.pairs:
        assert pools[pair.winner.task].allows(pair.winner, pair.loser, few)
    for name in pools:
        mine = [pair.winner.text for pair in bounded.pairs if pair.winner.task == name]
        assert len(mine) <= 3 and len(set(mine)) <= few.max_winners_per_task
    assert bounded.facts["before"]["pairs"] == len(pairs) == len(bounded.pairs) + bounded.dropped


def test_characters_stand_in_where_tokens_are_not_known():
    known = [Chosen(winner(text(1)), loser(text(2)))]
    assert unit_of(known) == "tokens"
    assert unit_of([*known, Chosen(winner(text(1)), loser(text(2), n_tokens=0))]) == "characters"


def three_tasks():
    tasks = [task(name, group=f"group-{name}", source=source, meta={"licence": "PSF-2.0"})
             for name, source in (("partly", "rows"), ("always", "rows"), ("never", "standard_library"))]  # fmt: skip
    judged = [
        *several(2, winner, "partly"),
        *several(6, loser, "partly"),
        *several(3, winner, "always"),
        *several(3, loser, "never"),
    ]
    return [*tasks, task("silent")], judged


def test_a_pair_set(tmp_path):
    tasks, judged = three_tasks()
    facts = build_pairs(tasks, judged, SECTION, tmp_path / "pairs", QUIET, model="smollm2-135m")
    assert facts["tasks"] == {"all": 4, "unanswered": 1, "never": 1, "by_parts_alone": 0, "partly": 1, "always": 1}
    pairs = [Pair(**json.loads(line)) for line in (tmp_path / "pairs/pairs.jsonl").read_text().splitlines()]
    winners = [Winner(**json.loads(line)) for line in (tmp_path / "pairs/winners.jsonl").read_text().splitlines()]
    assert {pair.group for pair in pairs} == {"group-partly"}
    assert len(pairs) == facts["pairs"] == 3 and len({pair.id for pair in pairs}) == 3
    assert [one.group for one in winners] == ["group-partly", "group-always"], "tasks always solved teach by winners"
    assert facts["winners"] == 2
    pair = pairs[0]
    assert pair.chosen == judged[0].test.strip() and pair.prompt == tasks[0].prompt
    assert pair.meta["winner"]["fate"] == "passes_and_kills" and pair.meta["loser"]["fate"] == "fails"
    assert pair.meta["from"] == {"licence": "PSF-2.0"}
    assert json.loads((tmp_path / "pairs/pairs.json").read_text()) == facts
    assert facts["not_winning"] == {"fails": 9, "may win": 5}


def test_the_card_says_what_there_is(tmp_path):
    tasks, judged = three_tasks()
    facts = build_pairs(tasks, judged, SECTION, tmp_path / "pairs", QUIET, model="smollm2-135m")
    card = (tmp_path / "pairs/README.md").read_text()
    for line in (
        "- **Pairs**: 3 of 1 tasks (`pairs.jsonl`, for `dpo`)",
        "- **Answers**: 14, written by smollm2-135m",
        "PSF-2.0 (3); not stated (1)",
        "| rows | 3 | 2 | 3 |",
        "| standard_library | 1 | 0 | 0 |",
        "| no answer, nor parts of several | 1 |",
        "| every answer | 1 |",
        "| 3 | 1 |",
        "| every test passes, and they kill a mutant | 5 |",
        "| fails | 9 |",
        f"| after | 3 | {facts['lengths']['after']['winners']:g} |",
    ):
        assert line in card
    assert str(tmp_path) not in card


def test_the_same_input_gives_the_same_bytes(tmp_path):
    tasks, judged = three_tasks()
    for name in ("one", "two"):
        later = [dataclasses.replace(one, duration_s=one.duration_s * 2) for one in judged] if name == "two" else judged
        build_pairs(tasks, later, SECTION, tmp_path / name, QUIET)
    files = [sorted((tmp_path / name).iterdir()) for name in ("one", "two")]
    assert [file.name for file in files[0]] == ["README.md", "pairs.json", "pairs.jsonl", "winners.jsonl"]
    assert [file.read_bytes() for file in files[0]] == [file.read_bytes() for file in files[1]]


def test_nothing_to_learn_from_is_told(tmp_path):
    tasks, judged = three_tasks()
    with pytest.raises(DataError, match=r"no answer wins \(1 of 1 tasks never solved.*lower preference.winning_score"):
        build_pairs(tasks[2:3], judged, SECTION, tmp_path, QUIET)
    with pytest.raises(DataError, match=r"no winner has a loser \(0 of 1 tasks never solved, 0 partly, 1 always"):
        build_pairs(tasks[1:2], judged, SECTION, tmp_path, QUIET)
    assert build_pairs(tasks[1:2], judged, SECTION, tmp_path, QUIET, method="rft")["winners"] == 1
    long = [winner(text(1), "partly", n_tokens=10), loser(text(2), "partly", n_tokens=1000)]
    with pytest.raises(DataError, match=r"no pair is left within the bound of lengths \(0.01 before.*max_length_bias"):
        build_pairs(tasks[:1], long, SECTION, tmp_path / "new", QUIET)
    assert not (tmp_path / "new").exists()


def test_a_text_that_is_no_unicode_is_written(tmp_path):
    answers = [winner(text(1), "partly"), loser("x = '\udc80'\n", "partly", n_tokens=len(text(1)))]
    build_pairs(three_tasks()[0], answers, SECTION, tmp_path, QUIET)
    assert json.loads((tmp_path / "pairs.jsonl").read_text())["rejected"] == "x = '\udc80'"
