"""TestGenEval's dev split: whole modules of real repositories, run inside their checkouts where those are at hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from lowvram_ft.data.evaluation_code import testgeneval_objects
from lowvram_ft.data.sources.source import LeftOut, column, digest, parse
from lowvram_ft.data.sources.testgeneval import module_of
from lowvram_ft.data.verify import checkout
from lowvram_ft.errors import DataError
from lowvram_ft.evaluation.suites.task import Task, make_task
from lowvram_ft.execution import Limits, run_many, run_tests
from lowvram_ft.execution.place import root_problem

STATIC = " (static)"
"""Follows the name of a suite in every table and record where its tests were not run."""
_IMPORTS = "import solution\n\n\ndef test_import():\n    assert solution.__name__\n"


def testgeneval_tasks(suite: str, path: Path | None, repos: Path | None, max_tasks: int | None) -> list[Task]:
    """The tasks of the dev split, keyed on ``id``: instance ids repeat.

    Args:
        suite: their name.
        path: a JSONL file of such rows, or a folder in the hub's layout with a split ``dev``; None for the hub itself
            (its cache, where the hub is off limits).
        repos: folder with checkouts of the repositories, each at the commit of its rows; without it nothing is run.
        max_tasks: read no further.

    Raises:
        DataError: a column or the split is missing, or an id is there twice.
        MachineError: the hub cannot be reached.
    """
    tasks: list[Task] = []
    seen: set[str] = set()
    for raw in testgeneval_objects("dev", path):
        value, reason = raw.value()
        if value is None:
            raise DataError(f"{raw.where}: is no object ({reason}); mend the file")
        try:
            code, file = column(value, raw.where, "code_src"), column(value, raw.where, "code_file")
            parse(code)
        except LeftOut:
            continue  # no code that could be tested: stubs and templates
        name = str(value.get("id") or digest(file, code))
        if name in seen:
            raise DataError(f"{raw.where}: id {name} is there twice; give every row an id of its own")
        seen.add(name)
        test = value.get("test_src")
        task = make_task(suite, name, code, module_of(file), reference_test=test if isinstance(test, str) else "")
        root, problem = checkout(value, repos)
        tasks.append(dataclasses.replace(task, root=root) if root is not None else _static(task, str(problem)))
        if len(tasks) == max_tasks:
            break
    return tasks


def only_importable(tasks: Sequence[Task]) -> list[Task]:
    """Tasks as they are, but for those whose module cannot be imported from its checkout: they become static.

    A repository needs its own dependencies beside it. Where they are missing, no test of it can pass, which says
    nothing about the tests.

    Raises:
        MachineError: the processes that run tests cannot be started.
    """

    def problem(task: Task) -> str:
        unread = None if task.root is None else root_problem(task.root)
        if unread is not None:
            return unread
        verdict = run_tests(task.code, task.module, _IMPORTS, Limits(), task.root)
        if verdict.all_passed:
            return ""
        errors = [line[1:].strip() for line in verdict.log.splitlines() if line.startswith("E ")]
        return f"{task.module} cannot be imported here: {errors[-1] if errors else verdict.status}"

    inside = [place for place, task in enumerate(tasks) if task.root is not None]
    found = dict(zip(inside, run_many(lambda place: problem(tasks[place]), inside), strict=True))
    return [_static(task, found[place]) if found.get(place) else task for place, task in enumerate(tasks)]


def _static(task: Task, reason: str) -> Task:
    return dataclasses.replace(task, suite=task.suite + STATIC, root=None, not_executed=reason)
