"""Fixtures from ``conftest.py``: their text is put into a test file that has to run without it."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from lowvram_ft.data.from_repo.fixtures import BUILTIN_FIXTURES, Function, arguments, fixture_name, is_fixture
from lowvram_ft.data.from_repo.import_graph import bindings, statements
from lowvram_ft.data.from_repo.names import names_in
from lowvram_ft.data.syntax import parse

PLUGIN = "takes a fixture that no conftest.py defines"
TANGLED = "takes a fixture whose text in conftest.py cannot be moved"
_UNSAFE = frozenset({"__file__", "pytestconfig"})
_UNSAFE_OF_REQUEST = frozenset({"config", "fspath", "path", "getfixturevalue", "session"})
"""What a fixture may find changed in another file or without the repository's own options."""


@dataclass(frozen=True)
class Conftest:
    """One ``conftest.py``.

    Attributes:
        text: its text.
        package: what its relative imports start from.
    """

    text: str
    package: str


@dataclass
class _Moved:
    """What goes into the test file: imports by the name they bind, then definitions by their place."""

    imports: dict[str, str] = field(default_factory=dict)
    definitions: dict[tuple[int, int], str] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)


class _Problem(Exception):
    """Why a fixture stays where it is."""


class Fixtures:
    """The fixtures that a test file gets from above.

    Args:
        conftests: the nearest to the test file first.
    """

    def __init__(self, conftests: Sequence[Conftest]) -> None:
        self._files = [_File(conftest, place) for place, conftest in enumerate(conftests)]

    def problem(self, names: Iterable[str]) -> str | None:
        """Why these fixtures cannot be had, or None."""
        try:
            self._collect(names)
        except _Problem as problem:
            return str(problem)
        return None

    def inline(self, test: str, names: Iterable[str]) -> str | None:
        """The test file with the text of these fixtures; None where a name of theirs means something else in it.

        Args:
            test: a test file that parses.
            names: fixtures for which `problem` is None.
        """
        moved = self._collect(names)
        tree = parse(test)
        if tree is None:
            return None
        there = _bound(tree)
        imports = {name: text for name, text in moved.imports.items() if there.get(name) != text}
        if not there.keys().isdisjoint(imports) or not there.keys().isdisjoint(moved.names):
            return None
        definitions = [moved.definitions[place] for place in sorted(moved.definitions)]
        added = "\n\n".join(["".join(f"{text}\n" for text in sorted(set(imports.values()))), *definitions])
        lines = test.splitlines(keepends=True)
        after = after_imports(tree)
        return "".join([*lines[:after], added, "\n\n", "".join(lines[after:]).lstrip("\n")])

    def _collect(self, names: Iterable[str]) -> _Moved:
        moved = _Moved()
        for name in sorted(names):
            self._fixture(name, 0, moved, ())
        return moved

    def _fixture(self, name: str, start: int, moved: _Moved, path: tuple[str, ...]) -> None:
        for place in range(start, len(self._files)):
            file = self._files[place]
            if name in file.fixtures:
                node = file.fixtures[name]
                file.move(node, moved)
                for argument in sorted(arguments(node) - BUILTIN_FIXTURES):
                    if len(path) > len(self._files) + 20:
                        raise _Problem(TANGLED)
                    # a fixture that asks for its own name gets the one of the conftest.py above
                    self._fixture(argument, place + 1 if argument == name else 0, moved, (*path, name))
                return
        raise _Problem(PLUGIN)


