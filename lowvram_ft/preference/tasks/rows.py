"""The code of training rows, as tasks: what a model was shown tests for, it can write its own for."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lowvram_ft.data.collect import collect
from lowvram_ft.data.row import Row
from lowvram_ft.data.split import SIDES, sides
from lowvram_ft.preference.records import PreferenceTask
from lowvram_ft.progress import Progress
from lowvram_ft.recipe import DataSection
from lowvram_ft.rendering import ChatFormat

_UNBOUNDED = 1 << 30


def row_tasks(
    data: DataSection,
    suites: Sequence[str],
    progress: Progress,
    refused: Counter[str],
    chat: ChatFormat | None,
    max_length: int | None,
) -> list[PreferenceTask]:
    """The codes of the rows that are trained on, never of those that are kept back for validation or out of both.

    Args:
        data: the recipe's section.
        suites: evaluation suites of the recipe.
        progress: where a person reads how far it is.
        refused: counts rows that are none, by reason.
        chat: the model's chat format: with it, rows that are too long to be trained on are left out, and the rows that
            a very small set keeps back are the same as in training. Without it, rows of any length count.
        max_length: most tokens of a row; needed with ``chat``.

    Raises:
        DataError: a file is missing or broken.
        MachineError: the hub cannot be reached.
    """
    with tempfile.TemporaryDirectory(prefix="lowvram-ft-rows-") as name:
        folder = Path(name)
        with (folder / "dropped.jsonl").open("w", encoding="utf-8") as log:
            found = collect(
                data,
                chat,
                max_length if chat is not None and max_length is not None else _UNBOUNDED,
                folder,
                log,
                suites=suites,
                on_row=progress.counter(f"reading {data.source}"),
            )
            places = found.choose(None).places
            refused.update({f"row: {reason}": count for reason, count in found.funnel.dropped.items()})
        side = sides(found.groups[places], data.eval_share, data.test_share) if len(places) else np.empty(0, np.int8)
        for number in (1, 2):
            if kept := int((side == number).sum()):
                refused[f"row is kept back ({SIDES[number]})"] += kept
        examples = found.examples
        return _tasks([examples[int(place)].row for place in places[side == 0]])


def _tasks(rows: Sequence[Row]) -> list[PreferenceTask]:
    """A task for each row, with an id of its own where rows share theirs."""
    tasks: dict[str, PreferenceTask] = {}
    for row in rows:
        name = f"rows/{row.id}"
        if name in tasks:
            name += "#" + hashlib.sha256(row.code.encode("utf-8", "surrogatepass")).hexdigest()[:8]
        root = row.meta.get("root") if row.source == "repository" else None
        meta = {**_plain(row.meta), "row": row.id, "data": row.source}
        tasks[name] = PreferenceTask(
            name,
            f"{row.source}:{row.group}",
            "rows",
            row.code,
            row.module,
            Path(str(root)) if root else None,
            meta,
        )
    return list(tasks.values())


def _plain(meta: object) -> dict[str, object]:
    """What a source says of a row, without its tests."""
    found = dict(json.loads(json.dumps(meta, default=str)))
    return {key: value for key, value in found.items() if key not in ("failed_test", "test")}
