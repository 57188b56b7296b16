"""``data from-repo``: a repository's modules and tests as a file of training rows."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from lowvram_ft.data.from_repo.pairs import Pair, find_pairs
from lowvram_ft.data.from_repo.rows import RowObject, rows
from lowvram_ft.data.from_repo.running import verified
from lowvram_ft.data.from_repo.source_tree import LeftOut
from lowvram_ft.errors import DataError, cannot_write
from lowvram_ft.progress import Progress

_SHOWN = 3
"""Examples that are shown of each reason."""


def from_repository(
    root: Path, only: Sequence[str], out: Path, progress: Progress, *, kinds: Sequence[str], run: bool
) -> dict[str, Any]:
    """Pair modules with tests, make rows, run them, and write those that pass.

    Args:
        root: the repository, or an installed package that ships its tests.
        only: paths from ``root``; test files elsewhere are not looked at.
        out: the JSONL file, written atomically.
        progress: where a person reads how far it is.
        kinds: ``file``, ``function`` or both.
        run: keep only rows that pass, with those of their tests that do.

    Returns:
        Counts, the pairs with their evidence, and what was left out.

    Raises:
        DataError: there is no such folder, no test in it, or no row is left.
        MachineError: there is no sandbox here, or the file cannot be written.
    """
    left_out = LeftOut()
    pairs = find_pairs(root, only, left_out=left_out, on_progress=progress.step)
    counts = {"made": 0, "file": 0, "function": 0}
    counted = _counted(_all_rows(pairs, left_out, kinds), counts)
    heard = progress.counter("rows run")
    kept = verified(counted, left_out, on_row=lambda done, _: heard(done)) if run else counted
    temporary = out.with_name(f".{out.name}.tmp-{os.getpid()}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8") as file:
            for row in kept:
                counts[row["kind"]] += 1
                file.write(json.dumps(row) + "\n")
        if not counts["file"] + counts["function"]:
            raise DataError(f"{root}: no row passes when it is run ({_why(left_out)}); see them all with --no-run")
        temporary.replace(out)
    except OSError as error:
        raise cannot_write(out, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return {
        "out": str(out),
        "pairs": [
            {"module": pair.code.module, "test_file": pair.test.relative, "why": str(pair.evidence)} for pair in pairs
        ],
        "rows": counts,
        "run": run,
        "left_out": dict(left_out.reasons.most_common()),
        "examples": {reason: named[:_SHOWN] for reason, named in left_out.examples.items()},
    }


def _all_rows(pairs: Iterable[Pair], left_out: LeftOut, kinds: Sequence[str]) -> Iterator[RowObject]:
    for pair in pairs:
        yield from rows(pair, left_out, kinds=kinds)


def _counted(found: Iterable[RowObject], counts: dict[str, int]) -> Iterator[RowObject]:
    for row in found:
        counts["made"] += 1
        yield row


def _why(left_out: LeftOut) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in left_out.reasons.most_common(3)) or "no reason was given"


def print_from_repository(found: dict[str, Any], console: Console) -> None:
    """Print what `from_repository` found."""
    show: Callable[[str], None] = lambda text: console.print(text, markup=False)  # noqa: E731
    for pair in found["pairs"]:
        show(f"{pair['module']}  {pair['test_file']}\n  {pair['why']}")
    for reason, count in found["left_out"].items():
        show(f"left out: {count} {reason}, such as {', '.join(found['examples'][reason])}")
    counts = found["rows"]
    kept = counts["file"] + counts["function"]
    passed = "pass when they are run" if found["run"] else "were not run"
    show(
        f"{found['out']}: {kept} rows of {counts['made']} {passed}: {counts['file']} whole files, "
        f"{counts['function']} functions and classes"
    )
