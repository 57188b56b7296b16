"""Trimming: what is kept, what is left out, and, by running them, that the pieces work."""

import json
from importlib.resources import files

import pytest

from lowvram_ft.data.trimming import trim
from lowvram_ft.data.trimming.grouping import group
from lowvram_ft.data.trimming.trim import Piece, definitions, pieces, reached, trim_code, trim_test
from lowvram_ft.execution import run_tests


def kept(code, *names):
    """The names that a trimmed module still binds when it has run."""
    space = {"__name__": "trimmed"}
    exec(compile(trim_code(code, names), "trimmed", "exec"), space)
    return {name for name in space if not name.startswith("__")}


# --- the module

SHOP = '''\
"""A shop."""

# licence

import json
import os, sys
from typing import (
    Any,  # anything
    Dict,
)

__all__ = ["price", "Cart"]

RATE = 2
"""What a thing costs."""
UNUSED = sys.maxsize


# how prices are made
def price(n: int) -> int:
    # as it is written
    return n * RATE   # formatting too


def other():
    return json.dumps(UNUSED)


class Cart:
    items: Dict[str, int]

    def total(self):
        return sum(price(n) for n in self.items.values())


if __name__ == "__main__":
    print(other())
'''


def test_what_is_kept_is_kept_as_it_is_written():
    assert (
        trim_code(SHOP, ["Cart"])
        == '''\
from typing import Dict

RATE = 2
"""What a thing costs."""


# how prices are made
def price(n: int) -> int:
    # as it is written
    return n * RATE   # formatting too


class Cart:
    items: Dict[str, int]

    def total(self):
        return sum(price(n) for n in self.items.values())
'''
    )
    assert trim_code(SHOP, ["other"]).startswith("import json\nimport sys\n\nUNUSED = sys.maxsize\n\n\ndef other")


def test_definitions_are_the_functions_and_classes_at_the_top_in_order():
    assert definitions(SHOP) == ("price", "other", "Cart")
    assert definitions("async def a(): pass\nif x:\n    def b(): pass\ndef a(): pass\n") == ("a",)


@pytest.mark.parametrize("broken", ["def f(:", "x = '\0'", "(" * 3000, "\ud800"])
def test_what_does_not_parse_is_given_back_and_has_nothing(broken):
    assert definitions(broken) == trim.tests_of(broken) == ()
    assert reached(broken, "def test_a(): pass") == reached("x = 1", broken) == {}
    assert trim_code(broken, ["f"]) == trim_test(broken, ["test_a"]) == broken
    assert list(pieces(broken, "def test_a(): f()", lambda code, test: True)) == []
    assert list(pieces("def f(): pass", broken, lambda code, test: True)) == []


def test_deep_nesting_is_survived():
    for deep in ("-" * 900 + "x", "x" + ".a" * 2000, "+".join("x" * 3000), "(" * 150 + "x" + ")" * 150):
        code = f"x = 1\n\n\ndef f():\n    return {deep}\n\n\ndef g():\n    return x\n"
        assert "return x\n" in trim_code(code, ["g"])
        assert (
            list(pieces(code, "from solution import g\n\n\ndef test_g():\n    assert g()\n", lambda c, t: False)) == []
        )


