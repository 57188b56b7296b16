"""What can be known of the values in a test without running it."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable
from typing import Any

from lowvram_ft.data.unittest_style.text import own_nodes

_INDEX = ast.Name("an index", ast.Load())
"""Stands for the integers of ``range`` and ``enumerate``."""

_READING = frozenset({"items", "keys", "values", "copy", "count", "index", "split", "strip", "upper", "lower"})
_DISPLAYS: dict[type[ast.expr], type] = {
    ast.List: list,
    ast.ListComp: list,
    ast.Tuple: tuple,
    ast.Dict: dict,
    ast.DictComp: dict,
    ast.Set: set,
    ast.SetComp: set,
    ast.JoinedStr: str,
}
_RETURNS: dict[str, type] = {
    "list": list,
    "sorted": list,
    "tuple": tuple,
    "dict": dict,
    "set": set,
    "frozenset": frozenset,
    "str": str,
    "repr": str,
}
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_MATH = frozenset({"sqrt", "exp", "log", "log2", "log10", "sin", "cos", "tan", "atan", "radians", "degrees"})
_MOST_VALUES = 200


def literal(node: ast.expr) -> Any:
    """The value of a literal.

    Raises:
        ValueError: it is none.
    """
    try:
        return ast.literal_eval(node)
    except (TypeError, SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(str(error)) from None


def is_literal(node: ast.expr) -> bool:
    """Whether the expression has the same plain value at any time."""
    try:
        literal(node)
    except ValueError:
        return False
    return True


class Scope:
    """What the names of a function may stand for.

    Args:
        tree: the function, or the module.
        outer: the module's scope; None for the module itself.
    """

    def __init__(self, tree: ast.AST, outer: Scope | None = None) -> None:
        self.outer = outer
        self.bindings: dict[str, list[ast.expr | None]] = {}
        self._math: bool = outer._math if outer is not None else _imports_math(tree)
        self._active: set[str] = set()
        self._first_lines: dict[str, int] = {}
        for node in ast.walk(tree):
            name = node.arg if isinstance(node, ast.arg) else node.id if isinstance(node, ast.Name) else None
            if name is not None and isinstance(node, ast.Name | ast.arg) and not _is_load(node):
                self._first_lines[name] = min(node.lineno, self._first_lines.get(name, node.lineno))
        own = list(own_nodes(tree)) if outer is None else list(ast.walk(tree))
        loops = [node for node in own if isinstance(node, ast.For)]
        seen = {name for loop in loops for name in ast.walk(loop.target)}
        for node in own:
            if isinstance(node, ast.Assign):
                seen.update(name for target in node.targets for name in ast.walk(target))
                for target in node.targets:
                    self._bind(target, [node.value])
            elif isinstance(node, ast.AnnAssign) and node.value is not None and node.simple:
                seen.add(node.target)
                self._bind(node.target, [node.value])
        self._unknown = _bound_otherwise(tree, seen)
        for loop in loops:
            self._bind(loop.target, self._elements(loop.iter))

    def _bind(self, target: ast.expr, values: list[ast.expr] | None) -> None:
        if isinstance(target, ast.Name):
            self.bindings.setdefault(target.id, []).extend(values if values is not None else [None])
        elif isinstance(target, ast.Tuple | ast.List):
            columns: list[list[ast.expr] | None] = [None] * len(target.elts)
            if values is not None and all(_fits(value, len(target.elts)) for value in values):
                rows = [value.elts for value in values if isinstance(value, ast.Tuple | ast.List | ast.Set)]
                columns = [list(column) for column in zip(*rows, strict=True)] if rows else columns
            for name, column in zip(target.elts, columns, strict=True):
                self._bind(name, column)

    def _binds(self, name: str) -> bool:
        return name in self.bindings or name in self._unknown

    def _is_builtin(self, name: str) -> bool:
        return not self._binds(name) and (self.outer is None or self.outer._is_builtin(name))

    def _values(self, name: str) -> list[ast.expr] | None:
        if not self._binds(name):
            return self.outer._values(name) if self.outer is not None else None
        found = [None] if name in self._unknown else self.bindings[name]
        values = [value for value in found if value is not None]
        return values if len(values) == len(found) <= _MOST_VALUES else None

    def possible(self, node: ast.expr) -> list[ast.expr] | None:
        """The expressions that a name or an item of a literal may stand for; the node itself for all others."""
        if isinstance(node, ast.Name) and node is not _INDEX:
            values = None if node.id in self._active else self._values(node.id)
            if values is None:
                return None
            self._active.add(node.id)  # a name may be bound to an expression with itself in it
            every = [self.possible(value) for value in values]
            self._active.discard(node.id)
            found = [value for some in every for value in some or ()]
            return None if None in every or len(found) > _MOST_VALUES else found
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            holders = self.possible(node.value)
            items = [_item(holder, node.slice.value) for holder in holders or []]
            known = [item for item in items if item is not None]
            return known if holders and len(known) == len(items) else None
        return [node]

    def literals(self, node: ast.expr) -> list[ast.expr] | None:
        """The literals that an expression may stand for; None where that is not known."""
        found = self.possible(node)
        return found if found and all(is_literal(value) for value in found) else None

    def _elements(self, node: ast.expr) -> list[ast.expr] | None:
        """What a loop over an expression gives, if it is known."""
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
            if node.func.id == "range":
                return [_INDEX]
            columns = [self._elements(argument) for argument in node.args]
            if node.func.id == "enumerate" and columns and columns[0] is not None:
                return [_pair(_INDEX, value) for value in columns[0]]
            if node.func.id == "zip" and columns and None not in columns:
                rows = zip(*(column or [] for column in columns), strict=False)
                return [ast.Tuple(list(row), ast.Load()) for row in rows]
            return None
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and not node.args:
            tables = self.possible(node.func.value) if node.func.attr in ("items", "keys", "values") else None
            found: list[ast.expr] = []
            for table in tables or [node]:
                if not isinstance(table, ast.Dict) or None in table.keys:
                    return None
                keys = [key for key in table.keys if key is not None]
                pairs: list[ast.expr] = [_pair(k, v) for k, v in zip(keys, table.values, strict=True)]
                found += {"items": pairs, "keys": keys, "values": table.values}[node.func.attr]
            return found
        found = []
        for holder in self.possible(node) or [_INDEX]:
            if isinstance(holder, ast.Dict) and None not in holder.keys:
                found += [key for key in holder.keys if key is not None]
            elif isinstance(holder, ast.List | ast.Tuple | ast.Set) and _fits(holder, len(holder.elts)):
                found += holder.elts
            else:
                return None
        return found

    def kind(self, node: ast.expr) -> type | None:
        """The exact built-in type of an expression's value, where it is certain."""
        kinds = {self._kind(value) for value in self.possible(node) or []}
        return kinds.pop() if len(kinds) == 1 else None

    def _kind(self, node: ast.expr) -> type | None:
        if isinstance(node, ast.Constant):
            return type(node.value)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            return _RETURNS.get(node.func.id) if self._is_builtin(node.func.id) else None
        return _DISPLAYS.get(type(node))

    def numbers(self, node: ast.expr) -> list[float | int] | None:
        """The values of an expression that is a plain number, no bool; None where it may be anything else."""
        found: list[float | int] = []
        for value in self.possible(node) or [_INDEX]:
            try:
                number = self._number(value)
            except (ValueError, ArithmeticError, TypeError, RecursionError):
                return None
            found.append(number)
        return found

    def _number(self, node: ast.expr) -> float | int:
        if isinstance(node, ast.Constant) and type(node.value) in (int, float):
            return node.value  # type: ignore[return-value]
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
            value = self._one_number(node.operand)
            return -value if isinstance(node.op, ast.USub) else value
        if isinstance(node, ast.BinOp):
            left, right = self._one_number(node.left), self._one_number(node.right)
            if isinstance(node.op, ast.Pow) and abs(right) <= 64 and abs(left) <= 1e6:
                return left**right if left >= 0 else math.pow(left, right)
            return _ARITHMETIC[type(node.op)](left, right)  # type: ignore[no-any-return]
        if isinstance(node, ast.Attribute) and self._is_math(node, frozenset({"pi", "e", "tau", "inf", "nan"})):
            return getattr(math, node.attr)  # type: ignore[no-any-return]
        if isinstance(node, ast.Call) and len(node.args) == 1 and not node.keywords:
            if isinstance(node.func, ast.Attribute) and self._is_math(node.func, _MATH):
                return getattr(math, node.func.attr)(self._one_number(node.args[0]))  # type: ignore[no-any-return]
            if isinstance(node.func, ast.Name) and node.func.id == "float" and self._is_builtin("float"):
                return float(literal(node.args[0]))
        raise ValueError("no number")

    def _one_number(self, node: ast.expr) -> float | int:
        found = self.numbers(node)
        if found is None or len(found) != 1:
            raise ValueError("no number")
        return found[0]

    def _is_math(self, node: ast.Attribute, names: frozenset[str]) -> bool:
        return self._math and isinstance(node.value, ast.Name) and node.value.id == "math" and node.attr in names

    def is_there(self, node: ast.expr) -> bool:
        """Whether an expression is a name that the function has bound further up."""
        return isinstance(node, ast.Name) and self._first_lines.get(node.id, math.inf) <= node.lineno

    def formats(self, node: ast.expr) -> bool:
        """Whether making a text of an expression can neither fail nor have an effect."""
        if isinstance(node, ast.JoinedStr):
            parts = [part for part in node.values if isinstance(part, ast.FormattedValue)]
            return all(part.format_spec is None and self.formats(part.value) for part in parts)
        return all(value is _INDEX or is_literal(value) for value in self.possible(node) or [ast.Yield()])

    def harmless(self, node: ast.expr, *, methods: bool = True) -> bool:
        """Whether evaluating an expression can neither fail nor have an effect, given that its names are there.

        Args:
            node: the expression.
            methods: take a method that is looked up on a variable for harmless too.
        """
        if isinstance(node, ast.Name | ast.Constant | ast.Lambda):
            return True
        if isinstance(node, ast.Attribute):
            holder = node.value
            holder = holder.value if isinstance(holder, ast.Attribute) else holder
            return methods and isinstance(holder, ast.Name)
        if isinstance(node, ast.List | ast.Tuple):
            return all(self.harmless(item, methods=False) for item in node.elts)
        if isinstance(node, ast.Dict):
            literal_keys = all(key is not None and is_literal(key) for key in node.keys)
            return literal_keys and all(self.harmless(item, methods=False) for item in node.values)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
            return _is_long_text(node.left, node.right) or self.numbers(node) is not None
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not (node.args or node.keywords):
            return node.func.id in ("object", *_RETURNS) and self._is_builtin(node.func.id)
        return is_literal(node) or self.numbers(node) is not None


