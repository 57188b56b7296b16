"""What a test asserts, told from what it is made to assert."""

import ast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowvram_ft.testgen.attempts.assertions import changed_expectation, loosened, weakened
from lowvram_ft.testgen.attempts.reading import read_tests
from lowvram_ft.testgen.texts.drop import drop_cases

CODE = """\
import time

LIMIT = 3


def area(w, h):
    return w + h


def now():
    return time.time()


class Stack:
    def __init__(self, items=()):
        self.items = list(items)

    def push(self, item):
        self.items.append(item)

    def pop(self):
        return self.items.pop()
"""
TOP = "import pytest\nimport solution\nfrom solution import LIMIT, Stack, area, now\n\n\n"


def facts(body, top=TOP, name="test_it"):
    if not body.lstrip().startswith(("def ", "@", "class ", "import ", "from ")) and "def test_it" not in body:
        body = "def test_it():\n" + "".join(f"    {line}\n" for line in body.splitlines())
    return read_tests(top + body, CODE)


def reason(old, new):
    before, after = facts(old), facts(new)
    (one,) = before.tests.values()
    (other,) = [test for name, test in after.tests.items() if name == one.name] or list(after.tests.values())[:1]
    return weakened(one, other, after.replaced - before.replaced)


SAME = {
    "sides": ("assert area(2, 3) == 6", "assert 6 == area(2, 3)"),
    "parentheses and quotes": ("assert area('a', (3)) == 6", 'assert (area("a", 3)) == (6)'),
    "a message": ("assert area(2, 3) == 6", "assert area(2, 3) == 6, 'area'"),
    "keyword order": ("assert area(w=2, h=3) == 6", "assert area(h=3, w=2) == 6"),
    "a local name": ("assert area(2, 3) == 6", "found = area(2, 3)\nassert found == 6"),
    "two local names": ("w = 2\nassert area(w, 3) == 6", "width = 2\nwanted = 6\nassert wanted == area(width, 3)"),
    "the module's name": ("assert area(2, 3) == 6", "assert solution.area(2, 3) == 6"),
    "and": ("assert area(1, 2) == 2 and area(2, 3) == 6", "assert area(1, 2) == 2\nassert area(2, 3) == 6"),
    "more assertions": ("assert area(2, 3) == 6", "assert area(0, 0) == 0\nassert area(2, 3) == 6\nassert area(1, 1)"),
    "set-up of something else": ("assert area(2, 3) == 6", "Stack().push(1)\nassert area(2, 3) == 6"),
    "a fixture for the set-up": (
        "assert area(2, 3) == 6",
        "def test_it(monkeypatch):\n    monkeypatch.setenv('A', 'b')\n    assert area(2, 3) == 6\n",
    ),
    "what the code imports, patched": (
        "assert now() == 3",
        "def test_it(monkeypatch):\n    monkeypatch.setattr('solution.time.time', lambda: 3)\n    assert now() == 3\n",
    ),
    "raises, imported alone": (
        "with pytest.raises(ValueError, match='x'):\n    area(1, 2)",
        "from pytest import raises\n\n\ndef test_it():\n    with raises(ValueError, match='x'):\n        area(1, 2)\n",
    ),
    "more cases": (
        "@pytest.mark.parametrize('w, wanted', [(1, 2)])\ndef test_it(w, wanted):\n    assert area(w, 1) == wanted\n",
        "@pytest.mark.parametrize(('w', 'wanted'), [(0, 1), pytest.param(1, 2, id='one')])\n"
        "def test_it(w, wanted):\n    assert area(w, 1) == wanted\n",
    ),
    "an alias of the import": (
        "assert area(2, 3) == 6", "from solution import area as f\n\n\ndef test_it():\n    assert f(2, 3) == 6\n"
    ),
}  # fmt: skip

