"""What `execution_speed.py` measures against: pytest, coverage.py, cosmic-ray and mutmut, each in processes of its own.

Each finds a project in a folder, as at its users': the module, its test file, and nothing else.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

PYTEST = ("pytest", "-q", "-p", "no:cacheprovider")
COVERAGE_PYTEST = ("coverage", "run", "--branch", "--include={target}", "-m", *PYTEST)
COSMIC_RAY_TESTS = f"{shlex.quote(sys.executable)} -m pytest -x -q"
"""cosmic-ray's ``test-command``, one subprocess a mutant."""

MUTMUT = "mutmut==3.8.*"
TEST_FILE = "test_solution.py"

_HEADING = re.compile(r"^# module: ([A-Za-z_][\w.]*)[ \t]*\r?\n", re.MULTILINE)
_ALIAS = 'import importlib\nimport sys\n\nsys.modules["solution"] = importlib.import_module("{}")\n'
_PATIENCE_S = 120.0


@dataclass(frozen=True)
class Project:
    """A row as files.

    Attributes:
        name: a relative path that no other project has.
        files: texts by relative path.
        target: path of the module under test, one of ``files``.
    """

    name: str
    files: Mapping[str, str]
    target: str

    @classmethod
    def from_row(cls, name: str, module: str, code: str, test: str) -> Project:
        """One file a module; a module of another name is importable as ``solution`` too, as the tests do."""
        parts = _HEADING.split(code)
        several = len(parts) > 1 and not parts[0].strip()
        texts = dict(zip(parts[1::2], parts[2::2], strict=True)) if several else {module: code}
        target, *_ = texts
        files = {_path(name, texts): text for name, text in texts.items()}
        if target != "solution":
            files["solution.py"] = _ALIAS.format(target)
        return cls(name, {**files, TEST_FILE: test}, _path(target, texts))

    @property
    def code(self) -> str:
        """Text of the module under test."""
        return self.files[self.target]

    def lay_out(self, folder: Path) -> None:
        """Write the files under ``folder``."""
        for name, text in self.files.items():
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8", newline="")


def _path(module: str, texts: Iterable[str]) -> str:
    stem = module.replace(".", "/")
    return f"{stem}/__init__.py" if any(other.startswith(f"{module}.") for other in texts) else f"{stem}.py"


