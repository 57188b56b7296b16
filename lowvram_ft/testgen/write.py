"""Write tests for modules of a user's project: all of them are found first, then placed together."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lowvram_ft.data.from_repo.facts import repository_name
from lowvram_ft.errors import MachineError, UsageError
from lowvram_ft.execution.sandbox import choose as choose_sandbox
from lowvram_ft.inference import Generator
from lowvram_ft.progress import Progress
from lowvram_ft.testgen.attempts.answers import LoggedAnswer, append_answers
from lowvram_ft.testgen.attempts.traces import Trace, append_traces
from lowvram_ft.testgen.for_module import Written, write_for_module
from lowvram_ft.testgen.journal import Journal
from lowvram_ft.testgen.marks import digest
from lowvram_ft.testgen.outcome import Outcome
from lowvram_ft.testgen.placing import NewFile, place_files, read_before, shown
from lowvram_ft.testgen.project.place import Placement, Project, find_project, place
from lowvram_ft.testgen.scope import Settings
from lowvram_ft.testgen.subject import Target
from lowvram_ft.testgen.targets.find import read_code


@dataclasses.dataclass(frozen=True)
class Job:
    """A module, and where its tests go: all that can be refused before a model is opened.

    Attributes:
        target: what the user asked for.
        code: the module's text.
        project: how its tests are kept.
        placement: where these go.
        before: what is there now; None where there is nothing.
    """

    target: Target
    code: str
    project: Project
    placement: Placement
    before: str | None

    @property
    def shown(self) -> str:
        """The module's path for people."""
        return shown(self.target.file)


