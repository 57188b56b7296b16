"""The tests of one module: what is there, what a model writes, what is worth keeping, one file of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from lowvram_ft.errors import UsageError
from lowvram_ft.inference import Generator
from lowvram_ft.testgen.attempts.candidates import Effort, Found, write_candidates
from lowvram_ft.testgen.attempts.findings import Contradiction, Dropped
from lowvram_ft.testgen.attempts.traces import Trace
from lowvram_ft.testgen.marks import marked, read_mark
from lowvram_ft.testgen.outcome import Kept, Outcome, Reach
from lowvram_ft.testgen.placing import NewFile, shown
from lowvram_ft.testgen.project.place import Placement, Project
from lowvram_ft.testgen.project.style import Style, format_with
from lowvram_ft.testgen.subject import Subject, Target, Unit, Worth
from lowvram_ft.testgen.texts.drop import drop_tests
from lowvram_ft.testgen.texts.manners import grouped, quoted
from lowvram_ft.testgen.texts.merge import CannotMerge, merge, restyle
from lowvram_ft.testgen.texts.unused_imports import without_unused_imports
from lowvram_ft.testgen.units.split import units_of
from lowvram_ft.testgen.worth.measure import Baseline, baseline, measure, measure_each, whole_statements
from lowvram_ft.testgen.worth.select import By, choose, why_dropped

MAX_CHARS = 4000
"""Of code in a prompt: about 1,200 tokens, of the 2,048 that the recipes train with."""
MAX_MUTANTS = 200
MAX_FIXTURES = 1500
"""Characters of a ``conftest.py`` that a model is shown."""
MAX_EXISTING = 12
"""Test files of a module that are run: those that are named for it come first. Some modules are imported everywhere."""
ENOUGH_LINES = 0.8
ENOUGH_MUTANTS = 0.5
"""A part of a module of which the tests so far reach and find as much is left at that."""


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
class Written:
    """What came of a module.

    Attributes:
        outcome: for people and programs; its ``diff`` is left empty.
        file: what is to be placed; None where nothing is.
        traces: of refinements.
    """

    outcome: Outcome
    file: NewFile | None
    traces: tuple[Trace, ...] = ()


@dataclass(frozen=True)
class _Scope:
    """What the tests of a target are held against."""

    subject: Subject
    there: Baseline
    lines: frozenset[int] | None
    """Lines that are of interest; None for all."""
    max_mutants: int

    @property
    def base(self) -> Worth:
        return self.there.worth | self.there.by_import

    def measure(self, text: str) -> Worth:
        return measure(self.subject, text, max_mutants=self.max_mutants, lines=self.lines)[0]

    def measure_each(self, text: str) -> dict[str, Worth]:
        return measure_each(self.subject, text, max_mutants=self.max_mutants, lines=self.lines)

    def with_reach(self, outcome: Outcome, worth: Worth) -> Outcome:
        """An outcome with what was reached before, and with ``worth``."""
        after = self.base | worth
        n_mutants = len(self.there.survivors) + len(self.base.killed)
        return dataclasses.replace(
            outcome,
            lines=Reach(len(self.base.lines), len(after.lines), len(self.there.statements)),
            mutants=Reach(len(self.base.killed), len(after.killed), n_mutants),
        )


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
    scope = _scope(target, subject, placement, settings)
    there = scope.there
    if there.problem:
        raise UsageError(
            f"{shown(target.file)}: cannot be imported as {placement.module} ({there.problem}); "
            "install what it needs beside lowvram-ft, or mend it first"
        )
    units = _units(target, code, scope, settings)
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
    enough, generator = _enough(scope, settings.by), opened()
    answers = 0

    def on_answer(unit: Unit) -> None:
        nonlocal answers
        answers += 1
        told(f"{unit.name or 'the whole module'}, answer {answers}")

    found = write_candidates(generator, scope.subject, units, settings.effort, enough=enough, on_answer=on_answer)
    told("tries each test by itself")
    outcome = dataclasses.replace(
        blank,
        status="nothing passes",
        contradictions=(*blank.contradictions, *(one for part in found for one in part.contradictions)),
        dropped=tuple(
            dataclasses.replace(one, test=one.test or part.unit.name or placement.module)
            for part in found
            for one in part.dropped
        ),
        answers=sum(part.answers for part in found),
        refined=sum(len(part.traces) for part in found),
    )
    traces = tuple(trace for part in found for trace in part.traces)
    outcome, file = _assemble(outcome, scope, project, placement, before, found, settings.by, generator.name)
    return Written(outcome, file, traces)


def _scope(target: Target, subject: Subject, placement: Placement, settings: Settings) -> _Scope:
    lines = target.lines
    if target.names:
        named = units_of(subject.code, target, max_chars=settings.max_chars)
        lines = frozenset(line for unit in named for line in unit.lines)
    files = placement.existing[:MAX_EXISTING]
    if placement.ours is not None and placement.ours not in files:
        files = (*files[:-1], placement.ours)
    there = baseline(subject, files, max_mutants=settings.max_mutants, lines=lines)
    return _Scope(subject, there, lines, settings.max_mutants)


def _units(target: Target, code: str, scope: _Scope, settings: Settings) -> list[Unit]:
    """The parts of a module in which something is left to reach or to find."""
    there = scope.there
    survivors = frozenset(mutant.line for mutant in there.survivors.values())
    open_lines = {
        "coverage": frozenset(there.missing_lines),
        "mutants": survivors,
        "either": survivors.union(there.missing_lines),
    }[settings.by]
    if settings.by == "either" and not there.n_passed:
        return units_of(code, target, max_chars=settings.max_chars)
    if not open_lines:
        return []
    aim = dataclasses.replace(target, lines=whole_statements(code, open_lines))
    return units_of(code, aim, max_chars=settings.max_chars)


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


def _enough(scope: _Scope, by: By) -> Callable[[Unit, Sequence[str]], bool]:
    known: dict[str, Worth] = {}
    survivors = {place: mutant.line for place, mutant in scope.there.survivors.items()}

    def enough(unit: Unit, texts: Sequence[str]) -> bool:
        together = Worth()
        for text in texts:
            if text not in known:
                known[text] = scope.measure(text)
            together = together | known[text]
        lines = unit.lines.intersection(scope.there.missing_lines)
        mutants = [place for place, line in survivors.items() if line in unit.lines]
        reached = len(lines & together.lines) / len(lines) if lines else 1.0
        found = sum(place in together.killed for place in mutants) / len(mutants) if mutants else 1.0
        if by == "coverage":
            return reached == 1.0
        if by == "mutants":
            return found == 1.0
        return reached >= ENOUGH_LINES and found >= ENOUGH_MUTANTS

    return enough


def _assemble(
    outcome: Outcome,
    scope: _Scope,
    project: Project,
    placement: Placement,
    before: str | None,
    found: Sequence[Found],
    by: By,
    model: str,
) -> tuple[Outcome, NewFile | None]:
    """One file of all that adds something."""
    texts = [text for part in found for text in part.texts]
    if not texts:
        return outcome, None
    package = placement.module.partition(".")[0]
    together, left_out = _merged(texts, package)
    outcome = dataclasses.replace(outcome, dropped=(*outcome.dropped, *left_out))
    each = scope.measure_each(together)
    chosen = choose(each, scope.base, by=by)
    reasons = why_dropped(each, chosen, scope.base, by=by)
    dropped = [Dropped(name, reason) for name, reason in reasons.items()]
    outcome = dataclasses.replace(outcome, dropped=(*outcome.dropped, *dropped))
    if not chosen:
        return dataclasses.replace(outcome, status="nothing to add"), None
    new = without_unused_imports(drop_tests(together, [name for name in each if name not in chosen]))
    new = _in_style(new, project.style, placement.module)
    ours = _body(before) if placement.ours is not None else None
    whole, left_out = (new, ()) if ours is None else _merged([ours, new], package)
    if left_out:
        return dataclasses.replace(outcome, dropped=(*outcome.dropped, *left_out), status="nothing to add"), None
    text, reason = format_with(project.style, whole, placement.test_file)
    worth, verdict = measure(scope.subject, text, max_mutants=scope.max_mutants, lines=scope.lines)
    failing = [result for result in verdict.results if result.outcome != "passed"]
    allowed = {result.name for result in scope.there.failing.get(placement.ours, ())} if placement.ours else set()
    if not verdict.results or any(result.name not in allowed for result in failing):
        what = failing[0].message.partition("\n")[0] if failing else verdict.status
        lost = [Dropped(name, f"fails beside the others: {what}") for name in chosen]
        return dataclasses.replace(outcome, dropped=(*outcome.dropped, *lost)), None
    text = marked(text, model, scope.subject.code)
    outcome = dataclasses.replace(
        outcome,
        status="unchanged" if text == before else "written",
        test_file=shown(placement.test_file),
        kept=tuple(Kept(name, len(each[name].lines), len(each[name].killed)) for name in chosen),
        text=text,
        notes=(*outcome.notes, *([f"not formatted: {reason}"] if reason else [])),
    )
    outcome = scope.with_reach(outcome, worth)
    return outcome, None if text == before else NewFile(placement.test_file, text, before)


def _in_style(test: str, style: Style, module: str) -> str:
    """As the project's own tests are written; line breaks are left to its formatter."""
    test = restyle(test, style.imports, module)
    if style.classes:
        test = grouped(test, "Test" + "".join(part.capitalize() for part in module.rpartition(".")[2].split("_")))
    return test if style.formatter is not None else quoted(test, style.quotes)


def _merged(texts: Sequence[str], package: str) -> tuple[str, tuple[Dropped, ...]]:
    """One file of several; what cannot be taken in is left out."""
    taken = list(texts)
    left_out: list[Dropped] = []
    while True:
        try:
            return merge(taken, first_party={package}), tuple(left_out)
        except CannotMerge as error:
            left_out.append(Dropped("", f"cannot be put into one file with the others: {error.reason}"))
            del taken[error.place]


def _body(before: str | None) -> str | None:
    """A file of ours without its first line."""
    if before is None or read_mark(before) is None:
        return None
    return before.replace("\r\n", "\n").partition("\n")[2]