class _File:
    """One conftest.py, taken apart."""

    def __init__(self, conftest: Conftest, place: int) -> None:
        self.place = place
        self.package = conftest.package
        self.lines = conftest.text.splitlines(keepends=True)
        tree = parse(conftest.text)
        body = tree.body if tree is not None else []
        self.imports: dict[str, str] = {}
        self.defined: dict[str, list[ast.stmt]] = {}
        self.fixtures: dict[str, Function] = {}
        top = set(body)
        for node in statements(body):
            for name in _names_of(node):
                self.defined.setdefault(name, []).append(node)
            if isinstance(node, ast.Import | ast.ImportFrom) and node in top:
                self.imports.update(_imports(node, self.package))
            elif isinstance(node, Function) and is_fixture(node):
                self.fixtures[fixture_name(node)] = node
        self.top = top

    def move(self, node: ast.stmt, moved: _Moved) -> None:
        """Take a definition, and all that it names in its file.

        Raises:
            _Problem: one of these cannot be moved.
        """
        pending = [node]
        while pending:
            part = pending.pop()
            first, text = self._text(part)
            if (-self.place, first) in moved.definitions:
                continue
            if part not in self.top or not isinstance(part, Function | ast.ClassDef | ast.Assign | ast.AnnAssign):
                raise _Problem(TANGLED)
            used = {name.id for name in names_in([part])}
            if isinstance(part, Function):
                used |= {argument.arg for argument in part.args.args}
            if not _UNSAFE.isdisjoint(used) or _depends_on_session(part):
                raise _Problem(TANGLED)
            names = set(_names_of(part))
            if names & moved.names:
                raise _Problem(TANGLED)  # two files define it
            moved.definitions[(-self.place, first)] = text
            moved.names |= names
            for name in sorted(used - names):
                if name in self.imports:
                    if moved.imports.setdefault(name, self.imports[name]) != self.imports[name]:
                        raise _Problem(TANGLED)
                elif name in self.defined and not (name in self.fixtures and _is_argument(name, part)):
                    pending.extend(self.defined[name])

    def _text(self, node: ast.stmt) -> tuple[int, str]:
        decorators: list[ast.expr] = getattr(node, "decorator_list", [])
        first = min([node.lineno, *(decorator.lineno for decorator in decorators)])
        return first, "".join(self.lines[first - 1 : node.end_lineno]).rstrip() + "\n"


def _depends_on_session(node: ast.stmt) -> bool:
    return any(
        isinstance(part, ast.Attribute)
        and part.attr in _UNSAFE_OF_REQUEST
        and isinstance(part.value, ast.Name)
        and part.value.id == "request"
        for part in ast.walk(node)
    )


def _is_argument(name: str, node: ast.stmt) -> bool:
    return isinstance(node, Function) and name in {argument.arg for argument in node.args.args}


def _imports(node: ast.Import | ast.ImportFrom, package: str) -> Iterator[tuple[str, str]]:
    """Each name that an import binds, and a statement that binds it anywhere."""
    for name, binding in bindings(node, package):
        if name == "*":
            continue
        if binding.name:
            alias = binding.name if binding.name == name else f"{binding.name} as {name}"
            yield name, f"from {binding.module} import {alias}"
        elif isinstance(node, ast.Import) and all(part.asname != name for part in node.names):
            dotted = sorted(part.name for part in node.names if part.name.partition(".")[0] == name)
            yield name, "\n".join(f"import {full}" for full in dotted)
        else:
            yield name, f"import {binding.module}" if binding.module == name else f"import {binding.module} as {name}"


def _bound(tree: ast.Module) -> dict[str, str]:
    """What the names at the top of a test file mean: an import statement, or nothing that can be compared."""
    found: dict[str, str] = {}
    for node in statements(tree.body):
        for name in _names_of(node):
            found[name] = ""
        if isinstance(node, ast.Import | ast.ImportFrom):
            found.update(_imports(node, ""))
    return found


def _names_of(node: ast.stmt) -> Iterator[str]:
    if isinstance(node, Function | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign | ast.With | ast.For):
        yield from (part.id for part in names_in([node]) if isinstance(part.ctx, ast.Store))
    elif isinstance(node, ast.Import | ast.ImportFrom):
        yield from (alias.asname or alias.name.partition(".")[0] for alias in node.names)


def after_imports(tree: ast.Module) -> int:
    """Lines up to and with the last import before the first definition, or the docstring."""
    after = 0
    for place, node in enumerate(tree.body):
        is_docstring = place == 0 and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if isinstance(node, ast.Import | ast.ImportFrom) or is_docstring:
            after = node.end_lineno or after
        elif isinstance(node, Function | ast.ClassDef):
            break
    return after