def environment(*, plugins: bool) -> dict[str, str]:
    """The caller's, without settings of Python's, pytest's and coverage.py's own.

    Args:
        plugins: whether pytest loads every plugin that is installed.
    """
    own = ("PYTHON", "PYTEST_", "COVERAGE_")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(own)}
    return kept | {"PYTHONHASHSEED": "0"} | ({} if plugins else {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"})


def run_tests_once(project: Project, command: Sequence[str], environ: Mapping[str, str]) -> bool:
    """Whether ``python -m command`` succeeds in a fresh folder with the project in it."""
    with tempfile.TemporaryDirectory(prefix="execution-speed-") as folder:
        project.lay_out(Path(folder))
        return _python(Path(folder), [part.format(target=project.target) for part in command], environ)[0] == 0


def measure_coverage(project: Project, environ: Mapping[str, str]) -> dict[str, Any]:
    """Coverage of the module under test by coverage.py's command line: ``run --branch``, then ``json``.

    Raises:
        RuntimeError: a command failed; holds what it printed.
    """
    with tempfile.TemporaryDirectory(prefix="execution-speed-") as name:
        folder = Path(name)
        project.lay_out(folder)
        run = [part.format(target=project.target) for part in COVERAGE_PYTEST]
        for command in (run, ["coverage", "json", "-q", "-o", "coverage.json"]):
            code, output = _python(folder, command, environ)
            if code:
                raise RuntimeError(f"{project.name}: python -m {shlex.join(command)}: exit code {code}\n{output}")
        (entry,) = json.loads((folder / "coverage.json").read_text(encoding="utf-8"))["files"].values()
    summary = entry["summary"]
    return {
        "statements": summary["num_statements"],
        "covered_statements": summary["covered_lines"],
        "branches": summary["num_branches"],
        "covered_branches": summary["covered_branches"],
        "covered_lines": entry["executed_lines"],
        "missing_lines": entry["missing_lines"],
    }


def _python(folder: Path, command: Sequence[str], environ: Mapping[str, str]) -> tuple[int, str]:
    ended = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=_PATIENCE_S,
        check=False,
    )
    return ended.returncode, ended.stdout.decode(errors="replace")


@dataclass(frozen=True)
class MutantJob:
    """One mutant for cosmic-ray: the name of a project, and how cosmic-ray addresses the mutant."""

    project: str
    operator: str
    occurrence: int
    line: int
    timeout_s: float


@dataclass(frozen=True)
class MutantRun:
    """What cosmic-ray made of a mutant: ``killed``, ``survived``, ``timeout``, or its word for an error."""

    outcome: str
    seconds: float


class CosmicRay:
    """Processes that run cosmic-ray's ``mutate_and_test``, as its local distributor does.

    cosmic-ray mutates the file on disk, so each process has a copy of every project of its own, as
    cosmic-ray's HTTP workers do. They are all up when the ``with`` block begins. Its database is left out.

    Args:
        projects: what is mutated.
        workers: how many processes.
        environ: environment of the tests.
        memory_bytes: address space of each process, the tests' own too.
    """

    def __init__(
        self, projects: Sequence[Project], workers: int, environ: Mapping[str, str], memory_bytes: int
    ) -> None:
        self._projects = {project.name: project for project in projects}
        self._workers = workers
        self._environ = dict(environ)
        self._memory_bytes = memory_bytes

    def __enter__(self) -> CosmicRay:
        self._base = tempfile.TemporaryDirectory(prefix="execution-speed-")
        context = multiprocessing.get_context("spawn")
        barrier = context.Barrier(self._workers)
        arguments = (Path(self._base.name), self._projects, self._environ, self._memory_bytes, barrier)
        self._pool = ProcessPoolExecutor(self._workers, context, _start_worker, arguments)
        list(self._pool.map(abs, range(self._workers)))
        return self

    def __exit__(self, *exc: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._base.cleanup()

    def baseline_s(self) -> dict[str, float]:
        """Seconds that cosmic-ray's test command takes on each unmutated project, by name.

        Raises:
            RuntimeError: the tests of a project do not pass.
        """
        runs = dict(zip(self._projects, self._pool.map(_run_baseline, self._projects), strict=True))
        failing = [name for name, run in runs.items() if run.outcome != "survived"]
        if failing:
            raise RuntimeError(f"the tests of {', '.join(failing)} do not pass under {COSMIC_RAY_TESTS}")
        return {name: run.seconds for name, run in runs.items()}

    def run(self, jobs: Sequence[MutantJob]) -> list[MutantRun]:
        """Run the mutants; results in the order of the jobs."""
        return list(self._pool.map(_run_mutant, jobs))


_own_copies = Path()
_own_projects: Mapping[str, Project] = {}


def _start_worker(
    base: Path, projects: Mapping[str, Project], environ: Mapping[str, str], memory_bytes: int, all_up: Barrier
) -> None:
    global _own_copies, _own_projects
    import resource

    from cosmic_ray.plugins import operator_names

    operator_names()
    os.environ.clear()
    os.environ.update(environ)
    _own_copies, _own_projects = Path(tempfile.mkdtemp(dir=base)), projects
    for name, project in projects.items():
        project.lay_out(_own_copies / name)
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    all_up.wait(_PATIENCE_S)


def _run_baseline(name: str) -> MutantRun:
    from cosmic_ray.testing import run_tests

    os.chdir(_own_copies / name)
    begin = time.perf_counter()
    outcome, _ = run_tests(COSMIC_RAY_TESTS, _PATIENCE_S)
    return MutantRun(outcome.value, time.perf_counter() - begin)


def _run_mutant(job: MutantJob) -> MutantRun:
    from cosmic_ray.mutating import mutate_and_test
    from cosmic_ray.work_item import MutationSpec

    os.chdir(_own_copies / job.project)
    target = Path(_own_projects[job.project].target)
    spec = MutationSpec(target, job.operator, job.occurrence, (job.line, 0), (job.line, 1))
    begin = time.perf_counter()
    result = mutate_and_test([spec], COSMIC_RAY_TESTS, job.timeout_s)
    seconds = time.perf_counter() - begin
    if result.output == "timeout":
        return MutantRun("timeout", seconds)
    if result.worker_outcome.value != "normal" or result.test_outcome is None:
        return MutantRun(result.worker_outcome.value, seconds)
    return MutantRun(result.test_outcome.value, seconds)


def cosmic_ray_text(code: str, operator: str, occurrence: int) -> str | None:
    """Text of one mutant of ``code`` as cosmic-ray writes it to disk."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    text: str | None = mutate_code(code, get_operator(operator)(), occurrence)
    return text


def run_mutmut(
    projects: Sequence[Project], workers: int, repeats: int, cache: Path, say: Callable[[str], None]
) -> dict[str, Any]:
    """Install mutmut in a virtual environment that is thrown away, and run it on one project after the other.

    Returns:
        Version, counts and seconds of each run; or ``reason``, why there is none.
    """
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="mutmut-", dir=cache) as name:
        folder = Path(name).resolve()
        python = folder / "venv" / "bin" / "python"
        environ = environment(plugins=True)
        try:
            _must([sys.executable, "-m", "venv", str(python.parents[1])], folder, environ)
            _must([str(python), "-m", "pip", "install", "-q", MUTMUT], folder, environ)
            found = _must([str(python), "-c", "import importlib.metadata as m; print(m.version('mutmut'))"], folder, {})
            runs = []
            for repeat in range(repeats):
                runs.append([_mutmut(python, project, folder / "project", workers, environ) for project in projects])
                say(f"mutmut {repeat + 1}/{repeats}: {sum(run['seconds'] for run in runs[-1]):.1f} s")
        except (RuntimeError, OSError, ValueError, subprocess.TimeoutExpired) as error:
            return {"reason": str(error).replace(f"{folder}{os.sep}", "").replace(sys.executable, "python")}
    return {"version": found.strip(), "runs": runs}


def _mutmut(python: Path, project: Project, folder: Path, workers: int, environ: Mapping[str, str]) -> dict[str, Any]:
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder)
    for name, text in project.files.items():
        file = folder / ("tests" if name == TEST_FILE else "src") / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8", newline="")
    (folder / "pyproject.toml").write_text('[tool.mutmut]\nsource_paths = ["src/"]\n', encoding="utf-8")
    begin = time.perf_counter()
    output = _must([str(python), "-m", "mutmut", "run", "--max-children", str(workers)], folder, environ)
    seconds = time.perf_counter() - begin
    own = re.findall(r"([\d.]+) mutations/second", output)
    if not own:
        raise RuntimeError(f"{project.name}: mutmut ran no mutants: {output[-500:]}")
    _must([str(python), "-m", "mutmut", "export-cicd-stats"], folder, environ)
    counts = json.loads((folder / "mutants" / "mutmut-cicd-stats.json").read_text(encoding="utf-8"))
    return {"id": project.name, "seconds": round(seconds, 3), "own_rate": float(own[-1]), "counts": counts}


def _must(command: Sequence[str], folder: Path, environ: Mapping[str, str]) -> str:
    ended = subprocess.run(
        command,
        cwd=folder,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=10 * _PATIENCE_S,
        check=False,
    )
    output = ended.stdout.decode(errors="replace")
    if ended.returncode:
        raise RuntimeError(f"{shlex.join(command)}: exit code {ended.returncode}: {output[-500:]}")
    return output