OTHER = {
    "a value": ("assert area(2, 3) == 6", "assert area(2, 3) == 5"),
    "a kind of value": ("assert area(2, 3) == 1", "assert area(2, 3) == True"),
    "an argument": ("assert area(2, 3) == 6", "assert area(2, 4) == 6"),
    "the order of arguments": ("assert area(2, 3) == 6", "assert area(3, 2) == 6"),
    "an argument above": ("w = 2\nassert area(w, 3) == 6", "w = 3\nassert area(w, 3) == 6"),
    "an argument above, changed again": ("w = 2\nassert area(w, 3) == 6", "w = 2\nw += 1\nassert area(w, 3) == 6"),
    "the order of assertions": (
        "s = Stack([1, 2])\nassert s.pop() == 1\nassert s.pop() == 2",
        "s = Stack([1, 2])\nassert s.pop() == 2\nassert s.pop() == 1",
    ),
    "what is done to the object": (
        "s = Stack()\ns.push(1)\nassert s.pop() == 2", "s = Stack()\ns.push(2)\nassert s.pop() == 2"
    ),
    "what else is done to the object": (
        "s = Stack([2])\nassert s.pop() == 1", "s = Stack([2])\ns.items[0] = 1\nassert s.pop() == 1"
    ),
    "an attribute of the object": (
        "s = Stack([2])\nassert s.pop() == 1", "s = Stack([2])\ns.items = [1]\nassert s.pop() == 1"
    ),
    "one assertion of two alike": ("assert area(1, 2) == 2\nassert area(1, 2) == 2", "assert area(1, 2) == 2"),
    "the exception": (
        "with pytest.raises(ValueError):\n    area(1, 2)", "with pytest.raises(Exception):\n    area(1, 2)"
    ),
    "the match": (
        "with pytest.raises(ValueError, match='x'):\n    area(1, 2)", "with pytest.raises(ValueError):\n    area(1, 2)"
    ),
    "the call that raises": (
        "with pytest.raises(TypeError):\n    area(1, 2)", "with pytest.raises(TypeError):\n    area(1, 'a')"
    ),
    "more calls that may raise": (
        "with pytest.raises(TypeError):\n    area(1, 2)",
        "with pytest.raises(TypeError):\n    area(1, 2)\n    area(1, 'a')",
    ),
    "a loop": (
        "for w in (1, 2):\n    assert area(w, 1) == w", "for w in (0,):\n    assert area(w, 1) == w"
    ),
    "a loop that is empty": ("assert area(1, 1) == 1", "for _ in ():\n    assert area(1, 1) == 1"),
    "a name of the file": (
        "WANTED = 6\n\n\ndef test_it():\n    assert area(2, 3) == WANTED\n",
        "WANTED = 5\n\n\ndef test_it():\n    assert area(2, 3) == WANTED\n",
    ),
    "a helper": (
        "def check(a, b):\n    assert a == b\n\n\ndef test_it():\n    check(area(2, 3), 6)\n",
        "def check(a, b):\n    assert a <= b\n\n\ndef test_it():\n    check(area(2, 3), 6)\n",
    ),
    "a fixture": (
        "@pytest.fixture\ndef two():\n    return 2\n\n\ndef test_it(two):\n    assert area(two, 3) == 6\n",
        "@pytest.fixture\ndef two():\n    return 3\n\n\ndef test_it(two):\n    assert area(two, 3) == 6\n",
    ),
    "what a fixture stands on": (
        "@pytest.fixture\ndef one():\n    return 2\n\n\n@pytest.fixture\ndef two(one):\n    return one\n\n\n"
        "def test_it(two):\n    assert area(two, 3) == 6\n",
        "@pytest.fixture\ndef one():\n    return 3\n\n\n@pytest.fixture\ndef two(one):\n    return one\n\n\n"
        "def test_it(two):\n    assert area(two, 3) == 6\n",
    ),
    "a case": (
        "@pytest.mark.parametrize('w, wanted', [(1, 2)])\ndef test_it(w, wanted):\n    assert area(w, 1) == wanted\n",
        "@pytest.mark.parametrize('w, wanted', [(1, 3)])\ndef test_it(w, wanted):\n    assert area(w, 1) == wanted\n",
    ),
    "a case that is marked": (
        "@pytest.mark.parametrize('w', [1])\ndef test_it(w):\n    assert area(w, 1) == 1\n",
        "@pytest.mark.parametrize('w', [pytest.param(1, marks=pytest.mark.xfail)])\n"
        "def test_it(w):\n    assert area(w, 1) == 1\n",
    ),
    "set-up of its class": (
        "class TestIt:\n    def setup_method(self):\n        self.w = 2\n\n"
        "    def test_it(self):\n        assert area(self.w, 3) == 6\n",
        "class TestIt:\n    def setup_method(self):\n        self.w = 3\n\n"
        "    def test_it(self):\n        assert area(self.w, 3) == 6\n",
    ),
    "a part of the code, patched": (
        "s = Stack([1])\nassert s.pop() == 2",
        "def test_it(monkeypatch):\n    monkeypatch.setattr(Stack, 'pop', lambda self: 2)\n"
        "    s = Stack([1])\n    assert s.pop() == 2\n",
    ),
    "a part of the code, patched by a decorator": (
        "assert area(2, 3) == 6",
        "from unittest.mock import patch\n\n\n@patch('solution.area', lambda w, h: 6)\n"
        "def test_it():\n    assert solution.area(2, 3) == 6\n",
    ),
    "a decorator that forgives": (
        "assert area(2, 3) == 6",
        "def forgiving(test):\n    def run():\n        try:\n            test()\n        except AssertionError:\n"
        "            area(1, 1)\n\n    return run\n\n\n@forgiving\ndef test_it():\n    assert area(2, 3) == 6\n",
    ),
    "a mark": ("assert area(2, 3) == 6", "@pytest.mark.xfail\ndef test_it():\n    assert area(2, 3) == 6\n"),
    "an import from elsewhere": (
        "assert area(2, 3) == 6", "from operator import mul as area\n\n\ndef test_it():\n    assert area(2, 3) == 6\n"
    ),
}  # fmt: skip


