"""Put new test files into a user's tree: all of them or none, and never over what somebody changed meanwhile."""

from __future__ import annotations

import difflib
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from lowvram_ft.errors import UsageError, cannot_write


@dataclass(frozen=True)
class NewFile:
    """A file that is to be written.

    Attributes:
        path: where.
        text: what it will hold.
        before: what was there when the work began; None where there was nothing.
    """

    path: Path
    text: str
    before: str | None

    def diff(self, shown: str) -> str:
        """What changes, as ``git diff`` prints it.

        Args:
            shown: the path to print.
        """
        old = [] if self.before is None else self.before.splitlines(keepends=True)
        lines = difflib.unified_diff(
            old,
            self.text.splitlines(keepends=True),
            "/dev/null" if self.before is None else f"a/{shown}",
            f"b/{shown}",
        )
        return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


def shown(path: Path) -> str:
    """A path as a user would type it: relative where it lies below the current folder."""
    here = Path.cwd().resolve()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def read_before(path: Path) -> str | None:
    """The text of a file as it is now; None where there is none.

    Raises:
        UsageError: it is a folder, or no UTF-8 text.
    """
    try:
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        return None
    except (IsADirectoryError, NotADirectoryError) as error:
        raise UsageError(f"{path}: is not a file; give another place with --out") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: is not UTF-8 text (byte {error.start}); give another place with --out") from error


def place_files(files: Sequence[NewFile]) -> None:
    """Write files so that a user's tree has all of them, or is as it was.

    They are written under temporary names first. The renaming itself is not interrupted by Ctrl-C or SIGTERM, which
    take effect right after it; where one cannot be renamed, those before it are put back.

    Raises:
        UsageError: a file was written or changed since the work began.
        MachineError: the disk is full, or a folder cannot be written.
    """
    twice = {file.path for file in files if sum(_real(other.path) == _real(file.path) for other in files) > 1}
    if twice:
        raise ValueError(f"{', '.join(map(str, sorted(twice)))}: one file for several modules; place them apart")
    staged: list[Path] = []
    folders: list[Path] = []
    done = False
    try:
        for file in files:
            _make_folders(file.path.parent, folders)
            temporary = _real(file.path).with_name(f".{file.path.name}.tmp-{os.getpid()}")
            staged.append(temporary)
            _write(temporary, file)
        with _uninterrupted():
            for file in files:
                if read_before(file.path) != file.before:
                    raise UsageError(f"{file.path}: was changed while tests were written; run the command again")
            _rename(files, staged)
            done = True
    finally:
        with _uninterrupted():
            for temporary in staged:
                with suppress(OSError):
                    temporary.unlink(missing_ok=True)
            if not done:
                for folder in reversed(folders):
                    with suppress(OSError):  # somebody else has put something there
                        folder.rmdir()


def _real(path: Path) -> Path:
    """Where a link leads: the file behind it is written, and the link stays."""
    return Path(os.path.realpath(path))


def _make_folders(folder: Path, made: list[Path]) -> None:
    if folder.is_dir():
        return
    _make_folders(folder.parent, made)
    try:
        folder.mkdir()
    except FileExistsError as error:
        raise UsageError(f"{folder}: is not a folder; give another place with --out") from error
    except OSError as error:
        raise cannot_write(folder, error) from error
    made.append(folder)


def _write(temporary: Path, file: NewFile) -> None:
    try:
        with temporary.open("w", encoding="utf-8", newline="") as handle:
            handle.write(file.text)
            handle.flush()
            os.fsync(handle.fileno())
        if file.before is not None and file.path.is_file():
            os.chmod(temporary, file.path.stat().st_mode & 0o7777)
    except OSError as error:
        raise cannot_write(file.path, error) from error


def _rename(files: Sequence[NewFile], staged: Sequence[Path]) -> None:
    placed: list[NewFile] = []
    try:
        for file, temporary in zip(files, staged, strict=True):
            temporary.replace(_real(file.path))
            placed.append(file)
    except OSError as error:
        for other in placed:
            if other.before is None:
                other.path.unlink()
            else:
                other.path.write_text(other.before, encoding="utf-8", newline="")
        raise cannot_write(file.path, error) from error


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait until the block is over; only the main thread gets them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting: list[int] = []

    def later(number: int, frame: FrameType | None) -> None:
        del frame
        waiting.append(number)

    before = {number: signal.signal(number, later) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        if waiting:
            signal.raise_signal(waiting[0])
