"""Run test files and their mutants, each job in a limited process of its own.

What the limits do not cover stands in `lowvram_ft.execution.limits`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from lowvram_ft.errors import MachineError
from lowvram_ft.execution.limits import Limits, child_environment
from lowvram_ft.execution.modules import split_modules
from lowvram_ft.execution.mutants import Edit, find_mutants
from lowvram_ft.execution.verdict import Judgement, Mutant, MutationReport, Verdict
from lowvram_ft.execution.workspace import remove_tree

_BOOTSTRAP = "import sys; sys.path.insert(0, sys.argv[1]); from lowvram_ft.execution.server import main; main()"
_PACKAGE_ROOT = Path(__file__).resolve().parents[2]
_PATIENCE_S = 30.0
"""How much longer than its limits a server may be silent before it is given up."""
_DEFAULT_LIMITS = Limits()

Job = TypeVar("Job")
Result = TypeVar("Result")


def run_tests(code: str, module: str, test: str, limits: Limits = _DEFAULT_LIMITS, root: Path | None = None) -> Verdict:
    """Run the pytest file ``test`` against ``code`` in a process of its own.

    Args:
        code: text of the module under test, or of several, each after a line ``# module: pkg.mod``; the
            first is the one under test then.
        module: name under which ``code`` is importable. It is importable as ``solution`` as well.
        test: text of the test file.
        limits: what the process may use.
        root: folder that holds the rest of the module's package, for relative imports. The text of
            ``module`` itself is always ``code``.

    Raises:
        MachineError: the process could not be started.
    """
    with _Server(code, module, test, limits, root) as server:
        return server.verdict()


def mutation_analysis(
    code: str,
    module: str,
    test: str,
    limits: Limits = _DEFAULT_LIMITS,
    root: Path | None = None,
    *,
    tests: Sequence[str] | None = None,
) -> MutationReport:
    """Plant faults in the module under test, one at a time, and count those that the tests find.

    cosmic-ray's operators make the mutants. Those on lines that the tests do not reach count as survived
    without being run; those that compile to the original's bytecode, or to none, are left out. Tests that
    do not pass on the unmutated code are left out too; where none passes, nothing is killed.

    Args:
        code: as for `run_tests`; only the module under test is mutated.
        module: as for `run_tests`.
        test: as for `run_tests`.
        limits: what each process may use; a mutant gets ten times what the unmutated run took, and at
            least 0.3 s of CPU time or 2 s of wall-clock time.
        root: as for `run_tests`.
        tests: names of the tests to run, as in `TestResult.name`; None for all.

    Raises:
        MachineError: the process could not be started.
    """
    with _Server(code, module, test, limits, root, selected=tests, mutants=True) as server:
        server.verdict()
        return server.mutation()


def judge(code: str, module: str, test: str, limits: Limits = _DEFAULT_LIMITS, root: Path | None = None) -> Judgement:
    """`run_tests`, then `mutation_analysis` with the tests that passed, in one process.

    Raises:
        MachineError: the process could not be started.
    """
    with _Server(code, module, test, limits, root, mutants=True) as server:
        verdict = server.verdict()
        return Judgement.from_parts(verdict, server.mutation() if verdict.n_passed else None)


def run_many(
    function: Callable[[Job], Result],
    jobs: Iterable[Job],
    *,
    workers: int | None = None,
    on_result: Callable[[int, Result], None] | None = None,
) -> list[Result]:
    """Call ``function`` on each job, several at a time, and give the results in the order of the jobs.

    Args:
        function: calls `run_tests`, `mutation_analysis` or `judge`.
        jobs: its arguments.
        workers: how many at a time; None for one a CPU.
        on_result: gets the place of each job and its result as soon as there is one, in this thread.

    Raises:
        KeyboardInterrupt: after every running process is killed.
        MachineError: a process could not be started; those that run are killed first.
    """
    from concurrent.futures import ThreadPoolExecutor, as_completed

    with ThreadPoolExecutor(max_workers=workers or os.cpu_count() or 1) as pool:
        futures = {pool.submit(function, job): place for place, job in enumerate(jobs)}
        results: dict[int, Result] = {}
        try:
            for future in as_completed(futures):
                place = futures[future]
                results[place] = future.result()
                if on_result is not None:
                    on_result(place, results[place])
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            while not all(future.done() for future in futures):
                _Server.stop_all()
                time.sleep(0.05)
            raise
    return [results[place] for place in sorted(results)]


class _Server:
    """One server process and its private folder; both are gone when the ``with`` block ends."""

    _alive: ClassVar[set[_Server]] = set()
    _lock = threading.Lock()

    def __init__(
        self,
        code: str,
        module: str,
        test: str,
        limits: Limits,
        root: Path | None,
        *,
        selected: Sequence[str] | None = None,
        mutants: bool = False,
    ) -> None:
        if not hasattr(os, "fork"):
            raise MachineError("execution: needs a Unix system; on Windows, run it inside WSL")
        self.target_text = next(iter(split_modules(code, module).values()))
        self.limits = limits
        self.assertions = 0
        self.job = {
            "code": code,
            "module": module,
            "test": test,
            "root": None if root is None else str(root.resolve()),
            "limits": dataclasses.asdict(limits),
            "selected": None if selected is None else list(selected),
            "mutants": mutants,
            "parent": os.getpid(),
        }

    def __enter__(self) -> _Server:
        import tempfile

        self.folder = Path(tempfile.mkdtemp(prefix="lowvram-ft-")).resolve()
        self.errors = (self.folder / "server.log").open("w+b")
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-s", "-B", "-c", _BOOTSTRAP, str(_PACKAGE_ROOT)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.errors,
                cwd=self.folder,
                env=child_environment(self.folder / "home", self.folder / "tmp"),
                start_new_session=True,
            )
        except OSError as error:
            self._clean_up()
            raise MachineError(f"execution: {sys.executable}: cannot be started ({error})") from error
        with self._lock:
            self._alive.add(self)
        self.answers = self._read()
        self._ask(self.job | {"folder": str(self.folder)})
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()
        with self._lock:
            self._alive.discard(self)
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()
        self._clean_up()

    @classmethod
    def stop_all(cls) -> None:
        """Kill every server of this process; their threads see the end of their answers."""
        with cls._lock:
            alive = list(cls._alive)
        for server in alive:
            server.stop()

    def stop(self) -> None:
        """End the process and all it started: politely, so that it can clean up, then not."""
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=3.0)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def verdict(self) -> Verdict:
        """The verdict on the tests; ``killed`` where the tests brought the server down."""
        begin = time.monotonic()
        ready = next(self.answers, None)
        if ready is None:
            self.process.wait()
            self.errors.seek(0)
            lines = self.errors.read().decode(errors="replace").split("\n")
            why = next((line for line in reversed(lines) if line.strip()), "no message")
            raise MachineError(f"execution: {sys.executable}: cannot run tests ({why})")
        answer = next(self.answers, None)
        if answer is not None:
            return Verdict.from_json(answer["verdict"])
        log = "E   the test process was brought down by the test file"
        return Verdict("killed", (), ready["assertions"], log, None, time.monotonic() - begin)

    def mutation(self) -> MutationReport:
        """The mutants of the module under test. One without an answer has survived."""
        edits = find_mutants(self.target_text)
        self._ask([(edit.line, edit.start, edit.end, edit.text) for edit in edits])
        outcomes = {answer["number"]: answer["outcome"] for answer in self.answers if answer["kind"] == "mutant"}
        return MutationReport.from_mutants(
            tuple(self._mutant(edit, outcomes.get(number, "survived")) for number, edit in enumerate(edits))
        )

    def _mutant(self, edit: Edit, outcome: Any) -> Mutant:
        return Mutant(edit.operator, edit.line, outcome, edit.diff(self.target_text))

    def _ask(self, question: object) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(question).encode() + b"\n")
            self.process.stdin.flush()

    def _read(self) -> Iterator[dict[str, Any]]:
        """Answers until the end of the process, or until it is silent for too long."""
        assert self.process.stdout is not None
        descriptor, rest = self.process.stdout.fileno(), b""
        while True:
            silence_s = 4 * self.limits.wall_s + _PATIENCE_S
            if not select.select([descriptor], [], [], silence_s)[0]:
                return
            chunk = os.read(descriptor, 1 << 16)
            if not chunk:
                return
            *lines, rest = (rest + chunk).split(b"\n")
            yield from (json.loads(line) for line in lines)

    def _clean_up(self) -> None:
        self.errors.close()
        remove_tree(self.folder)
