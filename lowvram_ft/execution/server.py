"""The process that runs jobs, one after the other: it forks for every session, and it alone reports to the caller.

The caller starts it, inside a sandbox where there is one, writes JSON lines to its stdin and reads JSON lines from
its stdout. It never imports the code under test or the test file; a fork does, which holds no descriptor of the
caller's. The first line sets it up:

    layer, folder, root, parent, tasks, readable    see `Setup`

and each other line is a job:

    code, module, test, limits            what to run, and its bounds
    selected                              names of the only tests that are run, or None
    mutants                               whether one more line will hold the edits, once the verdict is out
    max_mutants                           how many of them to run at the most, or None
    order                                 seed for another order of the tests, or None
    beside                                texts of files beside the test; left out where there are none
    only                                  numbers of the only edits that are run; left out for all

The first answer is ``{"kind": "up"}``. Those to a job are ``{"kind": "ready"}`` when it is taken up,
``{"kind": "verdict"}``, one ``{"kind": "mutant"}`` for each edit, and ``{"kind": "end"}``, each with its fields;
``{"kind": "alive"}`` in between, and ``{"kind": "failed"}`` where the machine does not let it be run. A server that
a job has spoilt says so at its end, and ends.
"""

from __future__ import annotations

import dataclasses
import functools
import gc
import json
import os
import resource
import signal
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from lowvram_ft.execution.finder import SourceFinder
from lowvram_ft.execution.fork import Confinement, Poisoned
from lowvram_ft.execution.limits import Limits, adopt_orphans, kill_children
from lowvram_ft.execution.modules import split_modules
from lowvram_ft.execution.shape import read_shape
from lowvram_ft.execution.workspace import BOX, CODE, WORK, Workspace, remove_tree

_MEMORY_BYTES = 2 << 30
"""Address space of the server itself, which parses and compiles what it gets; forks have bounds of their own."""

if TYPE_CHECKING:
    from lowvram_ft.execution.session import Instruments


@dataclasses.dataclass(frozen=True)
class Setup:
    """What all jobs of a server have in common.

    Attributes:
        layer: the sandbox that it is in.
        folder: its private folder.
        root: folder with the rest of the package under test, or None.
        parent: pid of the process that started it; None where it cannot see that.
        tasks: threads of this user outside.
        readable: what a test process may read, where the layer does not hide the rest.
    """

    layer: str
    folder: Path
    root: Path | None
    parent: int | None
    tasks: int
    readable: tuple[Path, ...]

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Setup:
        """The setup that a caller wrote."""
        return cls(
            layer=data["layer"],
            folder=Path(data["folder"]),
            root=Path(data["root"]) if data["root"] else None,
            parent=data["parent"],
            tasks=data["tasks"],
            readable=tuple(map(Path, data["readable"])),
        )

    @property
    def shared(self) -> tuple[Path, ...]:
        """Folders outside the private one that a test can write."""
        return (Path("/dev/shm"),) if self.layer == "bubblewrap" else ()


class Job:
    """One job, the server's folder, and the module texts that go with it."""

    def __init__(self, data: dict[str, Any], setup: Setup) -> None:
        self.test: str = data["test"]
        self.limits = Limits(**data["limits"])
        self.selected = None if data["selected"] is None else frozenset(data["selected"])
        self.order: int | None = data["order"]
        self.beside: dict[str, str] = data.get("beside", {})
        self.only: frozenset[int] | None = frozenset(data["only"]) if "only" in data else None
        self.folder = setup.folder
        self.root = setup.root
        self.texts = split_modules(data["code"], data["module"])
        self.finder = SourceFinder(self.texts, self.folder / CODE, self.root)
        files = {self.finder.files[name]: text for name, text in self.texts.items()}
        self.workspace = Workspace(self.folder, files, self.test, setup.shared, self.beside)

    @property
    def target_text(self) -> str:
        """Text of the module under test."""
        return self.texts[self.finder.target]

    def without_paths(self, text: str) -> str:
        """``text`` without this machine's paths."""
        folders = [self.folder / WORK, self.folder / CODE, self.folder, self.root, Path(sys.prefix)]
        for folder in folders:
            if folder is not None:
                beside = os.path.relpath(folder, self.folder / WORK)
                text = text.replace(f"{folder}/", "").replace(f"{beside}/", "")
        return text


