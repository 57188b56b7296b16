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


CLASSES = """\
# Tests of half.
\"\"\"They cover its edge cases.\"\"\"
from solution import half

LARGE = 10**9


class TestHalf:
    \"\"\"Of numbers.\"\"\"

    def test_even(self):
        assert half(4) == 2

    @pytest.mark.parametrize(
        "n",
        [1, 3],
    )
    def test_odd(self, n):
        def call():
            return half(n)

        with pytest.raises(ValueError):
            call()

    async def test_large(self):
        value = half(LARGE)
        assert value == LARGE // 2


@pytest.mark.parametrize(
    ("n", "wanted"),
    [
        (2, 1),
        (4, 2),
    ],
)
def test_table(n, wanted):
    result = half(n)
    if result != wanted:
        pytest.fail()
    else:
        assert result == wanted


def test_text():
    text = \'\'\'
def test_in_a_string():
\'\'\'
    assert text
"""


@pytest.mark.parametrize(
    "wrap",
    [
        "{}", "\ufeff{}", "```python\n{}```", "~~~\n{}~~~", "````python\n{}````\nDone.", "{}```\n", "{}\nDone\n",
        "{}\nNote: done\n", "<think>\nWhat about\n```python\ndef test_x(): pass\n```\n</think>\n\n{}",
        "Let me see: def test_y(): 1\n</think>\n```python\n{}```", "<thinking>a</thinking><think>b</think>{}",
        "```python title=\"test_half.py\"\n{}```",
        "The tests:\n\n```python\n{}```\nexcept for the large ones:\nelse: none",
    ],
)  # fmt: skip
@pytest.mark.parametrize("file", [TEST, CLASSES])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_what_is_around_a_file_goes_and_the_file_stays_letter_for_letter(wrap, file, line_end):
    assert extract_test(wrap.replace("{}", file).replace("\n", line_end)) == file


def test_a_word_before_a_file_goes_with_the_comment_after_it_though_both_parse():
    assert extract_test(f"Sure\n\n{TEST}") == TEST
    assert extract_test(f"Sure\n\n{CLASSES}") == CLASSES.removeprefix("# Tests of half.\n")


def test_a_block_in_a_list_item_is_moved_to_the_left():
    inside = "".join(f"   {line}" if line.strip() else line for line in TEST.splitlines(keepends=True))
    assert extract_test(f"1. Save this:\n\n   ```python\n{inside}   ```\n2. Run it.\n") == TEST


def test_of_two_blocks_with_as_many_tests_the_later_one_is_the_corrected_one():
    assert (
        extract_test(f"```python\n{TEST}```\nWait, 4 // 2 is 3:\n```python\n{TEST}# better\n```") == TEST + "# better\n"
    )


def test_tags_of_reasoning_inside_a_string_are_the_files_own():
    file = 'from solution import strip\n\n\ndef test_strip():\n    assert strip("<think>a</think>b") == "b"\n'
    assert extract_test(file) == file
    assert extract_test(f"```python\n{file}```") == file


@pytest.mark.parametrize("answer", [f"<think>\n{TEST}", f"<think>\n```python\n{TEST}```\n"])
def test_reasoning_that_never_ends_is_no_answer(answer):
    assert extract_test(answer) == answer.strip() + "\n"


@pytest.mark.parametrize(
    ("tail", "kept"),
    [
        ("\n\ndef test_more():\n    assert half(10) == 1", False),  # of 10, half is 5: the limit may have cut it
        ("\n\ndef test_more():\n    value = half(10)\n", False),
        ("\n\ndef test_more():\n    assert half(10) == 5\n\n\n", True),
        ("\n\ndef test_more():\n    assert half(10) == 5\n\n\n# And", True),
        ("\n\ndef test_more():\n    assert half(10) == 5\n\n\n@pytest.ma", True),
    ],
)
@pytest.mark.parametrize("fence", ["", "```python\n"])
def test_at_the_limit_a_last_test_that_parses_is_kept_only_if_something_follows_it(tail, kept, fence):
    found = extract_test(fence + TEST + tail, cut_off=True)
    assert ("test_more" in found) == kept
    assert found.startswith(TEST)
    assert "test_more" in extract_test(fence + TEST + tail), "without a limit it ended there by itself"


