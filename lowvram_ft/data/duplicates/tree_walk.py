"""One pass over a syntax tree: its tokens, and the names that are resolved when all bindings are known."""

from __future__ import annotations

import ast
import hashlib
from array import array
from collections.abc import Callable, Mapping
from typing import Any

_CACHE_LIMIT = 1 << 16
_LONGEST_CACHED = 64
_words: dict[str, int] = {}
"""Memo of `word`: holds nothing that the text alone does not tell."""


def _hash_text(text: str) -> int:
    """63 bits, so that a small count may be added without leaving 64."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little") >> 1


def word(text: str) -> int:
    """The token of a text. Names repeat from row to row, so that the last ones are remembered."""
    token = _words.get(text)
    if token is None:
        token = _hash_text(text)
        if len(text) <= _LONGEST_CACHED:
            if len(_words) >= _CACHE_LIMIT:
                _words.clear()
            _words[text] = token
    return token


KINDS: dict[type, int] = {
    kind: _hash_text(f"<{kind.__name__}>")
    for kind in vars(ast).values()
    if isinstance(kind, type) and issubclass(kind, ast.AST)
}
# Marks between nodes, which keep code of different structure apart.
END, NONE, LIST, ELSE, FINALLY = (_hash_text(f"<{name}>") for name in ("end", "none", "list", "else", "finally"))
ARGUMENTS, DEFAULTS, POSITIONAL, KEYWORDS, VARARG, KWARG = (
    _hash_text(f"<{name}>") for name in ("arguments", "defaults", "/", "*", "*args", "**kwargs")
)
_FIRST, _LATER = (_hash_text(f"<local {name}>") for name in ("first", "later"))
"""All that a token says of a local is whether it is its first use in the function or class at the top.

A number by order would change with everything that comes before it, so that one added statement would change all of the
code after it. The digest has the numbers.
"""

_BLOCKS = {"body": None, "handlers": None, "cases": None, "orelse": ELSE, "finalbody": FINALLY}
_IGNORED = frozenset({"ctx", "type_comment", "type_ignores", "annotation", "returns", "simple", "kind", "type_params"})
_FIELDS: dict[type, tuple[str, ...]] = {
    kind: tuple(field for field in reversed(getattr(kind, "_fields", ())) if field not in _IGNORED) for kind in KINDS
}
LOCAL = -1
NONLOCAL = -2


Handler = Callable[["Walk", Any], None]
"""The rule for a kind of node."""


class Scope:
    """Names that a function, class, comprehension or module binds.

    Attributes:
        names: name to `LOCAL` (later its number), to `NONLOCAL`, or to the text it counts as.
        outer: where a name is looked up that is not bound here.
        by_name: variables count by their name (classes and the module).
        is_class: it is the body of a class.
        comprehension: it is that of a comprehension.
    """

    __slots__ = ("by_name", "comprehension", "is_class", "names", "outer")

    def __init__(
        self, outer: Scope | None, by_name: bool = False, is_class: bool = False, comprehension: bool = False
    ) -> None:
        # The names of a class body are not seen from the functions in it (Python reference, 4.2.2).
        self.outer: Scope | None = outer.outer if outer is not None and outer.is_class else outer
        self.names: dict[str, int | str] = {}
        self.by_name = by_name
        self.is_class: bool = is_class
        self.comprehension = comprehension

    def bind(self, name: str) -> None:
        """A name is assigned to here; what was said of it first stands."""
        self.names.setdefault(name, name if self.by_name else LOCAL)


class Walk:
    """One pass over a module: tokens, and which of them are names that are resolved when all bindings are known.

    Args:
        handlers: the rules of the kinds of nodes that have one of their own.

    Attributes:
        out: the tokens; 0 where a name stands.
        uses: place in ``out``, name, scope of every name.
        stack: what comes next, last first: nodes, tokens, and scopes that become the current one.
    """

    __slots__ = ("_handlers", "out", "scope", "stack", "uses")

    def __init__(self, handlers: Mapping[type, Handler]) -> None:
        self._handlers = handlers
        self.out: list[int] = []
        self.uses: list[tuple[int, str, Scope]] = []
        self.stack: list[Any] = []
        self.scope = Scope(None, by_name=True)

    def visit(self, statement: ast.stmt) -> None:
        """Add the tokens of a statement. The frequent nodes stand here, first, for speed."""
        out, uses, stack, handlers = self.out, self.uses, self.stack, self._handlers
        stack.append(statement)
        while stack:
            node = stack.pop()
            kind = type(node)
            if kind is ast.Name:
                if type(node.ctx) is not ast.Load:
                    self.scope.bind(node.id)
                uses.append((len(out), node.id, self.scope))
                out.append(0)
            elif kind is int:
                out.append(node)
            elif kind is Scope:
                self.scope = node
            else:
                handler = handlers.get(kind)
                if handler is not None:
                    handler(self, node)
                else:
                    self.any_node(node)

    def any_node(self, node: ast.AST) -> None:
        """A node of no special rule: its kind, then its fields."""
        kind = type(node)
        stack = self.stack
        self.out.append(KINDS[kind])
        for field in _FIELDS[kind]:
            value = getattr(node, field, None)
            if isinstance(value, ast.AST):
                stack.append(value)
            elif isinstance(value, list):
                if field in _BLOCKS:
                    self.block(value, _BLOCKS[field])
                else:
                    stack.extend(item if isinstance(item, ast.AST) else word(str(item)) for item in reversed(value))
                    stack.append(LIST + len(value))
            else:
                stack.append(NONE if value is None else word(str(value)))

    def block(self, body: list[ast.stmt], opening: int | None = None) -> None:
        """Push a block; one that is not there needs no mark where it has an opening."""
        if opening is not None and not body:
            return
        stack = self.stack
        stack.append(END)
        stack.extend(body[::-1])
        if opening is not None:
            stack.append(opening)

    def use(self, name: str) -> None:
        """A name that is no node of its own."""
        self.uses.append((len(self.out), name, self.scope))
        self.out.append(0)

    def resolve(self, ends: list[int]) -> array[int]:
        """Fill in the names.

        Args:
            ends: how many uses there are up to the end of each statement at the top.

        Returns:
            The number of every local, in the order of its uses; 0 for a name that counts by its text.
        """
        out = self.out
        numbers = array("I")
        count = start = 0
        for end in ends:
            seen: set[int] = set()
            for place, name, scope in self.uses[start:end]:
                number: int | str = name
                at: Scope | None = scope
                while at is not None:
                    bound = at.names.get(name)
                    if bound is not None and bound != NONLOCAL:
                        number = bound
                        break
                    at = at.outer
                if isinstance(number, str):
                    out[place] = word(number)
                    numbers.append(0)
                    continue
                if number == LOCAL and at is not None:
                    count += 1
                    at.names[name] = number = count
                numbers.append(number)
                out[place] = _LATER if number in seen else _FIRST
                seen.add(number)
            start = end
        return numbers
