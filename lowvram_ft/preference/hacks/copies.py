"""A copy of the implementation in a test: it tells every fault from the code, and knows nothing of what is right.

Copied is what stands in both with all names, texts and numbers alike, and with ``else`` behind ``return`` left out:
statements and expressions of at least `LEAST` nodes. A function of which `SHARE` stands in a test is copied there, as a
function, as a lambda, or in the middle of a test, whatever its names. Data alone, such as a table of what is expected,
is no copy.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator

LEAST = 7
"""Nodes of the smallest part that can be a copy."""
LEAST_FUNCTION = 12
"""Nodes of the smallest function that can be copied: of ``return a + b``, every use of it is one."""
SHARE = 0.5
"""Share of a function's nodes that makes a copy of it."""


def copied_functions(test: ast.AST, code: ast.Module) -> list[str]:
    """Names of the functions and methods of the code of which a test holds a copy.

    Args:
        test: of a test file, or a part of one.
        code: the code under test.
    """
    here = {dump for _, dump, _ in _parts(_blank(test))}
    found = []
    for node in ast.walk(code):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        body = _blank(ast.Module(_without_docstring(node.body), []))
        total = _size(body) - 1
        if total >= LEAST_FUNCTION and _covered(body, here) >= SHARE * total:
            found.append(node.name)
    return found


def _covered(node: ast.AST, here: set[str]) -> int:
    """Nodes of the largest parts that stand in a test too."""
    if _counts(node) and ast.dump(node) in here:
        return _size(node)
    return sum(_covered(child, here) for child in ast.iter_child_nodes(node))


def _parts(tree: ast.AST) -> Iterator[tuple[ast.AST, str, int]]:
    for node in ast.walk(tree):
        if _counts(node):
            yield node, ast.dump(node), _size(node)


def _counts(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.stmt | ast.expr | ast.comprehension)
        and _size(node) >= LEAST
        and any(isinstance(part, ast.Name | ast.Attribute) for part in ast.walk(node))
        and not isinstance(node, ast.Assert)
    )


def _size(node: ast.AST) -> int:
    return sum(not isinstance(part, ast.expr_context) for part in ast.walk(node))


def _without_docstring(body: list[ast.stmt]) -> list[ast.stmt]:
    first = body[0]
    return body[1:] if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) else body


def _blank(tree: ast.AST) -> ast.AST:
    """A copy in which all names are one, and all numbers, without hints and the ``else`` behind ``return``."""
    tree = copy.deepcopy(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            node.id = "_"
            node.ctx = ast.Load()
        elif isinstance(node, ast.arg):
            node.arg, node.annotation = "_", None
        elif isinstance(node, ast.Attribute | ast.Subscript | ast.Starred | ast.Tuple | ast.List):
            node.ctx = ast.Load()
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            node.name, node.decorator_list = "_", []
            if not isinstance(node, ast.ClassDef):
                node.returns = None
            node.body = _without_docstring(node.body) or [ast.Pass()]
        elif isinstance(node, ast.ExceptHandler):
            node.name = None
        elif isinstance(node, ast.Constant) and not isinstance(node.value, bool):
            node.value, node.kind = type(node.value).__name__, None
        for field in ("body", "orelse", "finalbody"):
            if isinstance(block := getattr(node, field, None), list):
                setattr(node, field, list(_flat(block)))
    return tree


def _flat(block: list[ast.stmt]) -> Iterator[ast.stmt]:
    """A block without the ``else`` of what leaves it otherwise."""
    for node in block:
        yield node
        leaves = isinstance(node, ast.If) and isinstance(
            node.body[-1], ast.Return | ast.Raise | ast.Break | ast.Continue
        )
        if isinstance(node, ast.If) and leaves:
            rest, node.orelse = node.orelse, []
            yield from _flat(rest)
