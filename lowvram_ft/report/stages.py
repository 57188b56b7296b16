"""What each stage of a run gave: the base and every stage side by side, and the paired differences between them."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lowvram_ft.report.cells import RATES, amount_cell, difference_cell, rate_cell

BASE = "base"
AMOUNTS = {"assertions_per_test": "checks a test", "n_tokens": "tokens an answer"}
"""Key of a mean that is no share to what people call it."""
_SINCE = {"since_before": "difference to the stage before", "since_base": "difference to the base"}


def stages_of(steps: dict[str, Any]) -> dict[str, Any] | None:
    """The evaluations after each stage, by suite.

    Args:
        steps: the finished steps of ``run.json``.

    Returns:
        Suite to a list in the order of the stages, the base first: ``name``, ``means``, and, but for the base,
        ``since_before`` and ``since_base`` (metric to what `lowvram_ft.evaluation.comparison.difference` finds). None
        where the stages were not compared.
    """
    compared = steps.get("compare:stages")
    if compared is None:
        return None
    base = steps["eval:before"]["suites"]
    return {
        suite: [{"name": BASE, "means": means}]
        + [
            {
                "name": stage["name"],
                "means": steps[stage["step"]]["suites"].get(suite),
                **{since: stage[since].get(suite, {}) for since in _SINCE},
            }
            for stage in compared["stages"]
        ]
        for suite, means in base.items()
    }


def print_stages(found: dict[str, Any], console: Console) -> None:
    """Print what `stages_of` found as tables for people, three a suite."""
    for suite, stages in found.items():
        console.print(_means(suite, stages))
        for since, title in _SINCE.items():
            # to the base and to the stage before is the same for the first stage
            shown = stages[1:] if since == "since_before" else stages[2:]
            if shown:
                console.print(_differences(f"{suite}: {title}", since, shown))
    console.print("[dim]ranges: intervals of 95 %; of differences, paired by task and in points[/dim]", soft_wrap=True)


def _means(suite: str, stages: list[dict[str, Any]]) -> Table:
    tasks = stages[0]["means"]["tasks"]
    table = _table(f"{suite}: {tasks} tasks, stage by stage", stages)
    for key, label in RATES.items():
        if any((stage["means"] or {}).get(key) is not None for stage in stages):
            table.add_row(label, *(rate_cell(stage["means"], key) for stage in stages))
    for key, label in AMOUNTS.items():
        if any((stage["means"] or {}).get(key) is not None for stage in stages):
            table.add_row(label, *(amount_cell(stage["means"], key) for stage in stages))
    return table


def _differences(title: str, since: str, stages: list[dict[str, Any]]) -> Table:
    table = _table(title, stages)
    for key, label in RATES.items():
        if any(key in stage[since] for stage in stages):
            table.add_row(label, *(difference_cell(stage[since].get(key)) for stage in stages))
    if any("n_tokens" in stage[since] for stage in stages):
        cells = [_tokens(stage[since].get("n_tokens")) for stage in stages]
        table.add_row(AMOUNTS["n_tokens"], *cells)
    return table


def _table(title: str, stages: list[dict[str, Any]]) -> Table:
    table = Table(title=escape(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for stage in stages:
        table.add_column(escape(stage["name"]), justify="right")
    return table


def _tokens(found: dict[str, Any] | None) -> str:
    """A length has no better end: its difference is shown without a verdict."""
    if found is None or found["interval"] is None:
        return "–"
    low, high = found["interval"]
    return f"{low:+.0f} to {high:+.0f} tokens"
