"""Commands on data sets: inspect, prepare, verify."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lowvram_ft.cli.options import (
    FILE,
    FOLDER,
    console,
    json_option,
    print_json,
    progress,
    quiet_option,
    ray_option,
    recipe_argument,
    sandbox_option,
    set_option,
)

if TYPE_CHECKING:
    from lowvram_ft.data.prepared import Prepared
    from lowvram_ft.rendering import ChatFormat


@click.group()
def data() -> None:
    """Look at the rows of a recipe, tokenize them, run them."""


@data.command("inspect")
@recipe_argument
@set_option
@click.option(
    "--rows",
    type=click.IntRange(min=0),
    default=3,
    show_default=True,
    help="Rows to show as the model sees them.",
)
@json_option
@quiet_option
def inspect_rows(name: str, overrides: tuple[str, ...], rows: int, as_json: bool, quiet: bool) -> None:
    """Count rows and tokens, and show some as the model sees them: what carries no loss is dimmed."""
    from lowvram_ft.data.show import inspect, longest_that_fits, print_inspection
    from lowvram_ft.hardware import detect
    from lowvram_ft.recipe import load

    machine = detect()
    longest = {stage.name: longest_that_fits(stage.recipe, machine) for stage in load(name, overrides).stages}
    found = {}
    for stage_name, prepared, chat in _prepared(name, overrides, None, quiet):
        found[stage_name] = inspect(prepared, chat, rows, longest[stage_name])
    if as_json:
        print_json(found)
    else:
        for stage_name, inspection in found.items():
            print_inspection(stage_name, inspection, console())


@data.command("prepare")
@recipe_argument
@set_option
@click.option("--out", type=FOLDER, help="Folder for the prepared sets, one a stage (default: the user's cache).")
@json_option
@quiet_option
def prepare_rows(name: str, overrides: tuple[str, ...], out: Path | None, as_json: bool, quiet: bool) -> None:
    """Filter, tokenize and split the rows of every stage, and write them as Arrow files with a data card.

    Training takes them from there. A second call finds them made, unless something has changed that shapes them.
    """
    from lowvram_ft.data.show import print_funnel

    found = {}
    for stage_name, prepared, _ in _prepared(name, overrides, out, quiet):
        found[stage_name] = prepared.to_json() | {"folder": str(prepared.folder)}
    if as_json:
        print_json(found)
    else:
        for facts in found.values():
            click.echo(f"{facts['folder']}: {facts['train']} rows to train on, {facts['eval']} to validate")
            print_funnel(facts, console())


def _prepared(
    name: str, overrides: tuple[str, ...], out: Path | None, quiet: bool
) -> Iterator[tuple[str, Prepared, ChatFormat]]:
    """Each stage of a recipe with its prepared set, made in ``out`` or taken from the cache."""
    from lowvram_ft.data.prepare import cached_set, prepare
    from lowvram_ft.data.verify_recipe import verifier
    from lowvram_ft.models import materialize, resolve
    from lowvram_ft.recipe import load
    from lowvram_ft.rendering import from_folder

    told = progress(quiet)
    for stage in load(name, overrides).stages:
        recipe = stage.recipe
        chat = from_folder(materialize(resolve(recipe.model.base)))
        verify = verifier(recipe.data, told)
        suites, length = recipe.eval.suites, recipe.train.max_length
        if out is None:
            made = cached_set(recipe.data, chat, length, suites=suites, verify=verify, on_row=told.counter("rows read"))
        else:
            on_row = told.counter("rows read")
            made = prepare(recipe.data, chat, length, out / stage.name, suites=suites, verify=verify, on_row=on_row)
        yield stage.name, made, chat


@data.command("verify")
@recipe_argument
@set_option
@click.option(
    "--min-mutation-score",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="Least share of its mutants that a row has to kill.",
)
@click.option(
    "--repos",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder with checkouts of the repositories that TestGenEval's rows come from.",
)
@click.option("--cache/--no-cache", default=True, show_default=True, help="Take verdicts from earlier runs.")
@ray_option
@sandbox_option
@json_option
@quiet_option
@click.pass_context
def verify(
    context: click.Context,
    name: str,
    overrides: tuple[str, ...],
    min_mutation_score: float,
    repos: Path | None,
    cache: bool,
    ray_address: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Run every row: its test passes, three times in changed conditions, and kills mutants.

    Exit code 1 if a row does not hold.
    """
    from lowvram_ft.data.verify_recipe import print_verified, verify_recipe
    from lowvram_ft.recipe import load

    resolved = load(name, overrides)
    told = progress(quiet)
    found = verify_recipe(resolved, min_mutation_score, told, repos=repos, use_cache=cache, ray_address=ray_address)
    if as_json:
        print_json(found)
    else:
        print_verified(found, console())
    if found["bad"]:
        context.exit(1)


@data.command("from-repo")
@click.argument("root", metavar="PATH", type=click.Path(path_type=Path))
@click.option("--out", type=FILE, required=True, help="JSONL file for the rows.")
@click.option("--only", multiple=True, metavar="FOLDER", help="Look at tests in this part of PATH alone; repeatable.")
@click.option(
    "--kind",
    "kinds",
    type=click.Choice(["file", "function"]),
    multiple=True,
    default=("file", "function"),
    help="Rows of whole files, or of single functions and classes; both by default.",
)
@click.option("--run/--no-run", default=True, show_default=True, help="Keep only rows that pass when they are run.")
@sandbox_option
@json_option
@quiet_option
def from_repo(
    root: Path,
    out: Path,
    only: tuple[str, ...],
    kinds: tuple[str, ...],
    run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Turn a repository into training rows: each module with the tests that test it.

    PATH is your repository, or an installed package that ships its tests. Use the file with data.path
    and data.source = "repository".
    """
    from lowvram_ft.data.from_repo import from_repository, print_from_repository

    found = from_repository(root, only, out, progress(quiet), kinds=kinds, run=run)
    if as_json:
        print_json(found)
    else:
        print_from_repository(found, console())