def test_a_block_that_was_closed_before_the_limit_is_whole():
    assert extract_test(f"```python\n{TEST}```\nThese tests cov", cut_off=True) == TEST


def test_a_class_that_was_cut_off_keeps_its_whole_tests():
    cut = CLASSES[: CLASSES.index("            call()")]
    assert extract_test(cut) == CLASSES[: CLASSES.index("    @pytest.mark")].rstrip() + "\n"
    none = CLASSES[: CLASSES.index(" == 2\n")]
    assert "class" not in extract_test(none, cut_off=True)


def functions(text: str) -> dict[str, str]:
    """Every function of a file as a tree with its decorators."""
    found = {}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found[node.name] = ast.dump(node)
    return found


@given(st.integers(0, len(CLASSES)), st.sampled_from(["", "```python\n", "Sure:\n\n", "<think>no</think>", "\ufeff"]))
def test_wherever_the_limit_falls_every_function_that_is_left_is_a_whole_one(place, before):
    answer = before + CLASSES[:place]
    found = extract_test(answer, cut_off=True)
    try:
        ast.parse(found)
    except SyntaxError:
        assert found == answer.strip() + "\n"
        assert place <= CLASSES.index("class"), "there was something to take"
        return
    whole = functions(CLASSES)
    assert all(whole[name] == tree for name, tree in functions(found).items())


def test_at_the_limit_no_test_is_lost_but_the_last():
    """Every test whose successor has begun is kept."""
    names = ["test_even", "test_odd", "test_large", "test_table"]
    starts = [
        CLASSES.index("    @pytest.mark"),
        CLASSES.index("    async def"),
        CLASSES.index('@pytest.mark.parametrize(\n    ("n'),
    ]
    starts.append(CLASSES.index("def test_text"))
    for number, start in enumerate(starts):
        found = functions(extract_test(CLASSES[: start + 8], cut_off=True))
        assert [name for name in names if name in found] == names[: number + 1]


PIECES = st.sampled_from(
    [
        "```", "```python\n", "~~~\n", "\n", "\r\n", "\ufeff", "<think>", "</think>", TEST, FIRST, "def test_a():\n",
        "    ", "assert 1\n", "class T:\n", "@x\n", "\"\"\"", "else:\n", "(", ")", "\\", "\0", "\ud800", "Done",
        "# c\n", "\t", "\x0c", "import ",
    ]
)  # fmt: skip


@given(st.lists(PIECES | st.text(max_size=5), max_size=15), st.booleans())
def test_any_answer_gives_a_file_that_parses_or_comes_back_as_it_is(pieces, cut_off):
    answer = "".join(pieces)
    found = extract_test(answer, cut_off=cut_off)
    if found != answer.strip() + "\n":
        ast.parse(found)
        assert extract_test(found) == found, "what was taken is a file: taken again, it is the same"
        assert all(line in answer.replace("\r", "\n") for line in map(str.strip, found.split("\n")))


def test_long_junk_takes_no_longer_than_a_moment():
    import time

    began = time.process_time()
    for junk in (
        "def f(:\n" * 5000,
        "```\n" * 5000,
        "from here on\n" * 5000,
        "class A:\n" + "    def f(\n" * 5000,
        "(" * 100_000,
    ):
        extract_test(junk, cut_off=True)
    assert time.process_time() - began < 20


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


@pytest.mark.parametrize("end", ["\\\n\n", "    \\\n\n", "\\\n\\\n\n", " \\\n\n"])
@pytest.mark.parametrize("answer", ["{}", "```python\n{}```", "Here it is:\n{}"])
def test_a_backslash_that_continues_nothing_is_not_the_end(answer, end):
    file = "import pytest\n\n\ndef test_one():\n    assert 1\n"
    assert extract_test(answer.format(file + end)) == file
    assert extract_test(answer.format(file + "# a \\\n")) == file + "# a \\\n"
