"""Make several rows that fit of a module and a test file that are too long, without cutting any text in the middle.

What is kept is kept as it is written: whole functions and classes, whole tests. The rules:

- Of the module: the named definitions, and of the rest what they need, step by step: functions that they call, base
  classes, decorators, constants, imports. A name that only an annotation holds counts, a string too. Where one of
  several statements that bind a name is needed, all are. A class is whole. Blocks (``try``, ``if``) are whole.
- A statement that changes a needed name on import is needed as well: ``X.append(...)``, ``X[k] = ...``, a decorator
  that registers in ``X``, a subclass where a class keeps track of those.
- Statements that do something else on import, such as ``sys.path.insert(...)`` or ``from x import *``, always stay.
- Left out: ``__all__``, the module's docstring, ``if __name__ == "__main__"``, comments that stand by themselves.
- A kept function that looks names up (``globals()``, ``eval``) keeps the whole module.
- Of the test file: the tests, the fixtures that they ask for, fixtures that ask for nobody (``autouse``), helpers,
  constants, imports, marks. A class keeps its set-up and what its tests use of it. A class that others inherit from,
  that inherits from one in the same file, or that has classes with tests inside of it, is whole.

What cannot be seen: tests that rely on what other tests left behind, and names built at run time.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from lowvram_ft.data.syntax import UNREADABLE, parse
from lowvram_ft.data.trimming.dependencies import Dependencies, joined, statement_text
from lowvram_ft.data.trimming.grouping import Group, group
from lowvram_ft.data.trimming.statements import DEFINITION, imported_names, read_statements, split_lines
from lowvram_ft.data.trimming.suite import Suite, read_suite
from lowvram_ft.execution.modules import split_modules

Fits = Callable[[str, str], bool]


@dataclass(frozen=True)
class Piece:
    """A part of a module and the tests of that part.

    Attributes:
        code: the part of the module.
        test: the part of the test file.
        names: functions and classes that the tests use, in the order of the module.
        tests: the tests, in the order of the test file.
    """

    code: str
    test: str
    names: tuple[str, ...]
    tests: tuple[str, ...]


def definitions(code: str) -> tuple[str, ...]:
    """Top-level functions and classes of a module, in order; empty where it does not parse."""
    tree = parse(_target(code)[0])
    body = tree.body if tree is not None else []
    return tuple(dict.fromkeys(node.name for node in body if isinstance(node, DEFINITION)))


def tests_of(test: str) -> tuple[str, ...]:
    """Names of the tests that pytest finds in a file, without parameters; empty where it does not parse.

    Methods are named as in ``TestX::test_b``, those that come from a base class in the same file included.
    """
    suite = _suite(test, frozenset())
    return tuple(suite.tests) if suite is not None else ()


def reached(code: str, test: str) -> dict[str, frozenset[str]]:
    """For each test, the top-level names of the code that it uses, directly or through anything in the test file.

    Only what the code defines itself counts, not what it imports. A test that may use any name, such as one that
    hands the module to something else, reaches all. Empty where one of the two does not parse.
    """
    module, suite = _module(code), None
    if module is not None:
        suite = _suite(test, module.names)
    if module is None or suite is None:
        return {}
    return {name: module.own & _code_names(suite, suite.closure([name])[0], module) for name in suite.tests}


def trim_code(code: str, names: Collection[str]) -> str:
    """The named definitions of a module with what they need of it, in their order, as they are written.

    Args:
        code: of one module, or of several (see `split_modules`): then the first is trimmed.
        names: what to keep; a name that the module does not bind is passed over.

    Returns:
        The text; ``code`` itself where it does not parse.
    """
    module = _module(code)
    return code if module is None else module.text(names)


def trim_test(test: str, keep: Collection[str]) -> str:
    """Some tests of a test file with what they need of it, in their order, as they are written.

    Args:
        test: the file, with its imports as `import_from_solution` leaves them.
        keep: names of tests, as `tests_of` gives them; unknown ones are passed over.

    Returns:
        The text; ``test`` itself where it does not parse.
    """
    suite = _suite(test, frozenset())
    return test if suite is None else suite.text(*suite.closure(keep))


def pieces(code: str, test: str, fits: Fits) -> Iterator[Piece]:
    """Make pieces of a module and its test file that fit.

    Tests that are about the same definition stay together where that fits; beyond that, as few pieces as may be are
    made. A definition is in the ``names`` of several pieces where its tests do not fit in one, or where others use it
    on their way. A test that fits in no piece, or that uses nothing of the code, is left out. Where all fits as it is,
    there is one piece, unchanged.

    Args:
        code: of one module, or of several (see `split_modules`).
        test: a test file, with its imports as `import_from_solution` leaves them.
        fits: whether a row of this code and this test is short enough.
    """
    module = _module(code)
    suite = _suite(test, module.names) if module is not None else None
    if module is None or suite is None or not suite.tests:
        return
    names = _code_names(suite, suite.closure(suite.tests)[0], module)
    if fits(code, test):
        whole = Piece(code, test, tuple(name for name in module.order if name in names), tuple(suite.tests))
        yield from [whole] if whole.names else []
        return
    units = sorted(set(suite.tests.values()))  # a class that is whole holds several tests
    of_unit = [[name for name, place in suite.tests.items() if place == unit] for unit in units]
    reach = [_code_names(suite, suite.closure(tests)[0], module) & set(module.order) for tests in of_unit]

    def piece(items: Group) -> Piece:
        return _piece(module, suite, [name for item in items for name in of_unit[item]])

    def fit(items: Group) -> bool:
        made = piece(items)
        return fits(made.code, made.test)

    yield from (piece(items) for items in group(reach, fit))


def _piece(module: _Module, suite: Suite, tests: Sequence[str]) -> Piece:
    places, needed = suite.closure(tests)
    names = _code_names(suite, places, module)
    return Piece(
        module.text(names),
        suite.text(places, needed),
        tuple(name for name in module.order if name in names),
        tuple(name for name, place in suite.tests.items() if place in places),
    )


@dataclass(frozen=True)
class _Module:
    """A module taken apart.

    Attributes:
        before: text above it.
        after: text of other modules below it.
        lines: its lines.
        graph: its statements.
        names: all names that it binds.
        own: those that it does not import.
        order: its functions and classes.
    """

    before: str
    after: str
    lines: list[str]
    graph: Dependencies
    names: frozenset[str]
    own: frozenset[str]
    order: tuple[str, ...]

    def text(self, names: Iterable[str]) -> str:
        """The text of what some names need."""
        places, needed = self.graph.closure(names)
        kept = [self.graph.statements[place] for place in sorted(places)]
        return self.before + joined([(s, statement_text(s, self.lines, needed)) for s in kept]) + self.after


def _target(code: str) -> tuple[str, str, str]:
    """The text of the module under test, and what stands above and below it."""
    parts = split_modules(code)
    text = next(iter(parts.values()))
    if len(parts) == 1 and text == code:
        return code, "", ""
    begin = code.index("\n") + 1
    return text, code[:begin], code[begin + len(text) :]


@lru_cache(maxsize=2)
def _module(code: str) -> _Module | None:
    text, before, after = _target(code)
    tree = parse(text)
    if tree is None:
        return None
    lines = split_lines(text)
    try:
        graph = Dependencies(read_statements(tree.body, lines))
    except UNREADABLE:
        return None
    imported = {name for statement in graph.statements for name in imported_names(statement)}
    names = frozenset(graph.binders) - {"__doc__", "__all__"}
    order = tuple(dict.fromkeys(node.name for node in tree.body if isinstance(node, DEFINITION)))
    return _Module(before, after, lines, graph, names, names - imported, order)


@lru_cache(maxsize=2)
def _suite(test: str, code_names: frozenset[str]) -> Suite | None:
    tree = parse(test)
    if tree is None:
        return None
    try:
        return read_suite(tree, test, code_names)
    except UNREADABLE:
        return None


def _code_names(suite: Suite, places: Iterable[int], module: _Module) -> frozenset[str]:
    """Names of the code that some statements of a test file use."""
    found: set[str] = set()
    for place in places:
        used = suite.code_names[place]
        if used is None or "__all__" in used:
            return frozenset(module.graph.binders)
        found |= used & module.names
    return frozenset(found)
