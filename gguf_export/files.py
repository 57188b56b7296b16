"""Temporary names, atomic replacement, free space, checksums and JSON input.

A file under its final name is always whole: everything is written to ``.NAME.tmp-STEP`` beside it, synced,
and renamed. The names are fixed, so the next export of the same output removes what a killed one left.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import BrokenFileError, DiskSpaceError, ExportError, HostMemoryError

_HASH_CHUNK_BYTES = 1 << 22
_TEMPORARY = ".tmp-"


def temporary_path(out: Path, step: str) -> Path:
    """The temporary name that ``step`` writes to on the way to ``out``, in the same folder."""
    return out.with_name(f".{out.name}{_TEMPORARY}{step}")


def remove_leftovers(out: Path) -> None:
    """Remove every temporary file and folder that belongs to ``out``."""
    prefix = f".{out.name}{_TEMPORARY}"
    if not os.path.isdir(out.parent):
        return
    for path in out.parent.iterdir():
        if path.name.startswith(prefix):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


@contextmanager
def cleaned_temporaries(out: Path) -> Iterator[None]:
    """Start without leftovers of ``out`` and leave none, whatever happens inside (Ctrl-C included)."""
    remove_leftovers(out)
    try:
        yield
    finally:
        remove_leftovers(out)


def sync(path: Path) -> None:
    """Flush a file, or the entries of a folder, to the disk.

    Windows opens no folder, and flushes only what it may write.
    """
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def commit(temporary: Path, out: Path) -> None:
    """Give a finished temporary file (or folder) its final name."""
    sync(temporary)
    os.replace(temporary, out)
    sync(out.parent)


def prepare_output(out: Path) -> None:
    """Make the folder of ``out``.

    Raises:
        ExportError: ``out`` is a folder, or its parent cannot be made.
    """
    if os.path.isdir(out):
        raise ExportError(f"{out}: is a folder; give the name of the file to write")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExportError(f"{out.parent}: cannot be made ({error.strerror}); choose another output") from error


def require_free_space(folder: Path, needed_bytes: int) -> None:
    """Check that ``folder`` has room before anything is written.

    Raises:
        DiskSpaceError: less than ``needed_bytes`` is free.
    """
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise _disk_space_error(_shown(folder), needed_bytes, free)


def require_free_memory(needed_bytes: int) -> None:
    """Check that the system has memory to spare, where it says so (Linux).

    Raises:
        HostMemoryError: less than ``needed_bytes`` is available.
    """
    free = available_memory()
    if free is not None and free < needed_bytes:
        raise HostMemoryError(
            f"memory: {_gib(needed_bytes)} needed, {_gib(free)} available; close other programs",
            needed_bytes,
            free,
        )


def available_memory(path: Path = Path("/proc/meminfo")) -> int | None:
    """Bytes that can be had without swapping (``MemAvailable``), or ``None`` where the system does not say."""
    if not path.is_file():
        return None
    for line in path.read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return None


@contextmanager
def disk_full_is_an_error(folder: Path, needed_bytes: int) -> Iterator[None]:
    """Turn the system's report that ``folder`` has no room left, in the middle of writing, into our own.

    Raises:
        DiskSpaceError: something else took the room that was there at the start.
        ExportError: no file may be that large there.
    """
    try:
        yield
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise ExportError(
                f"{_shown(folder)}: cannot hold a file of {_gib(needed_bytes)} (FAT32 ends at 4 GiB; or a limit is "
                "set, see ulimit -f); write to another disk"
            ) from error
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise _disk_space_error(_shown(folder), needed_bytes, shutil.disk_usage(folder).free) from error


def _shown(folder: Path) -> Path:
    """A folder as a person knows it: not one of ours beside an output, but where that lies."""
    return folder.parent if folder.name.startswith(".") and _TEMPORARY in folder.name else folder


def _disk_space_error(folder: Path, needed_bytes: int, free: int) -> DiskSpaceError:
    return DiskSpaceError(
        f"{folder}: not enough disk space ({_gib(needed_bytes)} needed, {_gib(free)} free); "
        "free some, or write to another disk",
        needed_bytes,
        free,
    )


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, as hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_HASH_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def read_json(path: Path, what: str) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        path: the file.
        what: what the file is, for the message: ``"a model folder needs it"``.

    Raises:
        BrokenFileError: it is missing, not JSON, or not an object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BrokenFileError(f"{path}: no such file; {what}") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise BrokenFileError(f"{path}: cannot be read as JSON ({error}); fetch or save it again") from error
    if not isinstance(content, dict):
        raise BrokenFileError(f"{path}: not a JSON object (got {type(content).__name__}); fetch it again")
    return content


def _gib(n_bytes: int) -> str:
    return f"{n_bytes / 2**30:.2f} GiB" if n_bytes >= 2**27 else f"{n_bytes / 2**20:.1f} MiB"
