"""What each test of a test file uses: definitions of the repository, fixtures, and what it lacks when it runs alone.

Read from the text. What a test reaches through its file's own helpers, fixtures and set-up counts as its own.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from lowvram_ft.data.from_repo.fixtures import (
    BUILTIN_FIXTURES,
    Function,
    arguments,
    fixture_name,
    is_autouse,
    is_fixture,
    last_name,
    parametrized,
    used_fixtures,
)
from lowvram_ft.data.from_repo.import_graph import Binding, ImportGraph, Target, bindings, statements
from lowvram_ft.data.from_repo.names import bound_names, dotted_name, imported_by_call, local_variables
from lowvram_ft.data.from_repo.source_tree import SourceFile

FILES = "reads files beside the test file"
PROCESSES = "starts other programs"
NETWORK = "needs the network"
SKIPPED = "is marked to be skipped, to fail, or as slow"
OUTSIDE = "imports relative to a package that it is not in"

_OUT_OF_REACH = {
    "subprocess": PROCESSES, "socket": NETWORK, "requests": NETWORK, "urllib.request": NETWORK,
    "http.client": NETWORK, "http.server": NETWORK, "httpx": NETWORK, "aiohttp": NETWORK, "ftplib": NETWORK,
}  # fmt: skip
_MARKS = {
    "skip": SKIPPED, "SKIP": SKIPPED, "xfail": SKIPPED, "XFAIL": SKIPPED, "expectedFailure": SKIPPED,
    "slow": SKIPPED, "network": NETWORK, "internet": NETWORK, "remote_data": NETWORK,
}  # fmt: skip
_ALWAYS = (
    "pytestmark", "setup_module", "teardown_module", "setup_function", "teardown_function", "setUpModule",
    "tearDownModule",
)  # fmt: skip


@dataclass(frozen=True)
class TestPart:
    """One test.

    Attributes:
        name: as in `lowvram_ft.execution.TestResult.name`, without parameters.
        uses: definitions and modules of the repository.
        paths: dotted paths to modules of the repository, as the test goes: ``"numpy.linalg"`` for ``np.linalg.f``.
        fixtures: those that neither its file nor pytest defines.
        problems: why it cannot pass when it runs alone; empty where nothing is known.
    """

    __test__ = False

    name: str
    uses: frozenset[Target]
    paths: frozenset[str]
    fixtures: frozenset[str]
    problems: tuple[str, ...]


@dataclass(frozen=True)
class FixturePart:
    """One fixture of a ``conftest.py``, with what it reaches by itself.

    Attributes:
        uses: definitions and modules of the repository.
        paths: dotted paths to modules of the repository that its file imports.
        asks: every fixture that it takes, to be looked up from the test's place: a nearer ``conftest.py`` may have
            another of the name. Its own name is that of the one above.
    """

    uses: frozenset[Target]
    paths: frozenset[str]
    asks: frozenset[str]


def read_test_parts(tree: ast.Module, file: SourceFile, graph: ImportGraph) -> tuple[TestPart, ...]:
    """Every test of a file, in its order.

    Args:
        tree: the test file.
        file: where it is.
        graph: the modules of its repository.
    """
    reader = _Reader(tree, file, graph)
    return tuple(reader.part(name, nodes, scope) for name, nodes, scope in _tests(tree.body, "", ()))


def read_fixture_parts(tree: ast.Module, file: SourceFile, graph: ImportGraph) -> dict[str, FixturePart]:
    """Every fixture of a ``conftest.py``, by its name.

    Args:
        tree: the file.
        file: where it is.
        graph: the modules of its repository.
    """
    reader = _Reader(tree, file, graph)
    return {name: reader.fixture(name) for name in reader.fixtures}


def _tests(
    body: Iterable[ast.stmt], prefix: str, outer: tuple[ast.ClassDef, ...]
) -> Iterator[tuple[str, Function, tuple[ast.ClassDef, ...]]]:
    for node in body:
        if isinstance(node, Function) and node.name.startswith("test"):
            yield prefix + node.name, node, outer
        elif isinstance(node, ast.ClassDef) and _collects(node):
            yield from _tests(node.body, f"{prefix}{node.name}::", (*outer, node))


def _collects(node: ast.ClassDef) -> bool:
    return node.name.startswith("Test") or any(last_name(base).endswith("TestCase") for base in node.bases)


@dataclass
class _Uses:
    """What one statement uses, without what its helpers use."""

    targets: set[Target] = field(default_factory=set)
    paths: set[str] = field(default_factory=set)
    local: set[str] = field(default_factory=set)
    fixtures: set[str] = field(default_factory=set)
    problems: set[str] = field(default_factory=set)


class _Reader:
    """Reads the statements of one test file, each once."""

    def __init__(self, tree: ast.Module, file: SourceFile, graph: ImportGraph) -> None:
        self.graph = graph
        self.bound: dict[str, Binding | None] = {}
        self.stars: list[str] = []
        self.local: dict[str, list[ast.stmt]] = {}
        self.fixtures: dict[str, list[ast.stmt]] = {}
        self.always: list[ast.stmt] = []
        self._read: dict[ast.stmt, _Uses] = {}
        self._bind_imports(tree, file.package)
        for node in statements(tree.body):
            for name in bound_names(node):
                self.local.setdefault(name, []).append(node)
                if name in _ALWAYS:
                    self.always.append(node)
        self._find_fixtures(tree.body, self.fixtures)

    def part(self, name: str, test: Function, scope: tuple[ast.ClassDef, ...]) -> TestPart:
        """All that a test uses, however it comes to it."""
        fixtures = dict(self.fixtures)
        start: list[ast.stmt] = [test, *self.always]
        marks: set[str] = _marks(test)
        own: set[str] = set()
        given: set[str] = set()
        for node in scope:
            self._find_fixtures(node.body, fixtures)
            start += [member for member in node.body if not _is_test(member)]
            marks |= _marks(node)
            own |= {base.id for base in node.bases if isinstance(base, ast.Name)}
            start += [ast.Expr(decorator) for decorator in node.decorator_list]
            calls = [decorator for decorator in node.decorator_list if isinstance(decorator, ast.Call)]
            given |= {name for call in calls if last_name(call) == "parametrize" for name in parametrized(call)}
        whole = self._closure(start, own, fixtures, skip=frozenset(node.name for node in scope))
        whole.problems |= {_MARKS[mark] for mark in marks if mark in _MARKS}
        missing = frozenset(whole.fixtures - fixtures.keys() - BUILTIN_FIXTURES - given)
        return TestPart(name, frozenset(whole.targets), frozenset(whole.paths), missing, tuple(sorted(whole.problems)))

    def fixture(self, name: str) -> FixturePart:
        """All that a fixture of this file uses."""
        nodes = self.fixtures[name]
        whole = self._closure(nodes, (), {}, skip=frozenset())
        paths = {binding.module for binding in self.bound.values() if binding is not None}
        return FixturePart(
            frozenset(whole.targets),
            frozenset(whole.paths | (paths & self.graph.names.keys())),
            frozenset(whole.fixtures - BUILTIN_FIXTURES),
        )

    def _closure(
        self,
        start: Iterable[ast.stmt],
        names: Iterable[str],
        fixtures: Mapping[str, list[ast.stmt]],
        skip: frozenset[str],
    ) -> _Uses:
        whole = _Uses()
        seen: set[ast.stmt] = set()
        pending = [*start, *(node for name in sorted(names) for node in self.local.get(name, ()))]
        while pending:
            node = pending.pop()
            if node in seen:
                continue
            seen.add(node)
            found = self._uses(node)
            whole.targets |= found.targets
            whole.paths |= found.paths
            whole.problems |= found.problems
            whole.fixtures |= found.fixtures
            for name in found.local - skip:
                pending += self.local.get(name, ())
            for name in found.fixtures:
                pending += fixtures.get(name, ())
        return whole

    def _uses(self, node: ast.stmt) -> _Uses:
        if node not in self._read:
            self._read[node] = self._read_uses(node)
        return self._read[node]

    def _read_uses(self, node: ast.stmt) -> _Uses:
        found = _Uses()
        shadowed = local_variables(node) if isinstance(node, Function) else frozenset()
        pending: list[ast.AST] = [node]
        while pending:
            part = pending.pop()
            chain = dotted_name(part)
            if chain:
                if chain[0] not in shadowed:
                    self._name(chain, found)
                continue
            own = part is node or (isinstance(node, ast.ClassDef) and part in node.body)  # deeper ones are not pytest's
            if own and isinstance(part, Function) and (_is_test(part) or is_fixture(part)):
                found.fixtures |= arguments(part)
            found.fixtures |= used_fixtures(part)
            pending.extend(ast.iter_child_nodes(part))
        return found

    def _name(self, chain: tuple[str, ...], found: _Uses) -> None:
        name = chain[0]
        if name == "__file__":
            found.problems.add(FILES)
        if name in self.local:
            found.local.add(name)
        if name in self.bound:
            binding = self.bound[name]
            if binding is None:
                found.problems.add(OUTSIDE)
                return
            target = self.graph.follow(binding, chain[1:])
            if target is not None:
                found.targets.add(target)
                found.paths |= self._module_paths(binding, chain[1:])
            elif binding.module not in self.graph.names:
                found.problems |= _out_of_reach((*binding.module.split("."), binding.name, *chain[1:]))
            return
        if name not in self.local:
            for star in self.stars:
                names = self.graph.names.get(star)
                target = self.graph.resolve(star, name) if names is not None and names.exports(name) else None
                if target is not None:
                    found.targets.add(self.graph.follow(Binding(target.module, target.name), chain[1:]) or target)
                    return

    def _module_paths(self, start: Binding, attributes: tuple[str, ...]) -> set[str]:
        begin = f"{start.module}.{start.name}" if start.name else start.module
        found = set()
        for length in range(len(attributes)):
            target = self.graph.follow(start, attributes[:length])
            if target is None or target.name:
                break
            found.add(".".join((begin, *attributes[:length])))
        return found

    def _bind_imports(self, tree: ast.Module, package: str) -> None:
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                known = dict(bindings(node, package))
                for alias in node.names:
                    plain = alias.name if isinstance(node, ast.ImportFrom) else alias.name.partition(".")[0]
                    name = alias.asname or plain
                    if name == "*":
                        self.stars += [known[name].module] if name in known else []
                    else:
                        self.bound[name] = known.get(name)
            elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
                module = imported_by_call(node.value)
                if module is not None:
                    for target in node.targets:
                        if isinstance(target, ast.Name):
                            self.bound[target.id] = Binding(module)

    def _find_fixtures(self, body: Iterable[ast.stmt], into: dict[str, list[ast.stmt]]) -> None:
        for node in body:
            if isinstance(node, Function) and is_fixture(node):
                into[fixture_name(node)] = [node]
                if is_autouse(node) and into is self.fixtures:
                    self.always.append(node)


def _out_of_reach(chain: tuple[str, ...]) -> set[str]:
    dotted = ".".join(part for part in chain if part)
    return {why for name, why in _OUT_OF_REACH.items() if dotted == name or dotted.startswith(f"{name}.")}


def _is_test(node: ast.stmt) -> bool:
    if isinstance(node, ast.ClassDef):
        return _collects(node)
    return isinstance(node, Function) and node.name.startswith("test")


def _marks(node: Function | ast.ClassDef) -> set[str]:
    return {last_name(decorator) for decorator in node.decorator_list}