NEEDS = {
    "a called function": ("def a(): return b()\ndef b(): pass\ndef z(): pass", {"a", "b"}),
    "a base class": ("class z: pass\nclass b: pass\nclass a(b): pass", {"a", "b"}),
    "a decorator": ("def b(f): return f\ndef z(f): return f\n@b\ndef a(): pass", {"a", "b"}),
    "a default": ("b = 1\nz = 2\ndef a(x=b): z = 3", {"a", "b"}),
    "a name in a nested function": ("b = 1\nc = 2\ndef a():\n    def i():\n        return b\n    c = 1", {"a", "b"}),
    "a whole assignment": ("b = z = 1\ndef a(): return b", {"a", "b", "z"}),
    "not a local of the same name": ("z = 1\ndef a(z): return [z for z in z]", {"a"}),
    "a string annotation": ("class b: pass\nclass z: pass\ndef a(x: 'b') -> 'list[b]': pass", {"a", "b"}),
    "a dataclass field": (
        "from dataclasses import dataclass, field\nb = 1\nz = 2\n@dataclass\nclass a:\n    x: int = field(default=b)",
        {"a", "b", "dataclass", "field"},
    ),
    "an enum member": ("import enum\nb = 1\nclass a(enum.Enum):\n    X = b\n    z = 2\nz = 3", {"a", "b", "enum"}),
    "a match statement": (
        "class b: pass\nclass z: pass\ndef a(x):\n    match x:\n        case b(): return 1\n        case z: return z",
        {"a", "b"},
    ),
    "a walrus at the top": ("(b := 3)\nz = 1\ndef a(): return b", {"a", "b"}),
    "a walrus in a function": ("b = 1\nz = 2\ndef a():\n    if (z := b): return z", {"a", "b"}),
    "a global that others set": (
        "b = 0\nz = 0\ndef a():\n    global b\n    b += 1\ndef c():\n    global z\n    z += 1",
        {"a", "b"},
    ),
    "all bindings of a name": ("b = 1\nb = b + 1\nz = 1\ndef a(): return b", {"a", "b"}),
    "a whole try": (
        "try:\n    import json as b\nexcept ImportError:\n    b = None\ntry:\n    import os as z\nexcept ImportError:\n"
        "    z = None\ndef a(): return b",
        {"a", "b"},
    ),
    "a whole if": ("import sys\nif sys.version_info:\n    b = c = 1\nelse:\n    c = 2\nz = 3\ndef a(): return c",
                   {"a", "b", "c", "sys"}),
    "a lambda": ("b = 1\nz = 2\na = lambda z: b + z", {"a", "b"}),
    "a comprehension in a class": ("b = [1]\nz = 2\nclass a:\n    y = [z for z in b]", {"a", "b"}),
    "a class attribute of the same name": ("b = 1\nclass a:\n    b = b", {"a", "b"}),
    "a name that is looked up": ("def z(): pass\ndef a(): return globals()['z']", {"a", "z"}),
    "a name of a property": ("b = 1\nclass a:\n    @property\n    def z(self): return b\nz = 1", {"a", "b"}),
}  # fmt: skip


@pytest.mark.parametrize("code", NEEDS, ids=list(NEEDS))
def test_a_definition_keeps_what_it_needs_and_no_more(code):
    text, names = NEEDS[code]
    assert kept(text, "a") == names


CHANGES = {
    "a method call": "B = []\nB.append(1)\nz = []\nz.append(1)\ndef a(): return B",
    "an item": "B = {}\nB['x'] = 1\nz = {}\nz['x'] = 1\ndef a(): return B",
    "an augmented assignment": "B = [1]\nB += [2]\nz = 1\nz += 1\ndef a(): return B",
    "a loop": "B = {}\nfor i in (1,):\n    B[i] = 1\nz = {}\nfor j in (1,):\n    z[j] = 1\ndef a(): return B",
    "a decorator that registers": (
        "B = {}\nz = {}\ndef reg(f):\n    B[f.__name__] = f\n    return f\n"
        "def rez(f):\n    z[f.__name__] = f\n    return f\n"
        "@reg\ndef h1(): pass\n@rez\ndef h2(): pass\ndef a(): return B"
    ),
    "a decorator with arguments": (
        "B = {}\nz = {}\ndef reg(n):\n    def deco(f):\n        B[n] = f\n        return f\n    return deco\n"
        "def rez(n):\n    def deco(f):\n        z[n] = f\n        return f\n    return deco\n"
        "@reg('x')\ndef h1(): pass\n@rez('x')\ndef h2(): pass\ndef a(): return B"
    ),
    "a registry object": (
        "class R:\n    def __init__(self): self.all = {}\n    def add(self, f): self.all[f.__name__] = f; return f\n"
        "    def __len__(self): return len(self.all)\n"
        "B = R()\nz = R()\n@B.add\ndef h1(): pass\n@z.add\ndef h2(): pass\ndef a(): return B"
    ),
    "a registering call in an assignment": (
        "B = []\nz = []\ndef reg(x):\n    B.append(x)\n    return x\ndef rez(x):\n    z.append(x)\n    return x\n"
        "h1 = reg(1)\nh2 = rez(1)\ndef a(): return B"
    ),
    "a subclass hook": (
        "class P:\n    all = []\n    def __init_subclass__(cls): P.all.append(cls)\n"
        "class B0(P): pass\nB = P.all\nclass z0: pass\nz = [z0]\ndef a(): return B"
    ),
}


