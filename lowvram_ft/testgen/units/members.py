"""What of a module's statements can be cut by itself, and their text when it is."""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from lowvram_ft.data.imports.scopes import resolve
from lowvram_ft.data.trimming.statements import Statement

Form = Literal["whole", "documented", "signature", "gone"]

FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)
_SIMPLE = (ast.Assign, ast.AnnAssign, ast.AugAssign, ast.Delete, ast.Expr)
_LONG_CONSTANT = 300
_LONG_STRING = 1000
_SHOWN_ITEMS = 3
_COLLECTIONS = frozenset({"dict", "frozenset", "list", "set", "sorted", "tuple"})


@dataclass(frozen=True, eq=False)
class Member:
    """A function that stands in no other, or a simple statement of a class body: what can be cut by itself.

    Attributes:
        path: ``Reader.read``; of a statement that binds no single name, ``Reader.``.
        node: its tree.
        owner: the class that it stands in; None at the top.
        siblings: the statements of the block that it stands in.
        binds: names that it binds in its class.
        head: names that its signature and its decorators use.
        body: names that its body uses.
        attributes: names after a dot in its body.
        head_attributes: names after a dot in its signature and its decorators.
        declares: names that it declares ``global``.
        is_called: whether its class calls it in its body.
    """

    path: str
    node: ast.stmt
    owner: ast.ClassDef | None
    siblings: Sequence[ast.stmt]
    binds: frozenset[str]
    head: frozenset[str]
    body: frozenset[str]
    attributes: frozenset[str]
    head_attributes: frozenset[str]
    declares: frozenset[str]
    is_called: bool

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.path.rpartition(".")[2]

    @property
    def lines(self) -> range:
        """Its lines, from 1, decorators included."""
        return lines_of(self.node)

    @property
    def is_function(self) -> bool:
        """Whether it has a body to cut."""
        return isinstance(self.node, FUNCTION)

    @property
    def is_docstring(self) -> bool:
        """Whether it documents its class."""
        return self.owner is not None and self.node is self.owner.body[0] and _is_string(self.node)


@dataclass(frozen=True)
class Parts:
    """A statement, taken apart.

    Attributes:
        members: what can be cut, in order.
        frame: names that the rest uses.
        on_import: those of them that are read when the module is imported.
        attributes: names after a dot in the rest.
        deletes: names that it does nothing with but deleting them.
    """

    members: tuple[Member, ...]
    frame: frozenset[str]
    on_import: frozenset[str]
    attributes: frozenset[str]
    deletes: frozenset[str]


def lines_of(node: ast.stmt) -> range:
    """The lines of a statement, from 1, decorators included."""
    first = min([node.lineno, *(item.lineno for item in getattr(node, "decorator_list", ()))])
    return range(first, (node.end_lineno or node.lineno) + 1)


def read_parts(statement: Statement) -> Parts:
    """Take a statement apart."""
    names = resolve(statement.nodes)
    used = {id(n): n.id for n, scope in names.references if names.is_global(n, scope) or scope.kind == "class"}
    deferred = {id(n) for n, scope in names.references if scope.deferred}
    called = {id(node): _called_in(node) for top in statement.nodes for node in ast.walk(top)
              if isinstance(node, ast.ClassDef)}  # fmt: skip
    members: list[Member] = []
    taken: set[int] = set()
    for prefix, node, owner, siblings in _find_members(statement.nodes, "", None):
        inside = [n for part in (node.body if isinstance(node, FUNCTION) else [node]) for n in ast.walk(part)]
        within = {id(n) for n in inside}
        outer = [n for n in ast.walk(node) if id(n) not in within]
        head = {id(n) for n in outer}
        taken |= within | head
        binds = frozenset([node.name] if isinstance(node, FUNCTION) else resolve([node]).top.bound)
        declares = frozenset(name for n in inside if isinstance(n, ast.Global) for name in n.names)
        members.append(
            Member(
                prefix + (next(iter(binds)) if len(binds) == 1 else ""),
                node,
                owner,
                siblings,
                binds,
                frozenset(used[i] for i in head & used.keys()),
                frozenset(used[i] for i in within & used.keys()) | declares,
                frozenset(n.attr for n in inside if isinstance(n, ast.Attribute)),
                frozenset(n.attr for n in outer if isinstance(n, ast.Attribute)),
                declares,
                owner is not None and not binds.isdisjoint(called.get(id(owner), ())),
            )
        )
    rest = used.keys() - taken
    outside = [n for top in statement.nodes for n in ast.walk(top) if id(n) not in taken]
    return Parts(
        tuple(members),
        frozenset({used[i] for i in rest} | {n.id for n, _ in names.quoted}),
        frozenset(used[i] for i in rest - deferred),
        frozenset(n.attr for n in outside if isinstance(n, ast.Attribute)),
        _named_as(ast.Del, outside) - _named_as(ast.Store, outside) - _named_as(ast.Load, outside),
    )


def _named_as(context: type[ast.expr_context], nodes: Iterable[ast.AST]) -> frozenset[str]:
    return frozenset(node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, context))


