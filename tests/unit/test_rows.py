"""Prompts, and the line that a test imports what it tests with."""

import ast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowvram_ft.data.row import build_prompt, import_from_solution, make_row

CONSTRAINTS = "### Constraints:\npytest only, no hypothesis, no unittest. Edge cases, parametrize, no explanation."


def test_the_prompt_is_the_designs_letter_for_letter():
    assert build_prompt("def f():\n    return 1\n") == (
        "### Task: Write pytest tests\n\n### Code Under Test:\ndef f():\n    return 1\n\n" + CONSTRAINTS
    )


def test_the_prompt_of_a_failure_holds_the_test_and_what_pytest_said():
    assert build_prompt("code", existing="old", failing="bad\n", output="E  boom\n") == (
        "### Task: Write pytest tests\n\n### Code Under Test:\ncode\n\n"
        + CONSTRAINTS
        + "\n\n### Existing tests:\nold\n\n### Failing test:\nbad\n\n### Pytest output:\nE  boom"
    )


@pytest.mark.parametrize("empty", [None, ""])
def test_sections_without_content_are_left_out(empty):
    prompt = build_prompt("code", existing=empty, failing=empty, output=empty)
    assert prompt == build_prompt("code")
    assert prompt.count("###") == 3


def test_a_row_holds_the_raw_test_file_as_its_completion():
    row = make_row(id="1", group="g", source="s", code="\n\ncode\n\n", test="\ntest\n\n", meta={"kind": "x"})
    assert (row.code, row.test, row.completion, row.module) == ("code\n", "test\n", "test", "solution")
    assert row.prompt == build_prompt("code")
    assert row.meta == {"kind": "x"}
    trace = make_row(id="1", group="g", source="s", code="c", test="t", failed_test="bad", failure_log="E")
    assert trace.prompt == build_prompt("c", failing="bad", output="E")


@pytest.mark.parametrize(
    "test",
    [
        "from solution import f\n\n\ndef test_f():\n    f()\n",
        "import solution\n\n\ndef test_f():\n    solution.f()\n",
        "def test_f():\n    from solution import f\n    f()\n",
    ],
)
def test_an_import_that_is_there_is_left_as_it_is(test):
    assert import_from_solution(test, "solution", ("f",)) == test


def test_the_names_that_a_test_uses_are_imported():
    test = "def test_f():\n    assert f(half) == 1\n"
    found = import_from_solution(test, "solution", ("f", "half", "unused", "hal"))
    assert found == "from solution import f, half\n" + test


def test_everything_is_imported_where_no_name_is_known():
    assert import_from_solution("def test_f():\n    g()\n", "solution", ("f",)).startswith("from solution import *\n")


def test_imports_of_the_real_module_become_imports_of_solution():
    test = "from pkg.mod import (\n    a,\n)\nfrom pkg.mod2 import b\nfrom pkg_mod import c\n\n\ndef test():\n"
    test += "    from pkg.mod import d\n"
    found = import_from_solution(test, "pkg.mod")
    assert found == test.replace("from pkg.mod import", "from solution import")
    assert "from pkg.mod2 import b" in found


@pytest.mark.parametrize(
    "test",
    [
        "from __future__ import annotations\n\ndef test_f():\n    assert f() == 1\n",
        '"""Tests.\n\nOf f.\n"""\nfrom __future__ import (\n    annotations,\n)\nimport os\ndef test_f():\n    f()\n',
    ],
)
def test_the_import_goes_after_what_python_wants_first(test):
    found = import_from_solution(test, "solution", ("f",))
    compile(found, "test_f.py", "exec")  # SyntaxError where a __future__ import is not the first
    assert found.replace("from solution import f\n", "") == test
    with pytest.raises(SyntaxError):
        compile("from solution import f\n" + test, "test_f.py", "exec")


@given(st.lists(st.sampled_from(["alpha", "beta", "gamma", "alphabet"]), unique=True))
def test_exactly_the_used_names_are_imported(used):
    test = "def test_x():\n" + "".join(f"    {name}()\n" for name in used) + "    assert True\n"
    tree = ast.parse(import_from_solution(test, "solution", ("alpha", "beta", "gamma", "alphabet")))
    imported = {alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert imported == (set(used) or {"*"})
