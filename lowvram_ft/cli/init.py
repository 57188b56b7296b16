"""The command that writes a recipe for this machine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from lowvram_ft.cli import completing
from lowvram_ft.cli.options import FILE, PATH, SIZE, json_option, print_json

if TYPE_CHECKING:
    from lowvram_ft.init import Written
    from lowvram_ft.init.material import Brings, Material

BRINGS = ("repository", "rows", "kodcode", "coderm", "samples")


@click.command()
@click.argument("out", metavar="[FILE]", type=FILE, default="my_tests.toml")
@click.option("--data", "brings", type=click.Choice(BRINGS), help="What the model learns from (default: asked for).")
@click.option("--repo", metavar="PATH", type=PATH, help="Your project with its tests; as --data repository.")
@click.option("--rows", metavar="FILE", type=FILE, help="Your rows in JSONL; as --data rows.")
@click.option("--base", metavar="MODEL", shell_complete=completing.models, help="This base model, and no other.")
@click.option(
    "--hours",
    type=click.FloatRange(min=0, min_open=True),
    help="Hours that training may take (default: asked for, else 8).",
)
@click.option(
    "--gate",
    "gate_s",
    type=click.FloatRange(min=0),
    default=10.0,
    show_default=True,
    help="Seconds in which the model should write a test file; 0 for any.",
)
@click.option("--commercial/--non-commercial", default=None, help="Whether the model is for commercial use.")
@click.option("--offline", is_flag=True, help="Only what is on this machine already.")
@click.option("--vram", metavar="SIZE", type=SIZE, help="For a card of this size, not this machine's.")
@click.option("--gpu", metavar="NAME", help='For this card of the table, such as "RTX 3050 Laptop".')
@click.option("--no-gpu", is_flag=True, help="For a machine without a GPU.")
@click.option("--ram", metavar="SIZE", type=SIZE, help="For so much host memory.")
@click.option("--disk", metavar="SIZE", type=SIZE, help="For so much free disk.")
@click.option("--cpus", type=click.IntRange(min=1), help="For so many CPUs.")
@click.option("-y", "--yes", is_flag=True, help="Ask nothing; take the defaults.")
@click.option("--force", is_flag=True, help="Replace FILE if it is there.")
@json_option
def init(
    out: Path,
    brings: str | None,
    repo: Path | None,
    rows: Path | None,
    base: str | None,
    hours: float | None,
    gate_s: float,
    commercial: bool | None,
    offline: bool,
    vram: int | None,
    gpu: str | None,
    no_gpu: bool,
    ram: int | None,
    disk: int | None,
    cpus: int | None,
    yes: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Write a recipe for this machine: picks a base model and rows by plan, and says the next command.

    FILE is the recipe to write, my_tests.toml by default. Asks what is not said, if there is a terminal.
    """
    from lowvram_ft.hardware import detect
    from lowvram_ft.init import Pretend, Wishes, refuse_existing
    from lowvram_ft.init import init as write
    from lowvram_ft.memory.cards import find_card

    _refuse_contradictions(brings, repo, rows, no_gpu, vram, gpu)
    ask = not yes and not as_json and _can_ask()
    force = force or (ask and out.exists() and click.confirm(f"{out} is there already. Replace it?", err=True))
    refuse_existing(out, force)
    offline = offline or _hub_is_off()
    if commercial is None:
        commercial = ask and click.confirm("Is the model for commercial use?", default=False, err=True)
    material = _material(brings, repo, rows, ask, offline, commercial)
    if hours is None:
        hours = click.prompt("Hours that training may take", default=8.0, type=float, err=True) if ask else 8.0
    card = find_card(gpu) if gpu is not None else None
    pretend = Pretend(card, vram, no_gpu, ram, disk, cpus)
    wishes = Wishes(hours, gate_s or None, commercial, offline, base)
    found = write(out, material, detect(out.parent), pretend, wishes, overwrite=force)
    if as_json:
        print_json(found.to_json())
    else:
        _show(found)


