"""A JSONL file for the user alone, to which several processes add records, each once."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lowvram_ft.errors import cannot_write
from lowvram_ft.run_dir import append_jsonl, read_jsonl

Record = Mapping[str, Any]


def append_once(path: Path, records: Sequence[Record], same: Callable[[Record], Hashable]) -> int:
    """Add records to a JSONL file, each once, however often it is given and by however many processes.

    The records hold the user's code: a file that is made here is for the user alone (0600), so is its folder (0700).

    Args:
        path: the file.
        records: what to add.
        same: what tells a record from the others.

    Returns:
        How many were new.

    Raises:
        MachineError: the file cannot be read or written.
    """
    if not records:
        return 0
    try:
        path.parent.parent.mkdir(parents=True, exist_ok=True)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        with alone(path):
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            wanted = {same(record): record for record in records}
            there = {same(record) for record in read_log(path)}
            new = [record for key, record in wanted.items() if key not in there]
            if new:
                append_jsonl(path, *new)
    except OSError as error:
        raise cannot_write(path, error) from error
    return len(new)


def read_log(path: Path) -> Iterator[dict[str, Any]]:
    """The records of such a file; lines that hold something else are passed over."""
    return (record for record in read_jsonl(path) if isinstance(record, dict))


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Wait for other processes that write the same file, and keep them out.

    Raises:
        OSError: the lock beside the file cannot be made.
    """
    lock = os.open(path.with_name(f".{path.name}.lock"), os.O_CREAT | os.O_RDWR, 0o600)
    try:
        try:
            import fcntl
        except ImportError:  # Windows: no advisory locks of this kind; a record may stand there twice
            yield
            return
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