def _find_members(
    body: Sequence[ast.stmt], prefix: str, owner: ast.ClassDef | None
) -> Iterator[tuple[str, ast.stmt, ast.ClassDef | None, Sequence[ast.stmt]]]:
    for node in body:
        if isinstance(node, FUNCTION) or (owner is not None and isinstance(node, _SIMPLE)):
            yield prefix, node, owner, body
        elif isinstance(node, ast.ClassDef):
            yield from _find_members(node.body, f"{prefix}{node.name}.", node)
        elif isinstance(node, ast.If | ast.Try | ast.With):
            blocks = [getattr(node, name, []) for name in ("body", "orelse", "finalbody")]
            for block in [*blocks, *(handler.body for handler in getattr(node, "handlers", ()))]:
                yield from _find_members(block, prefix, owner)


def _is_string(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _called_in(node: ast.ClassDef) -> set[str]:
    """Names that a class body calls, what its functions call left out."""
    found: set[str] = set()
    pending: list[ast.AST] = list(node.body)
    while pending:
        item = pending.pop()
        if isinstance(item, ast.Call) and isinstance(item.func, ast.Name):
            found.add(item.func.id)
        pending += item.decorator_list if isinstance(item, FUNCTION) else list(ast.iter_child_nodes(item))
    return found


def stands_alone(node: ast.stmt, lines: Sequence[str]) -> bool:
    """Whether no other statement shares a line with one."""
    first, last = lines_of(node)[0], lines_of(node)[-1]
    after = lines[last - 1].encode()[node.end_col_offset or 0 :].decode().strip()
    before = lines[first - 1].encode()[: node.col_offset].decode().strip().rstrip("@")
    return not before and (not after or after.startswith("#"))


def render(statement: Statement, lines: Sequence[str], forms: Sequence[tuple[Member, Form]]) -> str:
    """The text of a statement with some of its members cut.

    Args:
        statement: the statement.
        lines: of the module.
        forms: how each of its members is shown; a block that would be left empty holds ``...``.
    """
    text = dict(enumerate(lines[statement.start - 1 : statement.end], statement.start))
    gone = [member for member, form in forms if form == "gone"]
    for member, form in forms:
        if form == "gone" and member.owner is not None:
            empty = sum(other.siblings is member.siblings for other in gone) == len(member.siblings)
            _remove(member, text, member.owner, leave_dots=empty and member.node is member.siblings[-1])
        elif form != "whole" and isinstance(member.node, FUNCTION):
            _cut_body(member.node, text, documented=form == "documented")
    found = "".join(text[number] for number in sorted(text))
    return found if found.endswith(("\n", "\r")) else found + "\n"


def _remove(member: Member, text: dict[int, str], owner: ast.ClassDef, leave_dots: bool) -> None:
    """Take a member out, with the comments and blank lines directly above."""
    first = member.lines[0]
    while first - 1 > owner.lineno and (text.get(first - 1, "x").strip() or "#").startswith("#"):
        first -= 1
    for number in range(first, member.lines[-1] + 1):
        text.pop(number, None)
    if leave_dots:
        text[first] = " " * member.node.col_offset + "...\n"


def _cut_body(node: ast.FunctionDef | ast.AsyncFunctionDef, text: dict[int, str], documented: bool) -> None:
    has_docstring = ast.get_docstring(node, clean=False) is not None
    if documented and has_docstring and len(node.body) == 1:
        return
    first = node.body[1] if documented and has_docstring else node.body[0]
    line, last = lines_of(first)[0], node.end_lineno or node.lineno
    before = text[line].encode()[: first.col_offset].decode()
    after = text[last].encode()[node.end_col_offset or 0 :].decode()
    end = after if after.lstrip().startswith(";") else after[len(after.rstrip("\r\n")) :]
    text[line] = f"{before}...{end}"
    for number in range(line + 1, last + 1):
        text.pop(number, None)


def shortened(statement: Statement) -> str | None:
    """A constant with many items, with its first ones; None for all others."""
    node = statement.nodes[0]
    if len(statement.nodes) > 1 or not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
        return None
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    if lines_of(node)[0] == lines_of(node)[-1] and (node.end_col_offset or 0) <= _LONG_CONSTANT:
        return None
    whole = ast.unparse(node)
    if not all(isinstance(target, ast.Name) for target in targets) or len(whole) <= _LONG_CONSTANT:
        return None
    short = copy.deepcopy(node)
    value = short.value
    while isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id in _COLLECTIONS:
        value = value.args[0] if value.args else None
    _shorten(value)
    text = ast.unparse(short)
    return f"{text}  # shortened\n" if text != whole else None


def _shorten(value: ast.AST | None) -> None:
    """Cut a literal to its first items. What is handed to calls stays: a shorter pattern may be none."""
    if isinstance(value, ast.Dict):
        value.keys, value.values = value.keys[:_SHOWN_ITEMS], value.values[:_SHOWN_ITEMS]
        for item in value.values:
            _shorten(item)
    elif isinstance(value, ast.List | ast.Set | ast.Tuple):
        value.elts = value.elts[:_SHOWN_ITEMS]
        for item in value.elts:
            _shorten(item)
    elif isinstance(value, ast.Constant) and isinstance(value.value, str) and len(value.value) > _LONG_STRING:
        value.value = value.value[:_LONG_CONSTANT]
