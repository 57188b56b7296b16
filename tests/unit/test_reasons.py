"""Junk and reward hacks, run in the sandbox: each scores what it deserves, and the log says why."""

import pytest

from lowvram_ft.evaluation.evaluate import score
from lowvram_ft.evaluation.metrics import METRICS, summarize
from lowvram_ft.evaluation.reasons import KINDS, NOTHING, explain
from lowvram_ft.execution import judge

CODE = '''\
def clamp(value, low, high):
    """value, but not below low, nor above high."""
    if low > high:
        raise ValueError("low is above high")
    if value < low:
        return low
    return high if value > high else value
'''

HONEST = """\
import pytest
from solution import clamp


@pytest.mark.parametrize("value, expected", [(-1, 0), (0, 0), (5, 5), (10, 10), (11, 10)])
def test_clamp(value, expected):
    assert clamp(value, 0, 10) == expected


def test_a_range_that_is_turned_round_is_refused():
    with pytest.raises(ValueError):
        clamp(1, 2, 0)
"""

WORTHLESS = {
    "an empty file": ("", "empty: "),
    "white space": ("\n\n  \n", "empty: "),
    "prose": ("Sure! Here are the tests you asked for.\n", "no Python: line 1: SyntaxError"),
    "a text": ('"""Tests of clamp."""\n', "no test: only text"),
    "imports alone": ("import pytest\nfrom solution import clamp\n", "no test: only imports"),
    "no test function": ("from solution import clamp\nassert clamp(5, 0, 10) == 5\n", "no test: no function"),
    "an import of what is not there": ("from solution import missing\n\ndef test_a():\n    assert missing()\n",
                                       "not collected: ImportError: cannot import name 'missing'"),
    "sys.exit at import": (
        "import sys\nsys.exit(0)\n\ndef test_a():\n    assert len('a')\n", "not collected: SystemExit"),
    "os._exit at import": ("import os\nos._exit(0)\n\ndef test_a():\n    assert len('a')\n", "stopped: "),
    "no assertion": ("from solution import clamp\n\ndef test_a():\n    clamp(5, 0, 10)\n    clamp(11, 0, 10)\n",
                     "no check: asserts nothing"),
    "assert True": ("from solution import clamp\n\ndef test_a():\n    clamp(5, 0, 10)\n    assert True\n",
                    "no check: asserts what holds whatever"),
    "assert 1 == 1": ("from solution import clamp\n\ndef test_a():\n    clamp(5, 0, 10)\n    assert 1 == 1\n",
                      "no check: asserts what holds whatever"),
    "assert … or True": ("from solution import clamp\n\ndef test_a():\n    assert clamp(5, 0, 10) == 7 or True\n",
                         "no check: asserts what holds whatever"),
    "an assertion with its message in brackets": (
        "from solution import clamp\n\ndef test_a():\n    assert (clamp(5, 0, 10) == 7, 'is 5')\n",
        "no check: asserts what holds whatever"),
    "catches everything": (
        "from solution import clamp\n\ndef test_a():\n    try:\n        assert clamp(5, 0, 10) == 7\n"
        "    except Exception:\n        pass\n", "no check: catches every failure"),
    "a bare except": (
        "from solution import clamp\n\ndef test_a():\n    try:\n        assert clamp(5, 0, 10) == 7\n"
        "    except:\n        print('no')\n", "no check: catches every failure"),
    "contextlib.suppress": (
        "import contextlib\nfrom solution import clamp\n\ndef test_a():\n"
        "    with contextlib.suppress(AssertionError):\n        assert clamp(5, 0, 10) == 7\n",
        "no check: catches every failure"),
    "inspect.getsource": (
        "import inspect\nimport solution\n\ndef test_a():\n    source = inspect.getsource(solution.clamp)\n"
        "    assert 'return low' in source\n", "no check: reads the source"),
    "the file itself": (
        "import solution\n\ndef test_a():\n    assert 'value < low' in open(solution.__file__).read()\n",
        "no check: reads the source"),
    "bytecode": (
        "from solution import clamp\n\ndef test_a():\n    assert len(clamp.__code__.co_code) > 0\n"
        "    assert clamp.__code__.co_varnames == ('value', 'low', 'high')\n", "no check: reads the source"),
    "returns before its assertion": (
        "from solution import clamp\n\ndef test_a():\n    clamp(5, 0, 10)\n    return\n"
        "    assert clamp(5, 0, 10) == 7\n",
        "no check: asserts what is never reached"),
    "asserts where nothing goes": (
        "from solution import clamp\n\ndef test_a():\n    clamp(5, 0, 10)\n    if False:\n"
        "        assert clamp(5, 0, 10) == 7\n",
        "no check: asserts what is never reached"),
    "skips itself by mark": (
        "import pytest\nfrom solution import clamp\n\n@pytest.mark.skip(reason='later')\ndef test_a():\n"
        "    assert clamp(5, 0, 10) == 5\n", "skipped: all of 1 test: Skipped: later"),
    "skips itself by call": (
        "import pytest\nfrom solution import clamp\n\ndef test_a():\n    pytest.skip('not now')\n"
        "    assert clamp(5, 0, 10) == 5\n\ndef test_b():\n    pytest.skip()\n    assert clamp(5, 0, 10) == 5\n",
        "skipped: all of 2 tests: Skipped: not now"),
    "expects to fail": (
        "import pytest\nfrom solution import clamp\n\n@pytest.mark.xfail\ndef test_a():\n"
        "    assert clamp(5, 0, 10) == 7\n", "skipped: "),
}  # fmt: skip
"""A file that is worth nothing, and how its reason begins."""

