"""Evaluate one GGUF by itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lowvram_ft.evaluation.evaluate import evaluate
from lowvram_ft.evaluation.suites import load_suite
from lowvram_ft.execution.sandbox import choose as choose_sandbox
from lowvram_ft.inference.llama import LlamaCpp
from lowvram_ft.progress import Progress
from lowvram_ft.recipe import EvalSection


def evaluate_file(
    model: Path,
    suites: Sequence[str],
    max_tasks: int | None,
    samples_per_task: int,
    max_new_tokens: int,
    n_ctx: int,
    out: Path,
    progress: Progress,
    repos: Path | None = None,
) -> dict[str, Any]:
    """Evaluate a GGUF on suites.

    Args:
        model: the file.
        suites: see `lowvram_ft.evaluation.suites`.
        max_tasks: the first so many tasks of each; None for all.
        samples_per_task: 1 is greedy; more are sampled, for Pass@k.
        max_new_tokens: most tokens of an answer.
        n_ctx: context in tokens.
        out: folder for ``samples.jsonl``; samples that are there already are not generated again.
        progress: where a person reads how far it is.
        repos: folder with checkouts of the repositories that tasks of testgeneval come from.

    Returns:
        Suite to its means, and where the samples are.

    Raises:
        UsageError: there is no such suite.
        DataError: a suite's file is missing or broken.
        ModelError: the file is missing or broken.
        MachineError: there is no sandbox to run its tests in.
    """
    choose_sandbox()
    tasks = [task for suite in suites for task in load_suite(suite, max_tasks, repos)]
    section = EvalSection(
        suites=tuple(suites),
        max_tasks=max_tasks,
        samples_per_task=samples_per_task,
        max_new_tokens=max_new_tokens,
    )
    samples = out / "samples.jsonl"
    step = f"eval:{model.name}:{_identity(model)}:{samples_per_task}x{max_new_tokens}"
    found = evaluate(lambda: LlamaCpp(model, n_ctx=n_ctx), tasks, section, samples, step, progress)
    return {"model": str(model), "samples": str(samples), **found}


def _identity(model: Path) -> str:
    """What tells a file from another one that is written under its name later."""
    try:
        facts = model.stat()
    except OSError:
        return "missing"
    return f"{facts.st_size:x}-{facts.st_mtime_ns:x}"
