"""What a round has changed: the model before and after it on tasks that are kept back, task by task.

They are tasks of the preference section's own sources. Those of the evaluation decide nothing here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lowvram_ft.evaluation.comparison import compare_steps
from lowvram_ft.evaluation.evaluate import evaluate
from lowvram_ft.evaluation.suites import Task
from lowvram_ft.inference import Generator
from lowvram_ft.preference.records import PreferenceTask
from lowvram_ft.progress import Progress
from lowvram_ft.recipe import EvalSection, PreferenceSection

SUITE = "held_out"
METRICS = ("passes_and_kills", "mutation_score")
"""Their means are added up: a file that can be kept as it is, and how many faults it finds."""


def measure(
    tasks: Sequence[PreferenceTask],
    open_model: Callable[[], Generator],
    section: PreferenceSection,
    samples: Path,
    names: tuple[str, str | None],
    progress: Progress,
) -> dict[str, Any]:
    """Let a model write tests for the held-out tasks, greedily, and hold them against those of another one.

    Args:
        tasks: those that are kept back.
        open_model: called only when something is left to ask.
        section: says how long an answer may be.
        samples: JSONL file of all measurements of a stage; what is there is not asked again.
        names: of this measurement and of the one to compare with, which is in ``samples``; None for none.
        progress: where a person reads how far it is.

    Returns:
        ``tasks``, ``means`` and ``intervals`` of `METRICS`, their sum ``worth``, and ``since_best`` (metric to what
        `lowvram_ft.evaluation.comparison.difference` finds; None without another measurement).
    """
    name, other = names
    how = EvalSection(max_new_tokens=section.max_new_tokens, seed=section.seed)
    found = evaluate(open_model, list(map(_as_task, tasks)), how, samples, name, progress)["suites"][SUITE]
    compared = compare_steps(samples, other, name)[SUITE] if other is not None else None
    return {
        "tasks": found["tasks"],
        "means": {metric: found[metric] for metric in METRICS},
        "intervals": {metric: found["intervals"][metric] for metric in METRICS},
        "worth": sum(found[metric] for metric in METRICS),
        "since_best": {metric: compared[metric] for metric in METRICS} if compared is not None else None,
    }


def _as_task(task: PreferenceTask) -> Task:
    return Task(SUITE, task.id, task.code, task.module, task.prompt, root=task.root)
