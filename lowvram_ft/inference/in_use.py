"""The model that ``lowvram-ft improve`` keeps in use, by the name ``improved``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lowvram_ft.errors import ModelError
from lowvram_ft.hardware import data_dir
from lowvram_ft.run_dir import read_json, write_json

IMPROVED = "improved"
"""What it is called where a model is asked for."""
GGUF = "model.gguf"
_FILE = "in_use.json"


@dataclass(frozen=True)
class InUse:
    """Which generation is in use.

    Attributes:
        generation: its number.
        history: those that were in use before and can be gone back to, the last one last.
        adopted: every generation that was ever put into use.
    """

    generation: int
    history: tuple[int, ...] = ()
    adopted: tuple[int, ...] = ()


def read_in_use(root: Path) -> InUse | None:
    """Which generation is in use; None where none is.

    Args:
        root: see `lowvram_ft.hardware.data_dir`.

    Raises:
        RunDirectoryError: the file is damaged.
    """
    path = root / _FILE
    if not path.is_file():
        return None
    found = read_json(path)
    return InUse(int(found["generation"]), tuple(found["history"]), tuple(found["adopted"]))


def write_in_use(root: Path, value: InUse | None) -> None:
    """Switch: the one step, by a rename, that decides which model is in use.

    Args:
        root: see `lowvram_ft.hardware.data_dir`.
        value: None for no model.
    """
    if value is None:
        (root / _FILE).unlink(missing_ok=True)
        return
    facts = {"generation": value.generation, "history": list(value.history), "adopted": list(value.adopted)}
    write_json(root / _FILE, facts)


def folder_of(root: Path, generation: int) -> Path:
    """Folder of a generation: ``adapter/``, ``model.gguf``, ``facts.json``."""
    return root / "models" / str(generation)


def improved_gguf() -> Path:
    """The file of the model in use.

    Raises:
        ModelError: there is none.
    """
    root = data_dir()
    found = read_in_use(root)
    path = folder_of(root, found.generation) / GGUF if found is not None else None
    if path is None or not path.is_file():
        raise ModelError(
            f"{IMPROVED}: no such model is in use; begin with one that was trained: lowvram-ft improve --from RUN"
        )
    return path
