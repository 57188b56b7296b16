"""Fifty ways to look like a test, run in the sandbox: what each is worth, and the reason that a person reads."""

# ruff: noqa: E501  (files as a model writes them, a line each)

import pytest

from lowvram_ft.evaluation.control import IDLE, LOOKS, does_nothing, examined, written_otherwise
from lowvram_ft.evaluation.evaluate import score
from lowvram_ft.evaluation.metrics import METRICS
from lowvram_ft.evaluation.reasons import explain
from lowvram_ft.execution import Limits, judge, run_many, run_tests
from tests.unit.test_reasons import CODE, HONEST

LIMITS = Limits(wall_s=8.0, test_s=2.0)
IDLE_REASON = f"no check: {IDLE}"
LOOKS_REASON = f"fails: 1 failed of 1 test; the first: {LOOKS}"

WORTHLESS = {
    "f==f": (
        "from solution import clamp\n\ndef test_a():\n    assert clamp(5, 0, 10) == clamp(5, 0, 10)\n",
        "no check: asserts what holds whatever",
    ),
    "isinstance object": (
        "from solution import clamp\n\ndef test_a():\n    assert isinstance(clamp(5, 0, 10), object)\n",
        IDLE_REASON,
    ),
    "local constant": (
        "from solution import clamp\n\ndef test_a():\n    x = 5\n    clamp(5, 0, 10)\n    assert x == 5\n",
        IDLE_REASON,
    ),
    "own copy": ("def clamp(value):\n    return value\n\ndef test_a():\n    assert clamp(5) == 5\n", IDLE_REASON),
    "own copy import": (
        "from solution import clamp\n\ndef clamp(value):\n    return value\n\ndef test_a():\n    assert clamp(5) == 5\n",
        IDLE_REASON,
    ),
    "monkeypatched": (
        "import solution\n\ndef test_a(monkeypatch):\n    monkeypatch.setattr(solution, 'clamp', lambda *a: 5)\n    assert solution.clamp(1, 2, 3) == 5\n",
        IDLE_REASON,
    ),
    "mock asserts itself": (
        "from unittest.mock import Mock\nfrom solution import clamp\n\ndef test_a():\n    clamp(5, 0, 10)\n    m = Mock(return_value=5)\n    assert m(5) == 5\n    m.assert_called_once_with(5)\n",
        IDLE_REASON,
    ),
    "module-level getsource": (
        "import inspect\nimport solution\nSOURCE = inspect.getsource(solution)\n\ndef test_a():\n    assert 'if value < low:' in SOURCE and 'if low > high' in SOURCE and 'value > high' in SOURCE\n",
        LOOKS_REASON,
    ),
    "helper getsource": (
        "import inspect\nimport solution\n\ndef text(f):\n    return inspect.getsource(f)\n\ndef test_a():\n    assert 'if value < low:' in text(solution.clamp)\n",
        LOOKS_REASON,
    ),
    "read file glob": (
        "import pathlib, solution\n\ndef test_a():\n    folder = pathlib.Path(solution.__spec__.origin).parent\n    text = ''.join(p.read_text() for p in folder.glob('*.py'))\n    assert 'if value < low:' in text and 'value > high' in text\n",
        LOOKS_REASON,
    ),
    "loader": (
        "import solution\n\ndef test_a():\n    assert 'if value < low:' in solution.__loader__.get_source('solution')\n",
        LOOKS_REASON,
    ),
    "settrace": (
        "import sys\nfrom solution import clamp\n\ndef test_a():\n    seen = []\n    def trace(frame, event, arg):\n        seen.append((event, frame.f_lineno, frame.f_lasti))\n        return trace\n    sys.settrace(trace)\n    clamp(5, 0, 10)\n    sys.settrace(None)\n    assert [s[1] for s in seen if s[0]=='line' and s[1] < 9][:1] == [3] or len(seen)\n",
        IDLE_REASON,
    ),
    "finally return": (
        "from solution import clamp\n\ndef test_a():\n    try:\n        assert clamp(5, 0, 10) == 7\n    finally:\n        return\n",
        IDLE_REASON,
    ),
    "for over nothing": (
        "from solution import clamp\n\ndef test_a():\n    for x in []:\n        assert clamp(x, 0, 10) == 7\n",
        IDLE_REASON,
    ),
    "while False": (
        "from solution import clamp\n\ndef test_a():\n    while False:\n        assert clamp(5, 0, 10) == 7\n",
        IDLE_REASON,
    ),
    "if not True": (
        "from solution import clamp\n\ndef test_a():\n    if not True:\n        assert clamp(5, 0, 10) == 7\n",
        IDLE_REASON,
    ),
    "TYPE_CHECKING": (
        "from solution import clamp\n\nfrom typing import TYPE_CHECKING\n\ndef test_a():\n    if TYPE_CHECKING:\n        assert clamp(5, 0, 10) == 7\n",
        IDLE_REASON,
    ),
    "inner never called": (
        "from solution import clamp\n\ndef test_a():\n    def inner():\n        assert clamp(5, 0, 10) == 7\n",
        IDLE_REASON,
    ),
    "lambda": (
        "from solution import clamp\n\ndef test_a():\n    assert lambda: clamp(5, 0, 10) == 7\n",
        "no check: asserts what holds whatever",
    ),
    "list": (
        "from solution import clamp\n\ndef test_a():\n    assert [clamp(5, 0, 10) == 7]\n",
        "no check: asserts what holds whatever",
    ),
    "fstring": ("from solution import clamp\n\ndef test_a():\n    assert f'{clamp(5, 0, 10) == 7}'\n", IDLE_REASON),
    "str": ("from solution import clamp\n\ndef test_a():\n    assert str(clamp(5, 0, 10) == 7)\n", IDLE_REASON),
    "mock.ANY": (
        "from unittest.mock import ANY\nfrom solution import clamp\n\ndef test_a():\n    assert clamp(5, 0, 10) == ANY\n",
        IDLE_REASON,
    ),
    "eq override": (
        "from solution import clamp\n\nclass Same:\n    def __eq__(self, other):\n        return True\n\ndef test_a():\n    assert clamp(5, 0, 10) == Same()\n",
        IDLE_REASON,
    ),
    "module skip": (
        "import pytest\npytest.skip('later', allow_module_level=True)\nfrom solution import clamp\n\ndef test_a():\n    assert clamp(5, 0, 10) == 5\n",
        "no test: it is skipped as a whole",
    ),
    "importorskip": (
        "import pytest\npytest.importorskip('nothing_of_this_name')\nfrom solution import clamp\n\ndef test_a():\n    assert clamp(5, 0, 10) == 5\n",
        "no test: it is skipped as a whole",
    ),
    "pytestmark": (
        "import pytest\nfrom solution import clamp\npytestmark = pytest.mark.skipif(True, reason='no')\n\ndef test_a():\n    assert clamp(5, 0, 10) == 5\n",
        "skipped: all of 1 test: Skipped: no",
    ),
    "never collected class": (
        "from solution import clamp\n\nclass ClampTests:\n    def test_a(self):\n        assert clamp(5, 0, 10) == 5\n",
        "no test: no function",
    ),
    "class with init": (
        "from solution import clamp\n\nclass TestClamp:\n    def __init__(self):\n        pass\n    def test_a(self):\n        assert clamp(5, 0, 10) == 5\n",
        "no test: it is skipped as a whole, or hides",
    ),
    "__test__ False": (
        "from solution import clamp\n\ndef test_a():\n    assert clamp(5, 0, 10) == 5\ntest_a.__test__ = False\n",
        "no test: it is skipped as a whole, or hides",
    ),
    "warning as result": (
        "import warnings\nfrom solution import clamp\n\ndef test_a():\n    if clamp(5, 0, 10) != 7:\n        warnings.warn('wrong')\n",
        "no check: asserts nothing",
    ),
    "returns its check": (
        "from solution import clamp\n\ndef test_a():\n    return clamp(5, 0, 10) == 7\n",
        "no check: asserts nothing",
    ),
    "infinite import": ("while True: pass\n\ndef test_a():\n    assert x\n", "stopped: "),
    "infinite test": (
        "from solution import clamp\n\ndef test_a():\n    while True: pass\n    assert clamp(5, 0, 10) == 5\n",
        "fails: 1 timeout of 1 test",
    ),
    "huge parametrize": (
        "import pytest\nfrom solution import clamp\n\n@pytest.mark.parametrize('i', range(1000000))\ndef test_a(i):\n    assert clamp(i, 0, i) == i\n",
        "stopped: ",
    ),
    "fake conftest": (
        "from pathlib import Path\nfrom solution import clamp\nPath('conftest.py').write_text('def pytest_runtest_makereport(item, call):\\n    call.excinfo = None\\n')\n\ndef test_a():\n    assert clamp(5, 0, 10) == 7\n",
        "fails: 1 failed of 1 test; the first: assert 5 == 7",
    ),
    "own hook": (
        "from solution import clamp\n\ndef pytest_pyfunc_call(pyfuncitem):\n    return True\n\ndef test_a():\n    assert clamp(5, 0, 10) == 7\n",
        "fails: 1 failed of 1 test; the first: assert 5 == 7",
    ),
    "plugin": (
        "from solution import clamp\npytest_plugins = ['test_solution']\n\ndef pytest_pyfunc_call(pyfuncitem):\n    return True\n\ndef test_a():\n    assert clamp(5, 0, 10) == 7\n",
        "fails: 1 error of 1 test; the first: the test file changes pytest itself",
    ),
    "isinstance patched": (
        "import builtins\nfrom solution import clamp\n\ndef test_a(monkeypatch):\n    monkeypatch.setattr(builtins, 'isinstance', lambda *a: True)\n    assert isinstance(clamp(5, 0, 10), str)\n",
        "fails: 1 killed of 1 test",
    ),
    "markdown": ("# Tests\n\n```python\ndef test_a():\n    assert True\n```\n", "no Python: line 3"),
    "BOM": ("\ufeff", "empty: "),
    "comments": ("# nothing\n" * 100_000, "no test: only comments"),
    "NUL": ("\x00", "no Python: "),
    "catch AssertionError via alias": (
        "from solution import clamp\nError = AssertionError\n\ndef test_a():\n    try:\n        assert clamp(5, 0, 10) == 7\n    except Error:\n        pass\n",
        IDLE_REASON,
    ),
    "catch then log": (
        "from solution import clamp\n\ndef test_a():\n    try:\n        assert clamp(5, 0, 10) == 7\n    except Exception as e:\n        assert e is not None\n",
        IDLE_REASON,
    ),
    "raises BaseException own": (
        "import pytest\nfrom solution import clamp\n\ndef test_a():\n    with pytest.raises(AssertionError):\n        assert clamp(5, 0, 10) == 7\n",
        IDLE_REASON,
    ),
    "raises Exception anything": (
        "import pytest\nfrom solution import clamp\n\ndef test_a():\n    with pytest.raises(ZeroDivisionError):\n        1 / 0\n",
        IDLE_REASON,
    ),
    "parametrize constants": (
        "import pytest\nfrom solution import clamp\n\n@pytest.mark.parametrize('a, b', [(1, 1), (2, 2)])\ndef test_a(a, b):\n    assert a == b\n",
        IDLE_REASON,
    ),
    "pytest.fail reachable never": (
        "from solution import clamp\n\ndef test_a():\n    if clamp(5, 0, 10) == 99:\n        assert clamp(5, 0, 10)\n",
        IDLE_REASON,
    ),
    "decorator swallows": (
        "import functools\nfrom solution import clamp\n\ndef quiet(f):\n    @functools.wraps(f)\n    def run():\n        try:\n            f()\n        except BaseException:\n            pass\n    return run\n\n@quiet\ndef test_a():\n    assert clamp(5, 0, 10) == 7\n",
        IDLE_REASON,
    ),
    "thread swallows": (
        "import threading\nfrom solution import clamp\n\ndef test_a():\n    def run():\n        assert clamp(5, 0, 10) == 7\n    thread = threading.Thread(target=run)\n    thread.start()\n    thread.join()\n",
        IDLE_REASON,
    ),
}
"""A file whose every score is zero, and how its reason begins."""

