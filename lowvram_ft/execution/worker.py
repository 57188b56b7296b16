"""One job as text: what is sent to another machine, what is done there, and what comes back."""

from __future__ import annotations

import json
import os
import platform
import signal
from pathlib import Path
from typing import Any

from lowvram_ft.errors import LowvramError, MachineError
from lowvram_ft.execution.cache import judge_versions
from lowvram_ft.execution.executor import ask_here
from lowvram_ft.execution.limits import Limits
from lowvram_ft.execution.place import Mutants, Told
from lowvram_ft.execution.pool import Question
from lowvram_ft.execution.sandbox import ALLOW_UNSANDBOXED, FORCED
from lowvram_ft.execution.verdict import MutationReport, Verdict

_SETTINGS = (ALLOW_UNSANDBOXED, FORCED)


def pack(question: Question, root: Path | None, mutants: Mutants) -> str:
    """A job as ASCII: text that a model wrote may hold halves of surrogate pairs, which few encoders take."""
    return json.dumps(
        {
            "versions": judge_versions(),
            "settings": {name: os.environ[name] for name in _SETTINGS if name in os.environ},
            "question": question.to_json(),
            "root": None if root is None else str(root.resolve()),
            "mutants": mutants,
        }
    )


def work(item: str) -> str:
    """Do a job of `pack` in a sandboxed server of this process. Returns what `unpack` reads."""
    asked = json.loads(item)
    try:
        return json.dumps(_done(asked))
    except LowvramError as error:
        return json.dumps({"problem": f"worker {platform.node()}: {error}"})


def unpack(answer: str) -> Told:
    """What a job told.

    Raises:
        MachineError: it could not be done there.
    """
    told = json.loads(answer)
    if "problem" in told:
        raise MachineError(told["problem"])
    mutation = told["mutation"]
    report = None if mutation is None else MutationReport.from_json(mutation)
    return Verdict.from_json(told["verdict"]), report, told["complete"]


def version_problem(theirs: dict[str, str], ours: dict[str, str]) -> str | None:
    """Which versions differ; None where both judge alike. Of Python, the first two numbers count."""
    wrong = [
        f"{name} {theirs.get(name, 'is missing')} and not {version}"
        for name, version in ours.items()
        if (_minor(theirs.get(name)) if name == "python" else theirs.get(name))
        != (_minor(version) if name == "python" else version)
    ]
    return ", ".join(wrong) or None


def _done(asked: dict[str, Any]) -> dict[str, Any]:
    if (problem := version_problem(judge_versions(), asked["versions"])) is not None:
        raise MachineError(f"it has {problem}; install the same versions there")
    for name in _SETTINGS:
        os.environ.pop(name, None)
    os.environ.update(asked["settings"])
    # Ray blocks it in what it starts, and servers inherit that: a test that sends it to itself would go on
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    root = None if asked["root"] is None else Path(asked["root"])
    if root is not None and not root.is_dir():
        raise MachineError(f"{root} is not there; put it where it is on the machine that sends the jobs")
    values = asked["question"]
    question = Question(**{**values, "limits": Limits(**values["limits"])})
    verdict, mutation, complete = ask_here(question, root, asked["mutants"])
    return {
        "verdict": verdict.to_json(),
        "mutation": None if mutation is None else mutation.to_json(),
        "complete": complete,
    }


def _minor(version: str | None) -> list[str] | None:
    return None if version is None else version.split(".")[:2]
