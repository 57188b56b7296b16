"""The command that makes a better model of what testgen kept: improve."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import click

from lowvram_ft.cli import completing
from lowvram_ft.cli.options import (
    console,
    json_option,
    print_json,
    progress,
    quiet_option,
    sandbox_option,
    set_option,
)


@click.command()
@click.option(
    "--from",
    "source",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="RUN",
    shell_complete=completing.runs,
    help="Begin with the model of a run directory that was exported, or of a PEFT adapter's folder.",
)
@click.option("--base", metavar="MODEL", help="Base model of the adapter of --from (default: what it says).")
@click.option("--list", "show", is_flag=True, help="Show what is kept, what learnt from it, and how attempts ended.")
@click.option(
    "--forget",
    is_flag=False,
    flag_value="",
    metavar="[REPOSITORY]",
    help="Remove what is kept of a repository (name or folder), and the models that learnt from it.",
)
@click.option("--all", "everything", is_flag=True, help="With --forget: of every repository.")
@click.option("--rollback", is_flag=True, help="Put the model before into use again.")
@click.option(
    "--method",
    type=click.Choice(["dpo", "rft"]),
    default="dpo",
    show_default=True,
    help="Learn from pairs, or from winners alone.",
)
@click.option("--suite", "suites", multiple=True, help="Judge by a suite too, see eval; repeatable.")
@click.option("--max-tasks", type=click.IntRange(min=1), help="The first so many tasks of each suite.")
@set_option
@click.option("--again", is_flag=True, help="Try even where nothing is new, with another seed.")
@click.option("--yes", is_flag=True, help="Agree that a model is trained on your code, on this machine.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, write nothing.")
@sandbox_option
@json_option
@quiet_option
def improve(
    source: Path | None,
    base: str | None,
    show: bool,
    forget: str | None,
    everything: bool,
    rollback: bool,
    method: Literal["dpo", "rft"],
    suites: tuple[str, ...],
    max_tasks: int | None,
    overrides: tuple[str, ...],
    again: bool,
    yes: bool,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Train the next model on what testgen kept of your repositories; use it only if it is better.

    Everything stays on this machine. The new model is held against the one in use on modules of yours that neither
    was trained on, and replaces it only where it is better with 95 % confidence, however often this is tried. Run the
    same command again after an interruption: it continues where it was.
    """
    from lowvram_ft.errors import UsageError
    from lowvram_ft.improve.home import Home

    given = [word for word, asked in _words(source, show, forget, rollback) if asked]
    if len(given) > 1:
        raise UsageError(f"{', '.join(given)}: say different things; give one of them")
    if everything and forget is None:
        raise UsageError("--all: is for --forget; give both")
    if base is not None and source is None:
        raise UsageError("--base: is for --from; give both")
    home = Home.of_user()
    found: dict[str, Any]
    if show:
        found = _list(home, as_json)
    elif forget is not None:
        found = _forget(home, forget, everything, dry_run, as_json)
    elif rollback:
        found = _rollback(home, as_json)
    elif source is not None:
        found = _begin(home, source, base, quiet, as_json)
    else:
        from lowvram_ft.improve.attempt import Settings

        settings = Settings(method, overrides, suites, max_tasks, again)
        found = _improve(home, settings, yes, dry_run, quiet, as_json)
    if as_json:
        print_json(found)


def _words(source: Path | None, show: bool, forget: str | None, rollback: bool) -> list[tuple[str, bool]]:
    return [
        ("--from", source is not None),
        ("--list", show),
        ("--forget", forget is not None),
        ("--rollback", rollback),
    ]


def _improve(home: Any, settings: Any, yes: bool, dry_run: bool, quiet: bool, as_json: bool) -> dict[str, Any]:
    from lowvram_ft.execution.sandbox import choose as choose_sandbox
    from lowvram_ft.improve import consent, craft, work
    from lowvram_ft.improve.show import print_outcome
    from lowvram_ft.stopping import sigterm_raises

    choose_sandbox()
    if dry_run:
        found = work.plan(home, settings, craft.own_craft())
    elif not consent.require(home, yes=yes, ask=_asker()):
        found = {"status": "nothing to do", "reason": "you did not agree; nothing was written"}
    else:
        with sigterm_raises():
            found = work.improve(home, settings, craft.own_craft(), progress(quiet))
    if not as_json:
        print_outcome(found, console())
    return found


def _asker() -> Callable[[str], bool] | None:
    """Asks on the terminal; None where there is none."""
    if not sys.stdin.isatty():
        return None
    return lambda text: click.confirm(f"{text} Do you agree?", err=True)


def _begin(home: Any, source: Path, base: str | None, quiet: bool, as_json: bool) -> dict[str, Any]:
    from lowvram_ft.improve.begin import register

    found = register(home, source, base, progress(quiet))
    if not as_json:
        click.echo(f"model {found.number} is in use: {found.gguf} (--model improved)")
    return {"generation": found.number, "gguf": str(found.gguf), "sha256": found.sha256}


def _list(home: Any, as_json: bool) -> dict[str, Any]:
    from lowvram_ft.improve.show import listing, print_listing

    found = listing(home)
    if not as_json:
        print_listing(found, console())
    return found


def _rollback(home: Any, as_json: bool) -> dict[str, Any]:
    from lowvram_ft.improve.work import roll_back

    found = roll_back(home)
    if not as_json:
        click.echo(f"model {found.number} is in use again: {found.gguf}")
    return {"generation": found.number, "gguf": str(found.gguf), "sha256": found.sha256}


def _forget(home: Any, repository: str, everything: bool, dry_run: bool, as_json: bool) -> dict[str, Any]:
    from lowvram_ft.errors import UsageError
    from lowvram_ft.improve.forget import forget

    if everything == bool(repository):
        raise UsageError("--forget: give a repository (see --list), or --all")
    found = forget(home, repository or None, dry_run=dry_run)
    if not as_json:
        models = ", ".join(map(str, found["generations"])) or "none"
        word = "would be removed" if dry_run else "removed"
        click.echo(
            f"{found['answers']} answers and {found['traces']} traces {word}; models that learnt from them: {models}"
        )
        if found["generations"]:
            now = "no model" if found["in_use"] is None else f"model {found['in_use']}"
            click.echo(f"{now} is in use{' then' if dry_run else ''}")
    return found
