"""Generations of the model: each in a folder of its own that is never changed; one file says which is in use."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gguf_export
from lowvram_ft.errors import ModelError, UsageError, cannot_write
from lowvram_ft.improve.home import Home
from lowvram_ft.inference.in_use import GGUF, InUse, folder_of, read_in_use, write_in_use
from lowvram_ft.run_dir import read_json, write_json
from lowvram_ft.training.recovery.checkpoints import flush

ADAPTER = "adapter"
FACTS = "facts.json"


@dataclass(frozen=True)
class Generation:
    """One model.

    Attributes:
        number: from 0, never given twice.
        folder: its files.
        facts: ``parent`` (number or None), ``base``, ``recipe`` (sections), ``repositories`` (name to rows, of this
            generation and all that it comes from), ``trained`` (digests of the code that any of them was trained on),
            ``files`` (path to SHA-256), ``time``.
    """

    number: int
    folder: Path
    facts: Mapping[str, Any]

    @property
    def gguf(self) -> Path:
        """The file that runs."""
        return self.folder / GGUF

    @property
    def adapter(self) -> Path:
        """The PEFT folder that the next generation continues."""
        return self.folder / ADAPTER

    @property
    def sha256(self) -> str:
        """Of the GGUF."""
        return str(self.facts["files"][GGUF])


def generations(home: Home) -> list[Generation]:
    """All that are whole, in order."""
    numbers = sorted(int(path.name) for path in home.models.glob("*") if path.name.isdigit())
    return [generation(home, number) for number in numbers]


def generation(home: Home, number: int) -> Generation:
    """One of them.

    Raises:
        ModelError: it is not there.
    """
    folder = folder_of(home.root, number)
    if not (folder / FACTS).is_file():
        raise ModelError(f"{folder}: there is no generation {number}; see improve --list")
    return Generation(number, folder, read_json(folder / FACTS))


def in_use(home: Home) -> Generation | None:
    """The one in use; None where none is."""
    found = read_in_use(home.root)
    return None if found is None else generation(home, found.generation)


def lineage(home: Home, found: Generation) -> set[int]:
    """Numbers of a generation and of all that it comes from, as far as these are still there."""
    numbers = {found.number}
    there = {one.number: one for one in generations(home)}
    while (parent := found.facts["parent"]) in there:
        found = there[parent]
        numbers.add(found.number)
    return numbers


def place(home: Home, number: int, adapter: Path, gguf: Path, facts: Mapping[str, Any]) -> Generation:
    """Make a generation of copies of its files, whole or not at all; one that is there stays as it is.

    Args:
        home: where.
        number: of the new one.
        adapter: PEFT folder.
        gguf: the exported file.
        facts: all but ``files``.

    Raises:
        MachineError: the disk is full.
    """
    folder = folder_of(home.root, number)
    if folder.is_dir():
        return generation(home, number)
    temporary = folder.with_name(f".{number}.tmp")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        shutil.copytree(adapter, temporary / ADAPTER)
        shutil.copyfile(gguf, temporary / GGUF)
        write_json(temporary / FACTS, {**facts, "files": _digests(temporary)})
        for part in (*(path for path in temporary.rglob("*") if path.is_dir()), temporary):
            flush(part)
        temporary.replace(folder)
        flush(folder.parent)
    except OSError as error:
        raise cannot_write(folder, error) from error
    return generation(home, number)


def adopt(home: Home, number: int) -> None:
    """Put a generation into use; one that ever was is not put into use again by this.

    Raises:
        ModelError: its files are not what they were.
    """
    require_whole(generation(home, number))
    found = read_in_use(home.root)
    if found is None:
        write_in_use(home.root, InUse(number, (), (number,)))
    elif number not in found.adopted:
        history = (*found.history, found.generation)
        write_in_use(home.root, InUse(number, history, (*found.adopted, number)))


def rollback(home: Home) -> Generation:
    """Put the generation before into use again.

    Raises:
        UsageError: there is none.
        ModelError: its files are not what they were.
    """
    found = read_in_use(home.root)
    if found is None or not found.history:
        raise UsageError("improve --rollback: there is no model before the one in use; see improve --list")
    before = generation(home, found.history[-1])
    require_whole(before)
    write_in_use(home.root, replace(found, generation=before.number, history=found.history[:-1]))
    return before


def require_whole(found: Generation) -> None:
    """Refuse a generation of which a byte is not what it was.

    Raises:
        ModelError: names the files.
    """
    there = _digests(found.folder)
    wanted = found.facts["files"]
    wrong = sorted(name for name in {*there, *wanted} if there.get(name) != wanted.get(name))
    if wrong:
        raise ModelError(f"{found.folder}: was changed since it was made ({', '.join(wrong)}); it is not put into use")


def sweep(home: Home) -> None:
    """Remove what a killed command left half-made."""
    for path in home.models.glob(".*.tmp") if home.models.is_dir() else ():
        shutil.rmtree(path, ignore_errors=True)


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / FACTS)
    return {path.relative_to(folder).as_posix(): gguf_export.sha256_of(path) for path in files}
