"""Controls that a winner has to pass beside those of every evaluation (`lowvram_ft.evaluation.control`).

*Code that always returns the same thing*, once None and once ``...``: a test that passes on both holds values of the
code against each other, and against nothing that is known of it (``assert f(1) == f(1)``, a fixture that asks the code
what to expect).

*Another order of the tests, another hash seed*: what fails there hangs on chance, or on the other tests.
"""

from __future__ import annotations

import ast

from lowvram_ft.data.syntax import parse
from lowvram_ft.evaluation.control import does_nothing
from lowvram_ft.execution import Judgement, Limits, Variation, Verdict, run_tests
from lowvram_ft.execution.modules import split_modules
from lowvram_ft.preference.judged import function_of
from lowvram_ft.preference.records import PreferenceTask

SAME_THINGS = ("None", "...")
VARIATIONS = (Variation(order=1, hash_seed=1), Variation(order=2, hash_seed=2))


def idle_tests(task: PreferenceTask, test: str, judgement: Judgement, limits: Limits) -> tuple[str, ...]:
    """Of the tests that pass, those that pass as well where the code always returns the same thing.

    A test that speaks of a constant or a field of the code is none: these are there all the same.

    Args:
        task: what the file tests.
        test: the test file.
        judgement: of it.
        limits: what each run may use.
    """
    left = set(judgement.verdict.passing)
    for result in SAME_THINGS:
        code = does_nothing(task.code, task.module, result)
        if code is None or not left:
            return ()
        left &= set(run_tests(code, task.module, test, limits, task.root).passing)
    about = _about_values(task, test)
    return tuple(name for name in judgement.verdict.passing if name in left and function_of(name) not in about)


def _about_values(task: PreferenceTask, test: str) -> frozenset[str]:
    """Tests that speak of what no function of the code makes: its constants, the fields of its classes."""
    tree = parse(next(iter(split_modules(task.code, task.module).values())))
    file = parse(test)
    if tree is None or file is None:
        return frozenset()
    assigns = ast.Assign | ast.AnnAssign | ast.AugAssign
    bodies = [tree.body, *(node.body for node in ast.walk(tree) if isinstance(node, ast.ClassDef))]
    values = {
        name.id
        for body in bodies
        for node in body
        if isinstance(node, assigns)
        for name in ast.walk(node)
        if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)
    }
    found = set()
    for name, node in _tests(file.body):
        said = (part for part in ast.walk(node) if isinstance(part, ast.Name | ast.Attribute))
        if any((part.id if isinstance(part, ast.Name) else part.attr) in values for part in said):
            found.add(name)
    return frozenset(found)


def _tests(body: list[ast.stmt], prefix: str = "") -> list[tuple[str, ast.AST]]:
    found: list[tuple[str, ast.AST]] = []
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.append((prefix + node.name, node))
        elif isinstance(node, ast.ClassDef):
            found += _tests(node.body, f"{prefix}{node.name}::")
    return found


def unsteady(verdict: Verdict) -> str:
    """What a run of a file in which every test passed before says against it; empty where all pass again."""
    if verdict.all_passed:
        return ""
    bad = [result.name for result in verdict.results if result.outcome != "passed"]
    return f"{verdict.status}: {', '.join(bad[:3])}" if bad else verdict.status
