"""A test file as its tests, and what each of them needs: helpers, fixtures, set-up, constants, names of the code."""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace

from lowvram_ft.data.imports.scopes import resolve
from lowvram_ft.data.trimming.dependencies import Dependencies, joined, statement_text
from lowvram_ft.data.trimming.statements import DEFINITION, Statement, read_statements, root_of, split_lines
from lowvram_ft.execution.modules import SOLUTION

FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)
_DOTTED = re.compile(r"[A-Za-z_][\w.]*\.\w+")
_SET_UP = re.compile(
    r"(?:setup|teardown)(?:_(?:module|function|class|method))?|(?:async)?(?:setUp|tearDown)(?:Class|Module)?"
    r"|asyncSetUp|asyncTearDown|setUpModule|tearDownModule|setUpTestData|runTest|load_tests|__\w+__|pytestmark|pytest_\w+"
)
"""Names that pytest or unittest calls by themselves."""


@dataclass
class Suite:
    """A test file taken apart.

    Attributes:
        lines: of its text.
        statements: at the top, and after each test class the members of it.
        parents: place of its class, for each member.
        tests: places of the statements that hold each test, in the order of the file.
        graph: what they need of each other.
        code_names: names of the code that each statement uses; None where it may be any.
    """

    lines: list[str]
    statements: list[Statement]
    parents: dict[int, int]
    tests: dict[str, int]
    graph: Dependencies
    code_names: list[frozenset[str] | None]

    def closure(self, keep: Collection[str]) -> tuple[set[int], set[str]]:
        """Places of what some tests need, themselves included, and the names that are needed."""
        return self.graph.closure((), [self.tests[name] for name in keep if name in self.tests])

    def text(self, places: Collection[int], needed: Collection[str]) -> str:
        """The text of some statements."""
        parts = []
        for place, statement in enumerate(self.statements):
            if place in self.parents or place not in places:
                continue
            members = [i for i, parent in self.parents.items() if parent == place]
            if not members:
                parts.append((statement, statement_text(statement, self.lines, needed)))
                continue
            kept = [(self.statements[i], statement_text(self.statements[i], self.lines, needed))
                    for i in members if i in places]  # fmt: skip
            first = self.statements[members[0]]
            head = "".join(self.lines[statement.start - 1 : first.start - 1 - first.blank_lines]).rstrip()
            body = joined(kept) if kept else "    pass\n"
            parts.append((statement, f"{head}\n{body}"))
        return joined(parts)


def read_suite(tree: ast.Module, text: str, code_names: Collection[str]) -> Suite:
    """Take a test file apart.

    Args:
        tree: of the file.
        text: of the file.
        code_names: top-level names of the code under test.
    """
    lines = split_lines(text)
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    bases = {root_of(base) for node in classes.values() for base in node.bases}
    statements: list[Statement] = []
    parents: dict[int, int] = {}
    tests: dict[str, int] = {}
    parts: list[list[ast.AST]] = []
    for statement in read_statements(tree.body, lines):
        node, place = statement.nodes[0], len(statements)
        statements.append(statement)
        parts.append(list(statement.nodes))
        if isinstance(node, FUNCTION) and len(statement.nodes) == 1 and _is_test(node):
            tests[node.name] = place
        elif isinstance(node, ast.ClassDef) and len(statement.nodes) == 1:
            found = list(_tests_of_class(node, classes)) if _is_collected(node, classes) else []
            tests.update(dict.fromkeys(found, place))
            if found and _can_be_split(node, classes, bases):
                parts[place] = [*node.decorator_list, *node.bases, *node.keywords]
                for member in read_statements(node.body, lines, node.body[0].lineno - 1):
                    parents[len(statements)] = place
                    if f"{node.name}::{_name(member)}" in found:
                        tests[f"{node.name}::{_name(member)}"] = len(statements)
                    statements.append(member)
                    parts.append(list(member.nodes))
    return _linked(tree, lines, statements, parents, tests, parts, code_names)


