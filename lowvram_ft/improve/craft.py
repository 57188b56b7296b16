"""What an attempt is made with: judging, training, evaluating. Tests put others in their place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf_export
from lowvram_ft.data.duplicates.inside import Inside
from lowvram_ft.data.evaluation_code import evaluation_inside
from lowvram_ft.data.row import SOLUTION, build_prompt
from lowvram_ft.evaluation.evaluate import evaluate
from lowvram_ft.evaluation.metrics import task_values
from lowvram_ft.evaluation.suites import load_suite
from lowvram_ft.evaluation.suites.task import Task
from lowvram_ft.execution import Limits, run_many, run_tests
from lowvram_ft.improve.decide import METRIC
from lowvram_ft.improve.material import HeldOut, Material
from lowvram_ft.improve.pairing import pair
from lowvram_ft.inference.opening import open_model
from lowvram_ft.pipeline import Job, train
from lowvram_ft.pipeline.exporting import export
from lowvram_ft.progress import Progress
from lowvram_ft.recipe import PreferenceSection, Recipe, Resolved
from lowvram_ft.recipe.sections import Method
from lowvram_ft.run_dir import read_jsonl

OWN = "own"
"""What the suite of held-out tasks is called."""
_IMPORTS = "import solution\n\n\ndef test_import():\n    assert solution.__name__\n"


@dataclass(frozen=True)
class Trained:
    """What training gave.

    Attributes:
        adapter: PEFT folder.
        gguf: the exported file, verified.
    """

    adapter: Path
    gguf: Path


@dataclass(frozen=True)
class Craft:
    """The steps of an attempt that take long. Each takes up where it was killed.

    Attributes:
        forbidden: suites to what finds the code of their tasks, and of the kit's own, which is never learnt from.
        runnable: code to whether it can be imported by itself.
        pair: material, how winners are chosen, method, folder for the pairs, file of what is judged so far, progress to
            counts (``pairs``, ``winners``).
        train: recipe, run directory, progress to the model.
        solves: GGUF, tasks, how (``eval`` and ``export`` count), file of samples, progress to whether the model solves
            each task.
    """

    forbidden: Callable[[Sequence[str]], Inside]
    runnable: Callable[[Sequence[str]], list[bool]]
    pair: Callable[[Material, PreferenceSection, Method, Path, Path, Progress], dict[str, Any]]
    train: Callable[[Resolved, Path, Progress], Trained]
    solves: Callable[[Path, Sequence[Task], Recipe, Path, Progress], dict[str, bool]]


def own_craft() -> Craft:
    """The kit's own."""
    return Craft(evaluation_inside, _runnable, pair, _train, _solves)


def tasks_of(held_out: Sequence[HeldOut], suites: Sequence[str], max_tasks: int | None) -> list[Task]:
    """The tasks that both models answer.

    Args:
        held_out: of the user's own.
        suites: more, see `lowvram_ft.evaluation.suites`.
        max_tasks: of each suite.
    """
    own = [Task(OWN, task.id, task.code, SOLUTION, build_prompt(task.code)) for task in held_out]
    return [*own, *(task for suite in suites for task in load_suite(suite, max_tasks))]


def _runnable(codes: Sequence[str]) -> list[bool]:
    verdicts = run_many(lambda code: run_tests(code, SOLUTION, _IMPORTS, Limits()), codes)
    return [verdict.all_passed for verdict in verdicts]


def _train(resolved: Resolved, folder: Path, progress: Progress) -> Trained:
    job = Job(resolved, folder, progress, "lowvram-ft improve")
    with job.at_work():
        job.plan()
        adapter = train(job)
        exported = export(job, adapter)
    return Trained(adapter, Path(exported["gguf"]))


def _solves(gguf: Path, tasks: Sequence[Task], recipe: Recipe, samples: Path, progress: Progress) -> dict[str, bool]:
    section = recipe.eval.model_copy(update={"samples_per_task": 1})
    step = f"held_out:{gguf_export.sha256_of(gguf)[:16]}:{section.max_new_tokens}"
    evaluate(lambda: open_model(gguf, n_ctx=recipe.export.n_ctx), tasks, section, samples, step, progress)
    digests = {(task.suite, task.id): task.digest for task in tasks}
    latest = {
        (record["suite"], record["task"]): record
        for record in read_jsonl(samples)
        if record["step"] == step and digests.get((record["suite"], record["task"])) == record["digest"]
    }
    values = task_values(record for record in latest.values() if record["scores"] is not None)
    return {
        f"{suite}/{task}": bool(value) for suite, metrics in values.items() for task, value in metrics[METRIC].items()
    }
