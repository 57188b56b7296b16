from __future__ import annotations

import ast

import pytest

from lowvram_ft.execution import run_tests
from lowvram_ft.testgen.texts.manners import grouped, quoted

TEST = """\
import pytest

from m import f


@pytest.fixture
def three():
    return 3


def helper(n):
    return n


def test_a():
    assert f(1) == 2


@pytest.mark.parametrize("n, wanted", [(1, 2), (2, 3)])
def test_b(
    n,
    wanted,
):
    # kept
    assert f(n) == wanted


def test_c(three):
    assert f(helper(three)) == 4
"""
CODE = "def f(n):\n    return n + 1\n"


def test_tests_go_into_one_class_and_have_the_same_outcomes():
    text = grouped(TEST, "TestF")
    names = [result.name for result in run_tests(CODE, "m", TEST).results]
    found = run_tests(CODE, "m", text)
    assert [result.name for result in found.results] == [f"TestF::{name}" for name in names]
    assert found.all_passed and len(names) == 4
    assert "    # kept\n" in text and "def helper(n)" in text and "class TestF:\n    def test_a(self):" in text
    assert "def test_c(self, three)" in text
    assert grouped(text, "TestF") == text


@pytest.mark.parametrize(
    "test",
    [
        "class TestF:\n    def test_a(self):\n        assert 1\n",
        "def test_a(self):\n    assert self\n",
        'def test_a():\n    assert """a\nb"""\n',
        "x = 1\n",
    ],
)
def test_what_cannot_be_moved_stays(test: str):
    assert grouped(test, "TestF") == test


@pytest.mark.parametrize(
    ("before", "quote", "after"),
    [
        ('f("a")', "'", "f('a')"),
        ("f('a', b'c', r'd')", '"', 'f("a", b"c", r"d")'),
        ('f("it\'s", "a", "\\n", f"{x}")', "'", 'f("it\'s", \'a\', "\\n", f"{x}")'),
        ('x = """long\ntext"""', "'", 'x = """long\ntext"""'),
        ('f("a")', '"', 'f("a")'),
        ("# 'a'\nf('b')", '"', "# 'a'\nf(\"b\")"),
        ("d['a']['b']", '"', 'd["a"]["b"]'),
    ],
)
def test_plain_strings_get_the_usual_mark(before: str, quote: str, after: str):
    found = quoted(before + "\n", quote)
    assert found == after + "\n"
    assert ast.dump(ast.parse(found)) == ast.dump(ast.parse(before + "\n"))
