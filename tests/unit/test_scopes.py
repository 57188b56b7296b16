"""Names and their scopes, held against the compiler's own symbol table."""

import ast
import sys
import sysconfig
from pathlib import Path

import pytest

from lowvram_ft.data.imports.scopes import resolve, top_names, with_generators
from lowvram_ft.data.syntax import parse

LIBRARY = Path(sysconfig.get_paths()["stdlib"])
TEXTS = [
    "x = 1\ndef f(a, *b, c=x, **d):\n    global y\n    y = a + z\n    def g():\n        nonlocal a\n        a = w",
    "class A(B, metaclass=M):\n    x = y\n    z = [x for x in u if x for q in v]\n    def f(self): return x",
    "def f():\n    match s:\n        case A(b=c) | [c, *_]: return c, k\n        case {'k': c, **r} as t: return r, t",
    "if (n := f()) and [m := i for i in n]:\n    print(m, i)",
    "try: pass\nexcept E as e: print(e)\nelse: del q\nfinally:\n    with o() as (p, [s]): pass",
    "import a.b, c.d as e\nfrom . import g as h\nfor i, *j in k: l += 1\nm: n = 1\nlambda x, y=z: x + y + w",
    "async def f():\n    async with a as b: return [await c async for c in d]",
    "class Stack:\n    def top(self, which):\n        inner = which\n        return inner + limit",
    "from a import b, c as i\nx = [b(i) for i in [j for j in c]]\ny = {i: k for i, *k in x if (m := i) for q in d}",
    "class A:\n    x = {b for b in c}\n    def f(s):\n        global g\n        return super().f([g := h for h in g])",
    "def outer():\n    global n\n    def inner():\n        return n\n    class C:\n        n = n\n    return inner",
]
if sys.version_info >= (3, 12):
    TEXTS += [
        "def f[T: (A, B), *U, **V](x: T, *y: *U) -> C[V]:\n    return T, D",
        "class A[T: B](C[T]):\n    def f[U: T](self): return T, U, E",
        "type X[T: A] = list[T] | B\ntype Y = X",
    ]


def both(text):
    """Bound and read module-level names, by `resolve` and by the symbol table."""
    names, table = resolve(parse(text).body), top_names(text)
    loads = [(node, scope) for node, scope in names.references if isinstance(node.ctx, ast.Load)]
    read = {node.id for node, scope in loads if names.is_global(node, scope)}
    of_super = {"__class__"}  # read wherever a function says `super`, for the compiler alone
    return (set(names.top.bound), read - of_super), (set(table.bound), set(table.used) - of_super)


@pytest.mark.parametrize("text", TEXTS)
def test_names_are_those_of_the_symbol_table(text):
    ours, pythons = both(text)
    assert ours == pythons


@pytest.mark.parametrize("name", ["argparse", "calendar", "dataclasses", "enum", "inspect", "poplib", "typing"])
def test_names_of_the_standard_library_are_those_of_the_symbol_table(name):
    ours, pythons = both((LIBRARY / f"{name}.py").read_text(encoding="utf-8"))
    assert ours == pythons
    assert len(pythons[0]) > 5


@pytest.mark.parametrize("text", TEXTS)
def test_generators_have_the_names_of_comprehensions(text):
    tree = ast.parse(with_generators(text))
    kinds = {type(node) for node in ast.walk(tree)}
    assert kinds.isdisjoint({ast.ListComp, ast.SetComp, ast.DictComp})
    assert both(with_generators(text)) == both(text)


def test_a_name_that_only_a_comprehension_reads_is_used_and_its_variable_is_not_bound():
    names = top_names("from a import b\nfrom c import d\nx = [b(d) for d in e]\n")
    assert names.used == {"b", "e"}
    assert (names.bound, names.imported, names.bound_again) == ({"b", "d", "x"}, {"b", "d"}, set())


def test_locals_of_a_function_called_top_are_not_the_modules():
    assert top_names(TEXTS[7]).bound == {"Stack"}
    assert top_names(TEXTS[7]).used == {"limit"}


def test_imported_names_are_told_from_those_that_are_bound_again():
    names = top_names("import a, b\nfrom c import d\nb = 1\ndef d(): pass\nx = 2\n")
    assert (names.imported, names.bound_again) == ({"a"}, {"b", "d"})


@pytest.mark.parametrize("text", ["def f(:", "\0", "(" * 3000, "\ud800", "def f(a, a): pass"])
def test_what_does_not_compile_has_no_names(text):
    assert top_names(text) is None
