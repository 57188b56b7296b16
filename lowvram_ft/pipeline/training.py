"""One training of a stage: what the plan decided, on this process's card."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from lowvram_ft.memory.several import facts_of, for_one_of, place_for, share_of
from lowvram_ft.pipeline.job import Job
from lowvram_ft.recipe import Recipe, Stage
from lowvram_ft.training.engines import choose
from lowvram_ft.training.from_plan import as_planned, load_plan
from lowvram_ft.training.reporting.reporters import LOGS, Records
from lowvram_ft.training.stage import clear_checkpoints, train_stage


def train_step(
    job: Job, step: str, stage: Stage, adapter: Path | None, folder: Path, pairs: Path | None = None
) -> dict[str, Any]:
    """Train, as a step of the run that all processes do together; the model is let go afterwards.

    Args:
        job: the recipe in its run directory.
        step: its name.
        stage: whose recipe and plan count.
        adapter: PEFT folder to continue; None starts a new one.
        folder: gets ``adapter/`` and, meanwhile, ``checkpoints/``.
        pairs: folder of the pair set, for a stage that learns from preferences.

    Returns:
        What goes into ``run.json``.
    """

    def action() -> dict[str, Any]:
        from lowvram_ft.training.recovery.out_of_memory import free_memory

        plan = job.plan()["stages"][stage.name]
        recipe = as_planned(stage.recipe, plan)
        if job.ranks.world_size > 1:
            plan = _own_plan(job, recipe, plan)
            recipe = as_planned(recipe, plan)
            shared = share_of(recipe.train, job.ranks.world_size)
            recipe = recipe.model_copy(update={"train": shared})
        records = Records(job.run.path / LOGS, step.partition(":")[2].replace("/", "-round-"))
        # Unsloth talks on stdout, which is for results
        with redirect_stdout(sys.stderr), records.settings(), job.ranks.noticing_losses():
            trained = train_stage(
                stage.name,
                recipe,
                job.model_folder(),
                choose(recipe.hardware, job.hardware),
                load_plan(recipe, plan),
                folder,
                adapter=adapter,
                pairs=pairs,
                progress=job.progress,
                event=job.run.event if job.ranks.leads else _no_event,
                ranks=job.ranks,
                records=records,
            )
        job.progress.measure()
        job.progress.losses()
        free_memory()  # what is exported and run next needs the card
        return trained.result

    result = job.step(step, action, together=True)
    if job.ranks.leads:
        clear_checkpoints(folder)  # not before the result is recorded
    return result


def _own_plan(job: Job, recipe: Recipe, common: dict[str, Any]) -> dict[str, Any]:
    """The plan for this process's card, which may place more on it than the smallest one holds."""
    if facts_of(job.hardware) == facts_of(job.planned_for):
        return common
    return place_for(for_one_of(recipe, job.ranks.local_world_size), common, job.hardware)


def _no_event(kind: str, **fields: Any) -> None:
    """The events of a process that does not write the run directory."""
