"""Winners: the model's own answers that were judged the best, by running them. The kit writes them."""

from __future__ import annotations

from dataclasses import replace

from lowvram_ft.data.row import SOLUTION, Row, make_row
from lowvram_ft.data.sources.source import Object, Source, column, digest, parse


def _rows(value: Object, where: str) -> list[Row]:
    code, test = column(value, where, "code"), column(value, where, "completion", "test")
    parse(code)
    row = make_row(
        id=str(value.get("id") or digest(code, test)),
        group=str(value.get("group") or digest(code)),
        source="winners",
        code=code,
        test=test,
        module=str(value.get("module") or SOLUTION),
        meta=value.get("meta") or {},
    )
    # what the model was asked is what it learns to answer
    return [replace(row, prompt=str(value["prompt"])) if value.get("prompt") else row]


SOURCE = Source("winners", "the model's own answers", "code, completion (and prompt, group, module)", None, _rows)
