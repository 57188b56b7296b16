"""Checkpoints that are whole or not there: written aside, checksummed, flushed to the disk, renamed.

A checkpoint is the trainer's own folder ``checkpoint-STEP`` with three more files:

- ``position.json`` (`Position`): what the trainer's own files do not hold;
- ``best.safetensors``: the trained weights at the lowest validation loss so far, where there was one. So each
  checkpoint stands alone: no other has to be kept for its sake;
- ``checksums.json``: size and SHA-256 of every other file, written last.

A folder whose checksums do not hold is as good as none: `newest_checkpoint` passes over it, to the one before.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

PREFIX = "checkpoint-"
CHECKSUMS = "checksums.json"
POSITION = "position.json"
BEST = "best.safetensors"
TRAINER_STATE = "trainer_state.json"
STAGING = ".saving"
"""Where a checkpoint is written, beside those that are whole. What lies there is never read."""
KEPT = 2
"""Whole checkpoints that are kept: the newest, and the one before in case the newest turns out to be damaged."""


@dataclass(frozen=True)
class Position:
    """Where a training stands, beyond what the trainer's own files hold.

    Attributes:
        finished: the last step has been done, or early stopping has ended the training.
        owes_evaluation: the step is done, but its evaluation is not.
        tokens: tokens trained on so far, padding left out.
    """

    finished: bool = False
    owes_evaluation: bool = False
    tokens: int = 0


def step_of(checkpoint: Path) -> int:
    """The optimizer step after which a checkpoint was written."""
    return int(checkpoint.name.removeprefix(PREFIX))


def checkpoints_in(folder: Path) -> list[Path]:
    """Every checkpoint of a folder, the newest first, whole or not."""
    found = [path for path in folder.glob(f"{PREFIX}*") if path.name.removeprefix(PREFIX).isdigit() and path.is_dir()]
    return sorted(found, key=step_of, reverse=True)


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that is whole; damaged ones are passed over."""
    return next((path for path in checkpoints_in(folder) if is_whole(path)), None)


def damaged_checkpoints(folder: Path) -> list[Path]:
    """Those that are newer than the newest whole one, the newest first; all of them where none is whole."""
    damaged = []
    for path in checkpoints_in(folder):
        if is_whole(path):
            break
        damaged.append(path)
    return damaged


def read_position(checkpoint: Path) -> Position:
    """What a whole checkpoint says of where it stands."""
    return Position(**json.loads((checkpoint / POSITION).read_text(encoding="utf-8")))


def write_position(checkpoint: Path, position: Position) -> None:
    """Write it into a checkpoint that is not sealed yet."""
    (checkpoint / POSITION).write_text(json.dumps(asdict(position)), encoding="utf-8")


def seal(checkpoint: Path) -> None:
    """Flush every file of a checkpoint to the disk, and write their checksums.

    Raises:
        OSError: the disk is full, or the folder cannot be written.
    """
    files: dict[str, dict[str, Any]] = {}
    for path in _files(checkpoint):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        files[path.relative_to(checkpoint).as_posix()] = {"size_bytes": path.stat().st_size, "sha256": digest}
    with (checkpoint / CHECKSUMS).open("w", encoding="utf-8") as file:
        json.dump(files, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    _flush_folder(checkpoint)


def is_whole(checkpoint: Path) -> bool:
    """Whether every file of a checkpoint is there, byte for byte as it was written."""
    try:
        files = json.loads((checkpoint / CHECKSUMS).read_text(encoding="utf-8"))
        return bool(files) and all(_holds(checkpoint / name, facts) for name, facts in files.items())
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return False  # checksums that are missing or damaged, or that another process is just removing


def publish(staged: Path, folder: Path) -> Path:
    """Give a sealed checkpoint its name, by renaming it; one of the same step is replaced.

    Returns:
        Its path.

    Raises:
        OSError: it cannot be renamed.
    """
    final = folder / staged.name
    if final.exists():  # a folder cannot be renamed over another: the old one steps aside, among what is never read
        aside = staged.with_name(f"replaced-{staged.name}")
        shutil.rmtree(aside, ignore_errors=True)
        final.replace(aside)
    staged.replace(final)
    _flush_folder(folder)
    return final


def set_aside(checkpoint: Path) -> None:
    """Take a damaged checkpoint out of the count, under a name that is never read."""
    aside = checkpoint.with_name(f"damaged-{checkpoint.name}")
    shutil.rmtree(aside, ignore_errors=True)
    checkpoint.replace(aside)


def prune(folder: Path, kept: int = KEPT) -> None:
    """Remove all but the newest so many checkpoints. The caller has just written the newest, so it is whole."""
    for path in checkpoints_in(folder)[kept:]:
        shutil.rmtree(path, ignore_errors=True)


def _files(checkpoint: Path) -> Iterator[Path]:
    return (path for path in sorted(checkpoint.rglob("*")) if path.is_file() and path.name != CHECKSUMS)


def _holds(path: Path, facts: dict[str, Any]) -> bool:
    if path.stat().st_size != facts["size_bytes"]:
        return False
    with path.open("rb") as file:
        return bool(hashlib.file_digest(file, "sha256").hexdigest() == facts["sha256"])


def flush(folder: Path) -> None:
    """Flush the files of a folder to the disk, and their names.

    Raises:
        OSError: the disk is full.
    """
    for path in folder.iterdir():
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    _flush_folder(folder)


def _flush_folder(folder: Path) -> None:
    """Make names in a folder durable. Windows has no such call, and needs none."""
    with suppress(PermissionError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