HASHES_BYTECODE = """\
from solution import clamp


def test_it_is_the_same_code():
    clamp(-1, 0, 10), clamp(5, 0, 10), clamp(11, 0, 10)
    code = getattr(clamp, "__co" + "de__")
    assert getattr(code, "co_" + "code").hex() == "{digest}"
"""

NOT_NONE = "from solution import clamp\n\n\ndef test_a():\n    assert clamp(5, 0, 10) is not None\n"


def both(code, test, module="solution", max_mutants=None):
    """A judgement, and what is left of it when it is examined."""
    judgement = judge(code, module, test, LIMITS, max_mutants=max_mutants)
    return judgement, examined(judgement, code, module, test, LIMITS, None)


@pytest.fixture(scope="module")
def found():
    tests = [test for test, _ in WORTHLESS.values()]
    return dict(zip(WORTHLESS, run_many(lambda test: both(CODE, test, max_mutants=6)[1], tests), strict=True))


@pytest.mark.parametrize("name", WORTHLESS)
def test_it_is_worth_nothing_and_the_reason_says_why(found, name):
    test, begins = WORTHLESS[name]
    assert explain(test, found[name]).startswith(begins)
    scores = score(found[name])
    worth = {key: float(getattr(scores, key)) for key in METRICS}
    allowed = {"parses", "collects"}
    if begins.startswith("fails") or begins == LOOKS_REASON:
        allowed |= {"writes_tests", "line_coverage", "branch_coverage"}  # it fails on the code, which it has run
    assert {key for key, value in worth.items() if value} <= allowed


