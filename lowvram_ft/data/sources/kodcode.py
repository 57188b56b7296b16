"""KodCode-V1-SFT-R1: synthetic functions with verified tests. Its ``conversations`` teach solving, and are not read."""

from __future__ import annotations

from lowvram_ft.data.row import SOLUTION, Row, make_row
from lowvram_ft.data.sources.source import LeftOut, Object, Source, column, digest, parse, pytest_file


def _rows(value: Object, where: str) -> list[Row]:
    code = column(value, where, "solution")
    test = column(value, where, "test", "test_code")
    if str(value.get("r1_correctness", "True")) != "True":  # the column holds the strings "True" and "False"
        raise LeftOut("r1_correctness is not True")
    parse(code)
    name = str(value.get("question_id") or digest(code))
    return [
        make_row(
            id=name,
            group=name,
            source="kodcode",
            code=code,
            test=pytest_file(test, code, SOLUTION),
            meta={"subset": value.get("subset", ""), "style": value.get("style", "")},
        )
    ]


SOURCE = Source(
    "kodcode",
    "CC-BY-NC-4.0",
    "solution, test or test_code, question_id, r1_correctness",
    "KodCode/KodCode-V1-SFT-R1",
    _rows,
)
