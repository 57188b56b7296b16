"""Assertions that cannot fail, or whose failure goes nowhere; and what is put in the place of what is tested."""

from __future__ import annotations

import ast
import builtins
import itertools
from collections.abc import Iterator, Sequence

from lowvram_ft.data.row import SOLUTION
from lowvram_ft.preference.hacks.view import Definition, Function, View, words_of

Found = Iterator[tuple[ast.AST, str]]

SWALLOWS = "catches the failure of its own assertions"
ANYTHING = "accepts any exception"
EARLY = "may leave before it has asserted anything"
REPLACES = "replaces what it tests, or what its assertions rest on"
ITSELF = "expects what the code under test says itself"
EQUAL = "makes objects that are equal to anything"

_TAKES = frozenset({"AssertionError", "Exception", "BaseException"})
_OVERRIDES = words_of(
    "__eq__ __ne__ __bool__ __contains__ __instancecheck__ __subclasscheck__ __exit__ __aexit__ __set_name__ "
    "__init_subclass__ __class_getitem__ __prepare__"
)
_PYTESTS_OWN = ("pytest_", "collect_ignore", "load_tests", "__test__", "__getattr__")
_PATCHES = words_of("patch object dict multiple setattr delattr setitem delitem syspath_prepend")
_PATCHABLE_BUILTINS = frozenset({"builtins.open", "builtins.input", "builtins.print"})
_NOT_PATCHED = words_of("builtins pytest _pytest unittest sys operator functools importlib inspect types")
_PATCHABLE_SYS = frozenset({"sys.argv", "sys.stdin", "sys.stdout", "sys.stderr", "sys.exit"})
_BUILTINS = frozenset(dir(builtins))
_MARKS = ("pytest.mark.", "pytest.fixture", "unittest.mock.patch", "mock.patch")


def empty_checks(view: View) -> Found:
    """Every place of a file that keeps an assertion from failing."""
    for node in ast.walk(view.tree):
        if isinstance(node, ast.Try | ast.TryStar):
            yield from ((handler, SWALLOWS) for handler in node.handlers if _swallows(handler, view))
            yield from ((part, SWALLOWS) for part in _leaving(node.finalbody))
        elif isinstance(node, ast.Call):
            yield from _catching(node, view)
        elif isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            if any(_last(side) == "ANY" for side in sides):
                yield node, EQUAL
        elif isinstance(node, ast.Attribute) and node.attr in {"__eq__", "__ne__", "__bool__", "ExitStack"}:
            yield node, EQUAL
    for test in view.tests.values():
        yield from ((part, EARLY) for part in _own_statements(test.body) if isinstance(part, ast.Return))
        for decorator in test.decorator_list:
            origin = view.dotted(decorator.func if isinstance(decorator, ast.Call) else decorator)
            if not origin.startswith(_MARKS):
                yield decorator, REPLACES


def replacements(view: View) -> Found:
    """Every place of a file that puts something else in the place of the code, of pytest, or of Python's own."""
    ours = {name for name, origin in view.imports.items() if origin.startswith(f"{SOLUTION}.")} | view.defined
    for node in ast.walk(view.tree):
        if isinstance(node, Definition):
            top = view.parent(node) is view.tree
            if node.name in ours or node.name in _BUILTINS or (top and node.name.startswith(_PYTESTS_OWN)):
                yield node, REPLACES
            if isinstance(node, Function) and node.name in _OVERRIDES:
                yield node, EQUAL
            if isinstance(view.parent(node), ast.ClassDef) and node.name.startswith(("assert", "run", "__call__")):
                yield node, REPLACES
        elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            top = not any(isinstance(part, Function) for part in view.above(node))
            is_own = node.id.startswith((*_PYTESTS_OWN, "pytest_")) or node.id in _OVERRIDES
            if node.id in view.imports or (top and (node.id in _BUILTINS or is_own)):
                yield node, REPLACES
        elif isinstance(node, ast.alias):
            if (node.asname or node.name) in _BUILTINS - {"open"}:
                yield node, REPLACES
        elif isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load):
            if view.dotted(node.value) or node.attr in ("__class__", "__test__", *_OVERRIDES):
                yield node, REPLACES
        elif isinstance(node, ast.Call):
            yield from _patched(node, view)


