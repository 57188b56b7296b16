"""Converting unittest files: the same tests pass and fail, on the code and on mutants of it."""

import ast
import itertools
import math
import random
import sys
import textwrap
import unittest

import pytest

from lowvram_ft.data.unittest_style.almost import same_as_rounding
from lowvram_ft.data.unittest_style.convert import NotConvertible, to_pytest, uses_unittest
from lowvram_ft.execution import run_many
from tests.unittest_comparison import Difference, compare_mutants, compare_run, original_name, runs_here
from tests.unittest_refusals import FRAMES, REFUSED
from tests.unittest_texts import PAIRS

HERE = [pair for pair in PAIRS if runs_here(pair.last_python)]
BY_NAME = {pair.name: pair for pair in PAIRS}
MUTATED = ["raises as a call", "almost equal on the edge", "an account"]


@pytest.fixture(scope="module")
def runs() -> dict[str, list[Difference]]:
    # converted before the threads begin: Python 3.11 mixes up syntax trees that two threads make at the same time
    jobs = [(pair, to_pytest(pair.test)) for pair in HERE]
    found = run_many(lambda job: compare_run(job[0].code, job[0].stand_in + job[0].test, job[1]), jobs)
    return dict(zip([pair.name for pair in HERE], found, strict=True))


@pytest.mark.parametrize("name", [pair.name for pair in HERE])
def test_the_same_tests_pass_and_fail(name: str, runs: dict[str, list[Difference]]) -> None:
    assert runs[name] == []


@pytest.mark.parametrize("name", MUTATED)
def test_the_same_mutants_are_killed(name: str) -> None:
    pair = BY_NAME[name]
    differences, run, killed = compare_mutants(pair.code, pair.test, to_pytest(pair.test), max_mutants=6)
    assert differences == []
    assert run > killed > 0


WEAKENED = [
    ("types that are checked", "    assert isinstance(actual, (set, frozenset))\n", ""),
    ("equal", "assert add(2) == 3", "assert add(2)"),
    ("almost equal on the edge", "round(abs(edge(1) - 0), 2) == 0", "edge(1) == pytest.approx(0, abs=0.005, rel=0)"),
    ("almost equal", "abs=5e-8, rel=0", "rel=1e-5"),
    ("raises as a call", "pytest.raises(TypeError, half, half(", "pytest.raises(TypeError, lambda x: half(half(x)), ("),
    ("an account", 'message = f"{account}"\n        ', ""),
    ("not almost equal", "round(abs(numbers(2) - 1.0), 7) != 0", "numbers(2) != pytest.approx(1.0, abs=5e-8, rel=0)"),
    ("loops over cases", "(1, 1), (0, 1), (-4, -1)", "(1, 1), (-4, -1)"),
    ("expected failures", "strict=True", "strict=False"),
]


@pytest.mark.parametrize(("name", "old", "new"), WEAKENED)
def test_a_weaker_conversion_is_found_out(name: str, old: str, new: str) -> None:
    pair = BY_NAME[name]
    converted = to_pytest(pair.test)
    assert old in converted
    weaker = "import pytest\n" + converted.replace(old, new).replace(
        ", message", "" if "message" in old else ", message"
    )
    found = compare_run(pair.code, pair.test, weaker)
    if not found:
        found, _, _ = compare_mutants(pair.code, pair.test, weaker)
    assert found


def test_a_stronger_conversion_is_found_out() -> None:
    pair = BY_NAME["equal"]
    stronger = to_pytest(pair.test).replace("assert add(1, 2) != 4", "assert add(1, 2) > 3")
    assert [one.what for one in compare_run(pair.code, pair.test, stronger)] == [
        "TestIt::test_not_equal: passed, but failed"
    ]


def test_names_are_traced_back() -> None:
    originals = ["AddTests::test_a", "AddTests::test_ab", "TestIt::test_b", "test_plain[1]"]
    traced = ["test_a", "TestAdd::test_a", "test_a[1-2]", "test_ab", "TestIt::test_b[x]", "test_plain[1]", "test_c"]
    assert [original_name(name, originals) for name in traced] == [
        *["AddTests::test_a"] * 3,
        "AddTests::test_ab",
        "TestIt::test_b",
        "test_plain[1]",
        None,
    ]


def test_every_assertion_method_is_among_the_texts() -> None:
    methods = {
        name for name in dir(unittest.TestCase) if name.startswith(("assert", "fail")) and name != "failureException"
    }
    used = {node.attr for pair in PAIRS for node in ast.walk(ast.parse(pair.test)) if isinstance(node, ast.Attribute)}
    assert methods - used == {"assertLogs", "assertNoLogs"}  # which are refused
    assert len(PAIRS) >= 60


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.name)
def test_nothing_of_unittest_is_left_but_mock(pair) -> None:
    converted = to_pytest(pair.test)
    tree = ast.parse(converted)
    assert not uses_unittest(converted)
    assert uses_unittest(pair.test)
    imports = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert all("mock" in line for line in imports if "unittest" in line)
    called = [
        node.func.attr for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    ]
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    assert not [name for name in called if hasattr(unittest.TestCase, name) and name not in own and name != "fail"]
    assert ("pytest" in converted) == ("import pytest" in converted)
    with pytest.raises(NotConvertible, match="no TestCase class"):
        to_pytest(converted)


