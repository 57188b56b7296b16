"""Reading test files and logs without running anything."""

import pytest

from lowvram_ft.execution import read_shape, trim_log
from lowvram_ft.execution.modules import split_modules


@pytest.mark.parametrize(
    ("test", "functions", "assertions"),
    [
        ("def test_a():\n    assert f() == 1\n    assert not f()\n", 1, 2),
        ("def helper():\n    assert f()\n", 0, 0),
        ("def test_a():\n    assert True\n    assert 'text'\n", 1, 0),
        ("def test_a():\n    with pytest.raises(ValueError):\n        f()\n", 1, 1),
        ("class TestA:\n    def test_a(self):\n        assert f() == approx(1)\n", 1, 1),
        ("class Odd(unittest.TestCase):\n    def test_a(self):\n        self.assertEqual(f(), 1)\n", 1, 1),
        ("class Other:\n    def test_a(self):\n        assert f()\n", 0, 0),
        ("async def test_a():\n    mock.assert_called_once()\n", 1, 1),
        ("def test_a():\n    f()\n", 1, 0),
    ],
)
def test_shape_counts_the_checks_in_test_functions(test, functions, assertions):
    shape = read_shape(test)
    assert (shape.problem, shape.test_functions, shape.assertions) == (None, functions, assertions)


@pytest.mark.parametrize("test", ["def f(:", "x = '\0'", "return 1", "(" * 3000, "x = '\ud800'"])
def test_shape_tells_what_is_no_python(test):
    assert read_shape(test).problem


def test_split_modules():
    assert split_modules("x = 1\n") == {"solution": "x = 1\n"}
    assert split_modules("x = 1\n", "pkg.mod") == {"pkg.mod": "x = 1\n"}
    text = "# module: a.b\nx = 1\n# module: a\ny = 2\n"
    assert list(split_modules(text).items()) == [("a.b", "x = 1\n"), ("a", "y = 2\n")]
    later = "x = 1\n# module: a\ny = 2\n"
    assert split_modules(later) == {"solution": later}


LOG = """\
============================= test session starts ==============================
platform linux -- Python 3.11.7
collected 3 items

test_solution.py FF.                                                     [100%]

=================================== FAILURES ===================================
____________________________________ test_a ____________________________________
test_solution.py:4: in test_a
    assert f(3) == 4
solution.py:2: in f
    return g(x)
E   assert 2 == 4
E    +  where 2 = f(3)
----------------------------- Captured stdout call -----------------------------
noise noise noise
____________________________________ test_b ____________________________________
test_solution.py:7: in test_b
    f(None)
E   TypeError: bad
=========================== short test summary info ============================
FAILED test_solution.py::test_a - assert 2 == 4
FAILED test_solution.py::test_b - TypeError: bad
========================= 2 failed, 1 passed in 0.02s ==========================
"""


def test_trim_log_keeps_failures_and_summary():
    text = trim_log(LOG)
    assert "E   assert 2 == 4" in text and "FAILED test_solution.py::test_b - TypeError: bad" in text
    assert "solution.py:2: in f" in text
    for noise in ("platform", "noise", "[100%]", "1 passed", "==="):
        assert noise not in text


@pytest.mark.parametrize("max_chars", [5, 60, 250, 400, 700])
def test_trim_log_keeps_within_its_bound(max_chars):
    assert len(trim_log(LOG * 5, max_chars)) <= max_chars


def test_trim_log_drops_inner_frames_before_failures():
    text = trim_log(LOG, 430)
    assert "in f" not in text and "    assert f(3) == 4" in text and "TypeError: bad" in text


def test_trim_log_counts_what_it_leaves_out():
    section = "____________ test_{} ____________\ntest_solution.py:1: in t\n    assert 0\nE   assert 0\n"
    text = trim_log("".join(section.format(n) for n in range(50)), 600)
    assert "more failures" in text and len(text) <= 600


def test_trim_log_of_plain_text_is_cut_in_the_middle():
    assert trim_log("short") == "short"
    cut = trim_log("a" * 50 + "b" * 50, 40)
    assert cut.startswith("aaa") and cut.endswith("bbb") and len(cut) == 40