def expectations_of_the_code(view: View) -> Found:
    """Calls of functions under test where values are written down that they are held against."""
    for node in ast.walk(view.tree):
        if not isinstance(node, ast.Call):
            continue
        origin = view.dotted(node.func)
        if not origin.startswith(f"{SOLUTION}.") or origin.rpartition(".")[2] not in view.functions:
            continue
        above = [node, *view.above(node)]
        inside = [(one, two) for one, two in itertools.pairwise(above) if isinstance(two, Function)]
        in_body = any(one not in two.decorator_list for one, two in inside)
        if not in_body and not any(isinstance(part, ast.Lambda) for part in above):
            yield node, ITSELF


def _swallows(handler: ast.ExceptHandler, view: View) -> bool:
    """Whether a handler may take a failed assertion, and does not raise it again."""
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    takes = any(kind is None or _is_wide(kind, view) for kind in kinds)
    return takes and not any(isinstance(part, ast.Raise) for part in handler.body)


def _is_wide(kind: ast.expr, view: View) -> bool:
    """Whether a kind of exception is one of an assertion too, or is none that can be told."""
    name = _last(kind)
    if name in _TAKES or not name:
        return True
    return isinstance(kind, ast.Name) and name in view.bound_here


def _catching(node: ast.Call, view: View) -> Found:
    name, kinds = _last(node.func), _kinds(node)
    if name == "suppress" and any(_is_wide(kind, view) for kind in kinds):
        yield node, SWALLOWS
    if name in ("raises", "assertRaises", "assertRaisesRegex") or view.dotted(node.func) == "pytest.raises":
        matches = any(
            keyword.arg in ("match", "check") and not _is_open(keyword.value) for keyword in node.keywords
        ) or (name == "assertRaisesRegex" and len(node.args) > 1 and not _is_open(node.args[1]))
        for kind in kinds or [ast.Name("Exception", ast.Load())]:
            wide = _is_wide(kind, view)
            if wide and not matches and _last(kind) not in view.words:
                yield node, ANYTHING
            elif _last(kind) == "AssertionError" and "AssertionError" not in view.words:
                yield node, SWALLOWS
    if name in ("ExitStack", "AsyncExitStack"):
        yield node, SWALLOWS


def _kinds(node: ast.Call) -> list[ast.expr]:
    if _last(node.func) == "suppress":
        return list(node.args)
    named = [keyword.value for keyword in node.keywords if keyword.arg == "expected_exception"]
    found = [*node.args[:1], *named]
    return [part for kind in found for part in (kind.elts if isinstance(kind, ast.Tuple) else [kind])]


def _is_open(pattern: ast.expr) -> bool:
    """Whether a pattern matches anything, or is none that can be told."""
    return not isinstance(pattern, ast.Constant | ast.Call | ast.JoinedStr) or (
        isinstance(pattern, ast.Constant) and str(pattern.value).strip("^$.*?+()") == ""
    )


def _patched(node: ast.Call, view: View) -> Found:
    """``patch("solution.f")``, ``setattr(solution, "f", …)``, ``patch.object(builtins, "isinstance")``."""
    if _last(node.func) not in _PATCHES or not node.args:
        return
    texts = [part.value for part in node.args[:2] if isinstance(part, ast.Constant) and isinstance(part.value, str)]
    owner = view.dotted(node.args[0])
    first = node.args[0]
    if isinstance(first, ast.Constant) and isinstance(first.value, str):
        goal = _own_name(first.value, view)
    elif owner and texts:
        goal = f"{owner}.{texts[0]}"
    elif owner and _last(node.func) in _PATCHES - {"dict", "setitem", "delitem"}:
        goal = f"{owner}.*"
    else:
        return
    top, _, rest = goal.partition(".")
    is_tested = top == SOLUTION and (rest.partition(".")[0] in view.defined or rest in ("", "*"))
    if is_tested or (top in _NOT_PATCHED and goal not in _PATCHABLE_BUILTINS | _PATCHABLE_SYS):
        yield node, REPLACES


def _own_name(name: str, view: View) -> str:
    is_own = name == view.module or name.startswith(f"{view.module}.")
    return SOLUTION + name.removeprefix(view.module) if is_own else name


def _leaving(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    for part in _own_statements(body):
        if isinstance(part, ast.Return | ast.Break | ast.Continue):
            yield part


def _own_statements(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements in blocks and below, without those of functions in them."""
    for node in body:
        yield node
        if not isinstance(node, Definition):
            for child in ast.iter_child_nodes(node):
                if isinstance(child, ast.stmt):
                    yield from _own_statements([child])
                elif isinstance(child, ast.ExceptHandler | ast.match_case):
                    yield from _own_statements(child.body)


def _last(node: ast.AST) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
