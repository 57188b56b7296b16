"""Running llama.cpp in a child process, so that its crash is a message and Ctrl-C ends it at once.

The request is one JSON object on the child's standard input; the answer is one JSON object a line on its
standard output, each with the ``stage`` that it reports on. What the library prints goes to standard error
and is shown only as the reason of a failure.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from .errors import MissingLibraryError

_SIGILL_HELP: Final = (
    "llama-cpp-python was built with instructions that crash on this CPU (GCC 12 miscompiles AMX); install "
    'it again with CMAKE_ARGS=\'-DCMAKE_C_FLAGS="-mno-amx-tile -mno-amx-int8 -mno-amx-bf16" '
    '-DCMAKE_CXX_FLAGS="-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"\' '
    "pip install --no-cache-dir --force-reinstall --no-deps --no-binary llama-cpp-python llama-cpp-python"
)


@dataclass(frozen=True)
class ChildResult:
    """What a child reported.

    Attributes:
        stages: what it said of each stage, by the stage's name; complete stages only.
        problem: why it ended early, in one line; ``None`` when it finished.
        stage: the stage that it was in when it ended early.
    """

    stages: Mapping[str, dict[str, Any]]
    problem: str | None
    stage: str


def require_llama_cpp(what: str) -> None:
    """Check that the child will find llama-cpp-python, without importing it.

    Args:
        what: what needs it, for the message: ``"export to Q4_K_M"``.

    Raises:
        MissingLibraryError: it is not installed.
    """
    if importlib.util.find_spec("llama_cpp") is None:
        raise MissingLibraryError(
            f"{what}: needs llama-cpp-python (not installed); install it with: pip install llama-cpp-python"
        )


def run_child(request: Mapping[str, Any]) -> ChildResult:
    """Run one request in ``python -m gguf_export._child`` and collect its report.

    The child is ended when this function is left by an exception, Ctrl-C included.
    """
    environment = dict(os.environ)
    parent = str(Path(__file__).resolve().parent.parent)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (parent, environment.get("PYTHONPATH"))))
    # Threads that spin while they wait for each other slow a busy machine down several times.
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with tempfile.TemporaryFile() as errors:
        # A session of its own keeps Ctrl-C away from the child: the parent decides when it ends.
        process = subprocess.Popen(
            [sys.executable, "-m", "gguf_export._child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment,
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(json.dumps(dict(request)).encode())
        except BaseException:
            process.kill()
            process.wait()
            raise
        errors.seek(0)
        log = errors.read().decode(errors="replace")
    stages, stage = _parse(output.decode(errors="replace"))
    if process.returncode == 0 and "done" in stages:
        return ChildResult(stages, None, "done")
    return ChildResult(stages, _reason(process.returncode, stages.get("error"), log), stage)


def _parse(output: str) -> tuple[dict[str, dict[str, Any]], str]:
    stages: dict[str, dict[str, Any]] = {}
    stage = "start"
    for line in output.splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        if not isinstance(entry, dict):
            continue
        if "begin" in entry:
            stage = str(entry["begin"])
        elif "stage" in entry:
            stages[str(entry["stage"])] = entry
    return stages, stage


def _reason(returncode: int, error: dict[str, Any] | None, log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    last = lines[-1][:300] if lines else "no message"
    if error is not None:
        return str(error["message"])
    if returncode >= 0:  # on Windows always
        return f"the process ended with code {returncode}: {last}"
    if returncode == -signal.SIGILL:
        return f"the library crashed with SIGILL; {_SIGILL_HELP}"
    if returncode == -signal.SIGKILL:
        return "the process was killed, most likely for lack of memory; close other programs and try again"
    return f"the library crashed with {signal.Signals(-returncode).name}: {last}"