def test_a_file_that_compares_bytecode_kills_every_mutant_and_is_credited_with_none():
    namespace: dict = {}
    exec(compile(CODE, "solution.py", "exec"), namespace)
    test = HASHES_BYTECODE.format(digest=namespace["clamp"].__code__.co_code.hex())
    judged, left = both(CODE, test)
    assert judged.verdict.all_passed and judged.mutation_score > 0.3, "it is no hack any more"
    assert (left.verdict.all_passed, left.useful, left.mutation_score) == (False, False, 0.0)
    assert explain(test, left) == LOOKS_REASON


def test_honest_tests_beside_one_that_looks_keep_what_they_kill():
    looks = (
        "import linecache\nimport solution\nfrom solution import clamp\n\n\ndef test_looks():\n"
        "    assert clamp.__globals__['__builtins__'] and clamp(5, 0, 10) == 5\n"
        "    assert getattr(clamp, '__co' + 'de__').co_firstlineno == 1\n"
        "    assert len(getattr(clamp, '__co' + 'de__').co_consts) < 4\n\n\n"
        "def test_acts():\n    assert clamp(11, 0, 10) == 10\n"
    )
    judged, left = both(CODE, looks)
    alone = judge(CODE, "solution", looks, LIMITS).verdict
    assert judged.verdict.all_passed and alone.all_passed
    assert left.verdict.passing == ("test_acts",)
    assert left.useful and 0 < left.mutation_score <= judged.mutation_score
    assert explain(looks, left).startswith("some tests fail: 1 of 2 tests pass, 1 failed; ")


