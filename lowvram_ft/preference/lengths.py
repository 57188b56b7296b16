"""The length bias of a set of pairs, measured and bounded.

A model that is trained on winners that are shorter than losers learns to be short before it learns anything else: with
winners 0.71 times as long as losers, it wrote one test a file. So the ratio of the mean lengths is held in
``[1 / most, most]``: first by exchanging losers, then winners, of the same task, then by leaving pairs out, always the
one first that matters most. For winners that are too long, what has to fall to zero is ``sum(winner - most * loser)``;
for losers, the same the other way round. Each pair has its own term, so the fewest pairs go.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from lowvram_ft.preference.choosing import Chosen, Pool
from lowvram_ft.preference.judged import Judged
from lowvram_ft.recipe.preference import PreferenceSection

Length = Callable[[Judged], int]


@dataclasses.dataclass(frozen=True)
class Bounded:
    """Pairs with their lengths in bounds.

    Attributes:
        pairs: those that are left.
        exchanged: how many are not what was chosen first.
        dropped: how many were left out.
        facts: mean lengths and their ratio before and after, and the unit.
    """

    pairs: list[Chosen]
    exchanged: int
    dropped: int
    facts: dict[str, Any]


def bound_lengths(pairs: Sequence[Chosen], pools: Mapping[str, Pool], section: PreferenceSection, unit: str) -> Bounded:
    """Bring the ratio of the mean lengths of winners and losers into bounds.

    Args:
        pairs: as they were chosen first.
        pools: of each task, by its id.
        section: ``max_length_bias``, and what may be a pair.
        unit: ``tokens`` or ``characters``.
    """
    length = _tokens if unit == "tokens" else _characters
    before = _facts(pairs, length)
    found = list(pairs)
    for moves in (_other_losers, _other_winners):
        found = _exchange(found, pools, section, length, moves)
    changed = sum(one is not other for one, other in zip(pairs, found, strict=True))
    kept = _drop(found, section.max_length_bias, length)
    facts = {"unit": unit, "bound": section.max_length_bias, "before": before, "after": _facts(kept, length)}
    dropped = len(found) - len(kept)
    return Bounded(kept, changed, dropped, {**facts, "exchanged": changed, "dropped": dropped})


def unit_of(pairs: Sequence[Chosen]) -> str:
    """``tokens`` where they are known of every file, else ``characters``."""
    return "tokens" if all(one.winner.n_tokens and one.loser.n_tokens for one in pairs) else "characters"


def _tokens(one: Judged) -> int:
    return one.n_tokens


def _characters(one: Judged) -> int:
    return len(one.test.strip())


def _facts(pairs: Sequence[Chosen], length: Length) -> dict[str, Any]:
    if not pairs:
        return {"pairs": 0, "winners": None, "losers": None, "ratio": None}
    winners = sum(length(pair.winner) for pair in pairs) / len(pairs)
    losers = sum(length(pair.loser) for pair in pairs) / len(pairs)
    means = {"winners": round(winners, 2), "losers": round(losers, 2), "ratio": round(winners / losers, 4)}
    return {"pairs": len(pairs), **means}


def _sums(pairs: Iterable[Chosen], length: Length) -> tuple[int, int]:
    """Lengths of all winners, and of all losers."""
    found = list(pairs)
    return sum(length(pair.winner) for pair in found), sum(length(pair.loser) for pair in found)


def _side(sums: tuple[int, int], most: float) -> int:
    """1 where winners are too long, -1 where losers are, 0 in bounds."""
    winners, losers = sums
    return 1 if winners > most * losers else -1 if losers > most * winners else 0


def _term(pair: Chosen, side: int, most: float, length: Length) -> float:
    """What a pair adds to what has to fall to zero."""
    winner, loser = length(pair.winner), length(pair.loser)
    return winner - most * loser if side > 0 else loser - most * winner


_Moves = Callable[[list[Chosen], Mapping[str, Pool], PreferenceSection], Iterator[dict[int, Chosen]]]


def _exchange(
    pairs: list[Chosen], pools: Mapping[str, Pool], section: PreferenceSection, length: Length, moves: _Moves
) -> list[Chosen]:
    """Make the moves that help most, until the lengths are in bounds or nothing helps."""
    most = section.max_length_bias
    sums = _sums(pairs, length)
    while side := _side(sums, most):
        gains: list[tuple[float, int, dict[int, Chosen]]] = []
        for move in moves(pairs, pools, section):
            old = sum(_term(pairs[place], side, most, length) for place in move)
            new = sum(_term(pair, side, most, length) for pair in move.values())
            if new < old:
                gains.append((new - old, len(gains), move))
        touched: set[str] = set()
        for _, _, move in sorted(gains, key=lambda gain: gain[:2]):
            tasks = {pair.winner.task for pair in move.values()}
            old_sums, new_sums = _sums((pairs[place] for place in move), length), _sums(move.values(), length)
            after = (sums[0] + new_sums[0] - old_sums[0], sums[1] + new_sums[1] - old_sums[1])
            if tasks & touched or _side(after, most) == -side:
                continue
            pairs = [move.get(place, pair) for place, pair in enumerate(pairs)]
            sums = after
            touched |= tasks
            if not _side(sums, most):
                break
        if not touched:
            break
    return pairs


def _other_losers(
    pairs: list[Chosen], pools: Mapping[str, Pool], section: PreferenceSection
) -> Iterator[dict[int, Chosen]]:
    """Each pair with another loser that no pair has."""
    used = {pair.loser.text for pair in pairs}
    for place, pair in enumerate(pairs):
        pool = pools[pair.winner.task]
        for loser in pool.losers:
            if loser.text not in used and pool.allows(pair.winner, loser, section):
                yield {place: Chosen(pair.winner, loser)}


def _other_winners(
    pairs: list[Chosen], pools: Mapping[str, Pool], section: PreferenceSection
) -> Iterator[dict[int, Chosen]]:
    """All pairs of a winner with another one that no pair has."""
    places: dict[str, list[int]] = {}
    for place, pair in enumerate(pairs):
        places.setdefault(pair.winner.text, []).append(place)
    for mine in places.values():
        pool = pools[pairs[mine[0]].winner.task]
        for winner in pool.winners:
            if winner.text not in places and all(pool.allows(winner, pairs[place].loser, section) for place in mine):
                yield {place: Chosen(winner, pairs[place].loser) for place in mine}


def _drop(pairs: Sequence[Chosen], most: float, length: Length) -> list[Chosen]:
    """Leave out the pairs that matter most, until the lengths are in bounds."""
    left = dict(enumerate(pairs))
    sums = _sums(pairs, length)
    while left and (side := _side(sums, most)):
        order = sorted(left, key=lambda place: _term(left[place], side, most, length))
        while order and _side(sums, most) == side:
            worst = left.pop(order.pop())
            sums = (sums[0] - length(worst.winner), sums[1] - length(worst.loser))
    return list(left.values())
