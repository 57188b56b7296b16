"""What testgen found, for people: a table, possible bugs, the diff."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lowvram_ft.testgen.outcome import Outcome, Reach

SHOWN_DROPPED = 10


def print_outcomes(outcomes: Sequence[Outcome], console: Console, *, dry_run: bool, diff: bool = True) -> None:
    """Print what became of modules.

    Args:
        outcomes: one for each.
        console: where to.
        dry_run: nothing was written.
        diff: print the changes too.
    """
    console.print(_table(outcomes))
    for outcome in outcomes:
        _print_one(outcome, console, dry_run=dry_run)
    if diff:
        for outcome in outcomes:
            if outcome.diff:
                _print_diff(outcome.diff, console)


def _table(outcomes: Sequence[Outcome]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("module")
    table.add_column("tests kept", justify="right")
    table.add_column("lines", justify="right")
    table.add_column("mutants killed", justify="right")
    table.add_column("")
    for outcome in outcomes:
        table.add_row(
            escape(outcome.source),
            str(len(outcome.kept)),
            _reach(outcome.lines),
            _reach(outcome.mutants),
            escape(_status(outcome)),
        )
    return table


def _reach(reach: Reach) -> str:
    if not reach.of:
        return "-"
    after = f"{100 * reach.after / reach.of:.0f} %"
    return after if reach.before == reach.after else f"{100 * reach.before / reach.of:.0f} > {after}"


def _status(outcome: Outcome) -> str:
    if outcome.status == "unchanged":
        return f"{outcome.test_file} is up to date"
    return outcome.test_file or outcome.status


def _print_one(outcome: Outcome, console: Console, *, dry_run: bool) -> None:
    def say(text: str, style: str = "") -> None:
        console.print(escape(text), style=style or None, soft_wrap=True)

    if outcome.status == "nothing passes":
        say(f"{outcome.source}: no generated test passes after {outcome.answers} answers; nothing was written")
    elif outcome.status == "failed":
        for note in outcome.notes:
            say(note)
        return
    elif outcome.status == "written":
        say(f"{'would write' if dry_run else 'wrote'} {outcome.test_file}")
    for kept in outcome.kept if outcome.status != "unchanged" else ():
        say(f"  kept     {kept.name} (reaches {kept.lines} statements, kills {kept.mutants} mutants)")
    for dropped in outcome.dropped[:SHOWN_DROPPED]:
        say(f"  dropped  {dropped.test}: {dropped.reason}", "dim")
    if len(outcome.dropped) > SHOWN_DROPPED:
        say(f"  dropped  {len(outcome.dropped) - SHOWN_DROPPED} more: see --json", "dim")
    for found in outcome.contradictions:
        first = found.message.strip().splitlines()
        say(f"  possible bug in {outcome.source}, or a wrong test: {found.test}", "yellow")
        if found.assertion:
            say(f"    {found.assertion.strip()}")
        if first:
            say(f"    {first[0]}")
        if found.disputed:
            say("    another answer of the model expects what the code does")
    for path, reason in outcome.not_run.items():
        say(f"  not run here: {path}: {reason}", "dim")
    for note in outcome.notes:
        say(f"  {note}", "dim")


def _print_diff(diff: str, console: Console) -> None:
    colours = {"+": "green", "-": "red", "@": "cyan"}
    for line in diff.splitlines():
        console.print(escape(line), style=colours.get(line[:1]), soft_wrap=True)