@pytest.mark.parametrize("way", SAME)
def test_the_same_assertions_in_another_spelling_are_the_same(way):
    assert reason(*SAME[way]) is None


@pytest.mark.parametrize("way", OTHER)
def test_other_assertions_are_told_as_such(way):
    assert reason(*OTHER[way]) is not None
    assert reason(OTHER[way][0], OTHER[way][0]) is None


names = st.sampled_from(["a", "b", "c"])
values = st.one_of(st.integers(-9, 9), st.text("xyz", max_size=2), st.booleans(), st.none())
operands = st.recursive(
    values.map(repr),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda pair: f"area({pair[0]}, {pair[1]})"),
        st.lists(inner, max_size=2).map(lambda parts: f"[{', '.join(parts)}]"),
        st.tuples(inner, st.sampled_from(["+", "-"]), inner).map(lambda parts: f"({' '.join(parts)})"),
    ),
    max_leaves=6,
)


@given(operands, operands, names)
def test_swapping_sides_and_naming_a_side_change_nothing(left, right, name):
    plain = facts(f"assert area({left}, 1) == {right}").tests["test_it"]
    for spelling in (
        f"assert {right} == area({left}, 1)",
        f"{name} = area({left}, 1)\nassert {name} == {right}",
        f"{name} = {left}\nother = {right}\nassert other == solution.area({name}, 1)",
    ):
        assert [check.key for check in facts(spelling).tests["test_it"].checks] == [plain.checks[0].key]


@given(operands, operands, operands, operands)
def test_two_comparisons_are_the_same_only_where_their_sides_are(left, right, other_left, other_right):
    def key(*sides):
        return facts(f"assert area({sides[0]}, 1) == {sides[1]}").tests["test_it"].checks[0].key

    def dumped(*sides):
        return sorted(ast.dump(ast.parse(text)) for text in (f"area({sides[0]}, 1)", sides[1]))

    assert (key(left, right) == key(other_left, other_right)) == (
        dumped(left, right) == dumped(other_left, other_right)
    )


def test_a_value_that_leads_back_to_its_name_ends():
    body = "a = 1\nwhile a:\n    b = a\n    a = b\n    assert area(a, b) == 1"
    assert reason(body, body) is None
    assert reason(body, body.replace("a = 1", "a = 2")) is not None