def _linked(
    tree: ast.Module,
    lines: list[str],
    statements: list[Statement],
    parents: dict[int, int],
    tests: dict[str, int],
    parts: list[list[ast.AST]],
    code_names: Collection[str],
) -> Suite:
    """The suite, with what pytest links by name: fixtures, set-up, the members of classes."""
    fixtures = {name for nodes in parts for node in nodes for name in _fixture_names(node)}
    members: dict[int, set[str]] = {}
    for place, parent in parents.items():
        members.setdefault(parent, set()).add(_name(statements[place]))
    class_names = {_name(statements[parent]): parent for parent in members}
    uses: dict[int, set[str]] = {}
    binds: dict[int, set[str]] = {}
    always: list[int] = []
    defined = {name for statement in statements for name in statement.binds}
    derived = {place for place in members if _calls_back(statements[place].nodes[0])}
    for place, nodes in enumerate(parts):
        statement = statements[place]
        seen = _Seen(nodes)
        used = set(seen.free) if place in members else set(statement.uses)
        used |= {f"fixture {name}" for name in fixtures & seen.asked}
        used |= defined & seen.words if statement.looks_up else set()
        around = {parents[place]} if place in parents else set()
        for parent in around | {class_names[name] for name in class_names.keys() & used}:
            used |= {f"{parent}.{name}" for name in members[parent] & (seen.attributes | seen.free)}
        bound = {f"fixture {name}" for node in nodes for name in _fixture_names(node)}
        by_itself = _runs_by_itself(statement)
        if place in parents:
            used.add(f"class {parents[place]}")
            bound.add(f"{parents[place]}.{_name(statement)}")
            is_test = _is_test(statement.nodes[0])
            if by_itself or not isinstance(statement.nodes[0], FUNCTION) or (not is_test and parents[place] in derived):
                bound.add(f"body {parents[place]}")
        elif by_itself:
            always.append(place)
        if place in members:
            used.add(f"body {place}")
            bound.add(f"class {place}")
        uses[place], binds[place] = used, bound
    nothing: frozenset[str] = frozenset()
    for place, statement in enumerate(statements):
        kept = replace(statement, looks_up=False, uses=nothing if place in members else statement.uses)
        if place in parents:
            kept = replace(kept, binds=nothing, attached=nothing, calls=nothing, always=False)
        statements[place] = kept
    of_code = _code_names(tree, parts, defined, code_names)
    return Suite(lines, statements, parents, tests, Dependencies(statements, uses, binds, always), of_code)


class _Seen:
    """What stands in some nodes.

    Attributes:
        free: names that they take from outside.
        attributes: names after a dot.
        asked: parameters, and strings as a whole: how pytest is asked for a fixture.
        words: every word of every string.
    """

    def __init__(self, nodes: Iterable[ast.AST]) -> None:
        nodes = list(nodes)
        names = resolve(nodes)
        self.free = {node.id for node, scope in names.references if names.is_global(node, scope)}
        self.attributes: set[str] = set()
        self.asked: set[str] = set()
        self.words: set[str] = set()
        for node in (child for top in nodes for child in ast.walk(top)):
            if isinstance(node, ast.Attribute):
                self.attributes.add(node.attr)
            elif isinstance(node, ast.arg):
                self.asked.add(node.arg)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                self.asked.add(node.value)
                self.words.update(re.findall(r"\w+", node.value))


