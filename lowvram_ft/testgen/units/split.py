"""What a model is shown of a module: all of it, or one part after the other.

The rules:

- A module that fits is shown whole, where nobody asked for a part of it.
- Else there is a part for each public function and class, in the order of the file. A name that begins with an
  underscore is private; where a module has no public one, all count.
- Short definitions, of at most `SHORT_LINES` lines, are put together, up to `MOST_TOGETHER` of them, as long as they
  fit with everything that they use uncut: a model writes better tests for a few functions than for one line, and every
  prompt costs time. Longer ones that stand between them do not part them.
- A class that does not fit is shown several times, with some of its methods whole each time. Private methods go with
  the first one that uses them.
- Private definitions, and constants, are shown as what others use. Where lines of interest lie in them, they are
  whole in the part for the first public definition that uses them, or have a part of their own if none does.
- What is used and does not fit is cut, see `lowvram_ft.testgen.units.excerpts`.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from lowvram_ft.data.syntax import UNREADABLE, parse
from lowvram_ft.errors import UsageError
from lowvram_ft.testgen.subject import Target, Unit
from lowvram_ft.testgen.units.excerpts import Source
from lowvram_ft.testgen.units.members import Member, lines_of

SHORT_LINES = 12
MOST_TOGETHER = 8
_MOST_OF_A_MODULE = 0.5
"""From this share of the lines of its definitions on, a change is one of the whole module."""
_OWN_SHARE = 0.6
"""Of the characters of a part of a class, how many its own methods may fill; the rest is for what they use."""


@dataclass(frozen=True)
class _Definition:
    """Something of a module that tests can be asked for.

    Attributes:
        name: ``parse``, ``Reader`` or ``Reader.read``; empty for other statements.
        places: of the statements that it stands in.
        members: that are whole where it is shown.
        lines: that it spans.
        is_whole: whether its statements are shown with all their members.
    """

    name: str
    places: tuple[int, ...]
    members: tuple[Member, ...]
    lines: frozenset[int]
    is_whole: bool = True

    @property
    def is_private(self) -> bool:
        return self.name.startswith("_") or not self.name


def units_of(code: str, target: Target, *, max_chars: int) -> list[Unit]:
    """The parts of a module that a model is asked for tests of, one prompt each, in the order of the module.

    Every part is Python. It holds the definitions that it is about whole, and what they use of the module, as far as
    ``max_chars`` allows: then bodies are cut to ``...``. Relative imports stay as they are.

    Args:
        code: text of the module.
        target: which definitions and lines of it are of interest.
        max_chars: most characters of a part; longer is one of a single long function, or of one that uses so much that
            the signatures alone are too long.

    Raises:
        UsageError: the module does not parse, or does not define a name of the target.
    """
    tree = parse(code)
    if tree is None:
        raise UsageError(f"{target.file}: does not parse; mend it first")
    try:
        source = Source(code, tree)
    except UNREADABLE as error:
        raise UsageError(f"{target.file}: is nested too deeply to be read ({error}); split it") from error
    definitions = _definitions(source)
    if not definitions:
        return []
    everything = range(1, len(source.lines) + 1)
    if not target.names and len(code) <= max_chars and _is_most(target.lines, definitions):
        lines = target.lines if target.lines is not None else frozenset(everything)
        return [Unit("", code, lines & frozenset(everything))]
    if target.names:
        chosen = [_named(definitions, name, target) for name in dict.fromkeys(target.names)]
    else:
        public = [item for item in definitions if not item.is_private] or definitions
        chosen = public if target.lines is None else _of_interest(source, definitions, public, target.lines)
    if target.lines is not None:
        chosen = [item for item in chosen if item.lines & target.lines]
    units = [
        Unit(", ".join(dict.fromkeys(item.name for item in items if item.name)), text, _lines(items, target.lines))
        for items, text in _groups(source, chosen, target.lines, max_chars)
    ]
    return sorted(units, key=lambda unit: min(unit.lines))


def _lines(items: Iterable[_Definition], wanted: frozenset[int] | None) -> frozenset[int]:
    lines = frozenset(number for item in items for number in item.lines)
    return lines if wanted is None else lines & wanted


def _definitions(source: Source) -> list[_Definition]:
    """The functions and classes of a module, those in blocks too; several of one name count as one."""
    found: dict[str, _Definition] = {}
    for place, statement in enumerate(source.statements):
        for node in (inner for top in statement.nodes for inner in _defined_in(top)):
            lines = frozenset(lines_of(node))
            members = tuple(m for m in source.parts[place].members if lines.issuperset(m.lines))
            before = found.get(node.name, _Definition(node.name, (), (), frozenset()))
            places = tuple(dict.fromkeys((*before.places, place)))
            found[node.name] = replace(
                before, places=places, members=(*before.members, *members), lines=before.lines | lines
            )
    return list(found.values())


def _defined_in(node: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node
    elif isinstance(node, ast.If | ast.Try | ast.With | ast.ExceptHandler):
        for child in ast.iter_child_nodes(node):
            yield from _defined_in(child)


def _is_most(lines: frozenset[int] | None, definitions: Iterable[_Definition]) -> bool:
    own = {number for item in definitions for number in item.lines}
    return lines is None or len(own & lines) > _MOST_OF_A_MODULE * len(own)


def _named(definitions: Sequence[_Definition], name: str, target: Target) -> _Definition:
    for item in definitions:
        if item.name == name:
            return item
        if name.startswith(f"{item.name}."):
            members = tuple(m for m in item.members if m.path == name or m.path.startswith(f"{name}."))
            if members:
                lines = frozenset(number for m in members for number in m.lines)
                return _Definition(name, item.places, members, lines, is_whole=False)
    known = ", ".join(item.name for item in definitions if not item.is_private)
    raise UsageError(f"{target.file}: has no definition {name}; it has {known or 'none'}")


def _of_interest(
    source: Source, definitions: Sequence[_Definition], public: Sequence[_Definition], lines: Collection[int]
) -> list[_Definition]:
    """Public definitions with lines of interest, each with the private ones that are tested through it."""
    chosen: dict[str, _Definition] = {item.name: item for item in public if item.lines.intersection(lines)}
    defined = {place for item in definitions for place in item.places}
    others = [item for item in definitions if item.is_private and item not in public]
    others += [
        _Definition("", (place,), source.parts[place].members, frozenset(range(statement.start, statement.end + 1)))
        for place, statement in enumerate(source.statements)
        if place not in defined and isinstance(statement.nodes[0], ast.Assign | ast.AnnAssign | ast.AugAssign)
    ]
    alone: list[_Definition] = []
    for item in others:
        if not item.lines.intersection(lines):
            continue
        names = {item.name} if item.name else {n for place in item.places for n in source.statements[place].binds}
        user = next((one for one in public if names & source.used_by(one.places)), None)
        if user is not None:
            before = chosen.get(user.name, user)
            chosen[user.name] = replace(
                before,
                places=tuple(dict.fromkeys((*before.places, *item.places))),
                members=(*before.members, *item.members),
                lines=before.lines | item.lines,
            )
        elif item.name:
            alone.append(item)
    order = {item.name: place for place, item in enumerate(definitions)}
    return sorted([*chosen.values(), *alone], key=lambda item: order[item.name])


def _groups(
    source: Source, chosen: Iterable[_Definition], wanted: frozenset[int] | None, max_chars: int
) -> Iterator[tuple[list[_Definition], str]]:
    """What is shown together, with its text."""
    waiting: list[_Definition] = []
    text = ""
    for item in chosen:
        if len(item.lines) > SHORT_LINES:
            for part in _parts_of(source, item, max_chars):
                if wanted is None or part.lines & wanted:
                    yield [part], _text(source, [part], max_chars)
            continue
        together = _text(source, [*waiting, item], max_chars, cut=False)
        if waiting and (len(together) > max_chars or len(waiting) == MOST_TOGETHER):
            yield waiting, text
            waiting = []
        waiting = [*waiting, item]
        text = together if len(together) <= max_chars and len(waiting) > 1 else _text(source, waiting, max_chars)
    if waiting:
        yield waiting, text


def _text(source: Source, items: Sequence[_Definition], max_chars: int, cut: bool = True) -> str:
    places = sorted({place for item in items for place in item.places})
    members = {member for item in items for member in item.members}
    return source.excerpt(places, members, max_chars if cut else None)


def _parts_of(source: Source, item: _Definition, max_chars: int) -> list[_Definition]:
    """A class that does not fit, as some of its methods at a time; all else as it is."""
    methods: dict[str, list[Member]] = {}
    for member in item.members:
        if member.owner is not None and isinstance(member.node, ast.FunctionDef | ast.AsyncFunctionDef):
            methods.setdefault(member.path, []).append(member)
    if len(methods) < 2 or len(_text(source, [item], max_chars)) <= max_chars:
        return [item]
    parts: list[list[str]] = []
    size = 0
    for path in _by_use(methods):
        length = sum(source.length(member) for member in methods[path])
        if not parts or size + length > _OWN_SHARE * max_chars:
            parts.append([])
            size = 0
        parts[-1].append(path)
        size += length
    rest = item.lines - {number for members in methods.values() for m in members for number in m.lines}
    found: list[_Definition] = []
    waiting = parts[::-1]
    while waiting:
        paths = waiting.pop()
        members = tuple(member for path in paths for member in methods[path])
        lines = frozenset(number for member in members for number in member.lines) | (frozenset() if found else rest)
        part = _Definition(", ".join(paths), item.places, members, lines, is_whole=False)
        if len(paths) > 1 and len(_text(source, [part], max_chars)) > max_chars:
            half = (len(paths) + 1) // 2
            waiting += [paths[half:], paths[:half]]
        else:
            found.append(part)
    return found


def _by_use(methods: dict[str, list[Member]]) -> list[str]:
    """Paths of methods, private ones after the first that uses them."""
    private = {path for path in methods if path.rpartition(".")[2].startswith("_") and not path.endswith("__")}
    taken: set[str] = set()
    found: list[str] = []
    for path in [*(p for p in methods if p not in private), *(p for p in methods if p in private)]:
        if path in taken:
            continue
        paths = [path]
        taken.add(path)
        for user in paths:
            used = {name for member in methods[user] for name in member.attributes}
            new = [p for p in methods if p in private and p not in taken and p.rpartition(".")[2] in used]
            paths += new
            taken.update(new)
        found += paths
    return found