def test_values_that_grow_are_not_put_in_the_place_of_their_names():
    steps = "\n".join(f"x{n + 1} = x{n} + x{n}" for n in range(60))
    body = f"x0 = area(1, 2)\n{steps}\nassert x60 == 3"
    (check,) = facts(body).tests["test_it"].checks
    assert len(check.key) < 2_000_000
    assert reason(body, body.replace("area(1, 2)", "area(1, 3)")) is not None


# --- repairs of broken tests


@pytest.mark.parametrize(
    ("old", "new", "lost"),
    [
        ("assert area(1, x) == 2", "assert area(1, 1) == 2", False),
        ("assert area(1, x) == 2\nassert area(1, 1)", "assert area(1, 1) == 2", True),
        ("assert area(1, x) == 2", "assert area(1, 1) == 2\nassert area(0, 0) == 0", False),
        ("assert area(1, x) == 2", "@pytest.mark.xfail\ndef test_it():\n    assert area(1, 1) == 2\n", True),
        ("assert area(1, x) == 2", "assert True", True),
        ("assert area(1, x) == 2", "assert area(1, 1) >= 2", True),
        ("assert area(1, x) == 2", "with pytest.raises(TypeError):\n    area(1)", False),
    ],
)
def test_a_repair_has_as_many_checks(old, new, lost):
    assert (loosened(facts(old).tests["test_it"], facts(new).tests["test_it"]) is not None) == lost


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        ("assert area(2, 3) == 6\nx", "assert area(2, 3) == 5", True),
        ("assert area(2, 3) == 6\nx", "assert area(2, 3) == 6", False),
        ("assert area(2, 3) == 6\nx", "assert area(2, 3) > 1", True),
        ("assert area(2, 3) == 6\nx", "y = area(2, 3)\nassert y", True),
        ("assert area(2, 3) == 6\nx", "assert area(3, 3) == 6", False),
        ("assert area(2, 3) == X", "assert area(2, 3) == 5", False),
        (
            "@pytest.mark.parametrize('w, n', [(1, 2)])\ndef test_it(w, n, z):\n    assert area(w, 1) == n\n",
            "@pytest.mark.parametrize('w, n', [(1, 3)])\ndef test_it(w, n):\n    assert area(w, 1) == n\n",
            True,
        ),
    ],
)  # fmt: skip
def test_a_repair_expects_the_same_of_the_same_call(old, new, changed):
    assert (changed_expectation(facts(old).tests["test_it"], facts(new).tests["test_it"]) is not None) == changed


def test_a_text_that_is_no_python_has_no_tests():
    assert read_tests("def test_it(:", CODE).tests == {}


# --- cases of parametrized tests


LISTS = '@pytest.mark.parametrize("n", [1, (2), "c"], ids=["a", "b", "c"])\ndef test_n(n):\n    assert n  # odd\n'


def test_cases_go_one_by_one_with_their_ids():
    left = drop_cases(LISTS, "test_n", {1}, 3)
    assert left == LISTS.replace("[1, (2), ", "[1, ").replace('"a", "b", ', '"a", ')


@pytest.mark.parametrize(
    ("text", "n_cases"),
    [
        (LISTS, 4), (LISTS.replace('[1, (2), "c"]', "CASES"), 3), (LISTS.replace('["a", "b", "c"]', "str"), 3),
        (LISTS.replace('[1, (2), "c"]', "[*CASES, 2, 3]"), 3), ('@pytest.mark.parametrize("m", [1])\n' + LISTS, 3),
        (LISTS.replace("test_n", "test_m"), 3), ("def test_n(:", 3),
    ],
)  # fmt: skip
def test_cases_that_are_not_a_list_in_the_text_are_left_to_the_caller(text, n_cases):
    assert drop_cases(text, "test_n", {1}, n_cases) is None


def test_the_last_case_is_not_dropped():
    assert drop_cases(LISTS, "test_n", {0, 1, 2}, 3) is None
