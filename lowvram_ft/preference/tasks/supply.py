"""The tasks of a round, on the disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lowvram_ft.errors import DataError
from lowvram_ft.preference.records import PreferenceTask
from lowvram_ft.run_dir import read_json, write_json

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Supply:
    """What a model is to write tests for.

    Attributes:
        tasks: to learn from.
        held_out: kept back to see whether a round has improved the model; no group of theirs is in ``tasks``.
        facts: how many there were of each source, why others were refused, and ``inputs`` (see
            `lowvram_ft.preference.tasks.collect.inputs_digest`).
    """

    tasks: tuple[PreferenceTask, ...]
    held_out: tuple[PreferenceTask, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)


def write_supply(path: Path, supply: Supply) -> None:
    """Write a supply atomically.

    Raises:
        MachineError: the disk is full, or the folder cannot be written.
    """
    content = {
        "facts": dict(supply.facts),
        "tasks": [task.to_json() for task in supply.tasks],
        "held_out": [task.to_json() for task in supply.held_out],
    }
    content = json.loads(json.dumps(content, default=str))
    write_json(path, {"schema_version": SCHEMA_VERSION, "digest": _digest(content), **content})


def read_supply(path: Path) -> Supply:
    """Read a supply.

    Raises:
        RunDirectoryError: the file is missing or broken.
        DataError: it is of another version, or was edited since it was written.
    """
    value = read_json(path)
    if not isinstance(value, dict) or value.get("schema_version") != SCHEMA_VERSION:
        raise DataError(f"{path}: is no list of tasks of this version; delete it, so that it is made anew")
    content = {name: value.get(name) for name in ("facts", "tasks", "held_out")}
    if value.get("digest") != _digest(content):
        raise DataError(
            f"{path}: was edited since it was written (its digest differs); delete it, so that it is made anew"
        )
    tasks, held_out = (tuple(PreferenceTask.from_json(task) for task in value[name]) for name in ("tasks", "held_out"))
    return Supply(tasks, held_out, value["facts"])


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
