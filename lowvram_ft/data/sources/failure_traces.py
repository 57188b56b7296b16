"""Failure traces: a test that fails, what pytest said of it, and the test that was mended. The kit writes them."""

from __future__ import annotations

from lowvram_ft.data.row import SOLUTION, Row, make_row
from lowvram_ft.data.sources.source import Object, Source, column, digest, parse, pytest_file


def _rows(value: Object, where: str) -> list[Row]:
    code, fixed = column(value, where, "code"), column(value, where, "fixed_test", "test")
    failed = column(value, where, "failed_test")
    log = column(value, where, "failure_log")
    parse(code)
    return [
        make_row(
            id=str(value.get("id") or digest(code, failed, fixed)),
            group=str(value.get("group") or digest(code)),
            source="failure_traces",
            code=code,
            test=pytest_file(fixed, code, SOLUTION),
            module=str(value.get("module") or SOLUTION),
            failed_test=failed,
            failure_log=log,
            meta={"kind": value.get("kind", ""), "failed_test": failed},
        )
    ]


SOURCE = Source("failure_traces", "the user's own", "code, failed_test, failure_log, fixed_test", None, _rows)
