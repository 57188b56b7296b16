"""CodeRM-UnitTest: functions with many unittest-style tests, of which the best becomes a pytest file.

Best is the test with the lowest false acceptance rate (FAR), then the lowest false rejection rate (FRR), that can be
converted: the two come with the data (Ma et al. 2025, Dynamic Scaling of Unit Tests for Code Reward Modeling).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from lowvram_ft.data.row import SOLUTION, Row, make_row
from lowvram_ft.data.sources.source import LeftOut, Object, Source, column, digest, parse, pytest_file
from lowvram_ft.errors import DataError

_TRIED = 3
"""Of the tests of a row, so many are tried for one that can be converted."""


def _rows(value: Object, where: str) -> list[Row]:
    code = column(value, where, "code_ground_truth")
    tests = _tests(value, where)
    parse(code)
    problem: LeftOut | None = None
    for chosen in tests[:_TRIED]:
        try:
            test = pytest_file(column(chosen, where, "code"), code, SOLUTION)
        except LeftOut as found:
            problem = problem or found
            continue
        name = str(value.get("task_id", digest(code)))
        meta = {"FAR": chosen.get("FAR"), "FRR": chosen.get("FRR")}
        return [make_row(id=name, group=name, source="coderm", code=code, test=test, meta=meta)]
    raise problem or LeftOut("no unit test")


def _tests(value: Object, where: str) -> list[Mapping[str, Any]]:
    """The tests of a row, the best first."""
    if "unit_tests" not in value:
        raise DataError(
            f"{where}: no column unit_tests (columns: {', '.join(map(str, sorted(value))) or 'none'}); "
            "check data.source, or the file"
        )
    raw = value["unit_tests"]
    try:
        tests = json.loads(raw) if isinstance(raw, str) else raw
    except (json.JSONDecodeError, RecursionError):
        raise LeftOut("unit_tests is not JSON") from None
    listed = [item for item in tests if isinstance(item, Mapping)] if isinstance(tests, list) else []
    named = [item for item in listed if isinstance(item.get("code"), str) and item["code"].strip()]
    return sorted(named, key=lambda item: (_rate(item.get("FAR")), _rate(item.get("FRR")), len(str(item["code"]))))


def _rate(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 1.0


SOURCE = Source(
    "coderm",
    "Apache-2.0",
    "code_ground_truth, unit_tests (JSON in a string), task_id",
    "KAKA22/CodeRM-UnitTest",
    _rows,
)
