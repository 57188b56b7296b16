"""The process that runs one job: it forks for every session, and it alone reports to the caller.

The caller starts it with a job on stdin and reads JSON lines from its stdout. It never imports the code
under test or the test file; a fork does, which holds no descriptor of the caller's. A job has

    code, module, test, root, folder, limits, parent    what to run, where, and the pid of the caller
    selected                                            names of the only tests that are run, or None
    mutants                                             whether a second line on stdin will hold the edits

and the answers are ``{"kind": "ready"}``, ``{"kind": "verdict"}``, one ``{"kind": "mutant"}`` for each edit,
and ``{"kind": "end"}``, each with its fields.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import types
from pathlib import Path
from typing import Any

from lowvram_ft.execution.finder import SourceFinder
from lowvram_ft.execution.limits import Limits, adopt_orphans, kill_children
from lowvram_ft.execution.modules import split_modules
from lowvram_ft.execution.shape import read_shape
from lowvram_ft.execution.workspace import Workspace, remove_tree


class Job:
    """One job, its private folder, and the module texts that go with it."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.test: str = data["test"]
        self.limits = Limits(**data["limits"])
        self.selected = None if data["selected"] is None else frozenset(data["selected"])
        self.folder = Path(data["folder"])
        self.root: Path | None = Path(data["root"]) if data["root"] else None
        self.texts = split_modules(data["code"], data["module"])
        self.finder = SourceFinder(self.texts, self.folder / "code", self.root)
        files = {self.finder.files[name]: text for name, text in self.texts.items()}
        self.workspace = Workspace(self.folder, files, self.test)

    @property
    def target_text(self) -> str:
        """Text of the module under test."""
        return self.texts[self.finder.target]

    def without_paths(self, text: str) -> str:
        """``text`` without this machine's paths."""
        folders = [self.folder / "work", self.folder / "code", self.folder, self.root, Path(sys.prefix)]
        for folder in folders:
            if folder is not None:
                text = text.replace(f"{folder}/", "").replace(f"{os.path.relpath(folder)}/", "")
        return text


def main() -> None:
    """Read the job from stdin, run it, answer on what was stdout."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    questions = os.fdopen(os.dup(0), encoding="utf-8")
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    data = json.loads(questions.readline())
    adopt_orphans(data["parent"])
    job = Job(data)

    def stop(number: int, frame: types.FrameType | None) -> None:
        del frame
        kill_children()
        remove_tree(job.folder)
        os._exit(128 + number)

    def answer(kind: str, **fields: Any) -> None:
        answers.write(json.dumps({"kind": kind, **fields}) + "\n")

    signal.signal(signal.SIGTERM, stop)
    sys.path.pop(0)
    shape = read_shape(job.test)
    if shape.problem is not None:
        answer("ready", assertions=0)
        answer("verdict", verdict=_unparsed(shape.problem))
        return
    _import_pytest()
    answer("ready", assertions=shape.assertions)
    from lowvram_ft.execution.runs import Runner

    runner = Runner(job, private=(answers.fileno(), questions.fileno()))
    answer("verdict", verdict=runner.verdict(shape.assertions))
    if data["mutants"]:
        edits = json.loads(questions.readline() or "[]")
        runner.mutants(edits, lambda number, outcome: answer("mutant", number=number, outcome=outcome))
    answer("end")


def _unparsed(problem: str) -> dict[str, Any]:
    return {
        "status": "syntax_error",
        "results": [],
        "assertions": 0,
        "log": f"E   {problem}",
        "coverage": None,
        "duration_s": 0.0,
    }


def _import_pytest() -> None:
    """Everything that a session needs, so that no fork has to."""
    import _pytest.config

    importlib.import_module("lowvram_ft.execution.session")
    for plugin in _pytest.config.default_plugins:
        importlib.import_module(f"_pytest.{plugin}")