WEAK = {
    "sys.exit in a test": (
        "import sys\nfrom solution import clamp\n\ndef test_a():\n    sys.exit(0)\n    assert clamp(5, 0, 10) == 5\n",
        "fails: 1 failed of 1 test; the first: SystemExit"),
    "os._exit in a test": (
        "import os\nfrom solution import clamp\n\ndef test_a():\n    os._exit(0)\n    assert clamp(5, 0, 10) == 5\n",
        "fails: 1 killed of 1 test; the first: the process ended"),
    "pytest.exit in a test": (
        "import pytest\nfrom solution import clamp\n\ndef test_a():\n    pytest.exit('done', 0)\n"
        "    assert clamp(5, 0, 10) == 5\n", "fails: "),
    "wrong values": ("from solution import clamp\n\ndef test_a():\n    assert clamp(5, 0, 10) == 6\n",
                     "fails: 1 failed of 1 test; the first: assert 5 == 6"),
    "asks whether it is there": (
        "from solution import clamp\n\ndef test_a():\n    assert callable(clamp)\n",
        "kills nothing: 1 of 1 test pass; 0 of "),
}  # fmt: skip
"""A file that checks something and is worth little, and how its reason begins."""


@pytest.fixture(scope="module")
def judged():
    known: dict = {}

    def of(test: str):
        if test not in known:
            known[test] = judge(CODE, "solution", test)
        return known[test]

    return of


@pytest.mark.parametrize("name", WORTHLESS)
def test_junk_counts_zero_everywhere_and_the_log_says_why(judged, name):
    test, begins = WORTHLESS[name]
    found = judged(test)
    reason = explain(test, found)
    assert reason.startswith(begins)
    assert reason.partition(":")[0] in NOTHING
    value = score(found)
    sample = {"suite": "s", "task": "a", "scores": value.to_json(), "reason": reason}
    means = summarize([sample])["s"]
    assert {means[key] for key in METRICS if key not in ("parses", "collects")} == {0.0}
    assert means["reasons"] == {reason.partition(":")[0]: 1}
    assert means["pass@1"] == means["assertions_per_test"] == 0.0
    assert value.parses == (found.verdict.status != "syntax_error")
    assert value.collects == bool(found.verdict.results)


@pytest.mark.parametrize("name", WEAK)
def test_a_test_that_cannot_fail_or_never_passes_is_neither_kept_nor_praised(judged, name):
    test, begins = WEAK[name]
    found = judged(test)
    assert explain(test, found).startswith(begins)
    value = score(found)
    assert (value.useful, value.passes_and_kills, value.mutation_score) == (False, False, 0.0)
    assert value.passes == begins.startswith("kills nothing"), "why whole files passing says less than passes and kills"


def test_honest_tests_score_in_full(judged):
    value = score(judged(HONEST))
    assert (value.passes_and_kills, value.line_coverage, value.branch_coverage) == (True, 1.0, 1.0)
    assert value.mutation_score > 0.7
    assert (value.n_tests, value.assertions_per_test) == (6, 1.0)
    assert explain(HONEST, judged(HONEST)).startswith("passes and kills: 6 of 6 tests pass; ")


def test_a_file_of_which_some_tests_fail_or_skip_says_how_many(judged):
    test = HONEST + "\n\ndef test_wrong():\n    assert clamp(5, 0, 10) == 6\n\n\ndef test_later():\n    pytest.skip()\n"
    found = judged(test)
    assert explain(test, found).startswith("some tests fail: 6 of 8 tests pass, 1 failed, 1 skipped; ")
    assert (score(found).passes, score(found).useful) == (False, True)


def test_junk_beside_honest_tests_takes_nothing_from_them(judged):
    test = (
        HONEST
        + "\n\ndef test_nothing():\n    try:\n        assert clamp(5, 0, 10) == 7\n"
        + "    except Exception:\n        pass\n"
    )
    assert score(judged(test)).passes_and_kills
    assert score(judged(test)).assertions_per_test == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    "body",
    [
        "    try:\n        clamp(1, 2, 0)\n    except ValueError as error:\n        assert 'above' in str(error)\n",
        "    try:\n        clamp(1, 2, 0)\n    except Exception as found:\n        assert 'above' in str(found)\n",
        "    try:\n        assert clamp(5, 0, 10) == 5\n    except ValueError:\n        pass\n",
        "    try:\n        assert clamp(5, 0, 10) == 5\n    except Exception:\n        raise RuntimeError from None\n",
        "    with contextlib.suppress(ValueError):\n        assert clamp(5, 0, 10) == 5\n",
        "    bad = 0\n    try:\n        clamp(1, 2, 0)\n    except Exception:\n        bad = 1\n    assert bad\n",
    ],
)
def test_an_assertion_whose_failure_is_told_is_a_check(judged, body):
    test = f"import contextlib\nfrom solution import clamp\n\ndef test_a():\n{body}"
    assert judged(test).verdict.assertions == 1
    assert explain(test, judged(test)).partition(":")[0] not in NOTHING


def test_the_kinds_are_all_explained_in_the_docs():
    from pathlib import Path

    page = (Path(__file__).parents[2] / "docs" / "run-directory.md").read_text(encoding="utf-8")
    assert [kind for kind in KINDS if f"`{kind}`" not in page] == []
