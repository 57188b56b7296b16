"""GGUFs that runs exported, and the model that is taken where none is named."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from lowvram_ft.errors import ModelError, UsageError

RUNS = Path("runs")
EXPORT = "export"
"""Folder of a run's GGUFs."""
MODEL = "LOWVRAM_FT_MODEL"
"""Environment variable: the model where none is given on the command line."""
_BASE_ALONE = re.compile(r"base-[^-]+\.gguf")
"""What a run calls its base model in the type of its export; a recipe's own name may begin so too."""


def newest_export(runs: Path = RUNS) -> Path | None:
    """The GGUF that a run under ``runs`` exported last; the ones of base models do not count."""
    return _newest(runs.glob(f"*/{EXPORT}/*.gguf"))


def export_of(folder: Path) -> Path | None:
    """The GGUF of a run, by the rule of `newest_export`; None where the folder is neither a run's nor its exports'.

    Args:
        folder: a run directory, or ``export/`` in one.

    Raises:
        ModelError: the run has exported nothing yet.
    """
    within = folder.absolute().name == EXPORT
    run = folder.absolute().parent if within else folder
    if not (run / "run.json").is_file():
        return None
    exports = folder if within else folder / EXPORT
    found = _newest(exports.glob("*.gguf"))
    if found is None:
        raise ModelError(f"{folder}: the run has exported nothing yet; finish it with the same command, or give a GGUF")
    return found


def given_or_newest(
    model: str | Path | None, option: str = "--model", environ: Mapping[str, str] = os.environ
) -> str | Path:
    """The model that was given, else that of ``LOWVRAM_FT_MODEL``, else the newest export under ``runs/``.

    Args:
        model: what was given, if anything was.
        option: where it would have been given, for the error.
        environ: the environment.

    Raises:
        UsageError: none was given, and none was exported here; or the variable holds a path that is not there.
    """
    if model:
        return model
    if by_variable := environ.get(MODEL, "").strip():
        _require_there(by_variable, option)
        return by_variable
    chosen = newest_export()
    if chosen is None:
        example = "path/to/lowvram-ft/runs/demo/export/demo-Q8_0.gguf"
        given = f"{option} {example}" if option.startswith("--") else example
        raise UsageError(
            f"{option}: no export under {RUNS.absolute()}; if it lies elsewhere, say where: {given} (or keep that path "
            f"in {MODEL}); or make one here with: lowvram-ft demo"
        )
    return chosen


def _require_there(text: str, option: str) -> None:
    """A file that went is told by the variable's name: nobody typed the path that the error would be about."""
    path = Path(os.path.expanduser(text))
    is_path = path.suffix.lower() == ".gguf" or path.is_absolute() or text.startswith(".")
    if is_path and not path.exists():
        raise UsageError(f"{MODEL}: no such file (got {text}); set it to an absolute path, or give {option}")


def _newest(paths: Iterable[Path]) -> Path | None:
    found = [path for path in paths if not _BASE_ALONE.fullmatch(path.name) and path.is_file()]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)
