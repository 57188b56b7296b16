"""Commands on data sets: inspect, prepare, verify."""

from __future__ import annotations

from pathlib import Path

import click

from lowvram_ft.cli.options import (
    FOLDER,
    console,
    json_option,
    print_json,
    progress,
    quiet_option,
    sandbox_option,
    set_option,
)


@click.group()
def data() -> None:
    """Look at the rows of a recipe, tokenize them, run them."""


@data.command("inspect")
@click.argument("name", metavar="RECIPE")
@set_option
@click.option(
    "--rows",
    type=click.IntRange(min=0),
    default=3,
    show_default=True,
    help="Rows to show as the model sees them.",
)
@json_option
def inspect_rows(name: str, overrides: tuple[str, ...], rows: int, as_json: bool) -> None:
    """Count rows and tokens, and show some as the model sees them: what carries no loss is dimmed."""
    from lowvram_ft.data.show import inspect, print_inspection
    from lowvram_ft.models import materialize, resolve
    from lowvram_ft.recipe import load
    from lowvram_ft.rendering import from_folder

    found = {}
    for stage in load(name, overrides).stages:
        chat = from_folder(materialize(resolve(stage.recipe.model.base)))
        found[stage.name] = inspect(stage.recipe, chat, rows)
    if as_json:
        print_json(found)
    else:
        for stage_name, inspection in found.items():
            print_inspection(stage_name, inspection, console())


@data.command("prepare")
@click.argument("name", metavar="RECIPE")
@set_option
@click.option("--out", type=FOLDER, required=True, help="Folder for the tokenized sets, one a stage.")
@json_option
def prepare_rows(name: str, overrides: tuple[str, ...], out: Path, as_json: bool) -> None:
    """Write the tokenized rows of every stage as Arrow files: input_ids, labels."""
    from lowvram_ft.data.show import save_prepared
    from lowvram_ft.models import materialize, resolve
    from lowvram_ft.recipe import load
    from lowvram_ft.rendering import from_folder

    found = {}
    for stage in load(name, overrides).stages:
        chat = from_folder(materialize(resolve(stage.recipe.model.base)))
        found[stage.name] = save_prepared(stage.recipe, chat, out / stage.name)
    if as_json:
        print_json(found)
    else:
        for stage_name, facts in found.items():
            click.echo(f"{out / stage_name}: {facts['train']} rows to train on, {facts['eval']} to validate")
            for reason, count in facts["dropped"].items():
                click.echo(f"  left out: {count} {reason}")
            for note in facts["notes"]:
                click.echo(f"  {note}")


@data.command("verify")
@click.argument("name", metavar="RECIPE")
@set_option
@click.option(
    "--min-mutation-score",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="Least share of its mutants that a row has to kill.",
)
@click.option("--cache/--no-cache", default=True, show_default=True, help="Take verdicts from earlier runs.")
@sandbox_option
@json_option
@quiet_option
@click.pass_context
def verify(
    context: click.Context,
    name: str,
    overrides: tuple[str, ...],
    min_mutation_score: float,
    cache: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Run every row: its test passes on its code, and kills mutants. Exit code 1 if a row does not hold."""
    from lowvram_ft.data.show import print_verified, verify_recipe
    from lowvram_ft.recipe import load

    found = verify_recipe(load(name, overrides), min_mutation_score, progress(quiet), use_cache=cache)
    if as_json:
        print_json(found)
    else:
        print_verified(found, console())
    if found["bad"]:
        context.exit(1)
