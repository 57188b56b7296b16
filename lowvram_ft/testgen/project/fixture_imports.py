"""What test files import through the fixtures of the ``conftest.py`` files above them, by their tests' parameters."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lowvram_ft.data.from_repo.fixtures import Function, arguments, fixture_name, is_fixture, used_fixtures
from lowvram_ft.data.from_repo.import_graph import statements
from lowvram_ft.data.from_repo.names import names_in
from lowvram_ft.data.syntax import parse
from lowvram_ft.testgen.project.test_files import Stamp, imported, pytest_name
from lowvram_ft.testgen.targets.python_files import MAX_BYTES

_KEPT = 1024
"""Files whose fixtures are remembered."""
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class _Fixture:
    """One fixture of a ``conftest.py``, with what it reaches in its file.

    Attributes:
        imports: modules, and ``module.name`` for each name taken from one.
        asks: fixtures that it asks for.
    """

    imports: frozenset[str]
    asks: frozenset[str]


def through_fixtures(path: Path, stamp: Stamp, conftests: Mapping[Path, Stamp]) -> frozenset[str]:
    """What a test file imports through fixtures that it asks for: modules, and ``module.name``.

    Args:
        path: the test file.
        stamp: of its text.
        conftests: the ``conftest.py`` files of its project, with theirs.
    """
    near = [folder / "conftest.py" for folder in path.parents]
    offered = [_fixtures(file, conftests[file]) for file in near if file in conftests]
    names = frozenset(name for fixtures in offered for name in fixtures)
    if not names or not any(fixture.imports for fixtures in offered for fixture in fixtures.values()):
        return frozenset()
    return frozenset(_reached(_asked(path, stamp, names), offered))


def _reached(asked: Iterable[str], offered: Sequence[Mapping[str, _Fixture]]) -> set[str]:
    """The imports of fixtures, and of those that they ask for; one that asks for its own name gets the one above."""
    found: set[str] = set()
    pending = [(name, 0) for name in asked]
    seen: set[tuple[str, int]] = set()
    while pending:
        name, first = pending.pop()
        place = next((place for place in range(first, len(offered)) if name in offered[place]), None)
        if place is None or (name, place) in seen:
            continue
        seen.add((name, place))
        fixture = offered[place][name]
        found |= fixture.imports
        pending += [(other, place + 1 if other == name else 0) for other in fixture.asks]
    return found


@functools.lru_cache(maxsize=4 * _KEPT)
def _asked(path: Path, stamp: Stamp, names: frozenset[str]) -> frozenset[str]:
    """Which of these fixtures the tests of a file, and its own fixtures, ask for."""
    text = _text(path, stamp)
    words = frozenset(_WORD.findall(text))
    if not any(name in words or not name.isidentifier() for name in names):
        return frozenset()  # parsing every test file of a large project takes long
    tree = parse(text)
    if tree is None:
        return frozenset()
    found: set[str] = set()
    own: set[str] = set()
    for node in ast.walk(tree):
        found |= used_fixtures(node)
        if isinstance(node, Function) and is_fixture(node):
            if fixture_name(node) not in arguments(node):  # else it takes the one above
                own.add(fixture_name(node))
            found |= arguments(node)
        elif isinstance(node, Function) and node.name.startswith("test"):
            found |= arguments(node)
    return frozenset((found - own) & names)


@functools.lru_cache(maxsize=_KEPT)
def _fixtures(file: Path, stamp: Stamp) -> Mapping[str, _Fixture]:
    """The fixtures of a ``conftest.py``; none of one that cannot be read, which is told of where it is needed."""
    tree = parse(_text(file, stamp))
    if tree is None:
        return {}
    package = pytest_name(file).rpartition(".")[0]
    bound: dict[str, set[str]] = {}
    local: dict[str, list[ast.stmt]] = {}
    nodes: dict[str, Function] = {}
    for node in statements(tree.body):
        if isinstance(node, ast.Import | ast.ImportFrom):
            for name, imports in _bound(node, package):
                bound.setdefault(name, set()).update(imports)
        elif isinstance(node, Function | ast.ClassDef):
            local.setdefault(node.name, []).append(node)
            if isinstance(node, Function) and is_fixture(node):
                nodes[fixture_name(node)] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            for part in names_in([node]):
                if isinstance(part.ctx, ast.Store):
                    local.setdefault(part.id, []).append(node)
    return {name: _fixture(node, package, bound, local) for name, node in nodes.items()}


def _fixture(
    start: Function, package: str, bound: Mapping[str, set[str]], local: Mapping[str, list[ast.stmt]]
) -> _Fixture:
    found: set[str] = set()
    asks = set(arguments(start))
    pending: list[ast.stmt] = [start]
    seen: set[ast.stmt] = set()
    while pending:
        node = pending.pop()
        if node in seen:
            continue
        seen.add(node)
        for part in ast.walk(node):
            asks |= used_fixtures(part)
            if isinstance(part, ast.Import | ast.ImportFrom):
                found |= set(imported(part, package))
        for name in {part.id for part in names_in([node])}:
            found |= bound.get(name, set())
            pending += [] if name in asks else local.get(name, [])
    return _Fixture(frozenset(found), frozenset(asks))


def _bound(node: ast.Import | ast.ImportFrom, package: str) -> Iterator[tuple[str, list[str]]]:
    """Each name that an import binds, and what it imports for it."""
    for alias in node.names:
        single = ast.copy_location(
            ast.Import([alias]) if isinstance(node, ast.Import) else ast.ImportFrom(node.module, [alias], node.level),
            node,
        )
        plain = alias.name.partition(".")[0] if isinstance(node, ast.Import) else alias.name
        yield alias.asname or plain, list(imported(single, package))


def _text(path: Path, stamp: Stamp) -> str:
    if stamp[1] > MAX_BYTES:
        return ""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return ""  # pytest cannot read it either
