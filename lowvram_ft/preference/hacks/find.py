"""Every reason in the text of a test file for which it may not win.

A winner teaches: what cannot be told from a trick does not win, though some of it is honest. The rules err on that side
(`inspect.signature`, a helper class with ``__eq__``, ``eval(repr(x))``); what they leave out is neither winner nor,
where it passes, loser.
"""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Iterator, Sequence

from lowvram_ft.data.row import SOLUTION
from lowvram_ft.data.syntax import parse
from lowvram_ft.preference.hacks.checks import empty_checks, expectations_of_the_code, replacements
from lowvram_ft.preference.hacks.copies import copied_functions
from lowvram_ft.preference.hacks.names import HIDDEN, suspicious_names
from lowvram_ft.preference.hacks.view import View
from lowvram_ft.testgen.attempts.reading import read_tests

FOREIGN = "does not import the code under test"
NOTHING = "asserts nothing that could fail"
COPY = "holds a copy of the code under test"
NO_PYTHON = "is no Python"


@dataclasses.dataclass(frozen=True, order=True)
class Hack:
    """A reason for which a test, or a file, may not win.

    Attributes:
        test: the test, as pytest has it without its cases (``TestX::test_y``); empty where it is about the whole file.
        reason: in a few words, the same for all of a kind.
    """

    test: str
    reason: str


def find_hacks(test: str, code: str, module: str = SOLUTION) -> tuple[Hack, ...]:
    """Why a test file may not win, by its text; empty where nothing is found.

    Args:
        test: the test file.
        code: as for `lowvram_ft.execution.run_tests`.
        module: the same.
    """
    tree = parse(test)
    if tree is None:
        return (Hack("", NO_PYTHON),)
    view = View(tree, code, module)
    found = {Hack(view.owner(node) or "", reason) for node, reason in _places(view) if id(node) not in view.never_run}
    if not any(origin.partition(".")[0] == SOLUTION for origin in view.imports.values()):
        found.add(Hack("", FOREIGN))
    facts = read_tests(test, code).tests
    for name in view.tests:
        if name not in facts or not facts[name].checks or facts[name].certain:
            found.add(Hack(name, NOTHING))
    return tuple(sorted(found))


def _places(view: View) -> Iterator[tuple[ast.AST, str]]:
    yield from suspicious_names(view)
    yield from empty_checks(view)
    yield from replacements(view)
    yield from expectations_of_the_code(view)
    yield from _copies(view)
    yield from _texts_that_run(view)


def _copies(view: View) -> Iterator[tuple[ast.AST, str]]:
    for node in view.tests.values():
        if copied_functions(node, view.code_tree):
            yield node, COPY
    if copied_functions(ast.Module([*_beside_tests(view.tree.body, view)], []), view.code_tree):
        yield view.tree, COPY


def _beside_tests(body: Sequence[ast.stmt], view: View) -> Iterator[ast.stmt]:
    """Functions and values of a file that are no tests, those of classes among them."""
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield from _beside_tests(node.body, view)
        elif view.owner(node) is None:
            yield node


def _texts_that_run(view: View) -> Iterator[tuple[ast.AST, str]]:
    """A text that is run where it stands is read by the same rules."""
    for node in ast.walk(view.tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or not node.args:
            continue
        if node.func.id not in ("exec", "eval", "compile") or not isinstance(node.args[0], ast.Constant):
            continue
        inner = parse(str(node.args[0].value).strip())
        if inner is None:
            yield node, HIDDEN
            continue
        within = View(inner, view.code, view.module)
        for rule in (suspicious_names, empty_checks, replacements):
            yield from ((node, reason) for _, reason in rule(within))
        if copied_functions(inner, view.code_tree):
            yield node, COPY