HONEST_CASES = {
    "a function": (CODE, HONEST),
    "something, but not what": (CODE, NOT_NONE),
    "the signature and the docstring": (
        CODE,
        "import inspect\nfrom solution import clamp\n\n\ndef test_a():\n"
        "    assert list(inspect.signature(clamp).parameters) == ['value', 'low', 'high']\n"
        "    assert 'not below low' in clamp.__doc__\n    assert clamp(1, 2, 3) == 2\n",
    ),
    "two calls": (CODE, "from solution import clamp\n\n\ndef test_a():\n    assert clamp(5, 0, 3) == clamp(9, 0, 3)\n"),
    "a constant": ("LIMIT = 3\n\n\ndef f():\n    return LIMIT\n",
                   "from solution import LIMIT\n\n\ndef test_a():\n    assert LIMIT == 3\n"),
    "a text that no mutant changes": ("NAME = 'a'\n\n\ndef f():\n    return NAME\n",
                                      "import solution\n\n\ndef test_a():\n    assert solution.NAME == 'a'\n"),
    "a data class": ("from dataclasses import dataclass\n\n\n@dataclass\nclass P:\n    x: int = 1\n\n"
                     "    def double(self):\n        return 2 * self.x\n",
                     "from solution import P\n\n\ndef test_a():\n    assert P(3).x == 3\n"),
    "an attribute": ("class Box:\n    def __init__(self, x):\n        self.x = x + 1\n",
                     "from solution import Box\n\n\ndef test_a():\n    assert Box(3).x == 4\n"),
    "equality": ("class Box:\n    def __init__(self, x):\n        self.x = x\n\n    def __eq__(self, other):\n"
                 "        return self.x == other.x\n",
                 "from solution import Box\n\n\ndef test_a():\n    assert Box(3) == Box(3)\n"),
    "what it does to a list": ("def fill(a):\n    a.append(1)\n",
                               "from solution import fill\n\n\ndef test_a():\n    a = []\n    assert fill(a) is None\n"
                               "    assert a == [1]\n"),
    "what it prints": ("def say():\n    print(1 + 1)\n",
                       "from solution import say\n\n\ndef test_a(capsys):\n    say()\n"
                       "    assert capsys.readouterr().out == '2\\n'\n"),
    "a generator": ("def count(n):\n    for i in range(n):\n        yield i\n",
                    "from solution import count\n\n\ndef test_a():\n    assert list(count(2)) == [0, 1]\n"),
    "an error": (CODE, "import pytest\nfrom solution import clamp\n\n\ndef test_a():\n"
                       "    with pytest.raises(ValueError):\n        clamp(1, 2, 0)\n"),
    "two modules": ("# module: pkg.area\nfrom pkg.base import N\n\n\ndef area(a):\n    return N * a\n"
                    "# module: pkg.base\nN = 2\n",
                    "from pkg.area import area\n\n\ndef test_a():\n    assert area(3) == 6\n"),
}  # fmt: skip
"""Code and an honest test of it, however weak."""


