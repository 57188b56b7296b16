"""Pairs for people: winner and loser side by side; and the facts of a part of a round, a line each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

_FOR_PROGRAMS = ("inputs", "model_digest", "section")
"""Keys that tell people nothing."""


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
        meta = pair["meta"]
        if meta.get("winner") and meta.get("loser"):  # a pair that somebody has written by hand has none
            table.add_row(_worth(meta["winner"]), _worth(meta["loser"]))
        table.add_row(escape(pair["chosen"]), escape(pair["rejected"]))
        console.print(escape(pair["code"].strip()), style="dim", highlight=False)
        console.print(table)
        if number < len(found["pairs"]):
            console.print()
    console.print(f"{len(found['pairs'])} of {found['count']} pairs in {found['folder']}", markup=False, soft_wrap=True)


def print_facts(found: Mapping[str, Any], console: Console) -> None:
    """Print facts, a line each; a table of tables takes a line for each of its own."""
    for key, value in found.items():
        if key in _FOR_PROGRAMS or value is None or value in ({}, []):
            continue
        if isinstance(value, Mapping) and all(isinstance(inner, Mapping) for inner in value.values()):
            for name, inner in value.items():
                console.print(f"{_words(key)}, {name}: {_value(inner)}", markup=False, soft_wrap=True)
        else:
            console.print(f"{_words(key)}: {_value(value)}", markup=False, soft_wrap=True)


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{_words(key)} {_value(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_value, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _worth(worth: Mapping[str, Any]) -> str:
    score, tokens = 100 * worth["mutation_score"], worth["n_tokens"]
    return f"[bold]{escape(worth['reason'])}[/bold]; kills {score:.0f} % of the mutants; {tokens} tokens"


def _words(key: str) -> str:
    return str(key).replace("_", " ")
