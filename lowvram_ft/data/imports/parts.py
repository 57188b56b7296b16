"""Find what a test's import statements have to do with the code under test."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from lowvram_ft.data.imports.edits import Edits
from lowvram_ft.data.imports.scopes import Names, Scope, local_name
from lowvram_ft.data.syntax import absolute_module
from lowvram_ft.execution.modules import SOLUTION

Import = ast.Import | ast.ImportFrom
Reference = tuple[ast.Name, Scope]
Kind = Literal["name", "star", "module", "other"]

_DEPENDS_ON_ITS_PLACE = re.compile(
    r"\b(?:monkeypatch|patch|mocker|reload|import_module|environ|modules|setitem|syspath_prepend)\b"
)


@dataclass(frozen=True)
class Code:
    """The names of the module under test.

    Attributes:
        names: those that it binds.
        is_open: whether it may have more, through ``import *`` or ``__getattr__``.
        imported: those that nothing but imports bind: not its own.
        rebound: those that its functions may bind anew, so that a name imported once would be out of date.
    """

    names: frozenset[str]
    is_open: bool
    imported: frozenset[str]
    rebound: frozenset[str]

    def may_have(self, name: str) -> bool:
        """Whether ``name`` can be imported from it."""
        return name in self.names or (self.is_open and not name.startswith("__"))


@dataclass
class Part:
    """One name of an import statement.

    Attributes:
        statement: the statement.
        alias: the part of it.
        scope: where it stands.
        local: the name that it binds; empty for a star.
        kind: a name of the code, all its names, a module that has the code's names, or something else.
        direct: whether the statement stands at the top of the file, in no other statement.
        movable: whether it can be imported at the top of the file as well.
        routes: attributes that lead from the local name to a module with the code's names, the longest first, with
            those names; None for all that the code has.
        path: the route to the module under test itself, where the import names that.
        exact: whether the import names the module under test itself.
        stays: whether it is left as it is.
        in_place: whether it is rewritten where it stands.
    """

    statement: Import
    alias: ast.alias
    scope: Scope
    local: str
    kind: Kind
    direct: bool
    movable: bool
    routes: Sequence[tuple[tuple[str, ...], Collection[str] | None]] = ()
    path: tuple[str, ...] = ()
    exact: bool = False
    stays: bool = False
    in_place: bool = False


@dataclass
class Use:
    """A place where the code's name ``target`` is read as an attribute of its module."""

    node: ast.Attribute
    target: str
    scope: Scope
    part: Part


@dataclass
class Plan:
    """What is known of a test file, and what is to become of it.

    Attributes:
        entries: names to import at the top, each with the name that it gets.
        starred: names to import in the place of a star that is not at the top.
        objects: names that the module itself gets at the top.
        uses: attributes of the module.
        escapes: places where the module itself is used, with the import that it came by.
    """

    test: str
    module: str
    tree: ast.Module
    names: Names
    code: Code
    parents: Mapping[ast.AST, ast.AST]
    parts: list[Part]
    edits: Edits
    references: Mapping[tuple[Scope, str], list[Reference]]
    entries: set[tuple[str, str]] = field(default_factory=set)
    starred: set[tuple[str, str]] = field(default_factory=set)
    objects: set[str] = field(default_factory=set)
    uses: list[Use] = field(default_factory=list)
    escapes: list[tuple[ast.expr, Part]] = field(default_factory=list)

    def refers(self, part: Part) -> list[Reference]:
        """The places where the name that a part binds is meant, the binding itself left out."""
        return self.references.get((part.scope, part.local), [])

    def leaving(self) -> set[tuple[Scope, str]]:
        """Names of modules that nothing needs, once their attributes are names."""
        needed = {(part.scope, part.local) for _, part in self.escapes}
        modules = [part for part in self.parts if part.kind == "module"]
        needed |= {
            (part.scope, part.local) for part in self.parts if part.kind != "module" or part.stays or part.in_place
        }
        return {(part.scope, part.local) for part in modules} - needed

    def siblings(self, part: Part) -> list[Part]:
        """The parts that bind the same name in the same scope, itself included."""
        return [other for other in self.parts if other.scope is part.scope and other.local == part.local]


def find_parts(
    test: str,
    names: Names,
    parents: Mapping[ast.AST, ast.AST],
    code: Code,
    module: str,
    package: str,
    reexports: Mapping[str, Collection[str]],
) -> list[Part]:
    """Every part of every import statement, in the order of the file."""
    sources: dict[str, Collection[str] | None] = {**reexports, SOLUTION: None, module: None}
    is_delicate = _DEPENDS_ON_ITS_PLACE.search(test) is not None
    found = []
    for statement, scope in sorted(names.imports, key=lambda item: (item[0].lineno, item[0].col_offset)):
        parent = parents[statement]
        direct = isinstance(parent, ast.Module)
        in_function = isinstance(parent, ast.FunctionDef | ast.AsyncFunctionDef) and scope.kind == "function"
        movable = direct or (in_function and not is_delicate)
        for alias in statement.names:
            local = "" if alias.name == "*" else local_name(statement, alias)
            part = Part(statement, alias, scope, local, "other", direct, movable)
            if isinstance(statement, ast.Import):
                _classify_import(part, sources)
            else:
                _classify_from(part, absolute_module(statement, package), sources, code)
            found.append(part)
    return found


def _classify_import(part: Part, sources: Mapping[str, Collection[str] | None]) -> None:
    name = part.alias.name
    if part.alias.asname:
        _find_routes(part, name, name, sources)
    else:  # binds ``a`` of ``a.b.c``, and makes all that is below it reachable
        _find_routes(part, name.partition(".")[0], name, sources)


def _classify_from(part: Part, source: str | None, sources: Mapping[str, Collection[str] | None], code: Code) -> None:
    name = part.alias.name
    if source is None:
        return
    if source in sources and name == "*":
        part.kind = "star" if sources[source] is None else "other"
    elif source in sources and (source == SOLUTION or _offers(sources[source], name, code)):
        part.kind = "name"
    elif source:
        _find_routes(part, f"{source}.{name}", f"{source}.{name}", sources)


def _find_routes(part: Part, bound: str, named: str, sources: Mapping[str, Collection[str] | None]) -> None:
    """Note the modules that can be reached through the package ``bound``, where the import names ``named``."""
    routes = {}
    for source, offered in sources.items():
        if source == bound or source.startswith(f"{bound}."):
            path = tuple(source[len(bound) + 1 :].split(".")) if source != bound else ()
            routes[path] = offered
            if source == named and offered is None:
                part.exact, part.path = True, path
    if routes:
        part.kind = "module"
        part.routes = sorted(routes.items(), key=lambda route: -len(route[0]))


def _offers(offered: Collection[str] | None, name: str, code: Code) -> bool:
    return code.may_have(name) if offered is None else name in offered