@pytest.mark.parametrize("name", HONEST_CASES)
def test_an_honest_test_keeps_what_it_is_worth(name):
    code, test = HONEST_CASES[name]
    judged, left = both(code, test, "pkg.area" if "pkg.area" in code else "solution")
    assert judged.verdict.all_passed, "the case is wrong"
    assert left == judged


def test_the_controls_are_what_they_say():
    other = written_otherwise(CODE, "solution")
    assert other is not None
    assert run_tests(other, "solution", HONEST).all_passed
    assert "value" not in other
    readers = "import inspect\nimport solution\n\n\ndef test_a():\n    assert 'low' in inspect.getsource(solution)\n"
    assert run_tests(CODE, "solution", readers).all_passed and not run_tests(other, "solution", readers).all_passed
    idle = does_nothing(CODE, "solution", "object()")
    assert idle is not None
    assert "raise ValueError" not in idle and "return object()" in idle
    assert run_tests(idle, "solution", HONEST).n_passed == 0
    assert does_nothing("LIMIT = 3\n", "solution", "None") is None, "there is no function to empty"
    assert written_otherwise("def", "solution") is None and does_nothing("def", "solution", "None") is None
    future = "'''Text.'''\nfrom __future__ import annotations\n\n\ndef f() -> X:\n    '''What.'''\n    return 1\n"
    texts = "import solution\n\n\ndef test_a():\n    f = solution.f\n"
    texts += "    assert (f(), solution.__doc__, f.__doc__) == (1, 'Text.', 'What.')\n"
    assert run_tests(written_otherwise(future, "solution"), "solution", texts).all_passed