class Model:
    """The model that writes the tests, opened when it is first needed.

    Args:
        name: what tells it from every other, for results that are kept.
        opener: opens it.
    """

    def __init__(self, name: str, opener: Callable[[], Generator]) -> None:
        self.name = name
        self._opener = opener
        self._opened: Generator | None = None

    def open(self) -> Generator:
        """The model itself."""
        if self._opened is None:
            self._opened = self._opener()
        return self._opened

    def close(self) -> None:
        """Free it."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None


def prepare(targets: Sequence[Target], out: Path | None = None) -> list[Job]:
    """What can be refused before a model is opened.

    Args:
        targets: what the user asked for.
        out: the user's own place for the one test file.

    Raises:
        UsageError: a module cannot be read or has no name to import it by; a person's file is in the place.
        MachineError: there is no sandbox to run tests in.
    """
    if out is not None and len(targets) != 1:
        raise UsageError(f"--out: is for one module (got {len(targets)}); leave it out, or name one")
    jobs: list[Job] = []
    for target in targets:
        project = find_project(target.file)
        placement = place(project, target.file, out, [job.placement.test_file for job in jobs])
        jobs.append(Job(target, read_code(target.file), project, placement, read_before(placement.test_file)))
    choose_sandbox()
    return jobs


def write_tests(
    jobs: Sequence[Job],
    model: Model,
    settings: Settings,
    progress: Progress,
    *,
    journal: Journal,
    traces: Path | None = None,
    answers: Path | None = None,
    dry_run: bool = False,
    again: bool = False,
) -> list[Outcome]:
    """Write tests; the user's tree is changed at the end alone, all at once.

    What was found for a module is kept in the journal, so that a call that was interrupted goes on from there, and a
    second one changes nothing.

    Args:
        jobs: from `prepare`.
        model: writes the tests.
        settings: how.
        progress: where a person reads what is going on.
        journal: results of earlier calls.
        traces: where failure traces are added; None for nowhere.
        answers: where answers and what became of them are added; None for nowhere.
        dry_run: change nothing in the tree.
        again: ask the model even where the journal knows.

    Returns:
        One for each job, in their order.

    Raises:
        UsageError: the one module cannot be imported here; one of several is told in its outcome. Somebody changed a
            test file meanwhile.
        GenerationError: the model fails.
        MachineError: the disk is full, or a folder cannot be written.
    """
    written: list[Written] = []
    for number, job in enumerate(jobs):
        progress.step("testgen", number, len(jobs), job.shown)
        key = journal.key(_facts(job, model.name, settings))
        known = None if again else _known(journal.get(key), job)
        if known is None:
            known = _write_one(job, model, settings, progress, (number, len(jobs)), one_of_many=len(jobs) > 1)
            known = _kept(journal, key, known, job)
        written.append(known)
    progress.step("testgen", len(jobs), len(jobs), "modules")
    outcomes = [_with_diff(one) for one in written]
    if dry_run:
        return outcomes
    place_files([one.file for one in written if one.file is not None])
    try:
        _log(jobs, written, model, traces, answers)
    except MachineError as error:  # the tests are what was asked for
        outcomes = [_noted(outcome, f"nothing is kept for training: {error}") for outcome in outcomes]
    return outcomes


def _log(
    jobs: Sequence[Job], written: Sequence[Written], model: Model, traces: Path | None, answers: Path | None
) -> None:
    """Keep what there is to learn from, with where it is from."""
    now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    places = [
        {"repository": _repository(job), "root": str(job.project.root), "module": job.placement.module, "time": now}
        for job in jobs
    ]
    if traces is not None:
        pairs = [(trace, place) for one, place in zip(written, places, strict=True) for trace in one.traces]
        append_traces(traces, [trace for trace, _ in pairs], [place for _, place in pairs])
    if answers is not None:
        given = [(answer, place) for one, place in zip(written, places, strict=True) for answer in one.answers]
        about = [{**place, "model": digest(model.name)} for _, place in given]
        append_answers(answers, [answer for answer, _ in given], about)


def _repository(job: Job) -> str:
    return repository_name(job.project.root) or job.project.root.name or str(job.project.root)


def _write_one(
    job: Job, model: Model, settings: Settings, progress: Progress, place_of: tuple[int, int], *, one_of_many: bool
) -> Written:
    def told(what: str) -> None:
        progress.step("testgen", *place_of, f"{job.shown}: {what}")

    try:
        return write_for_module(
            job.target,
            job.code,
            job.project,
            job.placement,
            job.before,
            model.open,
            settings,
            told=told,
        )
    except UsageError as error:
        if not one_of_many:
            raise
        return Written(Outcome(job.shown, job.placement.module, "failed", None, notes=(str(error),)), None)


def _kept(journal: Journal, key: str, written: Written, job: Job) -> Written:
    """The same, in the journal as well; where that cannot be written, a note says so."""
    if written.outcome.status == "failed":
        return written
    try:
        journal.put(key, _entry(written, job))
    except MachineError as error:
        return dataclasses.replace(written, outcome=_noted(written.outcome, f"not kept for the next call: {error}"))
    return written


def _noted(outcome: Outcome, note: str) -> Outcome:
    return dataclasses.replace(outcome, notes=(*outcome.notes, note))


def _with_diff(written: Written) -> Outcome:
    if written.file is None:
        return written.outcome
    return dataclasses.replace(written.outcome, diff=written.file.diff(shown(written.file.path)))


def _facts(job: Job, model: str, settings: Settings) -> dict[str, Any]:
    """All that a result depends on, but for the file of ours that is there."""
    others = [path for path in job.placement.existing if path != job.placement.ours]
    return {
        "code": digest(job.code),
        "module": job.placement.module,
        "root": str(job.placement.import_root),
        "test_file": str(job.placement.test_file),
        "names": list(job.target.names),
        "lines": None if job.target.lines is None else sorted(job.target.lines),
        "existing": {str(path): digest(path.read_text(encoding="utf-8", errors="replace")) for path in others},
        "conftest": digest(job.placement.conftest),
        "style": dataclasses.asdict(job.project.style),
        "settings": dataclasses.asdict(settings),
        "model": model,
    }


def _entry(written: Written, job: Job) -> dict[str, Any]:
    return {
        "repository": _repository(job),
        "root": str(job.project.root),
        "outcome": written.outcome.to_json(),
        "traces": [dataclasses.asdict(trace) for trace in written.traces],
        "answers": [dataclasses.asdict(answer) for answer in written.answers],
        "before": None if job.before is None else digest(job.before),
    }


def _known(entry: dict[str, Any] | None, job: Job) -> Written | None:
    """What the journal says; None where it does not fit to what is there now."""
    if entry is None:
        return None
    outcome = Outcome.from_json(entry["outcome"])
    place = None if outcome.test_file is None else shown(job.placement.test_file)
    outcome = dataclasses.replace(outcome, source=job.shown, test_file=place)
    logged = (
        tuple(Trace(**trace) for trace in entry["traces"]),
        tuple(LoggedAnswer(**answer) for answer in entry["answers"]),
    )
    if outcome.text and job.before is not None and digest(outcome.text) == digest(job.before):
        return Written(dataclasses.replace(outcome, status="unchanged"), None, *logged)
    if entry["before"] != (None if job.before is None else digest(job.before)):
        return None
    if not outcome.text:
        return Written(outcome, None, *logged)
    return Written(outcome, NewFile(job.placement.test_file, outcome.text, job.before), *logged)
