"""The command that shows and frees caches and old runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lowvram_ft.cli import completing
from lowvram_ft.cli.options import FOLDER, json_option, print_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lowvram_ft.clean import Item


@click.command()
@click.argument("what", nargs=-1, metavar="[WHAT]...", shell_complete=completing.to_clean)
@click.option(
    "--runs",
    type=FOLDER,
    multiple=True,
    default=(Path("runs"),),
    show_default="runs",
    help="Folder of runs, or a run; repeatable.",
)
@click.option("--dry-run", is_flag=True, help="Show what would be freed, and free nothing.")
@click.option("-y", "--yes", is_flag=True, help="Free it without asking.")
@json_option
def clean(what: tuple[str, ...], runs: tuple[Path, ...], dry_run: bool, yes: bool, as_json: bool) -> None:
    """Show caches and old runs with their sizes; free those that are named.

    WHAT is a group (hub, cache, checkpoints, exports, improve, runs), a name of the table, or a path. Of a group, only
    what nothing needs is freed: a whole run, what a run can go on from and what testgen uses have to be named. Without
    a terminal, nothing is freed without --yes.
    """
    from lowvram_ft.clean import Places, chosen, free, survey
    from lowvram_ft.doctor.around import hub_cache
    from lowvram_ft.improve.home import Home

    home = Home.of_user()
    named = tuple(path for path in map(Path, what) if (path / "run.json").is_file())
    items = survey(Places(hub_cache(), home, (*runs, *named)))
    wanted = chosen(items, what, runs)
    if not as_json:
        _show(items if not what else wanted, bool(what))
    sure = bool(wanted) and not dry_run and (yes or (not as_json and _agrees(wanted)))
    for item in wanted if sure else ():
        free(item, home)
    freed = sum(item.bytes for item in wanted) if sure else 0
    if as_json:
        found = [item.to_json() | {"chosen": item in wanted, "freed": sure and item in wanted} for item in items]
        print_json({"items": found, "bytes": sum(item.bytes for item in wanted), "freed_bytes": freed})
    elif what:
        click.echo(
            f"freed {_size(freed)}" if sure else "nothing was freed" + ("" if dry_run else "; to free it: --yes")
        )


def _agrees(wanted: Sequence[Item]) -> bool:
    """Ask, where there is somebody to ask."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    return click.confirm(f"Free {_size(sum(item.bytes for item in wanted))}?", err=True)


def _show(items: Sequence[Item], chosen: bool) -> None:
    if not items:
        click.echo("nothing that nothing needs" if chosen else "nothing is here")
        return
    width = max(len(item.name) for item in items)
    for item in items:
        kept = f"; stays: {item.kept}" if item.kept and not chosen else ""
        click.echo(f"{item.group:<12}{_size(item.bytes):>10}  {item.name:<{width}}  {item.what}{kept}")
    if not chosen:
        free = [item for item in items if item.kept is None]
        groups = " ".join(dict.fromkeys(item.group for item in free))
        total = _size(sum(item.bytes for item in free))
        click.echo(f"{total} can be freed" + (f": lowvram-ft clean {groups}" if free else ""))


def _size(n_bytes: int) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20)):
        if n_bytes >= size // 2:
            return f"{n_bytes / size:.1f} {unit}"
    return f"{n_bytes / 2**10:.1f} KiB"
