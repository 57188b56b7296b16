"""Commands that do the job, whole or in part: demo, run, train, eval."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lowvram_ft.cli.options import (
    FOLDER,
    PATH,
    console,
    json_option,
    max_new_tokens_option,
    n_ctx_option,
    out_option,
    print_json,
    progress,
    quiet_option,
    ray_option,
    recipe_argument,
    sandbox_option,
    say_page,
    set_option,
)

if TYPE_CHECKING:
    from lowvram_ft.pipeline import Job

enforce_option = click.option("--enforce-gates", is_flag=True, help="Exit with 1 where a gate of the recipe is missed.")


log_option = click.option(
    "--log",
    "reporters",
    multiple=True,
    metavar="NAME",
    help="Record the training for tensorboard, wandb, mlflow, trackio, … as well; repeatable. See train.report_to.",
)


def _job(name: str, overrides: tuple[str, ...], reporters: tuple[str, ...], out: Path | None, quiet: bool) -> Job:
    from lowvram_ft.pipeline import Job, default_out
    from lowvram_ft.recipe import load
    from lowvram_ft.training.processes.ranks import here

    named = (f"train.report_to={json.dumps(reporters)}",) if reporters else ()
    resolved = load(name, (*overrides, *named))
    return Job(resolved, out or default_out(resolved), progress(quiet), shlex.join(sys.argv), here())


def _run_all(job: Job, as_json: bool, enforce_gates: bool) -> None:
    from lowvram_ft.errors import GateMissed
    from lowvram_ft.pipeline import run_all
    from lowvram_ft.report.page.build import write_page_of

    missed: GateMissed | None = None
    try:
        run_all(job, enforce_gates=enforce_gates)
    except GateMissed as error:
        missed = error
    if not job.ranks.leads:
        return
    write_page_of(job.run, job.progress)
    _show(job.run.path, as_json)
    if missed is not None:
        raise missed


def _show(run: Path, as_json: bool) -> None:
    from lowvram_ft.report.table import print_report, report

    found = report(run)
    if as_json:
        print_json(found)
    else:
        print_report(found, console())
        say_page(run)


@click.command()
@recipe_argument
@set_option
@log_option
@out_option
@enforce_option
@sandbox_option
@json_option
@quiet_option
def run(
    name: str,
    overrides: tuple[str, ...],
    reporters: tuple[str, ...],
    out: Path | None,
    enforce_gates: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Do all of a recipe: plan, train, export, verify, bench, evaluate before and after.

    Run the same command again after an interruption: it continues where it was.
    """
    _run_all(_job(name, overrides, reporters, out, quiet), as_json, enforce_gates)


@click.command()
@set_option
@log_option
@out_option
@sandbox_option
@json_option
@quiet_option
def demo(overrides: tuple[str, ...], reporters: tuple[str, ...], out: Path | None, as_json: bool, quiet: bool) -> None:
    """Do the whole job on SmolLM2-135M and the rows that ship with the kit, on any CPU."""
    _run_all(_job("demo", overrides, reporters, out, quiet), as_json, False)


@click.command()
@recipe_argument
@set_option
@click.option("--pairs", type=PATH, help="A pair set, or a JSONL file of pairs, for its stage of preferences.")
@log_option
@out_option
@sandbox_option
@json_option
@quiet_option
def train(
    name: str,
    overrides: tuple[str, ...],
    pairs: Path | None,
    reporters: tuple[str, ...],
    out: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Train the stages of a recipe; ends with the last stage's PEFT adapter.

    A stage whose train.method is dpo or rft lets the model answer first, and learns from that; with --pairs, nothing
    is asked.
    """
    from lowvram_ft.pipeline import require_preferences
    from lowvram_ft.pipeline import train as train_all

    given = () if pairs is None else (f"preference.pairs={pairs.resolve()}",)
    job = _job(name, (*overrides, *given), reporters, out, quiet)
    if pairs is not None:
        require_preferences(job.resolved)
    with job.at_work():
        job.announce(("plan", *(f"train:{stage.name}" for stage in job.resolved.stages)))
        job.plan()
        adapter = train_all(job)
    if not job.ranks.leads:
        return
    stages = _stages(job)
    if as_json:
        print_json({"adapter": str(adapter), "stages": stages})
        return
    for stage, result in stages.items():
        click.echo(f"{stage}: {result['steps']} steps, loss {result['first_loss']:.3f} to {result['last_loss']:.3f}")
    click.echo(f"adapter: {adapter}")


def _stages(job: Job) -> dict[str, Any]:
    steps = job.run.data["steps"]
    return {key.removeprefix("train:"): value for key, value in steps.items() if key.startswith("train:")}


@click.command("eval")
@click.argument("model", required=False)
@click.option(
    "--suite",
    "suites",
    multiple=True,
    default=("samples",),
    show_default=True,
    help="samples, humaneval, testgeneval[:PATH], self_correction[:PATH] or jsonl:PATH; repeatable.",
)
@click.option("--repos", type=FOLDER, help="Checkouts of the repositories of testgeneval; its tests are run inside.")
@click.option("--max-tasks", type=click.IntRange(min=1), help="The first so many tasks of each suite.")
@click.option(
    "--samples",
    "samples_per_task",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Answers a task: 1 is greedy, more are sampled, for Pass@k.",
)
@max_new_tokens_option(384)
@n_ctx_option
@click.option("--out", type=FOLDER, help="Folder for samples.jsonl (default: eval-MODEL); continued if it is there.")
@ray_option
@sandbox_option
@json_option
@quiet_option
def evaluate(
    model: str | None,
    suites: tuple[str, ...],
    repos: Path | None,
    max_tasks: int | None,
    samples_per_task: int,
    max_new_tokens: int,
    n_ctx: int,
    out: Path | None,
    ray_address: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Judge a model by the tests it writes: do they parse, pass, cover, kill mutants?

    MODEL is a GGUF, a run directory, a PEFT adapter's folder, a hub id, or the address of an OpenAI-compatible server;
    by default LOWVRAM_FT_MODEL, else the newest export under runs/.
    """
    from lowvram_ft.evaluation.run import evaluate_file
    from lowvram_ft.inference.exports import given_or_newest
    from lowvram_ft.inference.opening import choose_model
    from lowvram_ft.report.table import print_suites

    chosen = given_or_newest(model, "MODEL")
    found = evaluate_file(
        chosen,
        suites,
        max_tasks,
        samples_per_task,
        max_new_tokens,
        n_ctx,
        out or Path(f"eval-{choose_model(chosen).short}"),
        progress(quiet),
        repos,
        ray_address,
    )
    if as_json:
        print_json(found)
    else:
        print_suites(found, console())
