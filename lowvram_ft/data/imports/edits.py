"""Change parts of a Python text by the positions of its tree's nodes, and leave every other character as it is."""

from __future__ import annotations

import ast
import re


class Edits:
    """Changes to a text, collected and then made all at once.

    Positions of ``ast`` count columns in UTF-8 bytes, and lines as Python does: a form feed ends none.

    Args:
        text: what the tree was parsed from.
    """

    def __init__(self, text: str) -> None:
        self._text = text.encode()
        self._starts = [0, *(match.end() for match in re.finditer(rb"\r\n|\r|\n", self._text))]
        self._changes: list[tuple[int, int, str]] = []
        self.newline = "\r\n" if b"\r\n" in self._text else "\n"

    def span(self, node: ast.stmt | ast.expr) -> tuple[int, int]:
        """First byte of a node, and the one after its last."""
        begin = self._starts[node.lineno - 1] + node.col_offset
        return begin, self._starts[(node.end_lineno or node.lineno) - 1] + (node.end_col_offset or 0)

    def text_of(self, node: ast.stmt | ast.expr) -> str:
        """The text at a node's position. Before Python 3.12, positions inside an f-string may be wrong."""
        begin, end = self.span(node)
        return self._text[begin:end].decode(errors="replace")

    def replace(self, node: ast.stmt | ast.expr, text: str) -> None:
        """Put ``text`` in the place of a node."""
        self._changes.append((*self.span(node), text))

    def insert_before_line(self, line: int, text: str) -> None:
        """Put whole lines before a line, counted from 1; after the last one, its end is made sure of first."""
        place = self._starts[line - 1] if line <= len(self._starts) else len(self._text)
        unended = place == len(self._text) and place > 0 and self._text[place - 1 : place] not in (b"\n", b"\r")
        self._changes.append((place, place, self.newline + text if unended else text))

    def remove(self, statement: ast.stmt, first_of_block: bool = False) -> bool:
        """Take a statement out, with its lines where it stands alone on them, and the blank lines that it would leave.

        Args:
            statement: it must not be the only one of its block.
            first_of_block: whether nothing comes before it in its block.

        Returns:
            Whether it could be: not where another statement shares its line.
        """
        begin, end = self.span(statement)
        first, last = statement.lineno - 1, (statement.end_lineno or statement.lineno) - 1
        after = self._line(last)[end - self._starts[last] :].strip()
        if self._text[self._starts[first] : begin].strip() or (after and not after.startswith(b"#")):
            return False
        below = last + 1
        if self._is_blank(below) and (first_of_block or first == 0 or self._is_blank(first - 1)):
            if first_of_block or first == 0:
                while self._is_blank(below):
                    below += 1
            else:
                while first > 0 and self._is_blank(first - 1):
                    first -= 1
        stop = self._starts[below] if below < len(self._starts) else len(self._text)
        self._changes.append((self._starts[first], stop, ""))
        return True

    def blank_after(self, line: int) -> bool:
        """Whether the line after ``line``, counted from 1, is there and is blank."""
        return self._is_blank(line)

    def line(self, number: int) -> str:
        """A line, counted from 1, without its end; empty where there is none."""
        return self._line(number - 1).decode(errors="replace").rstrip("\r\n")

    def result(self) -> str:
        """The text with every change made."""
        parts, place = [], 0
        for begin, end, text in sorted(self._changes, key=lambda change: change[:2]):
            parts += [self._text[place:begin], text.encode()]
            place = max(place, end)
        return b"".join([*parts, self._text[place:]]).decode()

    def _line(self, index: int) -> bytes:
        if not 0 <= index < len(self._starts):
            return b""
        stop = self._starts[index + 1] if index + 1 < len(self._starts) else len(self._text)
        return self._text[self._starts[index] : stop]

    def _is_blank(self, index: int) -> bool:
        """Whether a line, counted from 0, is there and holds nothing."""
        return (
            0 <= index < len(self._starts) and self._starts[index] < len(self._text) and not self._line(index).strip()
        )
