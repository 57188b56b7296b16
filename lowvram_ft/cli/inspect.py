"""Commands that look: doctor, plan, recipe, report. None changes anything, but that a report is written."""

from __future__ import annotations

import os
from pathlib import Path

import click

from lowvram_ft.cli import completing
from lowvram_ft.cli.options import FILE, FOLDER, SIZE, console, json_option, print_json, recipe_argument, set_option


@click.command()
@json_option
@click.pass_context
def doctor(context: click.Context, as_json: bool) -> None:
    """Look at this machine, and say how to mend what is wrong: the first thing to paste into a bug report.

    Driver and CUDA, what is free on the card and who holds the rest, memory, disks, compiler, llama.cpp,
    sandbox, packages, the hub's cache, Ollama. No line holds a name or a token. Exit code 3 if something is failing.
    """
    from lowvram_ft import __version__
    from lowvram_ft.doctor import doctor as examine

    checks = examine()
    counts = {status: sum(check.status == status for check in checks) for status in ("failing", "warning")}
    if as_json:
        found = [check.to_json() for check in checks]
        print_json({"ok": not counts["failing"], "version": __version__, "checks": found})
    else:
        marks = {"ok": "green", "warning": "yellow", "failing": "red"}
        color = False if os.environ.get("NO_COLOR") else None
        for check in checks:  # not by Rich, which may be what is missing
            mark = click.style(f"{check.status:<9}", fg=marks[check.status])
            click.echo(f"{mark}{check.name}: {check.found}", color=color)
            if check.mend and check.status != "ok":
                click.echo(f"         {check.mend}")
        click.echo(f"{counts['failing']} failing, {counts['warning']} to look at")
    if counts["failing"]:
        context.exit(3)


@click.command()
@recipe_argument
@set_option
@click.option("--vram", metavar="SIZE", type=SIZE, help="Plan for a card of this size: 4, 4GiB, 4096MiB.")
@click.option("--ram", metavar="SIZE", type=SIZE, help="Plan for so much host memory.")
@click.option("--gpu", metavar="NAME", help='Plan for this card of the table, such as "RTX 3050 Laptop".')
@json_option
@click.pass_context
def plan(
    context: click.Context,
    name: str,
    overrides: tuple[str, ...],
    vram: int | None,
    ram: int | None,
    gpu: str | None,
    as_json: bool,
) -> None:
    """Say whether a recipe fits, why, and how fast it will be. Exit code 3 if it does not fit."""
    from lowvram_ft.hardware import detect
    from lowvram_ft.memory.cards import find_card
    from lowvram_ft.memory.for_recipe import plan_stages
    from lowvram_ft.recipe import load

    resolved = load(name, overrides)
    card = find_card(gpu) if gpu is not None else None
    vram = card.vram_bytes if vram is None and card is not None else vram
    budget = {key: size for key, size in (("vram_bytes", vram), ("ram_bytes", ram)) if size is not None}
    plans = plan_stages(resolved, detect(), budget, card)
    fits = all(found.fit.plan.fits for found in plans.values())
    if as_json:
        print_json({"fits": fits, "stages": {stage: found.to_json() for stage, found in plans.items()}})
    else:
        from lowvram_ft.memory.table import print_plan

        for stage, found in plans.items():
            print_plan(stage, found, console())
    if not fits:
        context.exit(3)


@click.group()
def recipe() -> None:
    """Look at recipes."""


@recipe.command("show")
@recipe_argument
@set_option
@json_option
def recipe_show(name: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Show a recipe resolved: every value, and where it came from."""
    from lowvram_ft.recipe import SECTIONS, load

    resolved = load(name, overrides)
    if as_json:
        print_json(resolved.to_json())
        return
    for stage in resolved.stages:
        click.echo(f"# stage {stage.name}")
        values = stage.recipe.model_dump(mode="json")
        for section in SECTIONS:
            click.echo(f"[{section}]")
            for key, value in values[section].items():
                line = f"{key} = {_toml(value)}" if value is not None else f"# {key} is not set"
                click.echo(f"{line:<60} # {stage.origin[f'{section}.{key}']}")
        click.echo()


@recipe.command("list")
@json_option
def recipe_list(as_json: bool) -> None:
    """List the recipes that ship with the kit."""
    from lowvram_ft.recipe import load, shipped_recipes

    found = {path.stem: load(str(path)) for path in shipped_recipes()}
    rows = {name: resolved.final.description for name, resolved in found.items()}
    if as_json:
        print_json(rows)
        return
    for name, description in rows.items():
        click.echo(f"{name:<24}{description}")


@click.command()
@click.argument("runs", metavar="RUN...", type=FOLDER, nargs=-1, required=True, shell_complete=completing.runs)
@click.option("--html", type=FILE, help="Where to write the page (default: RUN/report.html; of several, report.html).")
@click.option("--open", "and_open", is_flag=True, help="Open the page in the browser.")
@click.option("--no-html", is_flag=True, help="Print the tables alone, and write nothing.")
@json_option
def report(runs: tuple[Path, ...], html: Path | None, and_open: bool, no_html: bool, as_json: bool) -> None:
    """Show what runs found: tables here, and everything on one HTML page that needs no network.

    Of one run: before beside after, training, memory, latency, gates, every task. Of several: side by side, and
    how each differs from the first, task by task. With --json, a page is written only where --html or --open asks for
    it.
    """
    from lowvram_ft.report.between import differences
    from lowvram_ft.report.page.build import open_page, place_of, write_page
    from lowvram_ft.report.page.reading import read_runs
    from lowvram_ft.report.table import print_report
    from lowvram_ft.report.table import report as read

    if no_html and (html or and_open):
        raise click.UsageError("--no-html goes neither with --html nor with --open.")
    found = [read(run) for run in runs]
    if as_json:
        print_json(found[0] if len(found) == 1 else {"runs": found, "differences": differences(read_runs(runs))})
    elif len(found) == 1:
        print_report(found[0], console())
    else:
        from lowvram_ft.report.several import print_several

        print_several(runs, console())
    if no_html or (as_json and not html and not and_open):
        return
    page = write_page(runs, html or place_of(runs))
    if not as_json:
        click.echo(f"page: {page}")
    if and_open:
        open_page(page)


def _toml(value: object) -> str:
    import json

    return json.dumps(value, ensure_ascii=False)
