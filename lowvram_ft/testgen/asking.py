"""Ask the model about a module: as a whole where it is short, then about each part of which something is left open."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Callable, Sequence

from lowvram_ft.inference import Generator
from lowvram_ft.testgen.attempts.candidates import Found, write_candidates
from lowvram_ft.testgen.scope import Scope
from lowvram_ft.testgen.subject import Target, Unit, Worth
from lowvram_ft.testgen.targets.definitions import definitions
from lowvram_ft.testgen.units.members import lines_of
from lowvram_ft.testgen.units.split import units_of
from lowvram_ft.testgen.worth.measure import whole_statements

ENOUGH_LINES = 0.8
ENOUGH_MUTANTS = 0.5
"""A part of a module of which the tests so far reach and find as much is left at that."""


def first_units(scope: Scope) -> list[Unit]:
    """The parts of a module in which something is left to reach or to find."""
    target, code, max_chars = scope.target, scope.subject.code, scope.settings.max_chars
    if scope.settings.by == "either" and not scope.there.n_passed:
        return units_of(code, target, max_chars=max_chars)
    lines = _open_lines(scope, Worth())
    if not lines:
        return []
    return units_of(code, dataclasses.replace(target, lines=whole_statements(code, lines)), max_chars=max_chars)


def ask(scope: Scope, units: Sequence[Unit], generator: Generator, told: Callable[[str], None]) -> list[Found]:
    """Have tests written.

    A module that is shown as a whole gets no samples: its functions and classes are shown one by one then, where the
    first answer and its refinements leave something open. Small models write better tests for less code.

    Args:
        scope: what the tests are held against.
        units: from `first_units`.
        generator: the model.
        told: called with what is being done, in a few words.

    Raises:
        GenerationError: the model fails.
    """
    answers = 0

    def on_answer(unit: Unit) -> None:
        nonlocal answers
        answers += 1
        told(f"{unit.name or 'the whole module'}, answer {answers}")

    worths = _Worths(scope)
    effort = scope.settings.effort
    whole = len(units) == 1 and not units[0].name and len(_tops(scope)) > 1
    first = dataclasses.replace(effort, samples=0) if whole else effort
    found = write_candidates(
        generator, scope.subject, units, first, enough=worths.enough_for(Worth()), on_answer=on_answer
    )
    if not whole or not effort.samples:
        return found
    so_far = worths.of(tuple(text for part in found for text in part.texts))
    if worths.enough_for(so_far)(units[0], ()):
        return found
    rest = _parts(scope, so_far)
    return found + write_candidates(
        generator, scope.subject, rest, effort, enough=worths.enough_for(so_far), on_answer=on_answer
    )


def _tops(scope: Scope) -> dict[str, range]:
    """Functions and classes of the module level, with their lines."""
    found = definitions(ast.parse(scope.subject.code))
    return {name: lines_of(node) for name, node in found.items() if "." not in name and not name.startswith("_")}


def _parts(scope: Scope, so_far: Worth) -> list[Unit]:
    """Each function and class of which something is open."""
    code, target = scope.subject.code, scope.target
    lines = whole_statements(code, _open_lines(scope, so_far))
    parts = []
    for name, span in _tops(scope).items():
        if not lines.isdisjoint(span):
            one = Target(target.file, (name,), target.lines)
            parts += units_of(code, one, max_chars=scope.settings.max_chars)
    return parts


def _open_lines(scope: Scope, so_far: Worth) -> frozenset[int]:
    """Lines that are not reached, or with a fault that is not found, as far as it is wanted."""
    missing = frozenset(scope.there.missing_lines) - so_far.lines
    survivors = frozenset(mutant.line for place, mutant in scope.there.survivors.items() if place not in so_far.killed)
    return {"coverage": missing, "mutants": survivors, "either": missing | survivors}[scope.settings.by]


class _Worths:
    """What test files are worth, each measured once."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._known: dict[str, Worth] = {}

    def of(self, texts: Sequence[str]) -> Worth:
        """Of all together."""
        together = Worth()
        for text in texts:
            if text not in self._known:
                self._known[text] = self._scope.measure(text)
            together = together | self._known[text]
        return together

    def enough_for(self, so_far: Worth) -> Callable[[Unit, Sequence[str]], bool]:
        """Whether tests do for a part of the module, beside others that are worth ``so_far``."""
        there, by = self._scope.there, self._scope.settings.by
        lines_of_mutants = {place: mutant.line for place, mutant in there.survivors.items()}

        def enough(unit: Unit, texts: Sequence[str]) -> bool:
            together = so_far | self.of(texts)
            lines = unit.lines.intersection(there.missing_lines)
            mutants = [place for place, line in lines_of_mutants.items() if line in unit.lines]
            reached = len(lines & together.lines) / len(lines) if lines else 1.0
            found = sum(place in together.killed for place in mutants) / len(mutants) if mutants else 1.0
            if by == "coverage":
                return reached == 1.0
            if by == "mutants":
                return found == 1.0
            return reached >= ENOUGH_LINES and found >= ENOUGH_MUTANTS

        return enough
