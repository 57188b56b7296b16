"""The stages of a run, in order, each from the adapter of the one before."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lowvram_ft.errors import UsageError
from lowvram_ft.pipeline.job import Job
from lowvram_ft.pipeline.preference import learns_from_answers, train_on_preferences
from lowvram_ft.pipeline.training import train_step
from lowvram_ft.recipe import Resolved, Stage


def train(job: Job) -> Path:
    """Train every stage.

    Returns:
        The adapter of the last stage.
    """
    *_, (_, adapter) = train_stages(job)
    return adapter


def train_stages(job: Job) -> Iterator[tuple[Stage, Path]]:
    """Train the stages one by one.

    Yields:
        Each stage with its adapter, before the next one begins.
    """
    stages = job.resolved.stages
    given = stages[0].recipe.model.adapter
    adapter = Path(given) if given is not None else None
    previous: Stage | None = None
    for stage in stages:
        if not learns_from_answers(stage):
            folder = job.run.path / "stages" / stage.name
            train_step(job, f"train:{stage.name}", stage, adapter, folder)
            adapter = folder / "adapter"
        else:
            adapter = train_on_preferences(job, stage, adapter, previous)
        previous = stage
        if stage is stages[-1]:
            job.ranks.end_training()
        yield stage, adapter


def require_preferences(resolved: Resolved) -> None:
    """Refuse pairs for a recipe that does not learn from any.

    Raises:
        UsageError: no stage does.
    """
    if not any(learns_from_answers(stage) for stage in resolved.stages):
        raise UsageError(
            f"{resolved.path}: train.method is sft in every stage, and pairs are for dpo or rft; "
            "add --set train.method=dpo"
        )
