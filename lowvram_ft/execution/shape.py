"""What a test file holds, read from its text without running it."""

from __future__ import annotations

import ast
import dataclasses
import warnings
from collections.abc import Iterator

_RAISING = {"raises", "warns", "deprecated_call", "does_not_warn", "fail"}
"""Names of pytest's own checks, called as ``pytest.raises`` or imported alone."""


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
    """How many checks each test function of a test file holds."""
    return [sum(map(_is_check, ast.walk(function))) for function in _test_functions(tree.body)]


def _test_functions(body: list[ast.stmt]) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test"):
            yield node
        elif isinstance(node, ast.ClassDef) and (node.name.startswith("Test") or _is_test_case(node)):
            yield from _test_functions(node.body)


def _is_test_case(node: ast.ClassDef) -> bool:
    return any(_last_name(base).endswith("TestCase") for base in node.bases)


def _is_check(node: ast.AST) -> bool:
    if isinstance(node, ast.Assert):
        return not isinstance(node.test, ast.Constant)
    if not isinstance(node, ast.Call):
        return False
    name = _last_name(node.func)
    return name in _RAISING or (isinstance(node.func, ast.Attribute) and name.startswith("assert"))


def _last_name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""
