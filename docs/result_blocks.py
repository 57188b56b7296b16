"""Blocks of the docs that show what a benchmark wrote."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lowvram_ft.report.cells import RATES, amount_cell, rate_cell

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


def preference_block(table: Table) -> str:
    """What preferences add to the demo's adapter: means, paired differences, and the time of each part."""
    entry = json.loads((RESULTS / "preference.json").read_text(encoding="utf-8"))
    seeds = entry["seeds"]
    machines = sorted({f"{seed['cpu']}, {seed['cpus']} cores, {seed['date']}" for seed in seeds.values()})
    parts = [f"Seeds: {', '.join(seeds)}. {'; '.join(machines)}.\n"]
    for suite, found in entry["suites"].items():
        means, differences = found["means"], found["differences"]
        rows = [(RATES[key], *(rate_cell(means[model], key) for model in STEPS)) for key in PREFERENCE_RATES]
        rows.append(("tokens an answer", *(amount_cell(means[model], "n_tokens") for model in STEPS)))
        parts.append(f"**{suite}**, {means['base']['tasks']} tasks:\n\n{table(('', *STEPS.values()), rows)}")
        heads = ("points, paired", "SFT − base", "RFT − SFT", "DPO − SFT")
        steps = ("sft", "rft", "dpo")
        points = [(RATES[key], *(_points(differences[step][key]) for step in steps)) for key in PREFERENCE_RATES]
        parts.append(table(heads, points))
    names = list(next(iter(seeds.values()))["parts"])
    minutes = [(name.replace("_", ", "), *(_minutes(seed["parts"][name]) for seed in seeds.values())) for name in names]
    parts.append(table(("minutes", *(f"seed {seed}" for seed in seeds)), minutes))
    return "\n".join(parts)


STEPS = {"base": "base", "sft": "SFT", "rft": "SFT + RFT", "dpo": "SFT + DPO"}
PREFERENCE_RATES = (
    "writes_tests", "single_tests_pass", "passes", "useful", "passes_and_kills", "line_coverage", "mutation_score",
)  # fmt: skip


def _points(found: dict[str, Any]) -> str:
    low, high = found["interval"]
    return f"{100 * found['difference']:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def _minutes(part: dict[str, Any]) -> str:
    return f"{part['seconds'] / 60:.1f}" if part["seconds"] is not None else "in pieces"


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
