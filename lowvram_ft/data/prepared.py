"""A prepared set on disk: Arrow files that are mapped into memory, never loaded, and what was counted on the way.

Layout::

    FOLDER/
      train.arrow  eval.arrow  test.arrow   those that have rows; Arrow's stream format, which
                                            ``datasets.Dataset.from_file`` maps as well
      dropped.jsonl                         every row that was left out: where it stood, the step, the reason
      prepared.json                         counts, the recipe's section, hashes
      README.md                             the data card
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from lowvram_ft.data.row import Row, build_prompt

if TYPE_CHECKING:
    import pyarrow

IGNORE_INDEX = -100
"""The label that carries no loss (PyTorch's ``cross_entropy``)."""


@dataclass(frozen=True)
class Example:
    """A row with its tokens.

    Attributes:
        row: the row.
        input_ids: its tokens, shape [T].
        completion_mask: shape [T]; 1 where loss falls.
    """

    row: Row
    input_ids: tuple[int, ...]
    completion_mask: tuple[int, ...]

    @property
    def labels(self) -> list[int]:
        """Token ids where loss falls, `IGNORE_INDEX` elsewhere; shape [T]."""
        pairs = zip(self.input_ids, self.completion_mask, strict=True)
        return [token if mask else IGNORE_INDEX for token, mask in pairs]


def schema() -> pyarrow.Schema:
    """Columns of the Arrow files. ``prompt`` is null where it is what `build_prompt` makes of ``code`` alone."""
    import pyarrow as pa

    texts = [pa.field(name, pa.string()) for name in ("id", "group", "source", "code", "module", "test", "prompt")]
    tokens = [pa.field(name, pa.list_(pa.int32())) for name in ("input_ids", "labels")]
    return pa.schema([*texts, pa.field("meta", pa.string()), *tokens])


def to_batch(examples: Sequence[Example]) -> pyarrow.RecordBatch:
    """Examples as a record batch of `schema`."""
    import pyarrow as pa

    rows = [example.row for example in examples]
    columns: list[pa.Array] = [
        pa.array([getattr(row, name) for row in rows], pa.string())
        for name in ("id", "group", "source", "code", "module", "test")
    ]
    columns.append(
        pa.array([None if row.prompt == build_prompt(row.code) else row.prompt for row in rows], pa.string())
    )
    columns.append(pa.array([json.dumps(row.meta, sort_keys=True, default=str) for row in rows], pa.string()))
    offsets = np.cumsum([0, *(len(example.input_ids) for example in examples)]).astype(np.int32)
    ids = np.concatenate([np.asarray(example.input_ids, np.int32) for example in examples] or [np.empty(0, np.int32)])
    mask = np.concatenate([np.asarray(example.completion_mask, bool) for example in examples] or [np.empty(0, bool)])
    for values in (ids, np.where(mask, ids, IGNORE_INDEX).astype(np.int32)):
        columns.append(pa.ListArray.from_arrays(pa.array(offsets), pa.array(values)))
    return pa.RecordBatch.from_arrays(columns, schema=schema())


def to_row(record: Mapping[str, Any]) -> Row:
    """The row of a record of `schema`."""
    prompt = record["prompt"]
    return Row(
        id=record["id"],
        group=record["group"],
        source=record["source"],
        code=record["code"],
        module=record["module"],
        test=record["test"],
        prompt=build_prompt(record["code"]) if prompt is None else prompt,
        completion=record["test"].strip(),
        meta=json.loads(record["meta"]),
    )


@dataclass(frozen=True)
class Examples(Sequence[Example]):
    """The examples of one side, read from the disk as they are asked for.

    Attributes:
        path: the Arrow file; None where the side has no rows.
    """

    path: Path | None

    @cached_property
    def table(self) -> pyarrow.Table:
        """The whole file, mapped."""
        import pyarrow as pa

        if self.path is None:
            return schema().empty_table()
        with pa.memory_map(str(self.path)) as source:
            return pa.ipc.open_stream(source).read_all()

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each example; shape [rows]."""
        import pyarrow.compute as pc

        return np.asarray(pc.list_value_length(self.table["input_ids"]), np.int64)

    def for_trainer(self) -> Any:
        """``input_ids`` and ``labels`` as a ``datasets.Dataset`` on the mapped file."""
        from datasets import Dataset

        columns = self.table.select(["input_ids", "labels"])
        return (
            Dataset.from_file(str(self.path)).select_columns(["input_ids", "labels"]) if self.path else Dataset(columns)
        )

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @overload
    def __getitem__(self, place: int) -> Example: ...
    @overload
    def __getitem__(self, place: slice) -> list[Example]: ...
    def __getitem__(self, place: int | slice) -> Example | list[Example]:
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        if not -len(self) <= place < len(self):
            raise IndexError(place)
        (record,) = self.table.slice(place % len(self), 1).to_pylist()
        mask = tuple(int(label != IGNORE_INDEX) for label in record["labels"])
        return Example(to_row(record), tuple(record["input_ids"]), mask)


@dataclass(frozen=True)
class Prepared:
    """What a stage trains on.

    Attributes:
        folder: where it lies.
        train: examples to train on.
        eval: examples for the validation loss; no group of theirs is in ``train``.
        test: examples kept out of both.
        dropped: rows that were left out, by reason.
        facts: `prepared.json`.
        notes: what the user should know, such as broken lines that were passed over.
    """

    folder: Path
    train: Examples
    eval: Examples
    test: Examples
    dropped: dict[str, int]
    facts: dict[str, Any]
    notes: tuple[str, ...] = field(default=())

    @classmethod
    def open(cls, folder: Path) -> Prepared:
        """The set in a folder."""
        facts = json.loads((folder / "prepared.json").read_text(encoding="utf-8"))
        paths = {side: folder / f"{side}.arrow" for side in ("train", "eval", "test")}
        train, validation, test = (Examples(path if path.is_file() else None) for path in paths.values())
        return cls(folder, train, validation, test, facts["dropped"], facts, tuple(facts["notes"]))

    def to_json(self) -> dict[str, Any]:
        """Counts, tokens and reasons."""
        return self.facts


def write_side(path: Path, batches: Iterable[pyarrow.RecordBatch]) -> int:
    """Write an Arrow file; how many rows it has. None is written where there are no rows."""
    import pyarrow as pa

    rows = 0
    writer = None
    try:
        for batch in batches:
            if batch.num_rows:
                writer = writer or pa.ipc.new_stream(str(path), schema())
                writer.write_batch(batch)
                rows += batch.num_rows
    finally:
        if writer is not None:
            writer.close()
    return rows
