"""Several runs side by side, as tables for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lowvram_ft.report.page.figures import NOTHING
from lowvram_ft.report.page.reading import read_runs
from lowvram_ft.report.page.side_by_side import side_by_side


def print_several(runs: Sequence[Path], console: Console) -> None:
    """Print what runs reached and cost, and in what they differ.

    Args:
        runs: run directories.
        console: where to.

    Raises:
        RunDirectoryError: one is no run directory.
    """
    found = side_by_side(read_runs(runs))
    for suite in found["suites"]:
        rows = {row["label"]: [_cell(cell) for cell in row["cells"]] for row in suite["rows"]}
        _print(f"{suite['name']}, after training", found["labels"], {"tasks": suite["tasks"], **rows}, console)
        if not suite["same_tasks"]:
            console.print("these runs were not evaluated on the same tasks", style="yellow")
        if paired := suite["paired"]:
            rows = {row["label"]: [_difference(cell) for cell in row["cells"]] for row in paired["rows"]}
            title = f"{suite['name']}, difference to {paired['to']}"
            _print(title, paired["columns"], {"tasks of both": paired["tasks"], **rows}, console)
            console.print("[dim]intervals of 95 %, paired by task; shares in points[/dim]", soft_wrap=True)
    _print("what they cost", found["labels"], found["costs"], console)
    for title, differing in (("settings that differ", found["settings"]), ("versions that differ", found["versions"])):
        if differing:
            _print(title, found["labels"], differing, console)


def _print(title: str, labels: Sequence[str], rows: Mapping[str, Sequence[str]], console: Console) -> None:
    table = Table(title=escape(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for label in labels:
        table.add_column(escape(label), justify="right", overflow="fold")
    for key, cells in rows.items():
        table.add_row(escape(key), *map(escape, cells))
    console.print(table)


def _cell(cell: Mapping[str, str]) -> str:
    return f"{cell['value']} ({cell['interval']})" if cell["interval"] else cell["value"]


def _difference(cell: Mapping[str, str] | None) -> str:
    return f"{cell['text']} {cell['verdict']}".rstrip() if cell else NOTHING
