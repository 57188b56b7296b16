"""Commands that look and change nothing: doctor, plan, recipe, report."""

from __future__ import annotations

from pathlib import Path

import click

from lowvram_ft.cli.options import FOLDER, SIZE, console, json_option, print_json, set_option


@click.command()
@json_option
@click.pass_context
def doctor(context: click.Context, as_json: bool) -> None:
    """Look at this machine: GPU, memory, disk, compiler, llama.cpp. Exit code 3 if something is failing."""
    from dataclasses import asdict

    from lowvram_ft.doctor import doctor as examine

    checks = examine()
    failing = any(check.status == "failing" for check in checks)
    if as_json:
        print_json({"ok": not failing, "checks": [asdict(check) for check in checks]})
    else:
        marks = {
            "ok": "[green]ok[/green]     ",
            "warning": "[yellow]warning[/yellow]",
            "failing": "[red]failing[/red]",
        }
        out = console()
        for check in checks:
            out.print(f"{marks[check.status]}  {check.name}: {check.found}")
            if check.mend and check.status != "ok":
                out.print(f"         {check.mend}", markup=False)
    if failing:
        context.exit(3)


@click.command()
@click.argument("name", metavar="RECIPE")
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
@click.argument("name", metavar="RECIPE")
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
@click.argument("run", type=FOLDER)
@json_option
def report(run: Path, as_json: bool) -> None:
    """Show the table of a run: before beside after, latency, gates."""
    from lowvram_ft.report.table import print_report
    from lowvram_ft.report.table import report as read

    found = read(run)
    if as_json:
        print_json(found)
    else:
        print_report(found, console())


def _toml(value: object) -> str:
    import json

    return json.dumps(value, ensure_ascii=False)
