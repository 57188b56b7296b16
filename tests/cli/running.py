"""The command line as a user meets it: what it prints on both streams, and how it ends."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lowvram_ft.errors import EXPLAINED_AT

MODULE = (sys.executable, "-m", "lowvram_ft")
ROOT = Path(__file__).resolve().parent.parent.parent


@dataclass(frozen=True)
class Outcome:
    """How a command ended; equal to another where every character is, but for where its error is explained."""

    code: int
    stdout: str
    stderr: str
    explained: str = field(default="", compare=False)
    """The anchor that an error names in its last line."""

    def without(self, places: Mapping[Path, str]) -> Outcome:
        """The same with paths replaced by placeholders."""
        texts = [self.stdout, self.stderr]
        for path, placeholder in places.items():
            texts = [text.replace(str(path), placeholder) for text in texts]
        return Outcome(self.code, *texts, self.explained)


def environment(cache: Path, **more: str) -> dict[str, str]:
    """The environment of a command: its own cache, no network, a fixed width, no model by default."""
    fixed = {"LOWVRAM_FT_CACHE": str(cache), "HF_HUB_OFFLINE": "1", "COLUMNS": "100", "PYTHONPATH": str(ROOT)}
    own = {name: value for name, value in os.environ.items() if name != "LOWVRAM_FT_MODEL"}
    return {**own, **fixed, **more}


def ended(code: int, stdout: str, stderr: str) -> Outcome:
    """What a command printed, with the last line of an error apart: each error has one."""
    told, mark, anchor = stderr.rpartition(f"see {EXPLAINED_AT}#")
    if any(line.startswith("error: ") for line in stderr.splitlines()):
        assert mark and anchor.count("\n") == 1, f"no line says where the error is explained: {stderr}"
    return Outcome(code, stdout, told if mark else stderr, anchor.rstrip("\n") if mark else "")


def failed(code: int, *problems: str) -> Outcome:
    """A command that printed nothing but its problems, a line each."""
    return Outcome(code, "", "".join(f"error: {problem}\n" for problem in problems))


def misused(command: str, problem: str) -> Outcome:
    """A command that click refused."""
    name = f"lowvram-ft {command}".split(" [")[0]
    usage = f"Usage: lowvram-ft {command}\nTry '{name} --help' for help.\n\n"
    return Outcome(2, "", f"{usage}Error: {problem}\n")


def run(folder: Path, *arguments: object, timeout_s: float = 120.0, **env: str) -> Outcome:
    """Run a command in a process of its own, in ``folder``."""
    done = subprocess.run(
        [*MODULE, *map(str, arguments)],
        cwd=folder,
        env=environment(folder / ".cache", **env),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    return ended(done.returncode, done.stdout, done.stderr)


def files(folder: Path) -> list[str]:
    """Every file under a folder, by its relative path, sorted."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