class Server:
    """Answers jobs until there are none left.

    Args:
        questions: setup and jobs, a line each.
        answers: where the answers go.
    """

    def __init__(self, questions: IO[str], answers: IO[str]) -> None:
        self.questions = questions
        self.answers = answers
        self.setup = Setup.from_json(json.loads(questions.readline()))
        adopt_orphans(self.setup.parent)
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))
        signal.signal(signal.SIGTERM, self._stop)
        self.confinement = self._confine()

    def serve(self, manager: Any) -> None:
        """Take jobs until the caller closes its end, or one of them spoils this process.

        Args:
            manager: plugin manager of the session that the jobs enter.
        """
        from lowvram_ft.execution.session import Instruments

        instruments = Instruments(self.setup.folder / CODE, manager, by_job=self.setup.root is not None)
        gc.collect()
        gc.freeze()
        self._say("up")
        while line := self.questions.readline():
            try:
                self._answer_job(json.loads(line), instruments)
            except (Poisoned, OSError) as problem:
                self._say("end", poisoned=f"{type(problem).__name__}: {problem}")
                return
            self._say("end", poisoned=None)

    def _answer_job(self, data: dict[str, Any], instruments: Instruments) -> None:
        from lowvram_ft.execution.runs import Runner

        self._say("ready")
        shape = read_shape(data["test"])
        if shape.problem is not None:
            self._say("verdict", verdict=_unparsed(shape.problem))
            return
        self._say("alive", assertions=shape.assertions)
        job = Job(data, self.setup)
        try:
            job.workspace.lay_out()
        except OSError as problem:  # nothing of this job has run yet: it is not to blame
            self._say("failed", problem=str(problem))
            raise
        runner = Runner(job, self.confinement, instruments, lambda: self._say("alive"))
        self._say("verdict", verdict=runner.verdict(shape.assertions), phases_s=runner.first.phases_s)
        if data["mutants"]:
            edits = json.loads(self.questions.readline() or "[]")
            emit = functools.partial(self._say, "mutant")
            runner.mutants(edits, data["max_mutants"], lambda number, outcome: emit(number=number, outcome=outcome))
        job.workspace.clear()

    def _say(self, kind: str, **fields: Any) -> None:
        self.answers.write(json.dumps({"kind": kind, **fields}) + "\n")
        self.answers.flush()

    def _stop(self, number: int, frame: types.FrameType | None) -> None:
        del frame
        kill_children()
        if self.setup.layer != "bubblewrap":
            remove_tree(self.setup.folder)
        os._exit(128 + number)

    def _confine(self) -> Confinement:
        """Take what no job needs from this process, and make ready what is taken from each fork."""
        Workspace(self.setup.folder, {}, "", self.setup.shared).lay_out()
        restrictions: list[Callable[[], None]] = []
        if self.setup.layer != "rlimits":
            from lowvram_ft.execution.sandbox import landlock, seccomp

            if seccomp.problem() is None:
                seccomp.load()
            if landlock.version():
                rules = landlock.Ruleset(self._readable(), self._writable())
                restrictions += [rules.apply, rules.close]
                if self.setup.layer == "landlock":
                    restrictions.append(seccomp.forbid_metadata)
                    if rules.version < landlock.SIGNALS_SINCE:
                        restrictions.append(seccomp.forbid_signals)

        def restrict() -> None:
            for step in restrictions:
                step()

        private = (self.answers.fileno(), self.questions.fileno())
        return Confinement(private, restrict, self.setup.tasks, os.open(os.devnull, os.O_WRONLY))

    def _readable(self) -> list[Path]:
        if self.setup.layer == "bubblewrap":
            return [Path("/")]
        own = [self.setup.folder / CODE, *(Path("/dev") / name for name in ("zero", "urandom", "random", "full"))]
        return [*self.setup.readable, *own, *([] if self.setup.root is None else [self.setup.root])]

    def _writable(self) -> list[Path]:
        return [self.setup.folder / BOX, Path(os.devnull), *self.setup.shared]


def main() -> None:
    """Serve on stdin and stdout, which the forks do not get to see."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    questions = os.fdopen(os.dup(0), encoding="utf-8")
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    sys.path.pop(0)
    from lowvram_ft.execution.gate import Gate, warm_up

    warm_up()
    server = Server(questions, answers)
    Gate(server.serve).run()
    os._exit(0)


def _unparsed(problem: str) -> dict[str, Any]:
    return {
        "status": "syntax_error",
        "results": [],
        "assertions": 0,
        "log": f"E   {problem}",
        "coverage": None,
        "duration_s": 0.0,
    }