def _refuse_contradictions(
    brings: str | None, repo: Path | None, rows: Path | None, no_gpu: bool, vram: int | None, gpu: str | None
) -> None:
    """Refuse flags that say different things."""
    if repo is not None and (rows is not None or brings not in (None, "repository")):
        raise click.UsageError("--repo: is --data repository; leave out --rows and other --data.")
    if rows is not None and brings not in (None, "rows"):
        raise click.UsageError("--rows: is --data rows; leave out other --data.")
    if no_gpu and (vram is not None or gpu is not None):
        raise click.UsageError("--no-gpu: leave out --vram and --gpu.")


def _can_ask() -> bool:
    """Whether there is somebody to ask."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def _hub_is_off() -> bool:
    """Whether the hub's own switch says that nothing is to be fetched."""
    import os

    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def _material(
    brings: str | None, repo: Path | None, rows: Path | None, ask: bool, offline: bool, commercial: bool
) -> Material:
    """What the user brings: as said, else as answered, else as it looks here."""
    from lowvram_ft.init import guess, look

    if repo is not None or rows is not None:
        return look("repository" if repo is not None else "rows", repo or rows)
    kind = cast("Brings", brings) if brings else guess(Path(), offline=offline, commercial=commercial)
    if brings or not ask:
        return look(kind, None, commercial=commercial)
    click.echo(
        "What should the model learn from?\n"
        "  repository  your project: each module with the tests that test it\n"
        "  rows        your own rows in a JSONL file\n"
        "  kodcode     KodCode, from the hub: functions with verified tests (not for commercial use)\n"
        "  coderm      CodeRM-UnitTest, from the hub: the same, Apache-2.0\n"
        "  samples     the few rows that ship with the kit: nothing is fetched for them",
        err=True,
    )
    kind = cast("Brings", click.prompt("Data", type=click.Choice(BRINGS), default=kind, show_choices=False, err=True))
    if kind not in ("repository", "rows"):
        return look(kind, None, commercial=commercial)
    what = "Folder of your project" if kind == "repository" else "JSONL file"
    path = click.prompt(what, default="." if kind == "repository" else None, type=PATH, err=True)
    return look(kind, path)


def _show(found: Written) -> None:
    """The choice, its reasons, and the next commands."""
    choice = found.choice
    plan = max((plan.fit.plan for plan in choice.plans.values()), key=lambda plan: plan.peak_gpu_bytes)
    click.echo(f"{found.path}: {choice.base.id}, {', '.join(stage.name for stage in choice.stages)}")
    for stage in choice.stages:
        most = stage.sections["data"].get("max_rows")
        click.echo(f"  stage {stage.name}: {stage.why}" + (f", {most:,} rows" if most else ""))
    where = (plan.peak_gpu_bytes, plan.usable_gpu_bytes, "on the card") if plan.peak_gpu_bytes else None
    host = max(plan.fit.plan.peak_host_bytes for plan in choice.plans.values())
    memory = [f"{where[0] / 2**30:.1f} of {where[1] / 2**30:.1f} GiB {where[2]}"] if where else []
    memory.append(f"{host / 2**30:.1f} of {plan.ram_bytes / 2**30:.1f} GiB of memory")
    click.echo(f"  plan: fits, {', '.join(memory)}")
    click.echo(
        f"  estimate: trains for {_time(choice.train_s)} at {choice.tok_per_s:,.0f} tokens/s, "
        f"answers in about {choice.answer_s:.0f} s"
    )
    for base, reason in choice.passed_over.items():
        click.echo(f"  passed over: {base}: {reason}")
    click.echo("next:")
    for command, does in found.next_steps:
        click.echo(f"  {command}")
        click.echo(f"      {does}")


def _time(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 5400 else f"{max(1, round(seconds / 60))} min"
