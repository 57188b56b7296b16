"""What counts in the normal form of code, and what does not."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import textwrap
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowvram_ft.data.duplicates.normalize import Part, normal_form
from lowvram_ft.data.syntax import parse
from tests.planted_duplicates import NEAR, SAME, Rewrite, rewritten, sample_codes

SAMPLES = sample_codes()


def whole(code: str) -> Part:
    tree = parse(textwrap.dedent(code))
    assert tree is not None
    return normal_form(tree).whole


def same(first: str, second: str) -> bool:
    equal = whole(first).digest == whole(second).digest
    if equal:
        assert whole(first).tokens == whole(second).tokens
    return equal


@pytest.mark.parametrize("rewrite", SAME, ids=lambda rewrite: rewrite.__name__)
def test_a_rewrite_that_changes_nothing_that_counts_keeps_the_digest(rewrite: Rewrite) -> None:
    made = 0
    for number, code in enumerate(SAMPLES):
        for _, changed in rewritten(code, (rewrite,), number):
            assert changed != code or rewrite.__name__ == "formatting", code
            assert same(code, changed), f"{code}\n-----\n{changed}"
            made += 1
    assert made > 200


@pytest.mark.parametrize("rewrite", NEAR, ids=lambda rewrite: rewrite.__name__)
def test_a_changed_constant_or_added_statement_changes_the_digest(rewrite: Rewrite) -> None:
    made = 0
    for number, code in enumerate(SAMPLES):
        for _, changed in rewritten(code, (rewrite,), number):
            assert not same(code, changed), f"{code}\n-----\n{changed}"
            made += 1
    assert made > 200


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("def f(a, b): return a - b", "def g(x, y): return x - y"),
        ("def f(a: int, *, b: str = 'x') -> int: return a", "def f(a, *, b='x'): return a"),
        ("def f(): x: int = 1; return x", "def f(): x = 1; return x"),
        ("import os\nimport re\ndef f(): return os, re", "import re\nimport os\ndef f(): return os, re"),
        ("import numpy as np\ndef f(): return np.a", "import numpy\ndef f(): return numpy.a"),
        ("from math import sqrt as s\ndef f(x): return s(x)", "from math import sqrt\ndef f(x): return sqrt(x)"),
        ("def f():\n  import math\n  return math.pi", "import math\ndef f():\n  return math.pi"),
        ("def f(n): return f(n - 1)", "def g(n): return g(n - 1)"),
        ("def h(): pass\ndef f(): return h()", "def help_me(): pass\ndef f(): return help_me()"),
        ("class A:\n  def m(self, x): return x", "class B:\n  '''doc'''\n  def m(me, y): return y"),
        ("def f(x): return [y for y in x]", "def f(q): return [w for w in q]"),
        ("def f(x): return [x for x in x]", "def f(q): return [w for w in q]"),
        ("ys = [y for y in range(3)]", "ys = [z for z in range(3)]"),
        ("def f():\n def g(): return late\n late = 1\n return g", "def f():\n def k(): return x\n x = 1\n return k"),
        ("def f(xs): return any((y := x) for x in xs) and y", "def f(a): return any((c := b) for b in a) and c"),
        ("def f():\n n = 0\n def g():\n  nonlocal n\n  n += 1", "def f():\n m = 0\n def g():\n  nonlocal m\n  m += 1"),
        ("def f():\n try: pass\n except E as e: print(e)", "def f():\n try: ...\n except E as err: print(err)"),
        ("def f(p):\n match p:\n  case [a, *r]: return a, r", "def f(q):\n match q:\n  case [b, *s]: return b, s"),
        (
            "def f(p):\n match p:\n  case {'k': v, **r}: return v, r",
            "def f(p):\n match p:\n  case {'k': w, **s}: return w, s",
        ),
        ("def f(): return 1\nif __name__ == '__main__':\n  print(f())", "def f(): return 1"),
        ("def f(): return 'a' 'b'", 'def f(): return "ab"'),
        ("f = lambda a, b=1: a + b", "f = lambda x, y=1: x + y"),
    ],
)
def test_these_are_the_same(first: str, second: str) -> None:
    assert same(first, second)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("def f(a, b): return a - b", "def f(a, b): return b - a"),
        ("def f(a, b): return a - b", "def f(a, b): return a + b"),
        ("def f(x): return x % 2 == 0", "def f(x): return x % 2 == 1"),
        ("def f(x): return max(x)", "def f(x): return min(x)"),
        ("def f(x): return x.pop()", "def f(x): return x.popitem()"),
        ("def f(x): return g(x, key=1)", "def f(x): return g(x, default=1)"),
        ("def f(x): return 1", "def f(x): return 1.0"),
        ("def f(x): return 1", "def f(x): return True"),
        ("def f(x): return '1'", "def f(x): return 1"),
        ("def f(x): return 'a'", "def f(x): return b'a'"),
        ("def f(x, y=1): pass", "def f(x, y): pass"),
        ("def f(x, /): pass", "def f(x): pass"),
        ("def f(*, x): pass", "def f(x): pass"),
        ("def f(*x): pass", "def f(**x): pass"),
        ("def f(x, *, y=1, z): pass", "def f(x, *, y, z=1): pass"),
        ("def f(a, b):\n if a:\n  a()\n  b()", "def f(a, b):\n if a:\n  a()\n b()"),
        ("def f(a):\n for x in a: x()\n else: a()", "def f(a):\n for x in a: x()\n a()"),
        ("def f():\n try: a()\n except E: b()\n else: c()", "def f():\n try: a()\n except E: b()\n finally: c()"),
        ("def f(): return (1, 2), 3", "def f(): return 1, (2, 3)"),
        ("def f(): return {1: 2, **x}", "def f(): return {1: 2, 3: x}"),
        ("def f(a): return a[1:]", "def f(a): return a[:1]"),
        ("def f(a): return 1 < a < 2", "def f(a): return 1 < a and a < 2"),
        ("async def f(): pass", "def f(): pass"),
        ("def f(): yield 1", "def f(): return 1"),
        ("@a\ndef f(): pass", "def f(): pass"),
        ("class A: x: int", "class A: y: int"),
        ("class A(B): x = 1", "class A(C): x = 1"),
        ("class A:\n def m(self): pass", "class A:\n def n(self): pass"),
        ("LIMIT = 5\ndef f(): return LIMIT", "OTHER = 5\ndef f(): return OTHER"),
        ("from math import ceil\ndef f(x): return ceil(x)", "from math import floor\ndef f(x): return floor(x)"),
        ("def f():\n x = 1\n def g(): x = 2", "def f():\n x = 1\n def g():\n  nonlocal x\n  x = 2"),
        ("def f():\n global x\n x = 1", "def f():\n x = 1"),
        ("def f(x): return f'{x}'", "def f(x): return f'{x!r}'"),
        ("def f(x): return f'{x:>3}'", "def f(x): return f'{x:<3}'"),
        ("def f(x): x += 1", "def f(x): x -= 1"),
        ("def f(a): return [x for x in a if x]", "def f(a): return [x for x in a]"),
        ("def f(a): return [x for x in a]", "def f(a): return (x for x in a)"),
        ("def f(x): return -x", "def f(x): return +x"),
        ("def f(x): return not x", "def f(x): return x"),
        ("def f(p):\n match p:\n  case 1 | 2: pass", "def f(p):\n match p:\n  case 1: pass\n  case 2: pass"),
        ("def h(): return 1\ndef k(): pass\ndef f(): h()", "def h(): return 1\ndef k(): pass\ndef f(): k()"),
    ],
)  # fmt: skip
def test_these_differ(first: str, second: str) -> None:
    assert not same(first, second)


def test_every_function_at_the_top_is_a_part_that_equals_it_alone() -> None:
    alone = "def area(r):\n    return math.pi * r ** 2\n"
    beside = f"import math\n\ndef double(x):\n    y = x * 2\n    return y\n\n{alone}\nclass Empty:\n    pass\n"
    tree = parse(beside)
    assert tree is not None
    parts = normal_form(tree).parts
    assert len(parts) == 3
    assert parts[1].digest == whole(alone).digest
    assert parts[0].digest != whole(alone).digest


def test_one_function_has_no_parts() -> None:
    tree = parse('"""Doc."""\nimport math\n\ndef f(x):\n    return math.floor(x)\n')
    assert tree is not None and normal_form(tree).parts == ()


def test_the_tree_is_left_as_it_was() -> None:
    for code in SAMPLES[:40]:
        tree = ast.parse(code)
        before = ast.dump(tree, include_attributes=True)
        normal_form(tree)
        assert ast.dump(tree, include_attributes=True) == before


def test_another_process_with_another_hash_seed_finds_the_same() -> None:
    code = "def f(a):\n    return {'x', 'y'} & set(a) | {1: 'z'}.keys()\n"
    script = (
        "import ast; from lowvram_ft.data.duplicates.normalize import normal_form; "
        f"print(normal_form(ast.parse({code!r})).whole.digest.hex())"
    )
    found = set()
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", script]
        printed = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        found.add(printed.stdout.strip())
    assert found == {whole(code).digest.hex()}


@pytest.mark.parametrize(
    "code",
    ["def f(:", "x = '\0'", "(" * 5000, "-" * 100_000 + "1", "[" * 99 + "]" * 98, "\ud800", "x = 1\n  y = 2"],
    ids=["syntax", "null byte", "parentheses", "unary", "unclosed", "surrogate", "indent"],
)
def test_code_that_does_not_parse_is_none(code: str) -> None:
    assert parse(code) is None


@pytest.mark.parametrize(
    "code",
    [
        "x = " + "+".join(["1"] * 900),
        "x = " + "9" * 4000 + "\ny = 0x" + "f" * 20000,
        "x = '\\ud800'",
        "\n".join(f"{' ' * depth}if x:" for depth in range(90)) + "\n" + " " * 90 + "pass",
        "x" + ".y" * 900,
        "x = 1 is 1",
        "",
        "# nothing",
        "import a, b",
    ],
)
def test_odd_code_has_a_normal_form(code: str) -> None:
    assert len(whole(code).digest) == 16


def test_a_warning_of_a_strangers_code_is_not_shown(recwarn: pytest.WarningsRecorder) -> None:
    assert parse("x = 1 is 1\ny = '\\d'") is not None
    assert not recwarn


NAMES = st.text("abcdefgh", min_size=1, max_size=6).map(lambda name: f"n_{name}")


@settings(max_examples=50, deadline=None)
@given(st.lists(NAMES, min_size=4, max_size=4, unique=True))
def test_any_names_of_locals_give_the_same_digest(names: list[str]) -> None:
    code = "def {0}({1}, {2}=None):\n    for {3} in {1}:\n        if {3} == {2}:\n            return {0}({3})\n"
    assert same(code.format("f", "a", "b", "c"), code.format(*names))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from("ab"), min_size=4, max_size=4), st.lists(st.sampled_from("ab"), min_size=4, max_size=4))
def test_two_locals_are_told_apart(first: list[str], second: list[str]) -> None:
    code = "def f(a, b):\n    return {} + {} - {} * {}\n"
    assert same(code.format(*first), code.format(*second)) == (first == second)


def test_a_normal_form_takes_about_as_long_as_parsing() -> None:
    trees = [ast.parse(code) for code in SAMPLES]

    def fastest_s(work: object) -> float:
        times = []
        for _ in range(3):
            begin = time.process_time()
            work()  # type: ignore[operator]
            times.append(time.process_time() - begin)
        return min(times)

    parsing = fastest_s(lambda: [ast.parse(code) for code in SAMPLES])
    assert fastest_s(lambda: [normal_form(tree) for tree in trees]) < 3 * parsing
