"""A Python text, where its nodes stand in it, and edits of it that keep comments and layout."""

from __future__ import annotations

import ast
import io
import re
import tokenize
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from lowvram_ft.data import syntax


class NotConvertible(Exception):
    """A test file that cannot be converted without a doubt.

    Attributes:
        reason: short, from a small set, so that it can be counted.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Edit:
    """A replacement of the characters from ``start`` to ``end``."""

    start: int
    end: int
    text: str


def parse(text: str) -> ast.Module:
    """The tree of a module.

    Raises:
        NotConvertible: it is no Python.
    """
    tree = syntax.parse(text)
    if tree is None:
        raise NotConvertible("does not parse")
    return tree


def check_compiles(text: str) -> None:
    """Refuse what is no program although it has a tree, such as ``return`` outside of a function.

    Raises:
        NotConvertible: it does not compile.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(text, "<test>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, OverflowError):
        raise NotConvertible("does not parse") from None
    except (RecursionError, MemoryError):
        raise NotConvertible("nested too deep") from None


class Source:
    """A module's text and its tree.

    Raises:
        NotConvertible: it is no Python.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.tree = parse(text)
        self.lines = text.split("\n")
        self._starts = [0]
        for line in self.lines:
            self._starts.append(self._starts[-1] + len(line) + 1)

    def offset(self, line: int, column: int) -> int:
        """Place of a character in the text, from ``ast``'s line (from 1) and column (in bytes of UTF-8)."""
        text = self.lines[line - 1]
        if not text.isascii():
            column = len(text.encode()[:column].decode(errors="replace"))
        return self._starts[line - 1] + column

    def start(self, node: ast.expr | ast.stmt | ast.arg) -> int:
        """The first character of a node; the first decorator's ``@`` where there is one."""
        decorators = getattr(node, "decorator_list", None)
        if decorators:
            return self.text.rindex("@", 0, self.offset(decorators[0].lineno, decorators[0].col_offset))
        return self.offset(node.lineno, node.col_offset)

    def end(self, node: ast.expr | ast.stmt | ast.arg) -> int:
        """The character after the last one of a node."""
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self.offset(node.end_lineno, node.end_col_offset)

    def line_start(self, offset: int) -> int:
        """The first character of the line in which ``offset`` is."""
        return self.text.rfind("\n", 0, offset) + 1

    def line_end(self, offset: int) -> int:
        """The line break that ends the line in which ``offset`` is, or the end of the text."""
        found = self.text.find("\n", offset)
        return len(self.text) if found < 0 else found

    def indent(self, offset: int) -> str:
        """White space at the beginning of the line in which ``offset`` is."""
        begin = self.line_start(offset)
        found = re.compile(r"[ \t]*").match(self.text, begin)
        return found[0] if found else ""

    def alone(self, node: ast.stmt) -> bool:
        """Whether no other statement shares a line with this one."""
        begin = self.start(node)
        after = self.text[self.end(node) : self.line_end(self.end(node))].strip()
        return not self.text[self.line_start(begin) : begin].strip() and (not after or after.startswith("#"))

    @cached_property
    def bound(self) -> set[str]:
        """Every name that is bound anywhere in it."""
        return bound_names(self.tree)

    @cached_property
    def parents(self) -> dict[ast.AST, ast.AST]:
        """Node to the node above it."""
        return {child: node for node in ast.walk(self.tree) for child in ast.iter_child_nodes(node)}

    def above(self, node: ast.AST) -> Iterator[tuple[ast.AST, ast.AST]]:
        """Each node above ``node``, the nearest first, with its child on the way."""
        while node in self.parents:
            yield self.parents[node], node
            node = self.parents[node]

    @cached_property
    def _tokens(self) -> list[tokenize.TokenInfo]:
        try:
            return list(tokenize.generate_tokens(io.StringIO(self.text).readline))
        except (tokenize.TokenError, SyntaxError):
            raise NotConvertible("does not parse") from None

    @cached_property
    def comments(self) -> list[tuple[int, str]]:
        """Every comment and where it begins."""
        found = (token for token in self._tokens if token.type == tokenize.COMMENT)
        return [(self._starts[token.start[0] - 1] + token.start[1], token.string) for token in found]

    @cached_property
    def inside_strings(self) -> frozenset[int]:
        """First characters of the lines that begin inside a string: their white space is no indentation.

        A function's docstring is moved with the function.
        """
        rows: set[int] = set()
        begun: list[int] = []
        for token in self._tokens:
            name = tokenize.tok_name[token.type]
            if name == "STRING":
                rows.update(range(token.start[0] + 1, token.end[0] + 1))
            elif name == "FSTRING_START":  # from Python 3.12 on
                begun.append(token.start[0])
            elif name == "FSTRING_END":
                rows.update(range(begun.pop() + 1, token.end[0] + 1))
        for node in ast.walk(self.tree):
            if isinstance(node, ast.FunctionDef) and ast.get_docstring(node, clean=False) is not None:
                rows.difference_update(range(node.body[0].lineno + 1, (node.body[0].end_lineno or 0) + 1))
        return frozenset(self._starts[row - 1] for row in rows)

    def begins_inside_string(self, line: int) -> bool:
        """Whether a line, counted from 0, begins inside a string."""
        return self._starts[line] in self.inside_strings

    def colon(self, start: int) -> int:
        """The colon that ends the header of the block statement that begins at ``start``."""
        depth = 0
        for token in self._tokens:
            at = self._starts[token.start[0] - 1] + token.start[1]
            if at >= start and token.type == tokenize.OP:
                depth += (token.string in "([{") - (token.string in ")]}")
                if token.string == ":" and depth == 0:
                    return at
        raise NotConvertible("does not parse")

    def shifted(self, start: int, end: int, old: str, new: str) -> list[Edit]:
        """Edits that turn the indentation ``old`` of the lines that begin in a range into ``new``."""
        edits = []
        begin = start if start == self.line_start(start) else self.line_end(start) + 1
        while begin < end:
            if begin not in self.inside_strings and self.text.startswith(old, begin):
                blank = not self.text[begin : self.line_end(begin)].strip()
                if not blank:
                    edits.append(Edit(begin, begin + len(old), new))
            begin = self.line_end(begin) + 1
        return edits

    def render(self, start: int, end: int, edits: Iterable[Edit]) -> str:
        """The text of a range after those edits that lie in it. Of two that meet, the outer one holds."""
        parts: list[str] = []
        done = start
        for edit in sorted(edits, key=lambda e: (e.start, -e.end)):
            if edit.start >= done and edit.end <= end:
                parts += [self.text[done : edit.start], edit.text]
                done = edit.end
        return "".join([*parts, self.text[done:end]])

    def edited(self, edits: Iterable[Edit]) -> str:
        """The whole text after the edits."""
        return self.render(0, len(self.text), edits)


def own_nodes(function: ast.AST) -> Iterator[ast.AST]:
    """All nodes of a function but those of functions and classes in it."""
    stack: list[ast.AST] = list(ast.iter_child_nodes(function))
    while stack:
        node = stack.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            stack.extend(ast.iter_child_nodes(node))


def references(function: ast.FunctionDef | ast.AsyncFunctionDef, name: str) -> list[ast.Name]:
    """Uses of a function's parameter, also in functions in it that have none of that name."""
    found: list[ast.Name] = []
    stack: list[ast.AST] = [*function.body]
    while stack:
        node = stack.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            arguments = [a.arg for a in ast.walk(node.args) if isinstance(a, ast.arg)]
            if name in arguments:
                continue
        if isinstance(node, ast.Name) and node.id == name:
            found.append(node)
        stack.extend(ast.iter_child_nodes(node))
    return found


def bound_names(tree: ast.AST) -> set[str]:
    """Every name that is bound anywhere in a tree."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            names.add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, ast.alias):
            names.add(node.asname or node.name.partition(".")[0])
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
            names.add(node.name)
        elif isinstance(node, ast.MatchMapping) and node.rest:
            names.add(node.rest)
    return names