def _bound_otherwise(tree: ast.AST, seen: set[ast.AST]) -> set[str]:
    """Names that are bound in another way than by ``seen``, or whose value may be changed in place."""
    found: set[str | None] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load) and node not in seen:
            found.add(node.id)
        elif isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.value, ast.Name):
            if not isinstance(node.ctx, ast.Load) or (isinstance(node, ast.Attribute) and node.attr not in _READING):
                found.add(node.value.id)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef | ast.ExceptHandler | ast.MatchAs | ast.MatchStar):
            found.add(node.name)
        elif isinstance(node, ast.alias):
            found.add(node.asname or node.name.partition(".")[0])
        elif isinstance(node, ast.Global | ast.Nonlocal):
            found.update(node.names)
    return {name for name in found if name}


def _is_load(node: ast.Name | ast.arg) -> bool:
    return isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)


def _imports_math(tree: ast.AST) -> bool:
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import)]
    return any(alias.name == "math" and alias.asname is None for node in imports for alias in node.names)


def _fits(node: ast.expr, length: int) -> bool:
    if not isinstance(node, ast.Tuple | ast.List | ast.Set) or len(node.elts) != length:
        return False
    return not any(isinstance(item, ast.Starred) for item in node.elts)


def _pair(first: ast.expr, second: ast.expr) -> ast.expr:
    return ast.Tuple([first, second], ast.Load())


def _item(holder: ast.expr | None, key: object) -> ast.expr | None:
    if isinstance(holder, ast.List | ast.Tuple) and type(key) is int and _fits(holder, len(holder.elts)):
        return holder.elts[key] if -len(holder.elts) <= key < len(holder.elts) else None
    if isinstance(holder, ast.Dict) and all(isinstance(name, ast.Constant) for name in holder.keys):
        pairs = zip(holder.keys, holder.values, strict=True)
        found = [value for name, value in pairs if isinstance(name, ast.Constant) and name.value == key]
        return found[-1] if found else None
    return None


def _is_long_text(left: ast.expr, right: ast.expr) -> bool:
    """``"a" * 1000`` and ``[0] * 5``."""
    times = isinstance(right, ast.Constant) and type(right.value) is int and right.value <= 1_000_000
    return times and isinstance(left, ast.Constant | ast.List | ast.Tuple) and is_literal(left)
