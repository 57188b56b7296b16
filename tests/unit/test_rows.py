"""Prompts, and the rows that they are part of."""

import pytest

from lowvram_ft.data.row import build_prompt, make_row

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
