"""Pairs for people: winner and loser side by side; and the facts of a part of a round, a line each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table


def print_pairs(found: Mapping[str, Any], console: Console) -> None:
    """Print pairs side by side, below the code that they test.

    Args:
        found: ``folder``, ``count``, ``pairs`` (each with ``id``, ``code``, ``chosen``, ``rejected``, ``meta``).
        console: where to.
    """
    for number, pair in enumerate(found["pairs"], 1):
        table = Table(title=escape(pair["id"]), title_justify="left", box=box.SQUARE, show_lines=True)
        table.add_column("winner", ratio=1, overflow="fold")
        table.add_column("loser", ratio=1, overflow="fold")
        worth = pair["meta"]
        if worth.get("chosen") and worth.get("rejected"):
            table.add_row(_worth(worth["chosen"]), _worth(worth["rejected"]))
        table.add_row(escape(pair["chosen"]), escape(pair["rejected"]))
        console.print(escape(pair["code"].strip()), style="dim", highlight=False)
        console.print(table)
        if number < len(found["pairs"]):
            console.print()
    console.print(f"{len(found['pairs'])} of {found['count']} pairs in {found['folder']}", markup=False, soft_wrap=True)


def print_facts(found: Mapping[str, Any], console: Console) -> None:
    """Print facts, a line each; those of a table beside its name."""
    for key, value in found.items():
        if value is None or value == {} or value == []:
            continue
        console.print(f"{_words(key)}: {_value(value)}", markup=False, soft_wrap=True)


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{_words(key)} {_value(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_value, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _worth(worth: Any) -> str:
    return escape(_value(worth))


def _words(key: str) -> str:
    return str(key).replace("_", " ")
