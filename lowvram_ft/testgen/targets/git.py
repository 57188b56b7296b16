"""What git knows about a user's files: which it ignores, and which changed."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lowvram_ft.errors import LowvramError, MachineError, UsageError

TIMEOUT_S = 120.0
_QUIET = {"LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0"}
"""Messages that can be read, and no questions."""


@dataclass(frozen=True)
class Answer:
    """What git said.

    Attributes:
        code: its exit code, 0 where all went well.
        output: what it wrote, file names as the file system has them.
        error: the last line of its messages.
    """

    code: int
    output: bytes
    error: str


def ask(folder: Path, *arguments: str, given: bytes = b"") -> Answer:
    """Run a git command that changes nothing.

    Args:
        folder: where it runs.
        arguments: of git.
        given: what it reads.

    Raises:
        MachineError: git is not installed, or cannot be started.
        LowvramError: it did not end in time.
    """
    environment: Mapping[str, str] = {**os.environ, **_QUIET}
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=folder,
            input=given,
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
            env=environment,
        )
    except FileNotFoundError as error:
        raise MachineError("git: not installed (no such command); install it, or name the files") from error
    except OSError as error:
        raise MachineError(f"git: cannot be started ({error.strerror or error}); name the files") from error
    except subprocess.TimeoutExpired as error:
        raise LowvramError(f"git: no answer in {TIMEOUT_S:.0f} s; name the files") from error
    lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
    return Answer(done.returncode, done.stdout, lines[-1] if lines else "")


def names(output: bytes) -> list[str]:
    """The file names of an answer to a command with ``-z``."""
    return [os.fsdecode(name) for name in output.split(b"\0") if name]


def repository(folder: Path) -> Path:
    """The top folder of the working tree that a folder lies in.

    Raises:
        UsageError: it lies in none, or git refuses to look at it.
        MachineError: git is not installed.
    """
    answer = ask(folder, "rev-parse", "--show-toplevel")
    if answer.code:
        if "not a git repository" in answer.error:
            raise UsageError(f"{folder}: is in no git repository; run git init and commit, or name the files")
        raise UsageError(f"{folder}: git cannot tell what changed ({answer.error}); mend that, or name the files")
    return Path(os.path.realpath(os.fsdecode(answer.output.removesuffix(b"\n"))))


def listed(folder: Path) -> list[str] | None:
    """The Python files below a folder that git tracks or would add, as paths from there.

    Files of submodules and of other repositories below are not among them.

    Returns:
        The paths; None where git cannot say: it is not installed, there is no repository, or it ignores the folder.
    """
    try:
        if ask(folder, "check-ignore", "-q", "--", str(folder)).code == 0:
            return None
        answer = ask(folder, "ls-files", "-co", "--exclude-standard", "-z")
    except LowvramError:
        return None  # the folder is then walked over without git
    if answer.code:
        return None
    return sorted({name for name in names(answer.output) if name.endswith(".py")})
