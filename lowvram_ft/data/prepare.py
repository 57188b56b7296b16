"""A recipe's rows to a prepared set: collected, chosen, split by group, written with a data card. No text is cut."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lowvram_ft.data.card import Written, key_of, write_card
from lowvram_ft.data.collect import Verify, collect
from lowvram_ft.data.prepared import IGNORE_INDEX, Prepared, schema
from lowvram_ft.data.split import SIDES, sides
from lowvram_ft.errors import DataError, cannot_write
from lowvram_ft.hardware import cache_dir
from lowvram_ft.recipe import DataSection
from lowvram_ft.rendering import ChatFormat

if TYPE_CHECKING:
    import pyarrow

_UNUSED_S = 30 * 24 * 3600.0
"""A set in the cache that was not used for so long is thrown away."""


def prepare(
    section: DataSection,
    chat: ChatFormat,
    max_length: int,
    out: Path,
    *,
    suites: Sequence[str] = (),
    verify: Verify | None = None,
    on_row: Callable[[int], None] | None = None,
    workers: int | None = None,
) -> Prepared:
    """Make a prepared set in a folder, atomically.

    Args:
        section: which rows, and what has to hold of them.
        chat: the model's chat format.
        max_length: most tokens of prompt and completion together.
        out: the folder; one that is there is replaced.
        suites: evaluation suites of the recipe, which no row may come from.
        verify: runs rows; None for none.
        on_row: called with the number of objects read so far.
        workers: processes that examine rows; None for one a CPU.

    Raises:
        DataError: no row is left, a line is broken or a row too long and that is fatal, or a column is missing.
        MachineError: the disk is full, or the hub cannot be reached.
    """
    new = not out.parent.exists()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise cannot_write(out, error) from error
    try:
        with (temporary / "dropped.jsonl").open("w", encoding="utf-8") as log:
            found = collect(section, chat, max_length, temporary, log, suites=suites, on_row=on_row, workers=workers)
            chosen = found.choose(verify)
        if not len(chosen.places):
            why = ", ".join(f"{count} {reason}" for reason, count in found.funnel.dropped.items())
            raise DataError(
                f"{section.source}: no row is left to train on ({why or 'the source is empty'}); "
                "check the source and train.max_length"
            )
        side_of = np.full(len(found.groups), -1, np.int8)
        side_of[chosen.places] = sides(found.groups[chosen.places], section.eval_share, section.test_share)
        written = _distribute(found.spool, side_of, chosen.noted, temporary)
        found.spool.unlink()
        write_card(temporary, section, chat, max_length, found.funnel, found.notes, written)
        temporary.chmod(0o755)
        if out.exists():
            shutil.rmtree(out)
        temporary.replace(out)
    except OSError as error:
        raise cannot_write(out, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if new and not out.exists():
            with contextlib.suppress(OSError):  # somebody else has put something there
                out.parent.rmdir()
    return Prepared.open(out)


def cached_set(
    section: DataSection,
    chat: ChatFormat,
    max_length: int,
    *,
    suites: Sequence[str] = (),
    verify: Verify | None = None,
    on_row: Callable[[int], None] | None = None,
) -> Prepared:
    """The prepared set of a section in the user's cache folder; made where there is none for exactly these inputs.

    Takes what `prepare` takes.

    Raises:
        DataError: as for `prepare`.
        MachineError: as for `prepare`.
    """
    folder = cache_dir() / "prepared"
    place = folder / key_of(section, chat, max_length, suites)
    if not (place / "prepared.json").is_file():
        _throw_away_unused(folder)
        return prepare(section, chat, max_length, place, suites=suites, verify=verify, on_row=on_row)
    with contextlib.suppress(OSError):  # a cache that cannot be written can still be read
        os.utime(place)
    return Prepared.open(place)


def _throw_away_unused(folder: Path) -> None:
    """Remove sets that were not used for long, and what a kill left half-made."""
    now = time.time()
    for place in folder.glob("*") if folder.is_dir() else ():
        with contextlib.suppress(OSError):
            if now - place.stat().st_mtime > _UNUSED_S:
                shutil.rmtree(place)


def _distribute(spool: Path, side_of: NDArray[np.int8], noted: dict[int, dict[str, object]], folder: Path) -> Written:
    """Write each row of the spool to its side, a batch at a time.

    Args:
        spool: every row.
        side_of: `SIDES` by number for each row, -1 for one that is not used; shape [rows].
        noted: what to add to the ``meta`` of a row, by its place.
        folder: gets an Arrow file for each side that has rows.
    """
    import pyarrow as pa

    found = Written(dict.fromkeys(SIDES, 0), [], 0)
    with contextlib.ExitStack() as stack:
        writers: dict[str, pa.ipc.RecordBatchStreamWriter] = {}
        reader = stack.enter_context(pa.ipc.open_stream(stack.enter_context(pa.OSFile(str(spool)))))
        start = 0
        for batch in reader:
            placed = side_of[start : start + batch.num_rows]
            for number, side in enumerate(SIDES):
                places = np.flatnonzero(placed == number)
                if not len(places):
                    continue
                part = _with_notes(batch.take(pa.array(places)), [noted.get(start + int(place)) for place in places])
                if side not in writers:
                    writers[side] = stack.enter_context(pa.ipc.new_stream(str(folder / f"{side}.arrow"), schema()))
                writers[side].write_batch(part)
                found.rows[side] += part.num_rows
                found.lengths.append(np.asarray(part.column("input_ids").value_lengths(), np.int64))
                if side == "train":
                    found.trained_tokens += int((np.asarray(part.column("labels").flatten()) != IGNORE_INDEX).sum())
            start += batch.num_rows
    return found


def _with_notes(batch: pyarrow.RecordBatch, notes: list[dict[str, object] | None]) -> pyarrow.RecordBatch:
    import pyarrow as pa

    if not any(notes):
        return batch
    metas = zip(batch.column("meta").to_pylist(), notes, strict=True)
    texts = [json.dumps(json.loads(text) | (note or {}), sort_keys=True) for text, note in metas]
    return batch.set_column(batch.schema.get_field_index("meta"), "meta", pa.array(texts, pa.string()))
