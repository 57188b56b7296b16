"""The place of an assertion in a test file, and how its arguments are taken over."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field

from lowvram_ft.data.unittest_style.text import Edit, NotConvertible, Source
from lowvram_ft.data.unittest_style.values import Scope, is_literal

_OPTIONAL = frozenset({"msg", "places", "delta", "seq_type"})

COMPARISON = 6
"""Binding strength of comparisons; what stands beside one has to bind more strongly."""
_STRENGTH: dict[type[ast.AST], int] = {
    ast.NamedExpr: 0,
    ast.Yield: 0,
    ast.YieldFrom: 0,
    ast.Lambda: 1,
    ast.IfExp: 2,
    ast.Or: 3,
    ast.And: 4,
    ast.Not: 5,
    ast.Compare: COMPARISON,
    ast.BitOr: 7,
    ast.BitXor: 8,
    ast.BitAnd: 9,
    ast.LShift: 10,
    ast.RShift: 10,
    ast.Add: 11,
    ast.Sub: 11,
    ast.Invert: 13,
    ast.UAdd: 13,
    ast.USub: 13,
    ast.Pow: 14,
    ast.Await: 15,
}
MULTIPLICATION = 12
SUM = 11
ATOM = 16


def strength(node: ast.expr) -> int:
    """How strongly an expression binds: Python's own order of operators, the weakest first."""
    if isinstance(node, ast.BinOp | ast.UnaryOp | ast.BoolOp):
        return _STRENGTH.get(type(node.op), MULTIPLICATION)
    return _STRENGTH.get(type(node), ATOM)


@dataclass
class Site:
    """The place of an assertion, and what has become of its arguments.

    Attributes:
        source: the test file.
        statement: the call of an assertion method, as a statement.
        scope: what the names there stand for.
        taken: names that are not free.
        edits: of what stands in the statement.
        needs: modules and names that the result uses; added to.
    """

    source: Source
    statement: ast.stmt
    scope: Scope
    taken: set[str]
    edits: list[Edit]
    needs: set[str]
    kept: list[tuple[int, int]] = field(default_factory=list)

    @property
    def indent(self) -> str:
        """White space before the statement."""
        return self.source.indent(self.source.start(self.statement))

    def text(self, node: ast.expr) -> str:
        """An expression as it stands there, moved to the statement's own indentation."""
        text, is_whole = self._taken_over(node)
        return text if is_whole else f"({text})"

    def operand(self, node: ast.expr, weakest: int = COMPARISON + 1) -> str:
        """An expression, in parentheses where it binds less strongly than ``weakest``."""
        text, is_whole = self._taken_over(node)
        return text if is_whole and strength(node) >= weakest else f"({text})"

    def _taken_over(self, node: ast.expr) -> tuple[str, bool]:
        """The text of an expression, and whether its lines hold together by themselves."""
        start, end = self.source.start(node), self.source.end(node)
        self.kept.append((start, end))
        edits = list(self.edits)
        old, new = self.source.indent(start), self.indent
        if old != new and old.startswith(new):
            moved = self.source.shifted(start, end, old, new)
            edits += [e for e in moved if not any(e.start < other.end and other.start < e.end for other in self.edits)]
        text = self.source.render(start, end, edits)
        return text, "\n" not in text or _closed(text)

    def fresh(self, *names: str) -> str:
        """The first of the names that is free here.

        Raises:
            NotConvertible: none is.
        """
        for name in names:
            if name not in self.taken:
                return name
        raise NotConvertible("no free name")

    def lost_comments(self) -> list[str]:
        """Comments in the statement that stand in none of the expressions that were taken over."""
        start, end = self.source.start(self.statement), self.source.end(self.statement)
        found = [(at, text) for at, text in self.source.comments if start <= at < end]
        return [text for at, text in found if not any(a <= at < b for a, b in self.kept)]


def _closed(text: str) -> bool:
    """Whether an expression of several lines needs no parentheses around it."""
    try:
        alone = ast.parse(text)
        inside = ast.parse(f"(\n{text}\n)")
    except SyntaxError:
        return False
    return ast.dump(alone) == ast.dump(inside)


def arguments(call: ast.Call, names: tuple[str, ...]) -> dict[str, ast.expr]:
    """The arguments of a call by name, in the order in which they are evaluated.

    Raises:
        NotConvertible: they are starred, or none of these.
    """
    if any(isinstance(a, ast.Starred) for a in call.args) or any(k.arg is None for k in call.keywords):
        raise NotConvertible("starred arguments of an assertion")
    found: dict[str, ast.expr] = dict(zip(names, call.args, strict=False))
    for keyword in call.keywords:
        if keyword.arg not in names or keyword.arg in found:
            raise NotConvertible("arguments that an assertion does not take")
        found[keyword.arg] = keyword.value
    missing = [name for name in names if name not in found and name not in _OPTIONAL]
    if missing or len(call.args) > len(names):
        raise NotConvertible("arguments that an assertion does not take")
    evaluated = [name for name, node in found.items() if not isinstance(node, ast.Name) and not is_literal(node)]
    if evaluated != [name for name in names if name in evaluated]:
        raise NotConvertible("keyword arguments of an assertion in another order")
    return found
