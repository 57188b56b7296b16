"""Evaluate one model by itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lowvram_ft.evaluation.evaluate import evaluate
from lowvram_ft.evaluation.suites import load_suite
from lowvram_ft.execution.ray_pool import judged_at
from lowvram_ft.execution.sandbox import choose as choose_sandbox
from lowvram_ft.inference.opening import choose_model, identity, open_model
from lowvram_ft.progress import Progress
from lowvram_ft.recipe import EvalSection


def evaluate_file(
    model: str | Path,
    suites: Sequence[str],
    max_tasks: int | None,
    samples_per_task: int,
    max_new_tokens: int,
    n_ctx: int,
    out: Path,
    progress: Progress,
    repos: Path | None = None,
    ray_address: str | None = None,
) -> dict[str, Any]:
    """Evaluate a model on suites.

    Args:
        model: a GGUF, a hub id or an address; see `lowvram_ft.inference.opening.choose_model`.
        suites: see `lowvram_ft.evaluation.suites`.
        max_tasks: the first so many tasks of each; None for all.
        samples_per_task: 1 is greedy; more are sampled, for Pass@k.
        max_new_tokens: most tokens of an answer.
        n_ctx: context in tokens.
        out: folder for ``samples.jsonl``; samples that are there already are not generated again.
        progress: where a person reads how far it is.
        repos: folder with checkouts of the repositories that tasks of testgeneval come from.
        ray_address: of the cluster that runs the tests, as `lowvram_ft.execution.ray_pool.read_address` takes it; None
            for this machine, which generates them in any case.

    Returns:
        Suite to its means, and where the samples are.

    Raises:
        UsageError: there is no such suite, or the address is none.
        DataError: a suite's file is missing or broken.
        ModelError: the file is missing or broken, or the hub or the server does not have the model.
        GenerationError: no server answers at the address.
        MachineError: there is no sandbox to run its tests in, or no such cluster.
    """
    choice = choose_model(model)
    if ray_address is None:
        choose_sandbox()
    tasks = [task for suite in suites for task in load_suite(suite, max_tasks, repos)]
    section = EvalSection(
        suites=tuple(suites),
        max_tasks=max_tasks,
        samples_per_task=samples_per_task,
        max_new_tokens=max_new_tokens,
    )
    samples = out / "samples.jsonl"
    name = Path(choice.text).name if choice.kind == "gguf" else choice.text
    step = f"eval:{name}:{identity(choice)}:{samples_per_task}x{max_new_tokens}"
    with judged_at(ray_address, progress.say):
        found = evaluate(lambda: open_model(model, n_ctx=n_ctx), tasks, section, samples, step, progress)
    return {"model": str(model), "samples": str(samples), **found}
