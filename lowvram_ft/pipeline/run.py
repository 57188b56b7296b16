"""The whole job: plan, train each stage, export, verify, bench, evaluate.

Running the same command again continues at the first step that has not finished; a training stage continues at its
newest whole checkpoint, an evaluation at the first task that has not been judged.
"""

from __future__ import annotations

from pathlib import Path

from lowvram_ft.errors import GateMissed
from lowvram_ft.execution.sandbox import choose as choose_sandbox
from lowvram_ft.pipeline.evaluating import AFTER, BEFORE, bench, compare, compare_stages, evaluate, gates
from lowvram_ft.pipeline.exporting import export, export_base, export_stage
from lowvram_ft.pipeline.job import Job
from lowvram_ft.pipeline.stages import train_stages
from lowvram_ft.recipe import Resolved


def steps_of(resolved: Resolved) -> tuple[str, ...]:
    """The steps of a whole run, in order; a stage that learns from answers does parts of its own before it trains."""
    each = resolved.final.eval.after_each_stage
    names: list[str] = ["plan"]
    for stage in resolved.stages:
        names.append(f"train:{stage.name}")
        if each and stage is not resolved.stages[-1]:
            names += [f"export_stage:{stage.name}", f"eval:{stage.name}"]
    ollama = ["ollama"] if resolved.final.export.ollama is not None else []
    names += ["export", "verify", *ollama, "export:base", "bench", BEFORE, AFTER, "compare"]
    return (*names, *(["compare:stages"] if each else []), "gates")


def run_all(job: Job, *, enforce_gates: bool = False) -> None:
    """Do every step of a recipe.

    Args:
        job: the recipe in its run directory.
        enforce_gates: raise where a gate is missed.

    Raises:
        GateMissed: a gate is missed, and ``enforce_gates`` is set.
        MachineError: there is no sandbox for the evaluation; told before anything is trained.
        LowvramError: a step failed; the same command continues there.
    """
    choose_sandbox()
    each = job.resolved.final.eval.after_each_stage
    last = job.resolved.stages[-1]
    with job.at_work():
        job.announce(steps_of(job.resolved))
        job.plan()
        for stage, adapter in train_stages(job):
            if each and stage is not last:
                evaluate(job, stage.name, Path(export_stage(job, stage, adapter)["gguf"]))
        if not job.ranks.leads:
            return
        exported = Path(export(job, adapter)["gguf"])
        base = Path(export_base(job)["gguf"])
        bench(job, exported)
        evaluate(job, "before", base)
        evaluate(job, "after", exported)
        compare(job)
        if each:
            compare_stages(job)
        found = job.step("gates", lambda: {"gates": gates(job)})["gates"]
    missed = [gate for gate in found if not gate["met"]]
    if enforce_gates and missed:
        lines = [f"{g['gate']} on {g['suite']}: {g['value']:.2f} (wanted {g['wanted']:.2f})" for g in missed]
        raise GateMissed(f"{job.run.path}: gates missed: {'; '.join(lines)}")
