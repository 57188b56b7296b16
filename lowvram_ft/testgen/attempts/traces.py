"""Failure traces: how a failing test file was mended, kept for stage C to learn from."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from lowvram_ft.errors import cannot_write
from lowvram_ft.run_dir import append_jsonl, read_jsonl


@dataclass(frozen=True)
class Trace:
    """One refinement that succeeded; the columns of the source ``failure_traces``.

    Attributes:
        code: what the model was shown, importable as ``solution`` by itself.
        failed_test: the test file that fails on it.
        failure_log: what pytest said, letter for letter as in the prompt.
        fixed_test: the file that the model wrote then: it passes, and asserts at least as much.
    """

    code: str
    failed_test: str
    failure_log: str
    fixed_test: str


def default_traces_path() -> Path:
    """``lowvram-ft/traces.jsonl`` where this user's programs keep their data (XDG Base Directory Specification)."""
    home = os.environ.get("XDG_DATA_HOME", "")
    base = Path(home) if Path(home).is_absolute() else Path.home() / ".local" / "share"
    return base / "lowvram-ft" / "traces.jsonl"


def append_traces(path: Path, traces: Iterable[Trace]) -> int:
    """Add traces to a JSONL file, each once, however often it is given and by however many processes.

    The traces hold the user's code: a file that is made here is for the user alone (0600), so is its folder (0700).

    Args:
        path: the file.
        traces: what to add.

    Returns:
        How many were new.

    Raises:
        MachineError: the file cannot be read or written.
    """
    wanted = [asdict(trace) for trace in dict.fromkeys(traces)]
    if not wanted:
        return 0
    try:
        path.parent.parent.mkdir(parents=True, exist_ok=True)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        with _alone(path):
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            there = [tuple(record.get(name) for name in wanted[0]) for record in read_jsonl(path) if _is_object(record)]
            new = [record for record in wanted if tuple(record.values()) not in there]
            if new:
                append_jsonl(path, *new)
    except OSError as error:
        raise cannot_write(path, error) from error
    return len(new)


def _is_object(record: object) -> bool:
    return isinstance(record, dict)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Wait for other processes that append to the same file, and keep them out."""
    lock = os.open(path.with_name(f".{path.name}.lock"), os.O_CREAT | os.O_RDWR, 0o600)
    try:
        try:
            import fcntl
        except ImportError:  # Windows: no advisory locks of this kind; a trace may stand there twice
            yield
            return
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
