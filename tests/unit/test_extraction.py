"""A test file from an answer, in every form that models answer in."""

import ast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowvram_ft.inference.extraction import extract_test

TEST = """\
import pytest

from solution import half


def test_half():
    assert half(4) == 2


@pytest.mark.parametrize("n", [1, 3])
def test_odd(n):
    with pytest.raises(ValueError):
        half(n)
"""
FIRST = TEST.split("\n\n\n@pytest")[0] + "\n"


@pytest.mark.parametrize(
    "answer",
    [
        TEST,
        TEST.rstrip(),
        f"```python\n{TEST}```",
        f"```\n{TEST}```\n",
        f"```py\n{TEST}",
        f"Here are the tests:\n\n{TEST}",
        f"from what I can see, these do:\n\n```python\n{TEST}```",
        f"import what you need. From here on:\n{TEST}",
        f"Sure!\n\n```python\n{TEST}```\n\nThese tests cover the edge cases.",
        f"{TEST}\nThis file covers the edge cases of half.",
        f"```bash\npip install pytest\n```\n\n```python\n{TEST}```",
        TEST.replace("\n", "\r\n"),
        f"```python\r\n{TEST}```\r\n".replace("\n", "\r\n").replace("\r\r", "\r"),
    ],
    ids=[
        "raw", "no newline at the end", "fenced", "fenced without a language", "fence never closed", "chatter before",
        "chatter that begins with from", "chatter that begins with import", "chatter around a fence", "chatter after",
        "another block first", "CRLF", "CRLF in a fence",
    ],
)  # fmt: skip
def test_the_file_is_found_letter_for_letter(answer):
    assert extract_test(answer) == TEST


@pytest.mark.parametrize("fence", ["", "```python\n"])
@pytest.mark.parametrize(
    "tail",
    [
        "\n\ndef test_more(",
        "\n\ndef test_more():\n    assert half(",
        '\n\n@pytest.mark.parametrize("n", [1,',
        "\n\n@pyt",
    ],
)
def test_a_test_that_was_cut_off_is_left_out_and_the_whole_ones_stay(fence, tail):
    assert extract_test(fence + TEST + tail) == TEST


def test_a_cut_inside_the_last_test_keeps_what_comes_before_it():
    assert extract_test(TEST[: TEST.index("half(n)") + len("half(")]) == FIRST


@pytest.mark.parametrize("wrap", ["{}", "```python\n{}```", "Here:\n```python\n{}```\nBye."])
def test_a_fence_inside_a_string_does_not_end_the_file(wrap):
    nested = 'from solution import strip\n\n\ndef test_fence():\n    text = """\n```python\nx = 1\n```\n"""\n'
    nested += '    assert strip(text) == "x = 1"\n'
    assert extract_test(wrap.format(nested)) == nested


def test_of_several_blocks_the_one_with_the_most_tests_is_taken():
    answer = f"The code:\n```python\ndef half(n):\n    return n // 2\n```\nIts tests:\n```python\n{TEST}```\n"
    assert extract_test(answer) == TEST


@pytest.mark.parametrize(
    "answer", ["I cannot do that.", "", "  \n ", "```\nnothing to see\n```", "from now on, no tests"]
)
def test_an_answer_without_code_comes_back_as_it_is(answer):
    assert extract_test(answer) == answer.strip() + "\n"


def test_code_that_does_not_parse_at_all_comes_back_as_it_is():
    assert extract_test("def test_x(:\n    pass") == "def test_x(:\n    pass\n"


@pytest.mark.parametrize("answer", ["def test_x():\n    assert '\0'", "def f():\n    return " + "(" * 5000])
def test_text_that_the_parser_chokes_on_is_no_crash(answer):
    assert extract_test(answer) == answer + "\n"


@given(st.text())
def test_every_text_is_answered_by_a_text_that_ends_with_one_newline(answer):
    found = extract_test(answer)
    assert found.endswith("\n")
    assert not found[:-1].endswith("\n")


@given(st.integers(0, len(TEST)), st.sampled_from(["", "```python\n", "Sure:\n\n"]))
def test_wherever_an_answer_is_cut_what_is_taken_is_a_part_of_it(place, before):
    """Nothing is made up: what parses is a beginning of the file."""
    found = extract_test(before + TEST[:place])
    try:
        ast.parse(found)
    except SyntaxError:
        assert found == (before + TEST[:place]).strip() + "\n"
    else:
        assert TEST.startswith(found.rstrip()) or found.strip() in ("```python", "")
