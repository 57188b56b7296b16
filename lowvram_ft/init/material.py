"""What the user brings: a repository, rows in a file, the hub's sets, or nothing."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

from lowvram_ft.errors import UsageError
from lowvram_ft.recipe.sections import Source

Brings = Literal["repository", "rows", "kodcode", "coderm", "samples"]

ENOUGH_OF_ONES_OWN = 1000
"""Rows from which one's own teach the form of a test too; with fewer, a stage on other rows comes before."""
MOST_LOOKED_AT = 20_000
"""Files of a repository."""
_SKIPPED = {".git", ".venv", "venv", "node_modules", "build", "dist", "__pycache__", ".tox", "site-packages"}
_KIT = Path(__file__).resolve().parents[2]
_COLUMNS: tuple[tuple[Source, frozenset[str]], ...] = (
    ("failure_traces", frozenset({"code", "failed_test", "failure_log"})),
    ("repository", frozenset({"code_src", "test_src", "code_file"})),
    ("coderm", frozenset({"code_ground_truth", "unit_tests"})),
    ("kodcode", frozenset({"solution", "test"})),
    ("kodcode", frozenset({"solution", "test_code"})),
)
"""Which source reads a file: by the columns of its first object."""


@dataclass(frozen=True)
class Material:
    """What a recipe learns from.

    Attributes:
        brings: which of the five.
        path: the repository, or the file; None for the others.
        source: of one's own rows, as in ``data.source``; None where there are none.
        rows: how many of one's own there are; None where they have to be made first.
    """

    brings: Brings
    path: Path | None = None
    source: Source | None = None
    rows: int | None = None


def look(brings: Brings, path: Path | None, *, commercial: bool = False) -> Material:
    """See what is there.

    Args:
        brings: which of the five.
        path: the repository, or the file.
        commercial: whether the model is for commercial use.

    Raises:
        UsageError: a repository without tests, a file that holds no rows, or rows that forbid what is wanted.
    """
    if brings == "kodcode" and commercial:
        raise UsageError(
            "init --data kodcode: KodCode is CC-BY-NC-4.0 (got --commercial); take --data coderm, or your own rows"
        )
    if brings == "repository":
        root = path or Path()
        if not root.is_dir():
            raise UsageError(f"init --repo: {root}: no such folder; give the folder of your project")
        if count_tests(root) == 0:
            raise UsageError(
                f"init --repo: {root}: holds no test file (test_*.py, *_test.py); without tests of your own, "
                "take --data kodcode or --data samples"
            )
        return Material("repository", root, "repository")
    if brings == "rows":
        if path is None:
            raise UsageError("init --data rows: which file; give it with --rows FILE.jsonl")
        return _rows(path)
    return Material(brings)


def count_tests(root: Path) -> int:
    """Test files below a folder, by pytest's naming; virtual environments and build folders are passed over."""
    return sum(
        name.endswith(".py") and (name.startswith("test_") or name.endswith("_test.py")) for name in _files(root)
    )


def _files(root: Path) -> list[str]:
    found: list[str] = []
    for _, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in _SKIPPED and not name.startswith(".")]
        found += files
        if len(found) > MOST_LOOKED_AT:
            break
    return found


def _rows(path: Path) -> Material:
    try:
        with path.open(encoding="utf-8") as file:
            first = next((line for line in islice(file, 100) if line.strip()), None)
            rows = (first is not None) + sum(1 for line in file if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"init --rows: {path}: cannot be read ({error}); give a JSONL file") from error
    try:
        value = json.loads(first or "")
        columns = frozenset(value) if isinstance(value, dict) else frozenset()
    except ValueError as error:
        raise UsageError(f"init --rows: {path}: its first line is not JSON ({error}); give a JSONL file") from error
    source = next((source for source, wanted in _COLUMNS if wanted <= columns), None)
    if source is None:
        raise UsageError(
            f"init --rows: {path}: no kind of rows has these columns ({', '.join(sorted(columns)) or 'none'}); "
            "the kinds and their columns are in docs/data.md"
        )
    return Material("rows", path, source, rows)


def guess(folder: Path, *, offline: bool, commercial: bool) -> Brings:
    """What is taken where nobody is asked: the folder's own tests, else rows of the hub, else what ships with the kit.

    A checkout of the kit is nobody's project here, though it is where the first hour is spent.
    """
    if folder.resolve() != _KIT and count_tests(folder):
        return "repository"
    return "samples" if offline else "coderm" if commercial else "kodcode"
