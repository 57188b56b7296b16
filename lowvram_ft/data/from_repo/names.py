"""Names in a syntax tree: read, bound, dotted, local."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator

from lowvram_ft.data.from_repo.fixtures import Function, all_arguments, last_name


def names_in(nodes: Iterable[ast.AST]) -> Iterator[ast.Name]:
    """Every name in these nodes, read or bound."""
    for node in nodes:
        for part in ast.walk(node):
            if isinstance(part, ast.Name):
                yield part


def dotted_name(node: ast.AST) -> tuple[str, ...]:
    """``("a", "b", "c")`` for ``a.b.c``; empty for what is no name."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return (node.id, *reversed(names)) if isinstance(node, ast.Name) else ()


def bound_names(node: ast.stmt) -> Iterator[str]:
    """What a statement binds by itself; nothing for an import."""
    if isinstance(node, Function | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign | ast.With | ast.For):
        for part in names_in([node]):
            if isinstance(part.ctx, ast.Store):
                yield part.id


def local_variables(function: Function) -> frozenset[str]:
    """The arguments of a function and what it assigns."""
    names = {argument.arg for argument in all_arguments(function)}
    return frozenset(names | {part.id for part in names_in(function.body) if isinstance(part.ctx, ast.Store)})


def imported_by_call(call: ast.Call) -> str | None:
    """The module of ``pytest.importorskip("a.b")`` and ``importlib.import_module("a.b")``."""
    if last_name(call.func) in ("importorskip", "import_module") and call.args:
        first = call.args[0]
        if isinstance(first, ast.Constant) and isinstance(first.value, str):
            return first.value
    return None
