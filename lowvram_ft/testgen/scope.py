"""How tests are written, and what they are held against."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from lowvram_ft.testgen.attempts.candidates import Effort
from lowvram_ft.testgen.outcome import Outcome, Reach
from lowvram_ft.testgen.project.place import Placement
from lowvram_ft.testgen.subject import Subject, Target, Worth
from lowvram_ft.testgen.units.split import units_of
from lowvram_ft.testgen.worth.measure import Baseline, baseline, measure, measure_each
from lowvram_ft.testgen.worth.select import By

MAX_CHARS = 4000
"""Of code in a prompt: about 1,200 tokens, of the 2,048 that the recipes train with."""
MAX_MUTANTS = 200
MAX_EXISTING = 12
"""Test files of a module that are run: those that are named for it come first. Some modules are imported everywhere."""


@dataclass(frozen=True)
class Settings:
    """How tests are written.

    Attributes:
        effort: how often the model is asked.
        by: what a test has to add to be kept.
        max_chars: of code in a prompt.
        max_mutants: planted faults that are tried; of more, a sample.
    """

    effort: Effort = field(default_factory=Effort)
    by: By = "either"
    max_chars: int = MAX_CHARS
    max_mutants: int = MAX_MUTANTS


@dataclass(frozen=True)
class Scope:
    """What the tests of a target are held against.

    Attributes:
        target: what the user asked for.
        subject: the module.
        there: what its tests reach and find already.
        lines: lines that are of interest; None for all.
        settings: how tests are written.
    """

    target: Target
    subject: Subject
    there: Baseline
    lines: frozenset[int] | None
    settings: Settings

    @property
    def base(self) -> Worth:
        """Where new tests begin."""
        return self.there.worth | self.there.by_import

    def measure(self, text: str) -> Worth:
        """Worth of a test file."""
        return measure(self.subject, text, max_mutants=self.settings.max_mutants, lines=self.lines)[0]

    def measure_each(self, text: str) -> dict[str, Worth]:
        """Worth of each test of a file by itself."""
        return measure_each(self.subject, text, max_mutants=self.settings.max_mutants, lines=self.lines)

    def with_reach(self, outcome: Outcome, worth: Worth) -> Outcome:
        """An outcome with what was reached before, and with ``worth``."""
        after = self.base | worth
        n_mutants = len(self.there.survivors) + len(self.base.killed)
        return dataclasses.replace(
            outcome,
            lines=Reach(len(self.base.lines), len(after.lines), len(self.there.statements)),
            mutants=Reach(len(self.base.killed), len(after.killed), n_mutants),
        )


def find_scope(target: Target, subject: Subject, placement: Placement, settings: Settings) -> Scope:
    """Run the tests that are there.

    Raises:
        MachineError: there is no sandbox here.
    """
    lines = target.lines
    if target.names:
        named = units_of(subject.code, target, max_chars=settings.max_chars)
        lines = frozenset(line for unit in named for line in unit.lines)
    files = placement.existing[:MAX_EXISTING]
    if placement.ours is not None and placement.ours not in files:
        files = (*files[:-1], placement.ours)
    there = baseline(subject, files, max_mutants=settings.max_mutants, lines=lines)
    return Scope(target, subject, there, lines, settings)
