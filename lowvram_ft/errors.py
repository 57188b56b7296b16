"""Every error that a user can meet, and its exit code.

    LowvramError                 1   the run failed
    ├── TrainingError            1   training diverged, or its inputs do not fit together
    ├── GenerationError          1   a model could not be loaded or did not answer
    │   └── PromptTooLong        1   a prompt and its answer do not fit into the context
    ├── ExportRejected           1   a GGUF was written, but did not pass verification
    ├── GateMissed               1   a gate of the recipe was missed
    ├── UsageError               2   a wrong option, or a missing or broken input file
    │   ├── RecipeError          2   a recipe that cannot be used; holds every problem found
    │   ├── DataError            2   a data set or a row that cannot be used
    │   ├── ModelError           2   a model or an adapter that cannot be used
    │   └── RunDirectoryError    2   a run directory that belongs to another recipe, or is damaged
    └── MachineError             3   this machine lacks something: GPU, memory, disk, compiler
        └── MissingExtraError    3   a package of an extra is not installed

Messages follow one form: *where: what (what was got); what to do.* The command line adds where the docs explain it.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path

EXIT_INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells expect it (128 + SIGINT)."""

EXIT_TERMINATED = 143
"""Exit code after SIGTERM, as shells expect it (128 + SIGTERM); after a closed terminal, too."""

EXPLAINED_AT = "https://github.com/lowvram-ft/lowvram-ft/blob/main/docs/errors.md"
"""The page that has a heading for each class, and so an anchor; its path in a checkout is the end of it."""


class Terminated(KeyboardInterrupt):
    """The system or another program asked the run to end (SIGTERM, or SIGHUP of a closed terminal)."""

    exit_code = EXIT_TERMINATED


class LowvramError(Exception):
    """The run failed. The base of all errors that are shown to a user without a traceback."""

    exit_code: int = 1


class TrainingError(LowvramError):
    """Training diverged, or what it was given does not fit together."""


class GenerationError(LowvramError):
    """A model could not be loaded for generation, or did not answer."""


class PromptTooLong(GenerationError):
    """A prompt and its answer do not fit into the model's context."""


class ExportRejected(LowvramError):
    """A GGUF was written, but did not pass its verification."""


class GateMissed(LowvramError):
    """A gate of the recipe was missed, and the user asked for gates to decide."""


class UsageError(LowvramError):
    """A wrong option, or an input file that is missing or broken."""

    exit_code = 2


class RecipeError(UsageError):
    """A recipe that cannot be used.

    Attributes:
        problems: every problem that was found, one line each.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class DataError(UsageError):
    """A data set or a row that cannot be used."""


class ModelError(UsageError):
    """A base model or an adapter that cannot be used."""


class RunDirectoryError(UsageError):
    """A run directory that belongs to another recipe, or is damaged."""


class MachineError(LowvramError):
    """This machine lacks what was asked for: a GPU, memory, disk, a compiler."""

    exit_code = 3


class MissingExtraError(MachineError):
    """A package of one of the kit's extras is not installed.

    Args:
        feature: what needs it, as the user knows it.
        extra: the extra that holds it, for example ``"demo"``.
    """

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f'{feature}: not installed; run: pip install "lowvram-ft[{extra}]"')


def explanation(error: Exception) -> str:
    """Where the docs explain an error of this module, or of ``gguf_export.errors``."""
    return f"{EXPLAINED_AT}#{type(error).__name__.lower()}"


_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


def is_disk_full(error: BaseException) -> bool:
    """Whether an error says that there is no room left on the disk.

    safetensors, tokenizers and torch raise errors of their own, that no ``OSError`` is behind: ``SafetensorError("… (os
    error 28)")``, a bare ``Exception`` with the same words, and ``RuntimeError("[enforce fail at
    inline_container.cc:…] …")`` from torch's zip writer.
    """
    if isinstance(error, OSError):
        return error.errno in _DISK_FULL
    text = str(error)
    if type(error).__name__ == "SafetensorError" or type(error) is Exception:
        return any(f"(os error {code})" in text for code in _DISK_FULL)
    return isinstance(error, RuntimeError) and "inline_container.cc" in text


def cannot_write(path: Path | str, error: BaseException) -> MachineError:
    """The error for a file or a folder that the system refuses to write, with what to do about it.

    Args:
        path: what was to be written.
        error: an ``OSError``, or one of which `is_disk_full` holds.
    """
    if is_disk_full(error):
        return MachineError(f"{path}: cannot be written (no space left on the disk); free some")
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return MachineError(f"{path}: cannot be written ({reason}); check the path and who may write there")
