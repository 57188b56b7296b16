"""The rows that ship with the kit: functions, modules, failure traces, and functions held out for evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

from lowvram_ft.data.jsonl import read_rows
from lowvram_ft.data.row import SOLUTION, Row, make_row
from lowvram_ft.data.sources.failure_traces import SOURCE as FAILURE_TRACES
from lowvram_ft.data.sources.source import Object, Source, column

SAMPLE_FILES = {"functions": "functions.jsonl", "modules": "modules.jsonl", "traces": "traces.jsonl"}
HELD_OUT = "held_out.jsonl"
SELF_CORRECTION = "self_correction.json"


def sample_path(name: str) -> Path:
    """One of the files that ship with the kit."""
    return Path(str(files("lowvram_ft.data") / "samples" / name))


def held_out_rows() -> Iterator[Row]:
    """The sample functions that are kept for evaluation, and never trained on."""
    path = sample_path(HELD_OUT)
    for number, value in read_rows(path):
        yield from _rows(value, f"{path.name}:{number}")


def _rows(value: Object, where: str) -> list[Row]:
    if "failed_test" in value:
        return FAILURE_TRACES.rows(value, where)
    name = column(value, where, "id")
    return [
        make_row(
            id=name,
            group=name,
            source="samples",
            code=column(value, where, "code"),
            test=column(value, where, "test"),
            module=str(value.get("module") or SOLUTION),
            meta={"kind": value.get("kind", "")},
        )
    ]


SOURCE = Source("samples", "Apache-2.0", "id, kind, code, test (and failed_test, failure_log)", None, _rows)
