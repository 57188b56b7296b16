"""Give module-level names and fixtures of a test file other names, wherever they are meant and nowhere else."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping

from lowvram_ft.data.imports.edits import Edits
from lowvram_ft.data.imports.scopes import parameters, resolve
from lowvram_ft.data.trimming.statements import split_lines
from lowvram_ft.testgen.texts.import_block import from_line, read_import

FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)
_Function = ast.FunctionDef | ast.AsyncFunctionDef
_BY_NAME = frozenset({"usefixtures", "getfixturevalue", "lazy_fixture", "lf"})
"""Calls that take the names of fixtures as strings."""


class CannotRename(ValueError):
    """A name is bound or used in a way that cannot be followed."""


def rename(text: str, tree: ast.Module, new: Mapping[str, str], fixtures: Collection[str]) -> str:
    """A test file with other names for some things of its module level.

    Args:
        text: the file.
        tree: of it.
        new: the new names by the old ones. What is hoisted, its top-level imports, is renamed by the caller.
        fixtures: those of the old names that name fixtures: as parameters and in strings too.

    Raises:
        CannotRename: a name is bound by something else than an assignment, a definition or an import, or is used
            in a string that cannot be understood.
    """
    names = resolve(tree.body)
    edits = Edits(text)
    meant = {id(n): new[n.id] for n, scope in names.references if n.id in new and names.is_global(n, scope)}
    lines = split_lines(text)
    for node, at_top in _definitions(tree):
        if isinstance(node, ast.Global):
            edits.replace(node, "global " + ", ".join(new.get(name, name) for name in node.names))
        elif isinstance(node, ast.Import | ast.ImportFrom):
            _rename_import(edits, node, new)
        elif isinstance(node, ast.ClassDef | _Function) and at_top and node.name in new:
            _rename_definition(edits, lines, node, new[node.name])
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and at_top and node.name in new:
            raise CannotRename(f"{node.name} is bound by {type(node).__name__}")
    meant |= _rename_fixtures(edits, tree, {name: new[name] for name in fixtures if name in new})
    replace_names(text, tree, edits, meant)
    return edits.result()


def replace_names(text: str, tree: ast.Module, edits: Edits, meant: Mapping[int, str]) -> None:
    """Put other texts in the place of some names, in f-strings too.

    Args:
        text: of a file.
        tree: of it.
        edits: that take the changes.
        meant: the new texts by the ``id`` of the ``ast.Name``.

    Raises:
        CannotRename: a name means several things in one f-string.
    """
    strings = [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)] if sys.version_info < (3, 12) else []
    inside = {id(inner) for node in strings for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and id(node) in meant and id(node) not in inside:
            edits.replace(node, meant[id(node)])
    wanted: list[tuple[tuple[int, int], dict[str, str]]] = []
    nested = {id(inner) for node in strings for inner in ast.walk(node) if inner is not node}
    for string in strings:
        found: dict[str, set[str]] = {}
        for node in ast.walk(string):
            if isinstance(node, ast.Name):
                found.setdefault(node.id, set()).add(meant.get(id(node), node.id))
        if id(string) not in nested and any(values != {name} for name, values in found.items()):
            if any(len(values) > 1 for values in found.values()):
                raise CannotRename("a name means several things in one f-string")
            wanted.append((edits.span(string), {name: min(values) for name, values in found.items()}))
    if wanted:
        _replace_in_strings(text, edits, wanted)


def fixture_name(node: ast.AST) -> str | None:
    """The name that tests ask for a fixture by; None for what is none."""
    for decorator in node.decorator_list if isinstance(node, FUNCTION) else ():
        called = decorator.func if isinstance(decorator, ast.Call) else decorator
        if last_name(called) in ("fixture", "yield_fixture") and isinstance(node, FUNCTION):
            given = _given_name(decorator)
            return node.name if given is None else str(given.value)
    return None


def _given_name(decorator: ast.expr) -> ast.Constant | None:
    for keyword in decorator.keywords if isinstance(decorator, ast.Call) else ():
        if keyword.arg == "name" and isinstance(keyword.value, ast.Constant) and isinstance(keyword.value.value, str):
            return keyword.value
    return None


def last_name(node: ast.AST) -> str:
    """``c`` of ``a.b.c``."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _definitions(tree: ast.Module) -> Iterator[tuple[ast.AST, bool]]:
    """Nodes that bind module-level names, with whether they stand at the top or in its blocks."""
    pending: list[tuple[ast.AST, bool]] = [(node, True) for node in tree.body]
    while pending:
        node, at_top = pending.pop()
        if at_top or isinstance(node, ast.Global):
            yield node, at_top
        inner = at_top and not isinstance(node, ast.ClassDef | _Function | ast.Lambda)
        pending += [(child, inner) for child in ast.iter_child_nodes(node)]


def _rename_import(edits: Edits, node: ast.Import | ast.ImportFrom, new: Mapping[str, str]) -> None:
    items = read_import(node)
    if not any(item.local in new for item in items):
        return
    parts = []
    for item in items:
        local = new.get(item.local, item.local)
        alias = item.called(local) if local != item.local else item
        if alias.module != item.module:
            raise CannotRename(f"{item.module} is imported by its whole path")
        parts.append((alias.name or alias.module) + (f" as {alias.local}" if alias.is_alias else ""))
    if isinstance(node, ast.Import):
        edits.replace(node, f"import {', '.join(parts)}")
    else:
        edits.replace(node, from_line(items[0].module, parts).rstrip("\n"))


