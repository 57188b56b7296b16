"""The rows that ship: how many, of what kinds, and that none is nearly another."""

import ast
import re
from collections import Counter
from importlib.resources import files
from itertools import combinations
from pathlib import Path

import pytest

from lowvram_ft.data.jsonl import read_rows
from lowvram_ft.data.sources import load_rows
from lowvram_ft.data.sources.samples import HELD_OUT, SAMPLE_FILES, held_out_rows
from lowvram_ft.recipe import DataSection

FOLDER = files("lowvram_ft.data") / "samples"
FILES = {**SAMPLE_FILES, "held_out": HELD_OUT}


def raw(name: str) -> list[dict]:
    return [value for _, value in read_rows(Path(str(FOLDER / FILES[name])))]


ROWS = {name: raw(name) for name in FILES}
EVERY = [row for rows in ROWS.values() for row in rows]


def text_of(row: dict) -> str:
    return row["code"] + (row.get("test") or row["fixed_test"])


def tokens(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+|[^\w\s]", text))


def jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    return len(one & other) / len(one | other)


def imports(test: str) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(test)):
        if isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
    return found


def every_test(row: dict) -> list[str]:
    return [row[key] for key in ("test", "failed_test", "fixed_test") if key in row]


def test_there_are_as_many_rows_as_were_promised():
    assert len(ROWS["functions"]) >= 160
    assert {name: len(ROWS[name]) for name in ("modules", "traces", "held_out")} == {
        "modules": 24, "traces": 40, "held_out": 40,
    }  # fmt: skip


def test_no_id_is_used_twice():
    assert [name for name, count in Counter(row["id"] for row in EVERY).items() if count > 1] == []


def test_the_functions_are_of_varied_kinds():
    kinds = Counter(row["kind"] for row in ROWS["functions"])
    assert {"strings", "numbers", "collections", "parsing", "dates", "recursion", "state", "errors"} <= set(kinds)
    assert min(kinds.values()) >= 10


def test_held_out_rows_are_of_other_kinds_than_those_that_are_trained_on():
    trained = {row["kind"] for name in SAMPLE_FILES for row in ROWS[name]}
    held_out = {row["kind"] for row in ROWS["held_out"]}
    assert held_out
    assert not trained & held_out


def too_close(rows: list[dict], key) -> list[tuple[str, str, float]]:
    found = [(row["id"], tokens(key(row))) for row in rows]
    pairs = [(a, b, jaccard(x, y)) for (a, x), (b, y) in combinations(found, 2)]
    return [pair for pair in pairs if pair[2] > 0.7]


def test_no_row_is_nearly_another():
    assert too_close(EVERY, text_of) == []


def test_no_code_that_is_held_out_is_nearly_one_that_is_trained_on():
    held_out = {row["id"] for row in ROWS["held_out"]}
    close = too_close(EVERY, lambda row: row["code"])
    assert [pair for pair in close if set(pair[:2]) & held_out] == []


def test_a_near_duplicate_would_be_noticed():
    row = ROWS["functions"][0]
    copy = row | {"id": "copy", "code": row["code"].replace("stack", "heap")}
    assert [pair[:2] for pair in too_close([*ROWS["held_out"], row, copy], text_of)] == [(row["id"], "copy")]


@pytest.mark.parametrize("name", FILES)
def test_every_test_imports_solution_and_neither_unittest_nor_hypothesis(name):
    for row in ROWS[name]:
        for test in every_test(row):
            assert re.search(r"(?m)^from solution import \w", test), row["id"]
            assert not imports(test) & {"unittest", "hypothesis"}, row["id"]


def test_a_test_that_imports_unittest_within_a_function_would_be_noticed():
    assert imports("def test():\n    import unittest.mock\n") == {"unittest"}
    assert imports("from hypothesis.strategies import text\n") == {"hypothesis"}


@pytest.mark.parametrize("name", FILES)
def test_every_row_parses_and_every_test_function_asserts(name):
    for row in ROWS[name]:
        ast.parse(row["code"])
        for test in every_test(row):
            functions = [node for node in ast.walk(ast.parse(test)) if isinstance(node, ast.FunctionDef)]
            cases = [node for node in functions if node.name.startswith("test")]
            assert cases, row["id"]
            for case in cases:
                asserts = any(isinstance(node, ast.Assert) for node in ast.walk(case))
                assert asserts or "raises" in ast.unparse(case), f"{row['id']}: {case.name}"


def test_every_trace_shows_the_failure_of_a_test_that_the_fix_changes():
    for row in ROWS["traces"]:
        assert row["failed_test"] != row["fixed_test"], row["id"]
        assert "FAILED" in row["failure_log"] or "ERROR" in row["failure_log"], row["id"]


def test_modules_of_a_package_say_which_they_are():
    several = [row for row in ROWS["modules"] if "# module: " in row["code"]]
    assert several
    for row in several:
        assert row["code"].startswith("# module: ")
        assert row["module"] == re.match(r"# module: (\S+)", row["code"])[1]


def test_every_row_loads_and_the_held_out_stay_apart():
    loaded = {row.id for row in load_rows(DataSection())}
    held_out = {row.id for row in held_out_rows()}
    assert loaded | held_out == {row["id"] for row in EVERY}
    assert not loaded & held_out
