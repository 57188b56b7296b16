"""Which tests to keep: those that reach a statement, or find a planted fault, that the others do not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from lowvram_ft.testgen.subject import Worth

By = Literal["either", "coverage", "mutants"]
_Goals = frozenset[tuple[str, int]]


def choose(
    tests: Mapping[str, Worth], base: Worth, *, lines: frozenset[int] | None = None, by: By = "either"
) -> list[str]:
    """The tests to keep: together they are worth what all are, and none of them could be left out.

    Greedy set cover (Chvatal, A greedy heuristic for the set-covering problem, 1979): next is the test that finds most
    mutants which none before it does, of these the one that reaches most new statements, of these the first. A test
    that later ones make superfluous goes in the end.

    Args:
        tests: worth of each test by itself, in the order of the file.
        base: what is there already, such as ``existing.worth | existing.by_import`` of a `Baseline`; it counts for
            nobody.
        lines: statements that are of interest; None for all. Mutants are taken as they are: they were chosen when the
            tests were measured.
        by: what a test has to add to be kept: statements, mutants, or one of both.

    Returns:
        Names, in the order of ``tests``.
    """
    goals = {name: _goals(worth, base, lines, by) for name, worth in tests.items()}
    open_goals: _Goals = _Goals().union(*goals.values())
    kept: list[str] = []
    while open_goals:
        best = max(goals, key=lambda name: _gain(goals[name] & open_goals))  # the first of those that are alike
        kept.append(best)
        open_goals -= goals[best]
    for name in _least_first(kept, goals):
        if goals[name] <= _together(goals, [other for other in kept if other != name]):
            kept.remove(name)
    return [name for name in tests if name in kept]


def why_dropped(
    tests: Mapping[str, Worth],
    kept: Sequence[str],
    base: Worth,
    *,
    lines: frozenset[int] | None = None,
    by: By = "either",
) -> dict[str, str]:
    """A reason for each test that is not kept.

    Args:
        tests: as for `choose`.
        kept: what `choose` answered.
        base: as for `choose`.
        lines: as for `choose`.
        by: as for `choose`.

    Returns:
        Reason by name, such as ``adds nothing to: test_a, test_b``.
    """
    goals = {name: _goals(worth, base, lines, by) for name, worth in tests.items()}
    return {name: _why(goals[name], tests[name], goals, kept) for name in tests if name not in kept}


def _why(mine: _Goals, worth: Worth, goals: Mapping[str, _Goals], kept: Sequence[str]) -> str:
    if not mine:
        return "adds nothing to what is there" if worth.lines or worth.killed else "reaches nothing and finds nothing"
    needed: list[str] = []
    for name in sorted(kept, key=lambda name: -len(goals[name] & mine)):
        if mine & goals[name] - _together(goals, needed):
            needed.append(name)
    return f"adds nothing to: {', '.join(name for name in kept if name in needed)}"


def _goals(worth: Worth, base: Worth, lines: frozenset[int] | None, by: By) -> _Goals:
    """What a test adds to what is there."""
    reached = worth.lines - base.lines if lines is None else (worth.lines - base.lines) & lines
    statements = frozenset(("statement", line) for line in reached) if by != "mutants" else frozenset()
    mutants = frozenset(("mutant", place) for place in worth.killed - base.killed) if by != "coverage" else frozenset()
    return statements | mutants


def _gain(goals: _Goals) -> tuple[int, int]:
    mutants = sum(kind == "mutant" for kind, _ in goals)
    return mutants, len(goals) - mutants


def _least_first(kept: Sequence[str], goals: Mapping[str, _Goals]) -> list[str]:
    """Those that are worth least first, of these the last of the file."""
    places = {name: place for place, name in enumerate(goals)}
    return sorted(kept, key=lambda name: (_gain(goals[name]), -places[name]))


def _together(goals: Mapping[str, _Goals], names: Sequence[str]) -> _Goals:
    return _Goals().union(*(goals[name] for name in names))