@pytest.mark.parametrize("code", CHANGES, ids=list(CHANGES))
def test_what_changes_a_needed_name_on_import_is_needed_and_what_changes_others_is_not(code):
    text = CHANGES[code]
    whole, trimmed = {"__name__": "m"}, {"__name__": "m"}
    exec(text, whole)
    exec(trim_code(text, ["a"]), trimmed)
    assert len(trimmed["a"]()) == len(whole["a"]()) > 0
    assert "z" not in trimmed and "h2" not in trimmed


def test_singledispatch_keeps_its_implementations():
    code = "import functools\n@functools.singledispatch\ndef a(x): return 0\n@a.register\ndef _(x: int): return 1\n"
    space = {"__name__": "m"}
    exec(trim_code(code, ["a"]), space)
    assert space["a"](1) == 1


@pytest.mark.parametrize(
    "line",
    ["from os.path import *", "import sys; sys.path.insert(0, '')", "print('hello')", "assert True", "_ = print()",
     "from __future__ import annotations", "import os\nos.environ['A'] = 'b'", "def __getattr__(name): return 1"],
)  # fmt: skip
def test_what_is_done_on_import_and_cannot_be_analysed_stays(line):
    code = f"{line}\n\n\ndef a():\n    pass\n\n\ndef z():\n    pass\n"
    assert trim_code(code, ["a"]).split() == [*line.split(), "def", "a():", "pass"]


def test_type_checking_blocks_stay_where_an_annotation_needs_them():
    code = (
        "from __future__ import annotations\nfrom typing import TYPE_CHECKING\n\n"
        "if TYPE_CHECKING:\n    from x import T\n\n\n"
        "def a(t: T): pass\n\n\ndef b(): pass\n"
    )
    assert "from x import T" in trim_code(code, ["a"])
    assert trim_code(code, ["b"]) == "from __future__ import annotations\n\n\ndef b(): pass\n"


def test_lines_are_pythons_own_and_other_modules_of_a_row_stay():
    code = "X = 'a\x0cb'  # \u2028\ndef z(): pass\ndef a(): return X"
    assert trim_code(code, ["a"]).endswith("def a(): return X\n") and "\x0c" in trim_code(code, ["a"])
    several = "# module: p.one\n# first\n\ndef a(): pass\ndef z(): pass\n# module: p.two\nB = 1\n"
    assert trim_code(several, ["a"]) == "# module: p.one\ndef a(): pass\n# module: p.two\nB = 1\n"
    assert definitions(several) == ("a", "z")


# --- the test file

TESTS = '''\
"""Tests."""
import json
import os
import pytest

from solution import Cart, LIMIT, other, price, shop as sh
import solution

CASES = [price(1)]
OTHER = 2


@pytest.fixture
def cart():
    return Cart()


@pytest.fixture(name="full")
def make_full(cart):
    return cart


@pytest.fixture(autouse=True)
def clean():
    yield os.getcwd()


def check(x):
    assert x == other()


@pytest.mark.parametrize("case", CASES)
def test_case(case):
    check(case)


def test_cart(full):
    assert full


@pytest.mark.usefixtures("cart")
def test_marked():
    pass


def test_asked(request):
    assert request.getfixturevalue("cart")


def test_attribute():
    assert solution.LIMIT


class TestGroup:
    """Of tests."""

    size = 3

    def setup_method(self):
        self.x = price(1)

    def helper(self):
        return sh()

    def unused(self):
        return json.dumps(1)

    def test_one(self):
        assert self.helper()

    def test_two(self):
        # why
        assert self.x


class Helper:
    def test_nothing(self):
        pass
'''
CODE = "def price(n): return 1\ndef other(): return 1\nclass Cart: pass\ndef shop(): return 1\nLIMIT = 1\n"


def test_tests_are_named_as_pytest_names_them():
    assert trim.tests_of(TESTS) == ("test_case", "test_cart", "test_marked", "test_asked", "test_attribute",
                               "TestGroup::test_one", "TestGroup::test_two")  # fmt: skip
    ran = [result.name.partition("[")[0] for result in run_tests(CODE, "solution", TESTS).results]
    assert tuple(ran) == trim.tests_of(TESTS)


