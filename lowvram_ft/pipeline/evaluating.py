"""What a run's GGUFs are worth: evaluated, timed, held against each other and against the recipe's gates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lowvram_ft import bench as bench_module
from lowvram_ft.evaluation.comparison import compare_steps
from lowvram_ft.evaluation.evaluate import evaluate as evaluate_tasks
from lowvram_ft.evaluation.evaluate import gates as gates_of
from lowvram_ft.evaluation.suites import load_suites, prompts_to_time
from lowvram_ft.inference.llama import LlamaCpp
from lowvram_ft.pipeline.job import Job

BEFORE, AFTER = "eval:before", "eval:after"


def bench(job: Job, gguf: Path) -> dict[str, Any]:
    """Time the exported model on the evaluation's prompts."""
    final = job.resolved.final
    return job.step(
        "bench",
        lambda: bench_module.bench(
            gguf,
            prompts_to_time(final.eval),
            final.bench,
            job.progress,
            n_ctx=final.export.n_ctx,
        ).to_json(),
    )


def evaluate(job: Job, when: str, gguf: Path) -> dict[str, Any]:
    """Evaluate a GGUF.

    Args:
        job: the recipe in its run directory.
        when: ``before``, ``after``, or the name of a stage.
        gguf: the file.
    """
    final = job.resolved.final
    step = f"eval:{when}"
    return job.step(
        step,
        lambda: evaluate_tasks(
            lambda: LlamaCpp(gguf, n_ctx=final.export.n_ctx),
            load_suites(final.eval),
            final.eval,
            job.run.samples,
            step,
            job.progress,
        ),
    )


def compare(job: Job) -> dict[str, Any]:
    """Hold the evaluation after training against the one before, task by task."""
    samples = job.run.samples
    return job.step("compare", lambda: {"suites": compare_steps(samples, BEFORE, AFTER)})


def compare_stages(job: Job) -> dict[str, Any]:
    """Hold the evaluation of each stage against that of the stage before it, and against the base.

    Returns:
        ``stages``: name, ``step`` of its evaluation, and what `compare_steps` finds ``since_before`` and
        ``since_base``.
    """
    names = [stage.name for stage in job.resolved.stages]
    steps = [BEFORE, *(f"eval:{name}" for name in names[:-1]), AFTER]
    samples = job.run.samples

    def compared() -> dict[str, Any]:
        found = []
        for number, name in enumerate(names, 1):
            since_base = compare_steps(samples, BEFORE, steps[number])
            since_before = since_base if number == 1 else compare_steps(samples, steps[number - 1], steps[number])
            found.append({"name": name, "step": steps[number], "since_before": since_before, "since_base": since_base})
        return {"stages": found}

    return job.step("compare:stages", compared)


def gates(job: Job) -> list[dict[str, Any]]:
    """Every gate of the recipe, met or missed."""
    final = job.resolved.final
    steps = job.run.data["steps"]
    latency = steps["bench"]
    return [
        *gates_of(steps[AFTER], final.eval),
        {
            "gate": "gate_s",
            "suite": "bench",
            "value": latency["file_s_p95"],
            "wanted": latency["gate_s"],
            "met": latency["gate_met"],
        },
    ]
