"""What the server does with a job: the session of the tests, and one fork for each mutant."""

from __future__ import annotations

import ast
import contextlib
import os
import signal
import time
import types
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lowvram_ft.execution.beside import CONFTEST
from lowvram_ft.execution.finder import SourceFinder
from lowvram_ft.execution.fork import ChildEnd, Confinement, Forked, ForkEnd, become_child, run_in_fork, wait_for
from lowvram_ft.execution.limits import Limits
from lowvram_ft.execution.log import trim_log
from lowvram_ft.execution.records import is_well_formed
from lowvram_ft.execution.sampling import stratified
from lowvram_ft.execution.session import Instruments, MutantTask, TestTask
from lowvram_ft.execution.workspace import TEST_FILE, Workspace

_SEVERITY = ("passed", "skipped", "failed", "error", "timeout", "killed")
_MAX_BASELINES = 3
"""Runs of the passing tests until those that pass only beside the others are out."""
_MIN_MUTANT_CPU_S = 0.3
_MIN_MUTANT_WALL_S = 2.0
_BASELINES_A_MUTANT = 10.0


class TestRun:
    """One session in a fork, digested: only what the fork reported before it ended counts.

    Args:
        end: the fork's records and how it ended.
        clean: takes this machine's paths out of a text.
    """

    __test__ = False

    def __init__(self, end: ForkEnd, clean: Callable[[str], str]) -> None:
        self.end = end
        self.clean = clean
        by_kind: dict[str, list[dict[str, Any]]] = {}
        for record in end.records:
            if is_well_formed(record):
                by_kind.setdefault(record["kind"], []).append(record)
        self.records = by_kind
        self._reports: dict[str, list[dict[str, Any]]] = {}
        for report in by_kind.get("report", []):
            self._reports.setdefault(report["name"], []).append(report)
        self._begun = {start["name"] for start in by_kind.get("start", [])}
        self.done = by_kind["done"][-1] if "done" in by_kind else None
        self.tampered = str(by_kind["tampered"][-1]["what"]) if "tampered" in by_kind else None
        collected = by_kind.get("collected", [{"names": [], "dropped": []}])[0]
        self.names: list[str] = list(dict.fromkeys(collected["names"]))
        self.dropped: list[str] = collected["dropped"]
        self.results = [self._result(name) for name in self.names]

    @property
    def passing(self) -> list[str]:
        """Names of the tests that passed."""
        return [result["name"] for result in self.results if result["outcome"] == "passed"]

    @property
    def status(self) -> str:
        """`Verdict.status`."""
        if self.names:
            if self.done or self.tampered is not None:
                return "ran"
            if self.end.crowded:
                return "killed"
            return "timeout" if self.end.timed_out else "killed"
        errors = self.records.get("collection_error", [])
        if self.end.timed_out or any(error["timed_out"] for error in errors):
            return "timeout"
        if errors:
            return "collection_error"
        return "no_tests" if self.done else "killed"

    @property
    def coverage(self) -> dict[str, Any] | None:
        """`Coverage` as JSON; None unless the session ended by itself."""
        measured = self.records.get("coverage")
        return measured[-1]["numbers"] if measured and self.done and self.names else None

    @property
    def raw_lines(self) -> set[int]:
        """Every line of the module under test with an event."""
        measured = self.records.get("coverage")
        return set(measured[-1]["raw_lines"]) if measured and self.done else set()

    @property
    def phases_s(self) -> dict[str, float] | None:
        """Where the time of a session went; None unless it ended by itself."""
        if self.done is None:
            return None
        marks = [self.end.begun_s, *self.done["marks_s"], self.end.begun_s + self.end.duration_s]
        names = ("fork", "import", "tests", "coverage", "exit")
        return {name: marks[place + 1] - marks[place] for place, name in enumerate(names)}

    def log(self) -> str:
        """Failures in pytest's own form, trimmed."""
        sections, summary = [], []
        for error in self.records.get("collection_error", []):
            sections.append(f"{f' ERROR collecting {TEST_FILE} ':_^70}\n{error['text']}")
            summary.append(f"ERROR {TEST_FILE}")
        texts = {
            report["name"]: report["text"]
            for report in reversed(self.records.get("report", []))
            if report["outcome"] not in ("passed", "skipped")
        }
        for result in self.results:
            if result["outcome"] in ("passed", "skipped"):
                continue
            name, message = result["name"], result["message"]
            sections.append(f"{f' {name} ':_^70}\n{texts.get(name) or f'E   {message}'}")
            word = "ERROR" if result["outcome"] == "error" else "FAILED"
            summary.append(f"{word} {TEST_FILE}::{name} - {message.partition(chr(10))[0]}")
        if self.status in ("timeout", "killed") and not sections:
            sections.append(f"{' the test file ':_^70}\nE   {self._how_it_ended()}")
        if not sections:
            return ""
        head = f"{' short test summary info ':=^70}"
        return trim_log(self.clean("\n".join([*sections, head, *summary])))

    def _result(self, name: str) -> dict[str, Any]:
        reports = self._reports.get(name, [])
        result = {"name": name, "outcome": "passed", "duration_s": 0.0, "message": ""}
        for report in reports:
            result["duration_s"] += report["duration_s"]
            if _SEVERITY.index(report["outcome"]) > _SEVERITY.index(result["outcome"]):
                result |= {"outcome": report["outcome"], "message": self.clean(report["message"])}
        if self.tampered is not None:
            return result | {"outcome": "error", "message": f"the test file changes pytest itself: {self.tampered}"}
        called = any(report["when"] == "call" or report["outcome"] != "passed" for report in reports)
        if called and any(report["when"] == "teardown" for report in reports):
            return result
        if name not in self._begun or self.done:
            return result | {"outcome": "error", "message": "did not run: the session ended before"}
        outcome = "timeout" if self.end.timed_out else "killed"
        return result | {"outcome": outcome, "message": self._how_it_ended()}

    def _how_it_ended(self) -> str:
        if self.end.timed_out:
            return f"stopped: the time of the whole file was up after {self.end.duration_s:.1f} s"
        return f"the process ended in the middle of it ({self.end.ending})"


