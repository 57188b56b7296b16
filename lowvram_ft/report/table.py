"""The table of a run: before beside after, latency, gates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lowvram_ft.run_dir import RunDir

RATES = {
    "writes_tests": "writes tests",
    "single_tests_pass": "single tests passing",
    "useful": "useful files",
    "passes": "whole files passing",
    "line_coverage": "line coverage",
    "branch_coverage": "branch coverage",
    "mutation_score": "mutation score",
    "pass@1": "Pass@1",
    "pass@3": "Pass@3",
}
"""Key of a mean to what people call it, in the order of the table."""


def report(run: Path) -> dict[str, Any]:
    """What a run found, as far as it has come.

    Args:
        run: a run directory.

    Returns:
        ``suites`` (suite to ``before`` and ``after`` means), ``seconds_per_file``, ``bench``, ``export``, ``verify``,
        ``gates``, ``stages``; parts that have not run yet are None or empty.

    Raises:
        RunDirectoryError: it is no run directory.
    """
    data = RunDir(run).data
    steps = data["steps"]
    sides = {when: steps.get(f"eval:{when}") for when in ("before", "after")}
    names = list(dict.fromkeys(suite for side in sides.values() if side for suite in side["suites"]))
    return {
        "run": str(run),
        "recipe": data["recipe"]["name"],
        "base": steps.get("plan", {}).get("base"),
        "suites": {
            name: {when: side["suites"].get(name) if side else None for when, side in sides.items()} for name in names
        },
        "stages": {key.removeprefix("train:"): value for key, value in steps.items() if key.startswith("train:")},
        "export": steps.get("export"),
        "verify": steps.get("verify"),
        "bench": steps.get("bench"),
        "gates": steps.get("gates", {}).get("gates", []),
    }


def print_report(found: dict[str, Any], console: Console) -> None:
    """Print a report as tables for people."""
    for suite, sides in found["suites"].items():
        console.print(_suite(suite, sides))
    for stage, trained in found["stages"].items():
        losses = f"loss {trained['first_loss']:.3f} to {trained['last_loss']:.3f}"
        console.print(f"stage {stage}: {trained['steps']} steps, {losses}", markup=False)
    latency = found["bench"]
    if latency is not None:
        console.print(
            f"latency: {latency['file_s_p50']:.1f} s a file (median), {latency['file_s_p95']:.1f} s at p95, "
            f"first token after {latency['first_token_s_p50']:.2f} s, {latency['decode_tok_per_s']:.0f} tokens/s"
        )
    verified = found["verify"]
    if verified is not None:
        scores = ", ".join(f"{key} {value:.4f}" for key, value in verified["scores"].items() if key in _SHOWN_SCORES)
        against = "against base + adapter" if verified["kind"] == "reference" else "by itself"
        line = f"export: {found['export']['gguf']}, verified {against}{': ' + scores if scores else ''}"
        console.print(line, markup=False, soft_wrap=True)
    for gate in found["gates"]:
        verdict = "[green]met[/green]" if gate["met"] else "[yellow]missed[/yellow]"
        console.print(
            f"gate {gate['gate']} on {escape(gate['suite'])}: {gate['value']:.2f} (wanted {gate['wanted']:g}) {verdict}"
        )


def print_suites(found: dict[str, Any], console: Console) -> None:
    """Print one evaluation, without a comparison."""
    for suite, means in found["suites"].items():
        table = Table(title=f"{escape(suite)}: {means['tasks']} tasks", title_justify="left", show_header=False)
        for key, label in RATES.items():
            if means.get(key) is not None:
                table.add_row(label, _rate(means, key))
        table.add_row("tests passing / written", _counts(means))
        console.print(table)
    seconds = found["seconds_per_file"]
    line = f"generated in batches, {seconds['p50']:.1f} s a file (median); samples: {found['samples']}"
    console.print(line, markup=False, soft_wrap=True)


_SHOWN_SCORES = ("kl", "top1_agreement")


def _suite(suite: str, sides: dict[str, Any]) -> Table:
    shown = sides["after"] or sides["before"]
    table = Table(title=f"{escape(suite)}: {shown['tasks']} tasks", title_justify="left")
    table.add_column("")
    table.add_column("before", justify="right")
    table.add_column("after", justify="right")
    for key, label in RATES.items():
        if shown.get(key) is not None:
            table.add_row(label, _rate(sides["before"], key), _rate(sides["after"], key))
    table.add_row("tests passing / written", _counts(sides["before"]), _counts(sides["after"]))
    return table


def _rate(means: dict[str, Any] | None, key: str) -> str:
    value = means.get(key) if means is not None else None
    return "–" if value is None else f"{100 * value:.1f} %"


def _counts(means: dict[str, Any] | None) -> str:
    return "–" if means is None else f"{means['tests_passed']} / {means['tests']}"
