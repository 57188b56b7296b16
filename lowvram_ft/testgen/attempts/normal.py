"""The normal form of what a test says: two spellings of one check have the same, two checks have not.

Names are spelt out by where they come from (``solution.area``, ``pytest.raises``), a local name that is bound once
stands for its value, ``a == b`` and ``b == a`` are one, keyword arguments are sorted. A name that is bound several
times, or that something may change, takes along every statement that does so: another argument two lines above an
assertion makes it another assertion.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterable, Iterator

from lowvram_ft.data.row import SOLUTION
from lowvram_ft.testgen.attempts.bindings import Function, Line, Scope, assigned, stored

_MOST_NODES = 600
"""A value that is larger is not put in the place of its name."""
_SYMMETRIC = (ast.Eq, ast.NotEq, ast.Is, ast.IsNot)


class Normal:
    """Normal forms of the expressions in one scope.

    Args:
        scope: where they stand.
    """

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self._places = {id(line.node): place for place, line in enumerate(scope.lines)}
        self._values: dict[tuple[str, int], ast.AST | None] = {}

    def place(self, statement: ast.stmt) -> int:
        """The number of a statement among the scope's lines; one behind the last for a statement that is none."""
        return self._places.get(id(statement), len(self.scope.lines))

    def form(self, node: ast.AST, place: int) -> ast.AST:
        """The normal form of an expression or a statement, without what its names take along.

        Args:
            node: stays as it is.
            place: of the statement that it stands in.
        """
        return _Speller(self, place).visit(copy.deepcopy(node))  # type: ignore[no-any-return]

    def key(self, node: ast.AST, place: int) -> tuple[str, tuple[str, ...]]:
        """The normal form of a node as text, and what its names take along."""
        form = self.form(node, place)
        return ast.dump(form), self.taken_along(form, place)

    def taken_along(self, form: ast.AST, place: int) -> tuple[str, ...]:
        """Everything else that decides what the names in a normal form mean, sorted."""
        found: dict[tuple[str, int], str] = {}
        waiting = [(name, place) for name in _names_in(form)]
        while waiting:
            name, at = waiting.pop()
            if (name, at) in found:
                continue
            found[name, at] = ""
            texts = []
            for part, where in self._decides(name, at):
                part_form = self.form(part, where)
                texts.append(ast.dump(part_form))
                waiting += [(other, where) for other in _names_in(part_form) if other != name]
            found[name, at] = "; ".join(texts)
        return tuple(sorted({f"{name}: {text}" for (name, _), text in found.items() if text}))

    def value(self, name: str, place: int) -> ast.AST | None:
        """The normal form of what a name stands for, where that is one value; None elsewhere."""
        if (name, place) not in self._values:
            self._values[name, place] = None  # what it holds until it is known: a value may lead back to its name
            self._values[name, place] = self._value(name, place)
        return self._values[name, place]

    def _value(self, name: str, place: int) -> ast.AST | None:
        lines = self._history(name, place)
        if len(lines) != 1 or (self.is_local(name, place) and name in self.scope.parameters):
            return None
        at, line = lines[0]
        found = assigned(line.node, name)
        if found is None:
            return None
        form = self.form(found, at)
        return form if sum(1 for _ in ast.walk(form)) <= _MOST_NODES and name not in _names_in(form) else None

    def is_local(self, name: str, place: int) -> bool:
        """Whether a function binds a name itself; nothing is local to the places of the file, which are negative."""
        scope = self.scope
        if place < 0 or scope.outer is None:
            return False
        return name in scope.parameters or any(line.binds(name) for line in scope.lines)

    def _history(self, name: str, place: int) -> list[tuple[int, Line]]:
        """The lines that decide what a name is at a place, each with its own."""
        if self.is_local(name, place):
            here = self.scope.lines[place].loops if place < len(self.scope.lines) else frozenset()
            lines = [
                (at, line)
                for at, line in enumerate(self.scope.lines)
                if at < place or (here & line.loops and at != place)
            ]
        else:
            outer = self.scope.outer if self.scope.outer is not None else self.scope
            lines = [(-1 - at, line) for at, line in enumerate(outer.lines)]
        binding = [(at, line) for at, line in lines if line.binds(name)]
        if binding and all(isinstance(assigned(line.node, name), ast.Constant) for _, line in binding):
            return binding  # nothing changes a number or a text
        return [(at, line) for at, line in lines if line.changes(name)]

    def _decides(self, name: str, place: int) -> Iterator[tuple[ast.AST, int]]:
        """Nodes that decide what a name is, each with its place."""
        local = self.is_local(name, place)
        if (not local or name in self.scope.parameters) and name in self.scope.definitions:
            yield from ((node, -1) for node in _said_by(self.scope.definitions[name]))
        if name == "self" and local and self.scope.owner is not None:
            yield from ((node, -1) for node in self.scope.owner.body if not _is_test(node))
        for at, line in self._history(name, place):
            yield from ((part, at) for part in line.parts)


class _Speller(ast.NodeTransformer):
    """Brings a copy of a tree into its normal form."""

    def __init__(self, normal: Normal, place: int) -> None:
        self.normal = normal
        self.place = place
        self.hidden: list[frozenset[str]] = []

    def visit_Name(self, node: ast.Name) -> ast.AST:
        if any(node.id in names for names in self.hidden):
            return node
        scope = self.normal.scope
        if node.id in scope.names and not self.normal.is_local(node.id, self.place):
            return ast.Name(scope.names[node.id], ast.Load())
        if isinstance(node.ctx, ast.Load):
            value = self.normal.value(node.id, self.place)
            return copy.deepcopy(value) if value is not None else node
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.value, ast.Name) and node.value.id in (SOLUTION, "pytest"):
            return ast.Name(f"{node.value.id}.{node.attr}", ast.Load())
        return node

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        if len(node.ops) == 1 and isinstance(node.ops[0], _SYMMETRIC):
            node.left, node.comparators[0] = sorted((node.left, node.comparators[0]), key=ast.dump)
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if all(keyword.arg is not None for keyword in node.keywords):
            node.keywords.sort(key=lambda keyword: str(keyword.arg))
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        node.kind = None
        return node

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        node.msg = None
        return self.generic_visit(node)

    def visit_Lambda(self, node: ast.Lambda) -> ast.AST:
        return self._within(node, {argument.arg for argument in ast.walk(node.args) if isinstance(argument, ast.arg)})

    def visitFunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return self._within(node, _own_names(node))

    def _comprehension(self, node: ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp) -> ast.AST:
        return self._within(node, {name for part in node.generators for name in stored(part.target)})

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = _comprehension

    def _within(self, node: ast.AST, names: Iterable[str]) -> ast.AST:
        self.hidden.append(frozenset(names))
        self.generic_visit(node)
        self.hidden.pop()
        return node


def _own_names(node: Function) -> set[str]:
    """Names that a function binds for itself: they stay as they are in it."""
    arguments = {part.arg for part in ast.walk(node.args) if isinstance(part, ast.arg)}
    return arguments | {name for part in node.body for name in stored(part)}


def _said_by(node: Function | ast.ClassDef) -> list[ast.AST]:
    """A function or class without its docstring; the names of its parameters come with it."""
    node = copy.copy(node)
    first = node.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and len(node.body) > 1:
        node.body = node.body[1:]
    if isinstance(node, ast.ClassDef):
        return [node]
    fixtures = [ast.Name(argument.arg, ast.Load()) for argument in node.args.args]
    return [node, *fixtures]


def _is_test(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test")


def _names_in(node: ast.AST) -> set[str]:
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name) and "." not in part.id}
