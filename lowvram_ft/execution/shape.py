"""What a test file holds, read from its text without running it."""

from __future__ import annotations

import ast
import dataclasses
import warnings
from collections.abc import Iterable, Iterator
from typing import TypeGuard

_RAISING = {"raises", "warns", "deprecated_call", "does_not_warn", "fail"}
"""Names of pytest's own checks, called as ``pytest.raises`` or imported alone."""

_ASSERTIONS = {"AssertionError", "Exception", "BaseException"}
"""What takes a failed assertion with it, when it is caught."""
_SOURCE_CALLS = {"getsource", "getsourcelines", "getsourcefile", "findsource"}
_SOURCE_ATTRIBUTES = {"__code__", "__file__", "co_code", "co_consts", "co_names"}
"""Where a test would find how the code is written: `inspect`'s functions, attributes of a function or a module."""


@dataclasses.dataclass(frozen=True)
class Shape:
    """Static facts of a test file.

    Attributes:
        problem: why it is no Python, or None.
        test_functions: functions that pytest would collect.
        assertions: checks inside them.
    """

    problem: str | None
    test_functions: int
    assertions: int


def read_shape(test: str) -> Shape:
    """Parse ``test`` and count its test functions and their checks. Nothing of it runs."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(test)
            compile(tree, "test_solution.py", "exec", dont_inherit=True)
    except SyntaxError as error:
        return Shape(f"line {error.lineno}: {type(error).__name__}: {error.msg}", 0, 0)
    except (ValueError, RecursionError, MemoryError, OverflowError) as error:
        return Shape(f"{type(error).__name__}: {error}", 0, 0)
    counts = check_counts(tree)
    return Shape(None, len(counts), sum(counts))


def check_counts(tree: ast.Module) -> list[int]:
    """How many checks each test function of a test file holds.

    A check is ``assert`` on something that is no constant, ``pytest.raises`` and its kin, ``self.assert…``. One whose
    failure the test itself swallows is none, nor is one that is never reached; a test that reads the source of what it
    tests holds none.
    """
    return [0 if reads_source(function) else _checks(function.body, False) for function in test_functions(tree.body)]


def reads_source(function: ast.AST) -> bool:
    """Whether a test looks at how code is written, not at what it does."""
    return any(map(_reads_source, ast.walk(function)))


def test_functions(body: list[ast.stmt]) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """The functions in a module's body that pytest would collect, those of test classes among them."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test"):
            yield node
        elif isinstance(node, ast.ClassDef) and (node.name.startswith("Test") or _is_test_case(node)):
            yield from test_functions(node.body)


def _is_test_case(node: ast.ClassDef) -> bool:
    return any(_last_name(base).endswith("TestCase") for base in node.bases)


def _checks(nodes: Iterable[ast.AST], swallowed: bool) -> int:
    """Checks among nodes and below; ``swallowed`` where what they raise goes no further."""
    found = 0
    todo = [(node, swallowed) for node in _reached(nodes)]
    while todo:
        node, quiet = todo.pop()
        found += is_check(node) and not quiet
        muted = set(map(id, node.body)) if _mutes_its_body(node) else set()
        todo += [(child, quiet or id(child) in muted) for child in _children(node)]
    return found


def _children(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes right below one, without those that are never run."""
    for name, value in ast.iter_fields(node):
        if name == "body" and isinstance(node, ast.If) and isinstance(node.test, ast.Constant) and not node.test.value:
            continue
        yield from _reached(
            part for part in (value if isinstance(value, list) else [value]) if isinstance(part, ast.AST)
        )


def _reached(nodes: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """A block up to the statement that leaves it."""
    for node in nodes:
        yield node
        if isinstance(node, ast.Return | ast.Raise | ast.Break | ast.Continue):
            return


def _mutes_its_body(node: ast.AST) -> TypeGuard[ast.Try | ast.TryStar | ast.With | ast.AsyncWith]:
    if isinstance(node, ast.Try | ast.TryStar):
        return any(map(_swallows, node.handlers))
    return isinstance(node, ast.With | ast.AsyncWith) and any(_suppresses(item.context_expr) for item in node.items)


def _swallows(handler: ast.ExceptHandler) -> bool:
    """Whether a handler takes a failed assertion and says nothing of it."""
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    takes = any(kind is None or _last_name(kind) in _ASSERTIONS for kind in kinds)  # None: a bare except
    return takes and not any(
        isinstance(node, ast.Raise) or is_check(node) for part in handler.body for node in ast.walk(part)
    )


def _suppresses(call: ast.expr) -> bool:
    """Whether a context manager is ``contextlib.suppress`` of what a failed assertion raises."""
    if not isinstance(call, ast.Call) or _last_name(call.func) != "suppress":
        return False
    return any(_last_name(kind) in _ASSERTIONS for kind in call.args)


def _is_certain(value: ast.expr) -> bool:
    """Whether an expression is true or false whatever the code under test does."""
    if isinstance(value, ast.BoolOp) and isinstance(value.op, ast.Or):
        return any(isinstance(part, ast.Constant) and part.value for part in value.values) or all(
            map(_is_certain, value.values)
        )
    if isinstance(value, ast.Lambda) or (isinstance(value, ast.Tuple | ast.List | ast.Set) and value.elts):
        return True
    if isinstance(value, ast.Compare) and len(value.ops) == 1 and isinstance(value.ops[0], ast.Eq | ast.Is):
        return ast.dump(value.left) == ast.dump(value.comparators[0]) or not _names(value)  # a value with itself
    return not _names(value)


def _names(value: ast.expr) -> bool:
    return any(isinstance(node, ast.Name) for node in ast.walk(value))


def _reads_source(node: ast.AST) -> bool:
    if isinstance(node, ast.Attribute):
        return node.attr in _SOURCE_ATTRIBUTES
    if isinstance(node, ast.Call):
        return _last_name(node.func) in _SOURCE_CALLS
    return isinstance(node, ast.Constant) and node.value == "solution.py"


def is_check(node: ast.AST) -> bool:
    """Whether a node checks something, wherever it stands."""
    if isinstance(node, ast.Assert):
        return not _is_certain(node.test)
    if not isinstance(node, ast.Call):
        return False
    name = _last_name(node.func)
    return name in _RAISING or (isinstance(node.func, ast.Attribute) and name.startswith("assert"))


def _last_name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""
