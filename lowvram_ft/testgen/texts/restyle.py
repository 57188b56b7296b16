"""Change how a test file imports the module under test: its names, or the module."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from typing import Literal

from lowvram_ft.data.imports.edits import Edits
from lowvram_ft.data.imports.scopes import BUILTINS, Names, resolve
from lowvram_ft.data.syntax import parse
from lowvram_ft.testgen.texts.import_block import Imported, from_line, read_import
from lowvram_ft.testgen.texts.renaming import CannotRename, replace_names

_BY_STRING = re.compile(r"\b(?:eval|exec|globals|locals|vars)\s*\(|=\s*(?:![rsa])?\s*\}")
_COLLECTED = ("test", "Test", "pytest_", "setup", "teardown", "setUp", "tearDown", "load_tests")
"""Beginnings of names that pytest or unittest would take for their own, were they imported."""


class _Unsafe(Exception):
    """The file means something else when it is rewritten, or may."""


def restyle(text: str, imports: Literal["from", "module"], module: str) -> str:
    """Make a test file import the names of a module, or the module itself.

    ``from pkg.mod import a`` and ``a`` become ``from pkg import mod`` and ``mod.a``, or the other way round. Only
    imports at the top level are looked at. The file stays as it is where it could mean something else then: a name
    that would be needed is taken, an imported one is bound again, the module itself is handed to something, a string
    names what would be looked up earlier or later than before (``patch("pkg.mod.a")``), or names are looked up by
    strings. A name in lower case that is never called is no reason to import it: the module may bind it anew.

    Args:
        text: a test file.
        imports: ``from``: names; ``module``: the module.
        module: name of the module under test, such as ``pkg.mod``.

    Returns:
        The file, every other character as it was.
    """
    tree = parse(text)
    if tree is None or _BY_STRING.search(text):
        return text
    try:
        new = _to_module(text, tree, module) if imports == "module" else _to_names(text, tree, module)
    except (_Unsafe, CannotRename):
        return text
    return new if parse(new) is not None else text


def _to_module(text: str, tree: ast.Module, module: str) -> str:
    statements = [n for n in tree.body if isinstance(n, ast.ImportFrom) and not n.level and n.module == module]
    items = {item.local: item for node in statements for item in read_import(node)}
    if not items:
        return text
    names, (package, _, local) = resolve(tree.body), module.rpartition(".")
    line = f"from {package} import {local}" if package else f"import {local}"
    there = [n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom) for i in read_import(n)
             if i.local == local and _path(i, module) == ()]  # fmt: skip
    words = {n.id for n, _ in names.references} | {w for scope in names.scopes for w in scope.bound}
    strings = _strings(tree)
    if "" in items or (local in words and (not there or _bindings(names, local) != 1)):
        raise _Unsafe
    for name, item in items.items():
        again = names.top.bound[name] > 1 or any(name in scope.declared_global for scope in names.scopes)
        if again or any(n.id == name for n, _ in names.quoted) or f"{module}.{item.name}" in strings:
            raise _Unsafe
    if there and re.search(r"setattr|delattr|patch|reload", text):
        raise _Unsafe
    edits = Edits(text)
    meant = {
        id(node): f"{local}.{items[node.id].name}"
        for node, scope in names.references
        if node.id in items and names.is_global(node, scope)
    }
    replace_names(text, tree, edits, meant)
    _replace(edits, tree, statements, [] if there else [line])
    return edits.result()


def _to_names(text: str, tree: ast.Module, module: str) -> str:
    names = resolve(tree.body)
    statements = [n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)]
    found = [(n, i) for n in statements for i in read_import(n) if i.local and _path(i, module) is not None]
    if not found:
        return text
    if len(found) > 1 or len(found[0][0].names) > 1 or _bindings(names, found[0][1].local) != 1:
        raise _Unsafe
    statement, item = found[0]
    parents = {id(child): node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    in_strings = {id(n) for string in ast.walk(tree) if isinstance(string, ast.JoinedStr) for n in ast.walk(string)}
    uses: list[ast.Attribute] = []
    for node, scope in names.references:
        if node.id != item.local or not names.is_global(node, scope):
            continue
        use: ast.AST = node
        for part in (*(_path(item, module) or ()), None):
            use = parents[id(use)]
            if not isinstance(use, ast.Attribute) or part not in (None, use.attr):
                raise _Unsafe
        if not isinstance(use, ast.Attribute) or not isinstance(use.ctx, ast.Load) or id(use) in in_strings:
            raise _Unsafe
        uses.append(use)
    wanted = sorted({use.attr for use in uses})
    called = {use.attr for use in uses if _is_called(use, parents[id(use)])}
    words = {n.id for n, _ in names.references} | {w for scope in names.scopes for w in scope.bound}
    words |= {n.id for n, _ in names.quoted}
    strings = _strings(tree)
    for name in wanted:
        stale = name[:1].islower() and name not in called
        if stale or name.startswith(("_", *_COLLECTED)) or name in words | BUILTINS or f"{module}.{name}" in strings:
            raise _Unsafe
    if not wanted or any(n.id == item.local for n, _ in names.quoted):
        raise _Unsafe
    there = [n for n in statements if isinstance(n, ast.ImportFrom) and not n.level and n.module == module]
    if there:
        raise _Unsafe
    edits = Edits(text)
    for use in uses:
        edits.replace(use, use.attr)
    _replace(edits, tree, [statement], [from_line(module, wanted).rstrip("\n")])
    return edits.result()


def _strings(tree: ast.Module) -> str:
    """All strings of a file."""
    nodes = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return "\n".join(value for value in nodes if isinstance(value, str))


def _path(item: Imported, module: str) -> tuple[str, ...] | None:
    """The attributes that lead from an imported name to the module; None where none do."""
    if item.name:
        return () if f"{item.module}.{item.name}" == module else None
    if item.module != module:
        return None
    return () if item.is_alias else tuple(module.split(".")[1:])


def _bindings(names: Names, name: str) -> int:
    """How often a name is bound, in whatever scope."""
    return sum(scope.bound[name] for scope in names.scopes) + sum(name in s.declared_global for s in names.scopes)


def _is_called(use: ast.AST, parent: ast.AST) -> bool:
    return isinstance(parent, ast.Call) and parent.func is use


def _replace(edits: Edits, tree: ast.Module, statements: Sequence[ast.stmt], lines: Sequence[str]) -> None:
    """Put lines in the place of the first of some statements, and take the others out."""
    for place, node in enumerate(statements):
        if place == 0 and lines:
            edits.replace(node, edits.newline.join(lines))
        elif not edits.remove(node, first_of_block=tree.body[0] is node):
            raise _Unsafe
