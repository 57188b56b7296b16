"""Commands that do the job, whole or in part: demo, run, train, export, eval."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lowvram_ft.cli.options import (
    FILE,
    FOLDER,
    console,
    json_option,
    max_new_tokens_option,
    n_ctx_option,
    out_option,
    print_json,
    progress,
    quiet_option,
    sandbox_option,
    set_option,
)

if TYPE_CHECKING:
    from lowvram_ft.pipeline import Job

enforce_option = click.option("--enforce-gates", is_flag=True, help="Exit with 1 where a gate of the recipe is missed.")


def _job(name: str, overrides: tuple[str, ...], out: Path | None, quiet: bool) -> Job:
    from lowvram_ft.pipeline import Job, default_out
    from lowvram_ft.recipe import load
    from lowvram_ft.training.processes.ranks import here

    resolved = load(name, overrides)
    return Job(resolved, out or default_out(resolved), progress(quiet), shlex.join(sys.argv), here())


def _run_all(job: Job, as_json: bool, enforce_gates: bool) -> None:
    from lowvram_ft.errors import GateMissed
    from lowvram_ft.pipeline import run_all

    missed: GateMissed | None = None
    try:
        run_all(job, enforce_gates=enforce_gates)
    except GateMissed as error:
        missed = error
    if not job.ranks.leads:
        return
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


@click.command()
@click.argument("name", metavar="RECIPE")
@set_option
@out_option
@enforce_option
@sandbox_option
@json_option
@quiet_option
def run(
    name: str, overrides: tuple[str, ...], out: Path | None, enforce_gates: bool, as_json: bool, quiet: bool
) -> None:
    """Do all of a recipe: plan, train, export, verify, bench, evaluate before and after.

    Run the same command again after an interruption: it continues where it was.
    """
    _run_all(_job(name, overrides, out, quiet), as_json, enforce_gates)


@click.command()
@set_option
@out_option
@sandbox_option
@json_option
@quiet_option
def demo(overrides: tuple[str, ...], out: Path | None, as_json: bool, quiet: bool) -> None:
    """Do the whole job on SmolLM2-135M and the rows that ship with the kit, on any CPU."""
    _run_all(_job("demo", overrides, out, quiet), as_json, False)


@click.command()
@click.argument("name", metavar="RECIPE")
@set_option
@out_option
@json_option
@quiet_option
def train(name: str, overrides: tuple[str, ...], out: Path | None, as_json: bool, quiet: bool) -> None:
    """Train the stages of a recipe; ends with the last stage's PEFT adapter."""
    job = _job(name, overrides, out, quiet)
    with job.at_work():
        job.plan()
        adapter = job.train()
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


@click.command()
@click.option("--base", required=True, help="Hub id, folder, or smollm2-135m.")
@click.option("--adapter", type=FOLDER, help="PEFT adapter folder; leave out to export the base alone.")
@click.option("--out", "out", type=FILE, required=True, help="The .gguf to write.")
@click.option(
    "--quant", default="Q4_K_M", show_default=True, help="F32, F16, BF16, Q8_0, Q6_K, Q5_K_M, Q4_K_M, Q4_K_S."
)
@click.option(
    "--rounding",
    type=click.Choice(["bf16", "f16", "f32"]),
    default="bf16",
    show_default=True,
    help="What merged weights are rounded to before they are quantized.",
)
@click.option(
    "--n-ctx", type=click.IntRange(min=256), default=4096, show_default=True, help="Context in the Modelfile."
)
@click.option("--ollama", metavar="NAME", help="Also run `ollama create NAME`.")
@click.option("--verify/--no-verify", default=True, show_default=True, help="Check the file against base + adapter.")
@json_option
@quiet_option
def export(
    base: str,
    adapter: Path | None,
    out: Path,
    quant: str,
    rounding: str,
    n_ctx: int,
    ollama: str | None,
    verify: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Merge an adapter into its base model, write a GGUF and a Modelfile, and verify them."""
    from lowvram_ft.export import export_model, section_from, verify_model
    from lowvram_ft.hardware import detect
    from lowvram_ft.models import materialize, resolve

    section = section_from(quant=quant, rounding=rounding, n_ctx=n_ctx)
    model = resolve(base)
    say = progress(quiet)
    if model.note:
        say.say(model.note)
    folder = materialize(model)
    found = export_model(folder, adapter, out, section, say)
    if verify:
        found["verification"] = verify_model(out, folder, adapter, section, detect(), say, sha256=found["sha256"])
    if ollama is not None:
        from lowvram_ft.export import create_in_ollama

        create_in_ollama(ollama, Path(found["modelfile"]))
    if as_json:
        print_json(found)
        return
    click.echo(f"{found['gguf']}: {found['quant']}, {found['size_bytes'] / 2**20:.1f} MiB in {found['seconds']} s")
    click.echo(f"{found['modelfile']}: for ollama create NAME -f {found['modelfile']}")
    for check in found.get("verification", {}).get("checks", []):
        click.echo(f"{'ok' if check['ok'] else 'FAILED':<8}{check['name']}: {check['detail']}")


@click.command("eval")
@click.argument("model", type=FILE)
@click.option("--suite", "suites", multiple=True, default=("samples",), show_default=True, help="Repeatable.")
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
@sandbox_option
@json_option
@quiet_option
def evaluate(
    model: Path,
    suites: tuple[str, ...],
    max_tasks: int | None,
    samples_per_task: int,
    max_new_tokens: int,
    n_ctx: int,
    out: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Judge a GGUF by the tests it writes: do they parse, pass, cover, kill mutants?"""
    from lowvram_ft.evaluation.run import evaluate_file
    from lowvram_ft.report.table import print_suites

    found = evaluate_file(
        model,
        suites,
        max_tasks,
        samples_per_task,
        max_new_tokens,
        n_ctx,
        out or Path(f"eval-{model.stem}"),
        progress(quiet),
    )
    if as_json:
        print_json(found)
    else:
        print_suites(found, console())
