"""Which mutants a session can reach, and which are none: questions about lines and bytecode."""

from __future__ import annotations

import ast
import types
from collections.abc import Collection, Iterator


class Reach:
    """Tells whether a session came by a line of a module.

    A mutant anywhere in a statement of several lines is reached when one of these lines is: an answer that
    errs towards running it. The header of a compound statement counts as a statement of its own.

    Args:
        text: the module.
        code: what it compiles to.
        ran: lines for which coverage.py has an event.
    """

    def __init__(self, text: str, code: types.CodeType, ran: Collection[int]) -> None:
        self.ran = frozenset(ran)
        self.traceable = frozenset(line for part in _code_objects(code) for _, _, line in part.co_lines())
        self.spans = statement_spans(text)

    def reaches(self, line: int) -> bool:
        """Whether the statement at ``line`` ran, or cannot be seen running at all."""
        span = self.spans.get(line, range(line, line + 1))
        return not self.ran.isdisjoint(span) or self.traceable.isdisjoint(span)


def statement_spans(text: str) -> dict[int, range]:
    """Lines of the innermost statement that each line of a module belongs to; the header of a compound one is one."""
    spans: dict[int, range] = {}
    for node in ast.walk(ast.parse(text)):
        span = _span(node)
        for line in span:
            spans[line] = span
    return spans


def same_code(one: types.CodeType, other: types.CodeType) -> bool:
    """Whether two modules compile to the same instructions, constants and names; lines may differ."""
    plain = ("co_code", "co_names", "co_varnames", "co_freevars", "co_cellvars", "co_name", "co_flags")
    counts = ("co_argcount", "co_posonlyargcount", "co_kwonlyargcount", "co_stacksize")
    if any(getattr(one, field) != getattr(other, field) for field in (*plain, *counts)):
        return False
    if getattr(one, "co_exceptiontable", b"") != getattr(other, "co_exceptiontable", b""):
        return False
    return len(one.co_consts) == len(other.co_consts) and all(map(_same_constant, one.co_consts, other.co_consts))


def _same_constant(one: object, other: object) -> bool:
    if isinstance(one, types.CodeType) and isinstance(other, types.CodeType):
        return same_code(one, other)
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(_same_constant, one, other))
    # repr keeps 1, 1.0, True, 0.0 and -0.0 apart; sets are compared as sets
    same = one == other if isinstance(one, frozenset) else repr(one) == repr(other)
    return type(one) is type(other) and same


def _code_objects(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _code_objects(constant)


def _span(node: ast.AST) -> range:
    """Lines of a simple statement, or of a compound one's header with its decorators."""
    if isinstance(node, ast.match_case):
        start = node.pattern.lineno
        return range(start, max(start + 1, node.body[0].lineno))
    if not isinstance(node, ast.stmt | ast.ExceptHandler):
        return range(0)
    start, end = node.lineno, (node.end_lineno or node.lineno) + 1
    decorators: list[ast.expr] = getattr(node, "decorator_list", [])
    start = min([start, *(decorator.lineno for decorator in decorators)])
    body = getattr(node, "body", None)
    if isinstance(body, list) and body:
        end = max(node.lineno + 1, body[0].lineno)
    elif isinstance(node, ast.Match):
        end = max(start + 1, node.cases[0].pattern.lineno)
    return range(start, end)