def test_comments_are_kept() -> None:
    for name in ("comments", "several lines", "loops over cases", "text of several lines in a class"):
        text = BY_NAME[name].test
        comments = [line.partition("#")[2].strip() for line in text.split("\n") if "#" in line]
        converted = to_pytest(text)
        gone = [comment for comment in comments if comment not in converted]
        assert [c for c in gone if c not in ("of the library", "on its line", "pragma: no cover")] == []


def test_an_idiomatic_file_comes_out() -> None:
    original = '''\
import unittest
from solution import add, half


class TestAdd(unittest.TestCase):
    def test_add(self):
        """Adds."""
        self.assertEqual(add(1, 2), 3)  # small
        self.assertAlmostEqual(half(3), 1.5, places=3)

    def test_cases(self):
        for x, expected in [(1, 2), (0, 1)]:
            with self.subTest(x=x):
                self.assertEqual(add(x), expected)

    def test_error(self):
        with self.assertRaises(TypeError) as cm:
            half("a")
        self.assertIn("number", str(cm.exception))


if __name__ == "__main__":
    unittest.main()
'''
    assert (
        to_pytest(original)
        == '''\
import pytest
from solution import add, half


def test_add():
    """Adds."""
    assert add(1, 2) == 3  # small
    assert half(3) == pytest.approx(1.5, abs=0.0005, rel=0)


@pytest.mark.parametrize(("x", "expected"), [(1, 2), (0, 1)])
def test_cases(x, expected):
    assert add(x) == expected


def test_error():
    with pytest.raises(TypeError) as excinfo:
        half("a")
    assert "number" in str(excinfo.value)
'''
    )


OPERANDS = """
a ; -a ; not a ; a + b ; a * b ; a ** b ; a | b ; a & b ; a << 1 ; ~a ; a < b ; a in b ; a is b ; a and b ; a or b
a if b else c ; lambda: a ; (lambda x: x)(a) ; (n := a) ; a.b ; a[b] ; a(b) ; (a, b) ; () ; [a] ; {a: b} ; {a}
[x for x in a] ; (x for x in a) ; f"{a}" ; "a" "b" ; 1 ; -1 ; 1.5 ; None ; a < b < c ; not a in b ; (a) ; ((a or b))
"""


def _operands() -> list[str]:
    several_lines = ["a\n+ b", "a\n.b", "[\na]"]
    return several_lines + [text.strip() for line in OPERANDS.strip().split("\n") for text in line.split(" ; ")]


def _asserted(call: str) -> ast.expr:
    text = f"import unittest\nclass TestIt(unittest.TestCase):\n    def test_a(self):\n        self.{call}\n"
    function = ast.parse(to_pytest(text)).body[-1]
    assert isinstance(function, ast.FunctionDef)
    statement = function.body[-1]
    assert isinstance(statement, ast.Assert)
    return statement.test


def test_operands_keep_their_meaning() -> None:
    pairs = list(itertools.product(_operands(), repeat=2))
    for left, right in random.Random(1).sample(pairs, 250):
        found = _asserted(f"assertEqual({left}, {right})")
        wanted = ast.Compare(_parsed(left), [ast.Eq()], [_parsed(right)])
        assert ast.dump(found) == ast.dump(wanted), (left, right)


def test_truth_keeps_its_meaning() -> None:
    for operand in _operands():
        if isinstance(_parsed(operand), ast.Tuple):
            continue
        assert ast.dump(_asserted(f"assertTrue({operand})")) == ast.dump(_parsed(operand)), operand
        found, tree = _asserted(f"assertFalse({operand})"), _parsed(operand)
        for a, b, c in itertools.product((0, 1), repeat=3):
            names = {"a": a, "b": [b], "c": c}
            outcomes = []
            for expression in (found, tree):
                try:
                    code = compile(ast.fix_missing_locations(ast.Expression(expression)), "", "eval")
                    outcomes.append(bool(eval(code, dict(names))))
                except (TypeError, AttributeError) as error:
                    outcomes.append(type(error))
            assert outcomes[0] == (outcomes[1] if isinstance(outcomes[1], type) else not outcomes[1]), operand


def _parsed(operand: str) -> ast.expr:
    return ast.parse(f"({operand})", mode="eval").body


def _rounds_to_zero(x: float, number: float, places: int) -> bool:
    return x == number or round(abs(x - number), places) == 0


