"""What makes the drawn graph of architecture.md: which package imports which, read from the code by grimp."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import grimp

KIT, EXPORTER = "lowvram_ft", "gguf_export"


def imports_block(layers: Sequence[str]) -> str:
    """A Mermaid flowchart: the layers from top to bottom, and the imports that no other path implies.

    Args:
        layers: as import-linter's contract has them, packages on one layer divided by ``|``.
    """
    rows = [[name.strip() for name in layer.split("|")] for layer in layers]
    known = {name for row in rows for name in row} | {EXPORTER}
    lines = ["```mermaid", "flowchart TD"]
    for number, row in enumerate(rows):
        if len(row) == 1:
            lines.append(f"    {row[0]}")
        else:
            lines += [
                f'    subgraph layer{number}[" "]',
                "        direction LR",
                *(f"        {n}" for n in row),
                "    end",
            ]
    lines.append(f"    {EXPORTER}[[{EXPORTER}]]")
    lines += [f"    {above} --> {below}" for above, below in sorted(_reduced(_edges())) if {above, below} <= known]
    return "\n".join([*lines, "```", ""])


def _edges() -> dict[str, set[str]]:
    """Package to the packages that its modules import, by their names below the kit."""
    graph = grimp.build_graph(KIT, EXPORTER, cache_dir=None)
    found: dict[str, set[str]] = {}
    for importer in graph.modules:
        for imported in graph.find_modules_directly_imported_by(importer):
            above, below = _part(importer), _part(imported)
            if above and below and above != below:
                found.setdefault(above, set()).add(below)
    return found


def _part(module: str) -> str:
    package, _, rest = module.partition(".")
    return package if package == EXPORTER else rest.partition(".")[0]


def _reduced(edges: Mapping[str, set[str]]) -> Iterator[tuple[str, str]]:
    """The edges whose end is not reached another way."""
    for above, reached in edges.items():
        for below in reached:
            if below not in _reachable(edges, reached - {below}):
                yield above, below


def _reachable(edges: Mapping[str, set[str]], begin: set[str]) -> set[str]:
    found, left = set(begin), list(begin)
    while left:
        new = edges.get(left.pop(), set()) - found
        found |= new
        left += new
    return found
