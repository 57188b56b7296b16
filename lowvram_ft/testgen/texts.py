"""Changes to the text of a test file that leave every other character as it is."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence

_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def drop_tests(test: str, names: Sequence[str]) -> str:
    """Leave out tests by name, decorators and all; the rest stays letter for letter.

    Args:
        test: a test file.
        names: ``test_y``, or ``TestX::test_y``; a class of which nothing would be left goes with its tests.
    """
    lines = test.splitlines(keepends=True)
    for node in _named(ast.parse(test).body, "", frozenset(names)):
        start = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        for number in range(start - 1, node.end_lineno or node.lineno):
            lines[number] = ""
    return re.sub(r"\n{4,}", "\n\n\n", "".join(lines)).rstrip() + "\n"


def _named(body: Sequence[ast.stmt], prefix: str, names: frozenset[str]) -> list[_Definition]:
    """The definitions that go."""
    found: list[_Definition] = []
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and prefix + node.name in names:
            found.append(node)
        elif isinstance(node, ast.ClassDef):
            inner = _named(node.body, f"{prefix}{node.name}::", names)
            text = isinstance(node.body[0], ast.Expr) and isinstance(node.body[0].value, ast.Constant)
            found += [node] if inner and len(inner) + text == len(node.body) else inner
    return found


def import_real_module(test: str, module: str) -> str:
    """Make a test import the real module where it imports ``solution``."""
    test = re.sub(r"(?m)^(\s*)from solution import ", rf"\1from {module} import ", test)
    test = re.sub(r"(?m)^(\s*)import solution as ", rf"\1import {module} as ", test)
    test = re.sub(r"(?m)^(\s*)import solution\b(?! as)", rf"\1import {module} as solution", test)
    # the places where pytest and unittest.mock take a module's name in a string
    return re.sub(r"\b(patch|patch\.dict|setattr|delattr)\((\s*)([\"'])solution\.", rf"\1(\2\3{module}.", test)
