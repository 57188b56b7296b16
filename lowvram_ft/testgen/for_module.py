"""The tests of one module: what is there, what a model writes, what is worth keeping, one file of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from lowvram_ft.errors import UsageError
from lowvram_ft.inference import Generator
from lowvram_ft.testgen.asking import ask, first_units
from lowvram_ft.testgen.assembling import assemble
from lowvram_ft.testgen.attempts.answers import LoggedAnswer, to_log
from lowvram_ft.testgen.attempts.findings import Contradiction
from lowvram_ft.testgen.attempts.traces import Trace
from lowvram_ft.testgen.outcome import Outcome
from lowvram_ft.testgen.placing import NewFile, shown
from lowvram_ft.testgen.project.place import Placement, Project
from lowvram_ft.testgen.scope import MAX_EXISTING, Settings, find_scope
from lowvram_ft.testgen.subject import Subject, Target, Worth
from lowvram_ft.testgen.worth.measure import Baseline

MAX_FIXTURES = 1500
"""Characters of a ``conftest.py`` that a model is shown."""


@dataclass(frozen=True)
class Written:
    """What came of a module.

    Attributes:
        outcome: for people and programs; its ``diff`` is left empty.
        file: what is to be placed; None where nothing is.
        traces: of refinements.
        answers: of the model, for the log.
    """

    outcome: Outcome
    file: NewFile | None
    traces: tuple[Trace, ...] = ()
    answers: tuple[LoggedAnswer, ...] = ()


def write_for_module(
    target: Target,
    code: str,
    project: Project,
    placement: Placement,
    before: str | None,
    opened: Callable[[], Generator],
    settings: Settings,
    *,
    told: Callable[[str], None],
) -> Written:
    """Write the tests of one module; nothing in the user's tree is changed.

    Args:
        target: what the user asked for.
        code: the module's text.
        project: how its tests are kept.
        placement: where these go.
        before: what is in that place now; None where there is nothing.
        opened: gives the model; called only where something is left to write.
        settings: how.
        told: called with what is being done, in a few words.

    Raises:
        UsageError: the module cannot be imported here.
        GenerationError: the model fails.
        MachineError: there is no sandbox here.
    """
    beside = {"conftest.py": placement.conftest} if placement.conftest else {}
    told("runs the tests that are there")
    fixtures = placement.conftest if placement.fixtures and len(placement.conftest) <= MAX_FIXTURES else ""
    subject = Subject(code, placement.module, placement.import_root, beside, fixtures)
    scope = find_scope(target, subject, placement, settings)
    there = scope.there
    if there.problem:
        raise UsageError(
            f"{shown(target.file)}: cannot be imported as {placement.module} "
            f"({there.problem.removeprefix('cannot be imported here: ')}); "
            "mend it, or install what it needs beside lowvram-ft"
        )
    units = first_units(scope)
    blank = Outcome(
        source=shown(target.file),
        module=placement.module,
        status="nothing to add" if there.statements or there.survivors else "nothing to test",
        test_file=None,
        contradictions=_regressions(placement, there),
        existing=(there.n_tests, there.n_passed),
        not_run={shown(path): reason for path, reason in there.not_run.items()},
        notes=_left_alone(placement),
    )
    blank = scope.with_reach(blank, Worth())
    if not units:
        return Written(blank, None)
    generator = opened()
    found = ask(scope, units, generator, told)
    told("tries each test by itself")
    outcome = dataclasses.replace(
        blank,
        status="nothing passes",
        contradictions=(*blank.contradictions, *_each_once(one for part in found for one in part.contradictions)),
        dropped=tuple(
            dataclasses.replace(one, test=one.test or part.unit.name or placement.module)
            for part in found
            for one in part.dropped
        ),
        answers=sum(part.answers for part in found),
        refined=sum(len(part.traces) for part in found),
    )
    traces = tuple(trace for part in found for trace in part.traces)
    outcome, file, tried = assemble(outcome, scope, project, placement, before, found, generator.name)
    claims = [claim for part in found for claim in part.claims]
    return Written(outcome, file, traces, to_log((one for part in found for one in part.answered), claims, tried))


def _each_once(found: Iterable[Contradiction]) -> list[Contradiction]:
    """A part of a module may have been asked about twice."""
    return list({(one.assertion, one.message): one for one in found}.values())


def _left_alone(placement: Placement) -> tuple[str, ...]:
    more = len(placement.existing) - MAX_EXISTING
    return (f"{more} more test files import the module; they were not run",) if more > 0 else ()


def _regressions(placement: Placement, there: Baseline) -> tuple[Contradiction, ...]:
    """Tests of ours that passed when they were written, and fail now."""
    if placement.ours is None:
        return ()
    return tuple(
        Contradiction(
            result.name,
            "",
            f"{result.message}\n(in {placement.ours.name}; it passed when it was written, and the code has changed)",
            "",
        )
        for result in there.failing.get(placement.ours, ())
    )