def _code_names(
    tree: ast.Module, parts: Iterable[Iterable[ast.AST]], defined: Collection[str], code_names: Collection[str]
) -> list[frozenset[str] | None]:
    """Names of the code that each statement uses; None where it may use any."""
    everywhere = _Imported(tree.body)
    bare = set(code_names) - set(defined) if everywhere.star or not everywhere.any else set()
    found: list[frozenset[str] | None] = []
    for nodes in map(list, parts):
        if all(isinstance(node, ast.Import | ast.ImportFrom) for node in nodes) and nodes:
            found.append(frozenset())  # what uses its names counts
            continue
        here = _Imported([child for node in nodes if isinstance(node, ast.stmt) for child in ast.walk(node)])
        names = resolve(nodes)
        free = {node.id for node, scope in names.references if names.is_global(node, scope)}
        used = {everywhere.names[name] for name in free & everywhere.names.keys()} | set(here.names.values())
        used |= free & bare
        modules = everywhere.modules | here.modules
        understood: set[int] = set()
        strings: set[str] = set()
        for node in (child for top in nodes for child in ast.walk(top)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
                used.add(node.attr)
                understood.add(id(node.value))
            elif isinstance(node, ast.Call):  # setattr(module, "name", ...) and its like
                understood |= {id(a) for a, b in itertools.pairwise(node.args) if _is_string(b)}
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                strings.add(node.value)
        dotted = {word for text in strings if _DOTTED.fullmatch(text) for word in text.split(".")}
        used |= (dotted | (strings if modules else set())) & set(code_names)
        escaped = any(node.id in modules and id(node) not in understood for node, _ in names.references)
        found.append(None if escaped else frozenset(used))
    return found


def _is_string(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


class _Imported:
    """What some statements import of the code: names by the names they get, the module's names, a star."""

    def __init__(self, body: Iterable[ast.AST]) -> None:
        self.names: dict[str, str] = {}
        self.modules: set[str] = set()
        self.star = False
        for node in body:
            if isinstance(node, ast.ImportFrom) and node.module == SOLUTION and not node.level:
                self.star |= node.names[0].name == "*"
                self.names.update({alias.asname or alias.name: alias.name for alias in node.names})
            elif isinstance(node, ast.Import):
                self.modules |= {alias.asname or alias.name for alias in node.names if alias.name == SOLUTION}
        self.any = self.star or bool(self.names) or bool(self.modules)


def _name(statement: Statement) -> str:
    return str(getattr(statement.nodes[0], "name", ""))


def _fixture_names(node: ast.AST) -> Iterator[str]:
    """The names under which tests can ask for what a function of a fixture gives."""
    for inner in [node, *(node.body if isinstance(node, ast.ClassDef) else ())]:
        for decorator in inner.decorator_list if isinstance(inner, FUNCTION) else ():
            called = decorator.func if isinstance(decorator, ast.Call) else decorator
            if _last(called) in ("fixture", "yield_fixture") and isinstance(inner, FUNCTION):
                given = [k.value for k in getattr(decorator, "keywords", ()) if k.arg == "name"]
                yield next((str(v.value) for v in given if isinstance(v, ast.Constant)), inner.name)


def _last(node: ast.AST) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _is_test(node: ast.stmt) -> bool:
    return isinstance(node, FUNCTION) and node.name.startswith("test") and not list(_fixture_names(node))


def _runs_by_itself(statement: Statement) -> bool:
    """Whether pytest or unittest uses a statement without being asked to by name."""
    node = statement.nodes[0]
    if isinstance(node, FUNCTION):
        words = [keyword for item in node.decorator_list for keyword in getattr(item, "keywords", ())]
        autouse = any(
            k.arg == "autouse" and not (isinstance(k.value, ast.Constant) and not k.value.value) for k in words
        )
        return autouse or _SET_UP.fullmatch(node.name) is not None
    return any(_SET_UP.fullmatch(name) for name in statement.binds if name != "__doc__")


def _is_collected(node: ast.ClassDef, classes: dict[str, ast.ClassDef], depth: int = 0) -> bool:
    """Whether pytest looks for tests in a class."""
    bases = [_last(base) for base in node.bases]
    if any(base.endswith("TestCase") for base in bases):
        return True
    inherited = [classes[base] for base in bases if base in classes and depth < 20]
    if any(_is_collected(base, classes, depth + 1) and not base.name.startswith("Test") for base in inherited):
        return True
    members = {item.name for item in node.body if isinstance(item, DEFINITION)}
    return node.name.startswith("Test") and "__init__" not in members


def _tests_of_class(node: ast.ClassDef, classes: dict[str, ast.ClassDef], depth: int = 0) -> Iterator[str]:
    """Names of a class's tests, those of its bases in the same file and of the classes in it included."""
    names = dict.fromkeys(item.name for item in node.body if _is_test(item) and isinstance(item, FUNCTION))
    for base in [classes[root_of(base)] for base in node.bases if root_of(base) in classes and depth < 20]:
        names.update(dict.fromkeys(name.partition("::")[2] for name in _tests_of_class(base, classes, depth + 1)))
    yield from (f"{node.name}::{name}" for name in names)
    for inner in node.body:
        if isinstance(inner, ast.ClassDef) and _is_collected(inner, {}) and depth < 20:
            yield from (f"{node.name}::{name}" for name in _tests_of_class(inner, {}, depth + 1))


def _calls_back(node: ast.stmt) -> bool:
    """Whether a class has a base that may call methods of it by names that are not known."""
    return isinstance(node, ast.ClassDef) and any(not _last(base).endswith("TestCase") for base in node.bases)


def _can_be_split(node: ast.ClassDef, classes: dict[str, ast.ClassDef], bases: Collection[str]) -> bool:
    """Whether some tests of a class can be left out: not where others inherit them, or it has tests inside of it."""
    inherited = [classes[root_of(base)] for base in node.bases if root_of(base) in classes]
    linked = node.name in bases or any(any(_tests_of_class(base, classes)) for base in inherited)
    nested = any(isinstance(inner, ast.ClassDef) and any(_tests_of_class(inner, {})) for inner in node.body)
    return not linked and not nested and node.body[0].lineno > node.lineno
