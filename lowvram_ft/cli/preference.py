"""Commands on preferences: each part of a round by itself, in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lowvram_ft.cli.options import (
    FOLDER,
    MODEL_HELP,
    console,
    json_option,
    print_json,
    progress,
    quiet_option,
    recipe_argument,
    sandbox_option,
    set_option,
)

if TYPE_CHECKING:
    from lowvram_ft.pipeline.by_hand import ByHand

folder_option = click.option(
    "--out", type=FOLDER, required=True, help="Folder of the round; each part is kept there, and taken up from there."
)


@click.group()
def preference() -> None:
    """Let a model answer, judge its answers by running them, and make pairs of them: a part at a time.

    `run` and `train` do all of it for a recipe with a stage whose train.method is dpo or rft. A killed command
    continues where it was.
    """


@preference.command("tasks")
@recipe_argument
@set_option
@folder_option
@json_option
@quiet_option
def tasks(name: str, overrides: tuple[str, ...], out: Path, as_json: bool, quiet: bool) -> None:
    """Collect code to write tests for; none that is near a task of the evaluation."""
    _show(_by_hand(name, overrides, out, quiet).collect(), as_json)


@preference.command("sample")
@recipe_argument
@set_option
@click.option("--model", required=True, help=f"Who answers. {MODEL_HELP}")
@folder_option
@json_option
@quiet_option
def sample(name: str, overrides: tuple[str, ...], model: str, out: Path, as_json: bool, quiet: bool) -> None:
    """Let a model answer each task several times."""
    _show(_by_hand(name, overrides, out, quiet).sample(model), as_json)


@preference.command("judge")
@recipe_argument
@set_option
@folder_option
@sandbox_option
@json_option
@quiet_option
def judge(name: str, overrides: tuple[str, ...], out: Path, as_json: bool, quiet: bool) -> None:
    """Run the answers: do they parse, pass, cover, kill mutants?"""
    _show(_by_hand(name, overrides, out, quiet).judge(), as_json)


@preference.command("pairs")
@recipe_argument
@set_option
@folder_option
@sandbox_option
@json_option
@quiet_option
def pairs(name: str, overrides: tuple[str, ...], out: Path, as_json: bool, quiet: bool) -> None:
    """Choose winners and losers, and write the pair set: OUT/pairs, with a data card.

    `train RECIPE --pairs OUT/pairs` trains on it.
    """
    _show(_by_hand(name, overrides, out, quiet).build_pairs(), as_json)


@preference.command("show")
@click.argument("folder", type=FOLDER)
@click.option("--n", type=click.IntRange(min=1), default=3, show_default=True, help="Pairs to show.")
@json_option
def show(folder: Path, n: int, as_json: bool) -> None:
    """Show pairs side by side. FOLDER is a pair set, or one that holds it as pairs/."""
    from lowvram_ft.pipeline.by_hand import pairs_in
    from lowvram_ft.report.pairs import print_pairs

    found = pairs_in(folder, n)
    if as_json:
        print_json(found)
    else:
        print_pairs(found, console())


def _by_hand(name: str, overrides: tuple[str, ...], out: Path, quiet: bool) -> ByHand:
    from lowvram_ft.pipeline.by_hand import ByHand
    from lowvram_ft.recipe import load

    return ByHand(load(name, overrides), out, progress(quiet))


def _show(found: dict[str, Any], as_json: bool) -> None:
    from lowvram_ft.report.pairs import print_facts

    if as_json:
        print_json(found)
    else:
        print_facts(found, console())
