"""Syntax trees of code that strangers wrote."""

from __future__ import annotations

import ast
import threading
import warnings

UNREADABLE = (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError)
"""What Python's own parser raises on a text that is none, or that is nested too deeply."""
_one_at_a_time = threading.Lock()
"""Python 3.11 mixes up the trees of two threads ("AST constructor recursion depth mismatch"), and the warnings that are
switched off here are those of all threads."""


def parse(text: str) -> ast.Module | None:
    """The syntax tree of a text; None where there is none, or where it is nested too deeply to read."""
    with _one_at_a_time, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ast.parse(text)
        except UNREADABLE:
            return None


def absolute_module(node: ast.ImportFrom, package: str) -> str | None:
    """The module that a ``from`` import names; None where its dots lead out of the package."""
    if not node.level:
        return node.module or ""
    parts = package.split(".") if package else []
    if node.level > len(parts):
        return None
    base = parts[: len(parts) - node.level + 1]
    return ".".join([*base, node.module] if node.module else base)
