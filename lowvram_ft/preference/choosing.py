"""Which of two test files is the better one, which may win and which may lose, and which pairs of a task to take.

*Winner*: every test passes, steadily; the passing tests kill at least ``winning_score`` of the mutants (where the code
has none, passing is enough); nothing in it is a trick (`Judged.may_win`).

*Loser*: a test fails, or it holds none; or all pass and they kill at most ``losing_score`` of the mutants. A file that
passes and is a trick, or is flaky, is neither: what is wrong with it does not show in its text for sure.

*Pair*: the winner is better by ``order``, and not by its length alone; where both pass, by a mutation score that is
``min_margin`` higher at least. Their normal forms differ.

*Quota*: of ``s``, the share of the answers to a task that win as they are, ``ceil(max_pairs_per_task * (1 - s))``. A
task that is hardly ever solved gives all its pairs, one that nearly always is gives one. A task without a winner, or
without a loser, gives none.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import lru_cache

from lowvram_ft.data.duplicates.fingerprints import DuplicateIndex, Fingerprint, fingerprint
from lowvram_ft.preference.judged import FATES, Judged
from lowvram_ft.recipe.preference import Criterion, PreferenceSection

_RANKS = {fate: -place for place, fate in enumerate(FATES)}
_VALUES: dict[Criterion, Callable[[Judged], float]] = {
    "fate": lambda one: _RANKS[one.fate],
    "mutation_score": lambda one: one.mutation_score,
    "coverage": lambda one: one.coverage,
    "length": lambda one: -len(one.test.strip()),
}


@dataclasses.dataclass(frozen=True)
class Chosen:
    """A winner and a loser of one task."""

    winner: Judged
    loser: Judged


@dataclasses.dataclass(frozen=True)
class Pool:
    """What pairs of a task are taken from.

    Attributes:
        task: its id.
        winners: different ones, the best first.
        losers: different ones, the best first.
        solved: share of the answers that win as they are.
        quota: most pairs.
    """

    task: str
    winners: tuple[Judged, ...]
    losers: tuple[Judged, ...]
    solved: float
    quota: int

    def allows(self, winner: Judged, loser: Judged, section: PreferenceSection) -> bool:
        """Whether they may be a pair."""
        if not is_better(winner, loser, section) or _digest(winner) == _digest(loser):
            return False
        both = loser.fate in ("passes_and_kills", "passes")
        return not both or winner.mutation_score - loser.mutation_score >= section.min_margin


def make_pool(task: str, answers: Sequence[Judged], made: Sequence[Judged], section: PreferenceSection) -> Pool:
    """The winners and losers of a task.

    Args:
        task: its id.
        answers: all answers to it.
        made: what was made of them.
        section: the order, and what a winner and a loser is.
    """
    wins = sum(is_winner(one, section) for one in answers)
    solved = wins / len(answers) if answers else 0.0
    winners = _different([one for one in [*answers, *made] if is_winner(one, section)], section, near=True)
    losers = _different([one for one in answers if is_loser(one, section)], section, near=False)
    quota = math.ceil(section.max_pairs_per_task * (1 - solved) - 1e-9)
    return Pool(task, tuple(winners), tuple(losers), solved, quota)


def is_winner(one: Judged, section: PreferenceSection) -> bool:
    """Whether a file may win; see the module."""
    if not one.may_win:
        return False
    if not one.n_mutants:
        return True
    return one.fate == "passes_and_kills" and one.mutation_score >= section.winning_score


def why_no_winner(one: Judged, section: PreferenceSection) -> str:
    """Why a file may not win, in the same few words for all of a kind; empty where it may."""
    if one.why_not or is_winner(one, section):
        return one.why_not
    return f"passes, and kills less than {100 * section.winning_score:g} % of the mutants"


def is_loser(one: Judged, section: PreferenceSection) -> bool:
    """Whether a file may lose; see the module."""
    if not one.test.strip():
        return False
    if one.fate in ("fails", "useful", "no_test"):
        return True
    return one.may_win and bool(one.n_mutants) and one.mutation_score <= section.losing_score


def rank(one: Judged, order: Sequence[Criterion]) -> tuple[float, ...]:
    """What a file is worth by ``order``; more is better."""
    return tuple(_VALUES[criterion](one) for criterion in order)


def is_better(one: Judged, other: Judged, section: PreferenceSection) -> bool:
    """Whether a file is better than another one by more than its length."""
    order = [criterion for criterion in section.order if criterion != "length"]
    return rank(one, order) > rank(other, order)


def first_choice(pool: Pool, section: PreferenceSection) -> list[Chosen]:
    """Pairs of a task before their lengths are looked at: the best winners in turn, the best losers first."""
    winners = pool.winners[: section.max_winners_per_task]
    left = list(pool.losers)
    found: list[Chosen] = []
    idle = 0
    while left and idle < len(winners) and len(found) < pool.quota:
        winner = winners[(len(found) + idle) % len(winners)]
        loser = next((one for one in left if pool.allows(winner, one, section)), None)
        if loser is None:
            idle += 1
            continue
        idle = 0
        left.remove(loser)
        found.append(Chosen(winner, loser))
    return found


def _different(files: Sequence[Judged], section: PreferenceSection, *, near: bool) -> list[Judged]:
    """The best of each group of files that are the same, or nearly, the best first."""
    order = sorted(files, key=lambda one: (*(-value for value in rank(one, section.order)), one.text, one.key))
    index = DuplicateIndex()
    seen: set[bytes] = set()
    found = []
    for one in order:
        digest = _digest(one)
        if digest in seen:
            continue
        seen.add(digest)
        print_ = fingerprint(one.test) if near else None
        if print_ is not None and index.add(Fingerprint(print_.digest, print_.sketch)) is not None:
            continue
        found.append(one)
    return found


def _digest(one: Judged) -> bytes:
    return _digest_of(one.test)


@lru_cache(maxsize=4096)
def _digest_of(test: str) -> bytes:
    """Of the normal form of a file; its words where it is no Python."""
    print_ = fingerprint(test)
    return print_.digest if print_ is not None else " ".join(test.split()).encode("utf-8", "surrogatepass")
