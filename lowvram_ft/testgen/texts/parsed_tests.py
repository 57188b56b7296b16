"""A test file taken apart, so that several can become one."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from lowvram_ft.data.imports.scopes import MODULE_ATTRIBUTES, parameters, resolve
from lowvram_ft.data.syntax import parse
from lowvram_ft.data.trimming.statements import Statement, read_statements, split_lines
from lowvram_ft.testgen.texts.import_block import Imported, read_import
from lowvram_ft.testgen.texts.renaming import FUNCTION, fixture_name, last_name, parametrized

_OF_THE_MODULE = frozenset(
    {"setup_module", "teardown_module", "setup_function", "teardown_function", "setUpModule", "tearDownModule"}
    | {"pytest_generate_tests", "pytest_plugins", "load_tests", "__test__"}
)
"""Names that pytest or unittest looks for in a test module and applies to all of it."""


class CannotMerge(ValueError):
    """Test files cannot be one.

    Attributes:
        place: of the file that the others cannot take in, from 0.
        reason: why.
    """

    def __init__(self, place: int, reason: str) -> None:
        super().__init__(f"test file {place + 1}: cannot be merged with the others ({reason}); leave it out")
        self.place = place
        self.reason = reason


@dataclass(frozen=True, eq=False)
class TestFile:
    """A test file taken apart.

    Attributes:
        place: among the files, from 0.
        text: of it, with line feeds.
        tree: of it.
        statements: of its top level.
        hoisted: what its top-level imports import.
        kept: places of the statements that are no such import.
        keys: what each name of the module level is, for comparing.
        uses: names that what binds a name uses.
        fixtures: names of its fixtures.
        free: names that it takes from outside: built-in ones, those of a star.
        asked: fixtures that it takes from outside.
        words: every word of its text.
        marks: the elements of its ``pytestmark``.
        set_up: what it does for the whole module.
    """

    __test__ = False

    place: int
    text: str
    tree: ast.Module
    statements: list[Statement]
    hoisted: list[Imported]
    kept: list[int]
    keys: dict[str, tuple[str, ...]]
    uses: dict[str, frozenset[str]]
    fixtures: frozenset[str]
    free: frozenset[str]
    asked: frozenset[str]
    words: frozenset[str]
    marks: tuple[str, ...]
    set_up: frozenset[str]


def read_test_file(place: int, text: str) -> TestFile:
    """Take a test file apart.

    Raises:
        CannotMerge: it does not parse.
    """
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    tree = parse(text)
    if tree is None:
        raise CannotMerge(place, "it does not parse")
    statements = read_statements(tree.body, split_lines(text))
    hoisted: list[Imported] = []
    kept: list[int] = []
    effects = False
    for number, statement in enumerate(statements):
        nodes = statement.nodes
        if number == 0 and is_docstring(nodes):
            continue
        future = any(isinstance(node, ast.ImportFrom) and node.module == "__future__" for node in nodes)
        if all(isinstance(node, ast.Import | ast.ImportFrom) for node in nodes) and (future or not effects):
            hoisted += [i for n in nodes if isinstance(n, ast.Import | ast.ImportFrom) for i in read_import(n)]
        elif not _is_main(nodes[0]):
            kept.append(number)
            effects = effects or any(map(_does_something, nodes))
    body = [(statements[number], node) for number in kept for node in statements[number].nodes]
    marks = [node.value for _, node in body if isinstance(node, ast.Assign) and is_mark(node)]
    elements = tuple(ast.unparse(e) for m in marks for e in (m.elts if isinstance(m, ast.List | ast.Tuple) else [m]))
    fixtures = frozenset(name for _, node in body if (name := fixture_name(node)) is not None)
    names = resolve(node for statement in statements for node in statement.nodes if not _is_main(node))
    free = {n.id for n, scope in names.references if names.is_global(n, scope)} - names.top.bound.keys()
    return TestFile(
        place=place,
        text=text,
        tree=tree,
        statements=statements,
        hoisted=hoisted,
        kept=kept,
        keys=_keys(statements, kept, hoisted, elements),
        uses=_uses(statements, kept),
        fixtures=fixtures,
        free=frozenset(free - MODULE_ATTRIBUTES),
        asked=frozenset(_asked(tree, fixtures)),
        words=frozenset(re.findall(r"\w+", text)),
        marks=elements,
        set_up=frozenset(ast.dump(node) for statement, node in body if _is_set_up(statement, node)),
    )


def is_docstring(nodes: Sequence[ast.stmt]) -> bool:
    """Whether a statement is nothing but a string."""
    node = nodes[0]
    string = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    return string and len(nodes) == 1


def is_mark(node: ast.stmt) -> bool:
    """Whether a statement is a ``pytestmark``."""
    targets = node.targets if isinstance(node, ast.Assign) else []
    return any(isinstance(target, ast.Name) and target.id == "pytestmark" for target in targets)


def is_test(node: ast.stmt) -> bool:
    """Whether pytest may collect a top-level function or class."""
    if isinstance(node, ast.ClassDef):
        return node.name.startswith("Test") or any(last_name(base).endswith("TestCase") for base in node.bases)
    return isinstance(node, FUNCTION) and node.name.startswith("test") and fixture_name(node) is None


def _keys(
    statements: Sequence[Statement], kept: Collection[int], hoisted: Iterable[Imported], marks: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    """What each name of the module level is. One that is not to be shared with another file says ``own``."""
    found: dict[str, list[str]] = {}
    for item in hoisted:
        key = f"import {item.what}"
        if item.local and key not in found.setdefault(item.local, []):
            found[item.local].append(key)
    changed = {name for number in kept for name in statements[number].changes}
    for number in kept:
        statement = statements[number]
        dump = "".join(map(ast.dump, statement.nodes)) + "".join(marks if any(map(is_test, statement.nodes)) else ())
        wide = any(_has_keyword(node, "scope") for node in statement.nodes)
        given = {name for node in statement.nodes if (name := fixture_name(node)) is not None}
        for name in statement.binds | statement.attached | given:
            found.setdefault(name, []).append(dump)
            if wide or name in changed:
                found[name].append("own")
    return {name: tuple(key) for name, key in found.items() if name != "pytestmark"}


def _uses(statements: Sequence[Statement], kept: Collection[int]) -> dict[str, frozenset[str]]:
    found: dict[str, frozenset[str]] = {}
    for number in kept:
        statement = statements[number]
        functions = [n for top in statement.nodes for n in ast.walk(top) if isinstance(n, FUNCTION)]
        asked = {parameter.arg for function in functions for parameter in parameters(function.args)}
        given = {name for node in statement.nodes if (name := fixture_name(node)) is not None}
        for name in statement.binds | statement.attached | given:
            found[name] = found.get(name, frozenset()) | statement.uses | asked | _strings(statement)
    return found


def _strings(statement: Statement) -> set[str]:
    nodes = (node for top in statement.nodes for node in ast.walk(top))
    return {str(n.value) for n in nodes if isinstance(n, ast.Constant) and str(n.value).isidentifier()}


def _is_main(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and not node.orelse and "__name__" in ast.unparse(node.test)


def _does_something(node: ast.stmt) -> bool:
    """Whether what is imported after a statement may depend on it."""
    if isinstance(node, ast.Expr):
        return not isinstance(node.value, ast.Constant)
    if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return _may_skip(node) or not all(isinstance(target, ast.Name) for target in targets)
    return isinstance(node, ast.If | ast.For | ast.While | ast.With | ast.Delete)


def _may_skip(node: ast.AST) -> bool:
    """Whether a statement may skip the whole module."""
    calls = [inner for inner in ast.walk(node) if isinstance(inner, ast.Call)]
    return any(
        last_name(call.func) == "importorskip" or any(k.arg == "allow_module_level" for k in call.keywords)
        for call in calls
    )


def _asked(tree: ast.Module, fixtures: Collection[str]) -> set[str]:
    """Fixtures that a file asks for and does not have, and those that it builds its own of the same name on."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, FUNCTION) and (node.name.startswith("test") or fixture_name(node) is not None):
            given = {name for decorator in node.decorator_list for name in parametrized(decorator)}
            asked = {parameter.arg for parameter in parameters(node.args)} - given
            found |= {name for name in asked if name not in fixtures or name == fixture_name(node)}
        elif isinstance(node, ast.Call) and last_name(node.func) in ("usefixtures", "getfixturevalue"):
            found |= {str(a.value) for a in node.args if isinstance(a, ast.Constant)} - set(fixtures)
    return found


def _is_set_up(statement: Statement, node: ast.stmt) -> bool:
    if isinstance(node, ast.ClassDef):
        return False
    by_itself = not isinstance(node, FUNCTION) and _may_skip(node)
    return bool(_OF_THE_MODULE & statement.binds) or _has_keyword(node, "autouse") or by_itself


def _has_keyword(node: ast.stmt, word: str) -> bool:
    """Whether a fixture is defined with a keyword."""
    decorators = node.decorator_list if isinstance(node, FUNCTION) and fixture_name(node) is not None else []
    return any(k.arg == word for d in decorators if isinstance(d, ast.Call) for k in d.keywords)
