from __future__ import annotations

import pytest

from lowvram_ft.testgen.marks import Mark, digest, marked, read_mark

BODY = "from pkg import f\n\n\ndef test_f():\n    assert f(1) == 2\n"
CODE = "def f(n):\n    return n + 1\n"


def test_a_marked_file_is_known_again_and_names_its_model_and_code():
    assert read_mark(marked(BODY, "tiny.gguf", CODE)) == Mark("tiny.gguf", digest(CODE))
    assert marked(BODY, "tiny.gguf", CODE).endswith(BODY)


@pytest.mark.parametrize(
    "text",
    [
        "",
        BODY,
        marked(BODY, "m", CODE) + "\n\ndef test_mine():\n    assert f(2) == 3\n",
        marked(BODY, "m", CODE).replace("== 2", "== 3"),
        "\n" + marked(BODY, "m", CODE),
        marked(BODY, "m", CODE).replace("file ", "file 0"),
    ],
)
def test_what_a_person_wrote_or_edited_is_a_persons(text: str):
    assert read_mark(text) is None


def test_line_ends_that_git_changes_are_no_edit():
    assert read_mark(marked(BODY, "m", CODE).replace("\n", "\r\n")) == Mark("m", digest(CODE))


def test_a_model_with_an_odd_name_keeps_to_its_line():
    name = "http://host:1/v1#a (b)\nimport os"
    text = marked(BODY, name, CODE)
    assert text.splitlines()[1:] == BODY.splitlines()
    assert read_mark(text) is not None