def test_inherited_nested_and_unittest_tests_are_found_as_pytest_finds_them():
    test = (
        "import unittest\n\n\nclass Base:\n    def test_base(self): pass\n\n\n"
        "class TestA(Base):\n    def test_a(self): pass\n\n\n"
        "class Cases(unittest.TestCase):\n    def test_u(self): pass\n\n\n"
        "class MoreCases(Cases):\n    def test_v(self): pass\n\n\n"
        "class TestOuter:\n    class TestInner:\n        def test_i(self): pass\n\n\n"
        "class TestInit:\n    def __init__(self): pass\n    def test_never(self): pass\n"
    )
    ran = {result.name for result in run_tests("x = 1\n", "solution", test).results}
    assert set(trim.tests_of(test)) == ran
    assert "TestA::test_base" in ran and "TestInit::test_never" not in ran


def test_tests_reach_names_directly_and_through_all_that_pytest_links():
    found = reached(CODE, TESTS)
    assert {name: set(names) for name, names in found.items()} == {
        "test_case": {"price", "other"},
        "test_cart": {"Cart"},
        "test_marked": {"Cart"},
        "test_asked": {"Cart"},
        "test_attribute": {"LIMIT"},
        "TestGroup::test_one": {"price", "shop"},
        "TestGroup::test_two": {"price"},
    }


def test_autouse_fixtures_and_module_set_up_are_reached_by_every_test():
    test = (
        "import pytest\nfrom solution import Cart, price\n\n\n"
        "@pytest.fixture(autouse=True)\ndef c(): return Cart()\n\n\n"
        "def setup_module(): price(1)\n\n\ndef test_a(): pass\n"
    )
    assert reached(CODE, test) == {"test_a": {"Cart", "price"}}
    assert reached(CODE, test.replace("autouse=True", "autouse=False")) == {"test_a": {"price"}}


def test_names_taken_for_granted_or_by_a_star_are_reached():
    test = "def test_a():\n    price = 1\n    assert other() and price\n"
    assert reached(CODE, test) == reached(CODE, "from solution import *\n" + test) == {"test_a": {"other"}}


def test_a_test_that_hands_the_module_on_reaches_all_and_one_that_patches_a_name_that_name():
    test = (
        "import solution\nimport inspect\n\n\ndef test_a():\n    assert inspect.getsource(solution)\n\n\n"
        "def test_b(monkeypatch):\n    monkeypatch.setattr(solution, 'price', len)\n    assert solution.other()\n"
    )
    assert reached(CODE, test) == {
        "test_a": {"price", "other", "Cart", "shop", "LIMIT"},
        "test_b": {"price", "other"},
    }


def test_kept_tests_keep_what_they_use_and_no_more():
    assert (
        trim_test(TESTS, ["TestGroup::test_two"])
        == '''\
import os
import pytest

from solution import price


@pytest.fixture(autouse=True)
def clean():
    yield os.getcwd()


class TestGroup:
    """Of tests."""

    size = 3

    def setup_method(self):
        self.x = price(1)

    def test_two(self):
        # why
        assert self.x
'''
    )


@pytest.mark.parametrize("name", trim.tests_of(TESTS))
def test_every_test_runs_alone(name):
    trimmed = trim_test(TESTS, [name])
    assert trim.tests_of(trimmed) == (name,)
    assert len(trimmed) < 0.6 * len(TESTS)
    verdict = run_tests(trim_code(CODE, reached(CODE, TESTS)[name]), "solution", trimmed)
    assert verdict.all_passed and len(verdict.results) == 1, verdict.log


# --- pieces


def by_size(limit):
    return lambda code, test: len(code) + len(test) <= limit


def samples():
    path = files("lowvram_ft.data") / "samples" / "modules.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_what_fits_as_it_is_is_one_piece_unchanged():
    (piece,) = pieces(CODE, TESTS, lambda code, test: True)
    assert piece == Piece(CODE, TESTS, ("price", "other", "Cart", "shop"), trim.tests_of(TESTS))
    assert list(pieces(CODE, TESTS, lambda code, test: False)) == []
    assert list(pieces("X = 1\n", "def test_a():\n    assert True\n", lambda code, test: True)) == []


