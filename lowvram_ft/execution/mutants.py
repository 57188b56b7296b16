"""Find every mutant of a module with cosmic-ray's operators, on one parsed tree."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

_MUTABLE_TYPES = frozenset(
    {"keyword", "number", "comparison", "factor", "not_test", "test"}
    | {"for_stmt", "if_stmt", "while_stmt", "assert_stmt", "except_clause", "decorator"}
)
"""Types of parso nodes that cosmic-ray's own operators look at, operators apart."""

_BINARY_OPERATORS = frozenset({"+", "-", "*", "/", "//", "%", "**", "<<", ">>", "|", "&", "^"})


@dataclasses.dataclass(frozen=True)
class Edit:
    """One mutant as a replacement in the module's text.

    Attributes:
        operator: cosmic-ray's name for the operator.
        occurrence: its place among the operator's mutants of this text, as cosmic-ray counts.
        line: where the operator says that it mutates, from 1.
        start: first character that is replaced.
        end: the character after the last one that is replaced.
        text: what stands there instead.
    """

    operator: str
    occurrence: int
    line: int
    start: int
    end: int
    text: str

    def apply(self, code: str) -> str:
        """The whole text of the mutant of ``code``."""
        return code[: self.start] + self.text + code[self.end :]

    def diff(self, code: str) -> str:
        """The lines that change, ``-`` before and ``+`` after."""
        first = code.rfind("\n", 0, self.start) + 1
        last = code.find("\n", self.end)
        last = len(code) if last < 0 else last
        before = code[first:last].splitlines()
        after = (code[first : self.start] + self.text + code[self.end : last]).splitlines()
        return "\n".join([*(f"-{line}" for line in before), *(f"+{line}" for line in after)])


@functools.lru_cache(maxsize=8)
def find_mutants(code: str) -> tuple[Edit, ...]:
    """All mutants of ``code`` by all registered operators that take no arguments, ordered by line.

    The tree is parsed once; every operator's change is read off the node and taken back. Texts that are
    no Python give what parso's error recovery makes of them.
    """
    import parso
    from parso.utils import split_lines

    starts = [0]
    for line in split_lines(code, keepends=True):
        starts.append(starts[-1] + len(line))
    counts: dict[str, int] = {}
    edits: list[Edit] = []
    for node in _nodes(parso.parse(code)):
        kinds = _operators() if _is_mutable(node) else _foreign_operators()
        for name, operator in kinds:
            positions = list(operator.mutation_positions(node))
            for index, ((line, _), _) in enumerate(positions):
                occurrence = counts[name] = counts.get(name, -1) + 1
                start_line, column = node.get_start_pos_of_prefix()
                start = starts[start_line - 1] + column
                before = node.get_code()
                after = _mutated_text(operator, node, index)
                if after is not None:
                    edits.append(_trimmed(name, occurrence, line, start, before, after))
    return tuple(sorted(edits, key=lambda edit: (edit.line, edit.start, edit.operator, edit.occurrence)))


@functools.cache
def _operators() -> tuple[tuple[str, Any], ...]:
    from cosmic_ray.plugins import get_operator, operator_names

    kinds = ((name, get_operator(name)) for name in sorted(operator_names()))
    return tuple((name, kind()) for name, kind in kinds if not kind.arguments())


@functools.cache
def _foreign_operators() -> tuple[tuple[str, Any], ...]:
    """Operators of other packages' providers, which may look at any node."""
    return tuple((name, operator) for name, operator in _operators() if not name.startswith("core/"))


def _is_mutable(node: Any) -> bool:
    if node.type == "operator":
        return node.value in _BINARY_OPERATORS
    return node.type in _MUTABLE_TYPES


def _nodes(node: Any) -> Iterator[Any]:
    """The node and all below it, parents first: the order in which cosmic-ray counts."""
    stack = [node]
    while stack:
        node = stack.pop()
        yield node
        stack.extend(reversed(getattr(node, "children", ())))


def _mutated_text(operator: Any, node: Any, index: int) -> str | None:
    """Code of ``node`` after the operator's change, which is taken back; None where it cannot be made."""
    below = list(_nodes(node))
    lists = [(parent, list(parent.children)) for parent in below if hasattr(parent, "children")]
    leaves = [(leaf, leaf.value) for leaf in below if not hasattr(leaf, "children")]
    try:
        mutated = operator.mutate(node, index)
        return "" if mutated is None else str(mutated.get_code())
    except Exception:  # an operator of another package may fail on any text; it has no mutant there
        return None
    finally:
        for parent, children in lists:
            parent.children = children
        for leaf, value in leaves:
            leaf.value = value


def _trimmed(operator: str, occurrence: int, line: int, start: int, before: str, after: str) -> Edit:
    """The smallest replacement that turns ``before`` at ``start`` into ``after``."""
    head = 0
    while head < min(len(before), len(after)) and before[head] == after[head]:
        head += 1
    tail = 0
    while tail < min(len(before), len(after)) - head and before[-1 - tail] == after[-1 - tail]:
        tail += 1
    text = after[head : len(after) - tail]
    return Edit(operator, occurrence, line, start + head, start + len(before) - tail, text)
