"""Leave out imports that no test uses any longer."""

from __future__ import annotations

import ast
import re

from lowvram_ft.data.row import SOLUTION


def without_unused_imports(test: str) -> str:
    """A test file without the names that its top-level imports bind and nothing in it speaks of.

    A name in a string counts as spoken of, and so does a parameter, which may be a fixture. Imports of a module for
    what that does (``import pkg.plugin``) are told from others by nothing, so only ``from`` imports go, and plain ones
    of the standard library.

    Args:
        test: a test file that parses.
    """
    import sys

    tree = ast.parse(test)
    lines = test.splitlines(keepends=True)
    imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    inside = {id(part) for node in imports for part in ast.walk(node)}
    words = {word for node in ast.walk(tree) if id(node) not in inside for word in _words(node)}
    for node in imports:
        kept = [alias for alias in node.names if _is_needed(node, alias, words, sys.stdlib_module_names)]
        if len(kept) == len(node.names) or node.end_lineno is None:
            continue
        for number in range(node.lineno - 1, node.end_lineno):
            lines[number] = ""
        if kept and isinstance(node, ast.ImportFrom):
            lines[node.lineno - 1] = ast.unparse(ast.ImportFrom(node.module, kept, node.level)) + "\n"
        elif kept:
            lines[node.lineno - 1] = ast.unparse(ast.Import(kept)) + "\n"
    return "".join(lines).lstrip("\n")


def _is_needed(node: ast.Import | ast.ImportFrom, alias: ast.alias, words: set[str], standard: frozenset[str]) -> bool:
    bound = alias.asname or (alias.name.partition(".")[0] if isinstance(node, ast.Import) else alias.name)
    if bound in words or alias.name == "*":
        return True
    if isinstance(node, ast.ImportFrom):
        return node.module == "__future__"
    return alias.asname != SOLUTION and alias.name.partition(".")[0] not in {*standard, "pytest"}


def _words(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Name):
        return [node.id]
    if isinstance(node, ast.arg):
        return [node.arg]
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.findall(r"\w+", node.value)
    return []
