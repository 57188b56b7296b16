"""Which statements of a module are needed for some of its names, and the text of these alone."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

from lowvram_ft.data.imports.scopes import local_name
from lowvram_ft.data.trimming.statements import DEFINITION, Statement, imported_names

_WIDTH = 120


class Dependencies:
    """The statements of a module by what they need of each other.

    Args:
        statements: in their order.
        extra_uses: more names that a statement uses, by its place.
        extra_binds: more names that a statement answers to, by its place.
        extra_always: places of more statements that are always needed.
    """

    def __init__(
        self,
        statements: Sequence[Statement],
        extra_uses: Mapping[int, Collection[str]] | None = None,
        extra_binds: Mapping[int, Collection[str]] | None = None,
        extra_always: Collection[int] = (),
    ) -> None:
        self.statements = statements
        self.uses = [set(statement.uses) | set((extra_uses or {}).get(i, ())) for i, statement in enumerate(statements)]
        self.binders: defaultdict[str, list[int]] = defaultdict(list)
        for place, statement in enumerate(statements):
            for name in {*statement.binds, *(extra_binds or {}).get(place, ())}:
                self.binders[name].append(place)
        self._changed: dict[str, frozenset[str]] = {}
        self.attached: defaultdict[str, list[int]] = defaultdict(list)
        for place, statement in enumerate(statements):
            for name in sorted(self._attached_to(statement)):
                self.attached[name].append(place)
        self.always = [place for place, statement in enumerate(statements) if statement.always or place in extra_always]

    def closure(self, names: Iterable[str], places: Iterable[int] = ()) -> tuple[set[int], set[str]]:
        """The statements that are needed for ``names``, for ``places`` and on import, and all names needed.

        Args:
            names: names that must be there; unknown ones are passed over.
            places: statements that must be there.
        """
        kept: set[int] = set()
        needed: set[str] = set()
        pending: list[int] = [*places, *self.always]
        waiting = list(names)
        while pending or waiting:
            if waiting:
                name = waiting.pop()
                if name not in needed:
                    needed.add(name)
                    pending += [*self.binders.get(name, ()), *self.attached.get(name, ())]
                continue
            place = pending.pop()
            if place not in kept:
                kept.add(place)
                waiting += self.binders if self.statements[place].looks_up else self.uses[place]
        return kept, needed

    def _attached_to(self, statement: Statement) -> set[str]:
        """Names whose value a statement changes on import, itself or through the functions that it calls."""
        found = set(statement.attached)
        for name in statement.calls:
            if self._is_defined(name):
                found |= self._changed_by(name)
            else:
                found.add(name)
        return found - statement.binds

    def _is_defined(self, name: str) -> bool:
        """Whether a name is a function or a class of the module."""
        return any(
            isinstance(node, DEFINITION) for i in self.binders.get(name, ()) for node in self.statements[i].nodes
        )

    def _changed_by(self, name: str) -> frozenset[str]:
        """Names whose value may change where a function of the module is called."""
        if name not in self._changed:
            found: set[str] = set()
            seen, pending = {name}, [name]
            while pending:
                for place in self.binders.get(pending.pop(), ()):
                    statement = self.statements[place]
                    if any(isinstance(node, DEFINITION) for node in statement.nodes):
                        found |= statement.changes
                        pending += statement.uses - seen
                        seen |= statement.uses
            self._changed[name] = frozenset(found)
        return self._changed[name]


def statement_text(statement: Statement, lines: Sequence[str], needed: Collection[str]) -> str:
    """The text of a statement; of an import, with the needed names alone.

    Args:
        statement: the statement.
        lines: of the text that it stands in.
        needed: names that are needed.
    """
    text = "".join(lines[statement.start - 1 : statement.end])
    if not text.endswith(("\n", "\r")):
        text += "\n"
    bound = imported_names(statement)
    node = statement.nodes[0]
    if not isinstance(node, ast.Import | ast.ImportFrom) or not bound or bound <= set(needed):
        return text
    parts = [alias for alias in node.names if local_name(node, alias) in needed]
    names = [f"{part.name} as {part.asname}" if part.asname else part.name for part in parts]
    begin = "import " if isinstance(node, ast.Import) else f"from {'.' * node.level}{node.module or ''} import "
    line = begin + ", ".join(names)
    if len(line) > _WIDTH and isinstance(node, ast.ImportFrom):
        line = begin + "(\n" + "".join(f"    {name},\n" for name in names) + ")"
    comments = "".join(lines[statement.start - 1 : node.lineno - 1])
    last = lines[(node.end_lineno or node.lineno) - 1].encode()[node.end_col_offset or 0 :].decode().rstrip("\r\n")
    return comments + line + (last if last.lstrip().startswith("#") else "") + "\n"


def joined(parts: Sequence[tuple[Statement, str]]) -> str:
    """Texts of statements one after the other, with blank lines as they had above them, or as PEP 8 has them."""
    out: list[str] = []
    for place, (statement, text) in enumerate(parts):
        if place > 0:
            before = parts[place - 1][0]
            blank = min(statement.blank_lines, 2)
            if before.end + 1 + statement.blank_lines != statement.start:  # something between them is left out
                ends_imports = bool(imported_names(before)) and not imported_names(statement)
                blank = max(blank, _apart(statement), _apart(before), int(ends_imports))
            out.append("\n" * blank)
        out.append(text)
    return "".join(out)


def _apart(statement: Statement) -> int:
    """Blank lines around a statement at the least: two for a definition at the top, one in a class."""
    node = statement.nodes[0]
    if not isinstance(node, DEFINITION):
        return 0
    return 1 if node.col_offset else 2
