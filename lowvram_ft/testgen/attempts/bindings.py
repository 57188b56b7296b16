"""Where the names in a test file are bound, and what may change what they stand for."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from lowvram_ft.data.row import SOLUTION

_HARMLESS = frozenset(dir(builtins)) - {"setattr", "delattr", "next", "exec", "eval", "iter", "map", "filter", "zip"}
"""Functions that change nothing of what they are given."""

Function = ast.FunctionDef | ast.AsyncFunctionDef
_Loop = ast.For | ast.AsyncFor | ast.While


@dataclass(frozen=True)
class Line:
    """A simple statement, or the head of a compound one, in the order of the text.

    Attributes:
        node: the statement.
        parts: what of it counts: all of a simple statement, the target and iterable of a loop.
        loops: the loops that it stands in.
    """

    node: ast.stmt
    parts: tuple[ast.AST, ...]
    loops: frozenset[int]

    def binds(self, name: str) -> bool:
        """Whether it gives a name another object."""
        return name in _bound(self)

    def changes(self, name: str) -> bool:
        """Whether it binds a name, or may change the object."""
        return self.binds(name) or any(_may_change(part, name) for part in self.parts)


@dataclass
class Scope:
    """Where names are bound: a function, or the file itself.

    Attributes:
        lines: its statements.
        parameters: of a function.
        outer: the file, for a function.
        owner: the class that a method stands in.
        names: what is imported, by its local name: ``{"area": "solution.area", "s": "solution"}``.
        definitions: functions and classes of a file, and methods, by name.
    """

    lines: Sequence[Line]
    parameters: frozenset[str] = frozenset()
    outer: Scope | None = None
    owner: ast.ClassDef | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    definitions: Mapping[str, Function | ast.ClassDef] = field(default_factory=dict)


def file_scope(tree: ast.Module, code_names: Iterable[str]) -> Scope:
    """The scope of a whole test file.

    Args:
        tree: the file.
        code_names: names of the code under test, for ``from solution import *``.
    """
    definitions = {
        node.name: node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    }
    rest = [node for node in tree.body if getattr(node, "name", None) not in definitions]
    lines = tuple(_lines(rest, frozenset()))
    names = _imported(ast.walk(tree), code_names)
    bound = {name for line in lines for name in _bound(line)} | definitions.keys()
    return Scope(lines, names={name: of for name, of in names.items() if name not in bound}, definitions=definitions)


def function_scope(function: Function, outer: Scope, owner: ast.ClassDef | None = None) -> Scope:
    """The scope of a function in a file."""
    arguments = function.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    every += [one for one in (arguments.vararg, arguments.kwarg) if one is not None]
    return Scope(
        tuple(_lines(function.body, frozenset())),
        frozenset(argument.arg for argument in every),
        outer,
        owner,
        outer.names,
        outer.definitions,
    )


def _lines(body: Sequence[ast.stmt], loops: frozenset[int]) -> Iterator[Line]:
    for node in body:
        inner = loops | {id(node)} if isinstance(node, _Loop) else loops
        match node:
            case ast.For() | ast.AsyncFor():
                yield Line(node, (node.target, node.iter), inner)
            case ast.While() | ast.If():
                yield Line(node, (node.test,), inner)
            case ast.With() | ast.AsyncWith():
                yield Line(node, tuple(node.items), loops)
            case ast.Try() | ast.TryStar():
                yield Line(node, (), loops)
            case ast.Match():
                yield Line(node, (node.subject,), loops)
            case _:
                yield Line(node, (node,), loops)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        for block in ("body", "orelse", "finalbody"):
            yield from _lines(getattr(node, block, []), inner)
        for handler in getattr(node, "handlers", []):
            yield from _lines(handler.body, inner)
        for case in getattr(node, "cases", []):
            yield from _lines(case.body, inner)


def _bound(line: Line) -> set[str]:
    node = line.node
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.Import | ast.ImportFrom):
        return set()  # `Scope.names` tells what is imported
    found = {name for part in line.parts for name in stored(part)}
    return found | {handler.name for handler in getattr(node, "handlers", []) if handler.name}


def stored(node: ast.AST) -> set[str]:
    """Names that a node binds."""
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name) and not isinstance(part.ctx, ast.Load)}


def _may_change(node: ast.AST, name: str) -> bool:
    """Whether an object may be another one afterwards: its methods are called, it is handed on, a part is set."""
    for part in ast.walk(node):
        if isinstance(part, ast.Call):
            if isinstance(part.func, ast.Attribute) and _root(part.func.value) == name:
                return True
            harmless = isinstance(part.func, ast.Name) and part.func.id in _HARMLESS
            given = [*part.args, *(keyword.value for keyword in part.keywords)]
            if not harmless and any(_root(one) == name for one in given):
                return True
        elif (
            isinstance(part, ast.Attribute | ast.Subscript)
            and not isinstance(part.ctx, ast.Load)
            and _root(part) == name
        ):
            return True
    return False


def _root(node: ast.expr) -> str:
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Starred):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def assigned(node: ast.stmt, name: str) -> ast.expr | None:
    """What a statement gives a name, where it does nothing else."""
    match node:
        case ast.Assign(targets=[ast.Name(id=target)], value=value) if target == name:
            return value
        case ast.AnnAssign(target=ast.Name(id=target), value=value) if target == name:
            return value
    return None


def _imported(nodes: Iterable[ast.AST], code_names: Iterable[str]) -> dict[str, str]:
    """What the code and pytest give, by local name; a name that something else gives as well is not among it."""
    ours: dict[str, str] = {}
    others: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name in (SOLUTION, "pytest"):
                    ours[alias.asname or alias.name] = alias.name
                else:
                    others.add(alias.asname or alias.name.partition(".")[0])
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if node.module not in (SOLUTION, "pytest") or node.level:
                    others.add(alias.asname or alias.name)
                    continue
                names = code_names if alias.name == "*" and node.module == SOLUTION else [alias.name]
                ours |= {(alias.asname or name): f"{node.module}.{name}" for name in names}
    return {name: of for name, of in ours.items() if name not in others}