class Runner:
    """Runs the tests of one job, then its mutants.

    Args:
        job: what the caller asked for, see `lowvram_ft.execution.server.Job`.
        confinement: what holds every fork.
        instruments: what measures and checks every session.
        alive: called after each session, so that the caller does not give this process up.
    """

    def __init__(self, job: Any, confinement: Confinement, instruments: Instruments, alive: Callable[[], None]) -> None:
        self.limits: Limits = job.limits
        self.finder: SourceFinder = job.finder
        self.text: str = job.target_text
        self.test: str = job.test
        self.workspace: Workspace = job.workspace
        self.clean: Callable[[str], str] = job.without_paths
        self.selected: frozenset[str] | None = job.selected
        self.order: int | None = job.order
        self.beside: dict[str, str] = job.beside
        self.only: frozenset[int] | None = job.only
        self.confinement = confinement
        self.instruments = instruments
        self.alive = alive
        self.first = self.run_tests(self.selected)

    def run_tests(self, selected: frozenset[str] | None) -> TestRun:
        """One session of all tests, or of the selected ones."""
        self.workspace.lay_out()
        end = run_in_fork(
            lambda send: TestTask(
                self.finder, self.limits, selected, self.order, self.instruments, send, CONFTEST in self.beside
            ),
            self.limits,
            self.confinement,
        )
        self.alive()
        return TestRun(end, self.clean)

    def verdict(self, assertions: int) -> dict[str, Any]:
        """`Verdict` as JSON."""
        return {
            "status": self.first.status,
            "results": self.first.results,
            "assertions": assertions,
            "log": self.first.log(),
            "coverage": self.first.coverage,
            "duration_s": self.first.end.duration_s,
        }

    def mutants(self, edits: Sequence[Sequence[Any]], most: int | None, emit: Callable[[int, str], None]) -> None:
        """Run the passing tests against each edit ``(operator, line, start, end, text)`` and emit its outcome.

        Of more than ``most`` that would be run, a sample is.
        """
        from lowvram_ft.execution.reach import Reach, same_code

        original = _compile(self.text, self.finder.target_file)
        baseline = self._baseline()
        raw_lines = set() if baseline is None else baseline.raw_lines
        reach = Reach(self.text, original, raw_lines) if original is not None else None
        runnable: dict[int, types.CodeType] = {}
        outcomes: dict[int, str] = {}
        for number, (_, line, start, end, text) in enumerate(edits):
            if self.only is not None and number not in self.only:
                outcomes[number] = "not_asked"
                continue
            code = _compile(self._edited(start, end, text), self.finder.target_file)
            if code is None or original is None or reach is None:
                outcomes[number] = "incompetent"
            elif same_code(code, original):
                outcomes[number] = "equivalent"
            elif baseline is None or not reach.reaches(line):
                outcomes[number] = "not_covered"
            else:
                runnable[number] = code
        chosen = stratified({number: edits[number][0] for number in runnable}, most)
        outcomes |= dict.fromkeys(runnable.keys() - chosen, "not_run")
        for number, outcome in outcomes.items():
            emit(number, outcome)
        runnable = {number: code for number, code in runnable.items() if number in chosen}
        if runnable and baseline is not None:
            texts = {number: tuple(edits[number][2:]) for number in runnable}
            self._run_mutants(runnable, texts, baseline, emit)

    def _edited(self, start: int, end: int, text: str) -> str:
        """The module under test after an edit."""
        return self.text[:start] + text + self.text[end:]

    def _baseline(self) -> TestRun | None:
        """A session in which every test passes, without those of the first one that do not."""
        run = self.first
        for _ in range(_MAX_BASELINES):
            if not run.passing or not run.done:
                if run is not self.first or not run.passing:
                    return None
            elif len(run.passing) == len(run.names):
                return run
            run = self.run_tests(frozenset(run.passing))
        return run if run.passing and run.done and len(run.passing) == len(run.names) else None

    def _run_mutants(
        self,
        mutants: dict[int, types.CodeType],
        edits: dict[int, tuple[int, int, str]],
        baseline: TestRun,
        emit: Callable[[int, str], None],
    ) -> None:
        """One fork for the code as it is, which sets the budget, one for each mutant, and one for the code again.

        Where the tests fail on the code as it is, after they passed on it, they hang on something else than the code:
        on chance, or on how often they ran. What they would find means nothing.
        """
        left_out = frozenset(self.first.names + self.first.dropped) - frozenset(baseline.names)
        conftest = {CONFTEST: self.beside[CONFTEST]} if CONFTEST in self.beside else {}
        self.finder.prepare({TEST_FILE: self.test, **conftest})
        cpu_s, wall_s = self.limits.cpu_s, self.limits.wall_s
        begin = time.monotonic()
        end = self._run_mutant(None, self.text, left_out, cpu_s, wall_s)
        if _mutant_outcome(end) != "survived":
            for number in mutants:
                emit(number, "survived")
            return
        cpu_s = max(_MIN_MUTANT_CPU_S, _BASELINES_A_MUTANT * end.cpu_s)
        wall_s = max(_MIN_MUTANT_WALL_S, _BASELINES_A_MUTANT * (time.monotonic() - begin))
        wall_s = min(wall_s, max(self.limits.wall_s, _MIN_MUTANT_WALL_S))
        self.alive()
        for number, code in mutants.items():
            text = self._edited(*edits[number])
            emit(number, _mutant_outcome(self._run_mutant(code, text, left_out, cpu_s, wall_s)))
        if _mutant_outcome(self._run_mutant(None, self.text, left_out, cpu_s, wall_s)) == "killed":
            for number in mutants:
                emit(number, "survived")

    def _run_mutant(
        self, code: types.CodeType | None, text: str, left_out: frozenset[str], cpu_s: float, wall_s: float
    ) -> ChildEnd:
        """One fork, for a mutant or for the code as it is; its files hold the text that runs."""
        self.workspace.lay_out()
        self.workspace.replace(self.finder.target_file, text)
        pid = os.fork()
        if pid == 0:
            try:
                become_child(self.limits, self.confinement.null, self.confinement, cpu_s=cpu_s)
                if code is not None:
                    self.finder.mutate(code, text)
                child = Forked(MutantTask(self.finder, left_out, CONFTEST in self.beside))
            except BaseException:
                os._exit(70)
            raise child
        return wait_for(pid, wall_s, self.limits.processes)


def _mutant_outcome(end: ChildEnd) -> str:
    by_signal = os.WTERMSIG(end.status) if os.WIFSIGNALED(end.status) else None
    if end.timed_out or by_signal in (signal.SIGPROF, signal.SIGXCPU):
        return "timeout"
    return "survived" if os.WIFEXITED(end.status) and os.WEXITSTATUS(end.status) == 0 else "killed"


def _compile(text: str, file: Path) -> types.CodeType | None:
    with contextlib.suppress(SyntaxError, ValueError, RecursionError, MemoryError, OverflowError):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(text)
            return compile(text, str(file), "exec", dont_inherit=True)
    return None
