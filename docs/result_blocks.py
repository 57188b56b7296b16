"""Blocks of the docs that show what a benchmark wrote."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lowvram_ft.report.cells import RATES

RESULTS = Path(__file__).resolve().parents[1] / "benchmarks" / "results"

Table = Callable[[Sequence[str], Sequence[Sequence[str]]], str]


def humaneval_block(table: Table) -> str:
    """What models score on all of HumanEval, how fast tokens came, and where the time went."""
    parts = []
    for entry in json.loads((RESULTS / "humaneval.json").read_text(encoding="utf-8")):
        runs = entry["runs"]
        heads = ["greedy" if run["samples_per_task"] == 1 else f"{run['samples_per_task']} samples" for run in runs]
        rows = [
            (label, *(_rate(run["means"], key) for run in runs))
            for key, label in RATES.items()
            if any(run["means"].get(key) is not None for run in runs)
        ]
        rows.append(("tests passing / all", *(f"{r['means']['tests_passed']} / {r['means']['tests']}" for r in runs)))
        rows += _times(runs)
        name = f"**{entry['model']}**, {entry['runs'][0]['tasks']} functions; {entry['cpu']}, {entry['cpus']} cores"
        parts.append(f"{name}, {entry['date']}:\n\n{table(('', *heads), rows)}")
        if entry.get("ways"):
            ways = [
                (
                    way["way"],
                    f"{way['tok_per_s']:.1f}",
                    ", ".join(f"{rate:.1f}" for rate in way["rounds"]),
                    str(way["prompts"]),
                )
                for way in entry["ways"]
            ]
            parts.append(table(("generation", "tokens/s", "each round", "prompts"), ways))
    return "\n".join(parts)


def _rate(means: dict[str, Any], key: str) -> str:
    if means.get(key) is None:
        return ""
    interval = means["intervals"].get(key)
    span = f" ({100 * interval[0]:.0f} to {100 * interval[1]:.0f})" if interval else ""
    return f"{100 * means[key]:.1f} %{span}"


def _times(runs: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    parts = {"generation": "generation", "tests_and_coverage": "tests, coverage", "mutants": "mutants and controls"}
    rows = [
        (f"time: {label}", *(f"{run['seconds'][key]:.0f} s" if "seconds" in run else "" for run in runs))
        for key, label in parts.items()
    ]
    rows.append(("time: all", *(f"{run['seconds']['total']:.0f} s" if "seconds" in run else "" for run in runs)))
    rows.append(("tokens/s", *(f"{run['tok_per_s']:.0f}" if "tok_per_s" in run else "" for run in runs)))
    return rows