def test_the_tolerance_means_what_rounding_means() -> None:
    numbers = [0, 0.0, 1, -1, 2.5, 3.14159, 0.1, 0.005, 0.01, 1e-7, 1e6, 123456.789, 1 / 3, -0.3, 1e300]
    agreed, refused = 0, 0
    for number, places in itertools.product(numbers, range(10)):
        tolerance = float(f"5e-{places + 1}")
        same = same_as_rounding(number, places)
        agreed += same
        refused += not same
        edges = [number + sign * tolerance for sign in (-1, 1)]
        near = [x for edge in edges for x in _around(edge)] + [
            number,
            number + 2 * tolerance,
            float("inf"),
            float("nan"),
        ]
        differ = [
            x for x in near if (x == pytest.approx(number, abs=tolerance, rel=0)) != _rounds_to_zero(x, number, places)
        ]
        assert bool(differ) != same, (number, places, differ)
    assert agreed > 100
    assert refused >= 10


def _around(x: float) -> list[float]:
    found = [x]
    for direction in (-math.inf, math.inf):
        other = x
        for _ in range(40):
            other = math.nextafter(other, direction)
            found.append(other)
    return found


@pytest.mark.parametrize(("reason", "body"), REFUSED)
def test_what_is_not_certain_is_refused(reason: str, body: str) -> None:
    text = textwrap.indent(textwrap.dedent(body).strip("\n"), "    ")
    test = f"import unittest\nimport re\nfrom solution import *\n\n\nclass TestIt(unittest.TestCase):\n{text}\n"
    with pytest.raises(NotConvertible) as excinfo:
        to_pytest(test)
    assert excinfo.value.reason == reason


@pytest.mark.parametrize(("reason", "test"), FRAMES)
def test_what_is_not_certain_of_a_file_is_refused(reason: str, test: str) -> None:
    with pytest.raises(NotConvertible) as excinfo:
        to_pytest(textwrap.dedent(test))
    assert excinfo.value.reason == reason


HOSTILE = {
    "null bytes": "import unittest\0\n",
    "half a surrogate": "import unittest\nx = '\ud800'\n",
    "parentheses": "import unittest\nx = " + "(" * 5000 + ")" * 5000 + "\n",
    "minus signs": "import unittest\nx = " + "-" * 20000 + "1\n",
    "attributes": "import unittest\nx = a" + ".b" * 20000 + "\n",
    "a sum": "import unittest\nx = 1" + " + 1" * 20000 + "\n",
    "blocks": "import unittest\n" + "".join(" " * i + "if x:\n" for i in range(120)),
    "half a text": 'import unittest\nclass TestA(unittest.TestCase):\n    def test_a(self):\n        """\n',
    "only spaces": "  \n\t\n",
    "nothing": "",
    "an unknown escape": "import unittest\nx = '\\d'\n",
    "a form feed": "import unittest\n\f\nx = 1\n",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.filterwarnings("error")
def test_hostile_text_is_refused(text: str) -> None:
    with pytest.raises(NotConvertible) as excinfo:
        to_pytest(text)
    assert excinfo.value.reason in ("does not parse", "nested too deep", "no TestCase class")
    assert uses_unittest(text) is False


DEEP = {
    "a sum": "1" + " + 1" * 900,
    "lists": "[" * 90 + "]" * 90,
    "attributes": "a" + ".b" * 900,
    "calls": "f(" * 90 + ")" * 90,
    "texts": " ".join(['"a"'] * 3000),
}


@pytest.mark.parametrize("operand", DEEP.values(), ids=DEEP.keys())
def test_deep_operands_are_converted_or_refused(operand: str) -> None:
    head = "import unittest\nclass TestA(unittest.TestCase):\n    def test_a(self):\n"
    try:
        found = to_pytest(f"{head}        self.assertEqual(f(1), {operand})\n")
    except NotConvertible as error:
        found = error.reason
    assert f"assert f(1) == {operand}" in found or found in ("nested too deep", "does not parse")


@pytest.mark.parametrize(
    ("expected", "test"),
    [
        (True, "import unittest\nclass A(unittest.TestCase):\n    pass\n"),
        (True, "from unittest import TestCase\n"),
        (True, "from unittest import TestCase as Case\n"),
        (True, "import unittest as u\nclass A(u.IsolatedAsyncioTestCase):\n    pass\n"),
        (True, "from django.test import TestCase\nclass A(TestCase):\n    pass\n"),
        (False, "from unittest import mock\n"),
        (False, "import unittest.mock\ndef test_a():\n    pass\n"),
        (False, "from unittest.mock import patch\nclass TestA:\n    pass\n"),
        (False, "import unittest\n"),
        (False, "def test_a(:\n"),
        (False, ""),
    ],
)
def test_what_counts_as_unittest_style(expected: bool, test: str) -> None:
    assert uses_unittest(test) is expected
    if "(:" not in test:
        assert uses_unittest(ast.parse(test)) is expected


def test_no_warning_and_no_change_of_the_recursion_limit() -> None:
    limit = sys.getrecursionlimit()
    for pair in PAIRS[:5]:
        to_pytest(pair.test)
    assert sys.getrecursionlimit() == limit
