"""The import statements of several test files as one block, in the order that isort and ruff give them."""

from __future__ import annotations

import ast
import sys
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from lowvram_ft.data.imports.scopes import local_name

_WIDTH = 88


@dataclass(frozen=True)
class Imported:
    """One name of an import statement.

    Attributes:
        module: that is named, dots of a relative import in front.
        name: that is taken from it; empty for ``import module``, ``*`` for all.
        local: the name that it gets; empty for a star.
        is_alias: whether it stands as ``... as local``.
    """

    module: str
    name: str
    local: str
    is_alias: bool

    @property
    def what(self) -> tuple[str, str]:
        """What the local name stands for: ``import a.b`` and ``import a.c`` both give ``a``."""
        return (self.module, self.name) if self.name or self.is_alias else (self.local, "")

    def called(self, local: str) -> Imported:
        """The same under another name. Of ``import a.b``, only ``a`` itself can have another."""
        return Imported(self.module if self.name or self.is_alias else self.local, self.name, local, True)


def read_import(node: ast.Import | ast.ImportFrom) -> list[Imported]:
    """The names of an import statement."""
    if isinstance(node, ast.Import):
        return [Imported(a.name, "", local_name(node, a), a.asname is not None) for a in node.names]
    module = "." * node.level + (node.module or "")
    return [
        Imported(module, a.name, "" if a.name == "*" else local_name(node, a), a.asname not in (None, a.name))
        for a in node.names
    ]


@dataclass
class ImportBlock:
    """Imports, each once.

    Attributes:
        first_party: top-level packages that come last.
    """

    first_party: Collection[str] = ()
    _items: dict[Imported, None] = field(default_factory=dict)

    def add(self, items: Iterable[Imported]) -> None:
        """Take more of them."""
        self._items.update(dict.fromkeys(items))

    def text(self) -> str:
        """The statements: ``__future__``, then stars, then the standard library, others, the first party."""
        sections: dict[int, list[Imported]] = {}
        for item in self._items:
            sections.setdefault(self._section(item), []).append(item)
        return "\n".join("".join(_lines(sections[number])) for number in sorted(sections))

    def _section(self, item: Imported) -> int:
        top = item.module.partition(".")[0]
        if item.module == "__future__":
            return 0
        if item.name == "*":
            return 1
        if not top:
            return 5
        if top in self.first_party:
            return 4
        return 2 if top in sys.stdlib_module_names else 3


def _lines(items: Iterable[Imported]) -> list[str]:
    plain = {f"import {i.module}" + (f" as {i.local}" if i.is_alias else "") for i in items if not i.name}
    found: dict[tuple[str, bool], set[tuple[str, str]]] = {}
    for item in items:
        if item.name:
            found.setdefault((item.module, item.name == "*"), set()).add((item.name, item.local))
    lines = [f"{line}\n" for line in sorted(plain, key=lambda line: (line.split()[1].lower(), line))]
    for (module, _), names in sorted(found.items(), key=lambda entry: (entry[0][0].lower(), entry[0])):
        parts = [
            name if local in ("", name) else f"{name} as {local}"
            for name, local in sorted(names, key=lambda entry: (_order(entry[0]), entry[0] != entry[1], entry))
        ]
        lines.append(from_line(module, parts))
    return lines


def from_line(module: str, parts: Iterable[str]) -> str:
    """``from module import a, b as c``, in several lines where it is long."""
    line = f"from {module} import {', '.join(parts)}\n"
    if len(line) <= _WIDTH + 1:
        return line
    return f"from {module} import (\n" + "".join(f"    {part},\n" for part in parts) + ")\n"


def _order(name: str) -> tuple[int, str]:
    """Constants, then classes, then the rest, as isort has it by default."""
    if name.isupper() and len(name) > 1:
        return 0, name
    return (1 if name[:1].isupper() else 2), name