def _rename_definition(edits: Edits, lines: list[str], node: ast.ClassDef | _Function, name: str) -> None:
    line = lines[node.lineno - 1].encode()
    found = re.compile(rf"(?:async\s+def|def|class)\s+({re.escape(node.name)})\b".encode()).match(line, node.col_offset)
    if found is None:
        raise CannotRename(f"{node.name} stands on another line than its def")
    edits.replace(_place(node.name, node.lineno, found.start(1)), name)


def _replace_in_strings(text: str, edits: Edits, wanted: Iterable[tuple[tuple[int, int], Mapping[str, str]]]) -> None:
    """Replace names inside f-strings by parso's positions: before Python 3.12, those of ast are not reliable there."""
    import parso
    from parso.python.tree import Name

    lines = split_lines(text)
    pending = [parso.parse(text)]
    while pending:
        leaf = pending.pop()
        pending += getattr(leaf, "children", ())
        if not isinstance(leaf, Name) or leaf.search_ancestor("fstring_expr") is None:
            continue
        before, after = leaf.get_previous_leaf(), leaf.get_next_leaf()
        is_keyword = leaf.parent.type == "argument" and after is not None and after.value == "="
        if (before is not None and before.value == ".") or (is_keyword and leaf.parent.children[0] is leaf):
            continue
        row, column = leaf.start_pos
        begin = len(lines[row - 1][:column].encode())
        place = _place(leaf.value, row, begin)
        for (start, stop), new in wanted:
            if start <= edits.span(place)[0] < stop and new.get(leaf.value, leaf.value) != leaf.value:
                edits.replace(place, new[leaf.value])


def _place(name: str, line: int, column: int) -> ast.Name:
    """A name at a position."""
    end = column + len(name.encode())
    return ast.Name(name, lineno=line, end_lineno=line, col_offset=column, end_col_offset=end)


def _rename_fixtures(edits: Edits, tree: ast.Module, new: Mapping[str, str]) -> dict[int, str]:
    """Rename fixtures where they are asked for, in parameters and in strings; gives what their names are then."""
    meant: dict[int, str] = {}
    if not new:
        return meant
    for function, hidden in _asking(tree.body, frozenset()):
        name = fixture_name(function)
        given = [_given_name(d) for d in function.decorator_list]
        for constant in given:
            if name in new and constant is not None and isinstance(constant.value, str):
                edits.replace(constant, repr(new[constant.value]).replace("'", '"'))
        asked = {p.arg: new[p.arg] for p in parameters(function.args) if p.arg in new}
        for old in [old for old in asked if old in hidden or old == name or old in _direct(function)]:
            del asked[old]
        meant |= _rename_parameters(edits, function, asked)
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        called = last_name(call.func)
        if called in _BY_NAME:
            for value in call.args:
                if isinstance(value, ast.Constant) and value.value in new:
                    edits.replace(value, '"' + new[str(value.value)] + '"')
                elif not isinstance(value, ast.Constant):
                    raise CannotRename(f"{called} gets a name that is no string")
        elif called == "parametrize" and any(k.arg == "indirect" for k in call.keywords):
            words = {w for v in ast.walk(call) if isinstance(v, ast.Constant) and isinstance(v.value, str)
                     for w in re.findall(r"\w+", v.value)}  # fmt: skip
            if words & new.keys():
                raise CannotRename(f"{min(words & new.keys())} is parametrized indirectly")
    return meant


def _asking(body: Iterable[ast.stmt], hidden: frozenset[str]) -> Iterator[tuple[_Function, frozenset[str]]]:
    """Functions that pytest may hand fixtures to, with the fixtures that their class has of its own."""
    for node in body:
        if isinstance(node, FUNCTION):
            if fixture_name(node) is not None or node.name.startswith("test") or _SET_UP.match(node.name):
                yield node, hidden - {fixture_name(node) or ""}
        elif isinstance(node, ast.ClassDef):
            own = {name for name in map(fixture_name, node.body) if name is not None}
            direct = {name for decorator in node.decorator_list for name in parametrized(decorator)}
            yield from _asking(node.body, hidden | own | direct)
        elif isinstance(node, ast.If | ast.Try | ast.With):
            yield from _asking([c for c in ast.iter_child_nodes(node) if isinstance(c, ast.stmt)], hidden)


_SET_UP = re.compile(r"(?:setup|teardown)_")


def _direct(function: _Function) -> set[str]:
    """Parameters that ``parametrize`` gives values to."""
    return {name for decorator in function.decorator_list for name in parametrized(decorator)}


def parametrized(decorator: ast.expr) -> list[str]:
    """Names that a ``parametrize`` gives values to; none for all other decorators."""
    if not isinstance(decorator, ast.Call) or last_name(decorator.func) != "parametrize":
        return []
    named = decorator.args[:1] or [k.value for k in decorator.keywords if k.arg == "argnames"]
    strings = [n.value for v in named for n in ast.walk(v) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    return [word for text in strings for word in re.findall(r"\w+", text)]


def _rename_parameters(edits: Edits, function: _Function, new: Mapping[str, str]) -> dict[int, str]:
    """Rename parameters of a function; gives the new names of what means them in its body."""
    if not new:
        return {}
    found = parameters(function.args)
    for parameter in found:
        if parameter.arg in new:
            edits.replace(_place(parameter.arg, parameter.lineno, parameter.col_offset), new[parameter.arg])
    if any(isinstance(node, ast.Nonlocal) and new.keys() & set(node.names) for node in ast.walk(function)):
        raise CannotRename("a parameter is declared nonlocal")
    names = resolve([function])
    own = next(s for s in names.scopes if s.kind == "function" and all(p.arg in s.bound for p in found))
    return {id(n): new[n.id] for n, scope in names.references if n.id in new and scope.owner(n.id) is own}