def test_pieces_of_the_samples_pass_where_the_whole_does_and_fit():
    made = 0
    for number, row in enumerate(samples()):
        whole = len(row["code"]) + len(row["test"])
        limit = int(whole * (0.5, 0.65, 0.8)[number % 3])
        found = list(pieces(row["code"], row["test"], by_size(limit)))
        assert found == list(pieces(row["code"], row["test"], by_size(limit))), "it is deterministic"
        seen = [name for piece in found for name in piece.tests]
        assert len(seen) == len(set(seen)), "each test is in one piece"
        for piece in found[: 1 + number % 2]:
            assert len(piece.code) + len(piece.test) <= limit
            assert trim.tests_of(piece.test) == piece.tests and set(piece.names) <= set(definitions(piece.code))
            verdict = run_tests(piece.code, row.get("module", "solution"), piece.test)
            assert verdict.all_passed and len(verdict.results) >= len(piece.tests), (row["id"], verdict.log)
            made += 1
    assert made >= 24


def test_a_piece_that_lacks_what_it_needs_would_be_seen_to_fail():
    row = samples()[0]
    piece = next(iter(pieces(row["code"], row["test"], by_size(0.8 * len(row["code"] + row["test"])))))
    name = piece.names[0]
    spoilt = piece.code.replace(f"def {name}(", "def gone(").replace(f"class {name}", "class Gone")
    assert not run_tests(spoilt, "solution", piece.test).all_passed


def test_a_larger_limit_makes_fewer_and_larger_pieces():
    row = samples()[0]
    whole = len(row["code"]) + len(row["test"])
    counts = [len(list(pieces(row["code"], row["test"], by_size(whole * share)))) for share in (0.7, 0.85, 1.0)]
    assert counts[-1] == 1 and counts == sorted(counts, reverse=True)


def test_a_definitions_tests_stay_together_where_that_fits():
    code = "".join(f"def f{i}():\n    return {i}\n\n\n" for i in range(6))
    test = "from solution import f0, f1, f2, f3, f4, f5\n" + "".join(
        f"\n\ndef test_{i}_{part}():\n    assert f{i}() == {i}\n" for part in "ab" for i in range(6)
    )
    found = list(pieces(code, test, by_size(350)))
    names = [name for piece in found for name in piece.names]
    assert sorted(names) == [f"f{i}" for i in range(6)], "each is under test in one piece"
    assert [name for piece in found for name in piece.tests if name.endswith("a")] == [f"test_{i}_a" for i in range(6)]
    assert 2 <= len(found) <= 3


def test_a_definition_whose_tests_do_not_fit_together_is_in_several_pieces():
    code = "def f():\n    return 1\n"
    test = "from solution import f\n" + "".join(f"\n\ndef test_{i}():\n    assert f() == 1\n" for i in range(9))
    found = list(pieces(code, test, by_size(160)))
    assert len(found) > 1 and all(piece.names == ("f",) for piece in found)
    assert [name for piece in found for name in piece.tests] == [f"test_{i}" for i in range(9)]


def test_classes_that_share_tests_are_never_taken_apart():
    code = "def f(): return 1\n\n\ndef g(): return 1\n"
    test = (
        "from solution import f, g\n\n\nclass Base:\n    def test_f(self):\n        assert f()\n\n\n"
        "class TestA(Base):\n    def test_g(self):\n        assert g()\n\n\ndef test_alone():\n    assert g()\n"
    )
    for limit in range(0, len(code) + len(test) + 1, 20):
        for piece in pieces(code, test, by_size(limit)):
            assert ("TestA::test_f" in piece.tests) == ("TestA::test_g" in piece.tests)
            assert run_tests(piece.code, "solution", piece.test).all_passed


# --- grouping


def test_groups_put_the_rarest_name_first_and_merge_what_fits():
    names = [{"hub", "a"}, {"hub", "b"}, {"hub", "a"}, {"hub"}, set()]
    assert group(names, lambda items: len(items) <= 2) == [(0, 2), (1, 3)]
    assert group(names, lambda items: True) == [(0, 1, 2, 3)]
    assert group(names, lambda items: 0 not in items) == [(1, 2, 3)]
    assert group(names, lambda items: False) == []


def test_a_group_is_asked_for_once():
    asked = []
    group([{"a"}, {"a"}, {"b"}, {"c"}], lambda items: bool(asked.append(items)) or len(items) < 2)
    assert len(asked) == len(set(asked))
