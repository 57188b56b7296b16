"""The table of a run: before beside after, latency, gates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lowvram_ft.report.cells import COLOURS, RATES, amount_cell, difference_cell, rate_cell
from lowvram_ft.report.stages import print_stages, stages_of
from lowvram_ft.run_dir import RunDir


def report(run: Path) -> dict[str, Any]:
    """What a run found, as far as it has come.

    Args:
        run: a run directory.

    Returns:
        ``suites`` (suite to ``before`` and ``after`` means, and the ``difference`` of each metric), ``bench``,
        ``export``, ``verify``, ``gates``, ``stages`` (what training says of each), ``stage_by_stage`` (see
        `lowvram_ft.report.stages.stages_of`); parts that have not run yet are None or empty.

    Raises:
        RunDirectoryError: it is no run directory.
    """
    data = RunDir(run).data
    steps = data["steps"]
    sides = {when: steps.get(f"eval:{when}") for when in ("before", "after")}
    differences = steps.get("compare", {}).get("suites", {})
    names = list(dict.fromkeys(suite for side in sides.values() if side for suite in side["suites"]))
    return {
        "run": str(run),
        "recipe": data["recipe"]["name"],
        "base": steps.get("plan", {}).get("base"),
        "suites": {
            name: {when: side["suites"].get(name) if side else None for when, side in sides.items()}
            | {"difference": differences.get(name)}
            for name in names
        },
        "stage_by_stage": stages_of(steps),
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
        _print_notes(sides["after"] or sides["before"], console)
    if found["stage_by_stage"] is not None:
        print_stages(found["stage_by_stage"], console)
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
        _print_gate(gate, console)


def print_suites(found: dict[str, Any], console: Console) -> None:
    """Print one evaluation, without a comparison."""
    for suite, means in found["suites"].items():
        table = _table(suite, means)
        for key, label in RATES.items():
            if means.get(key) is not None:
                table.add_row(label, rate_cell(means, key))
        if means.get("assertions_per_test") is not None:
            table.add_row("checks a test", amount_cell(means, "assertions_per_test"))
        table.add_row("tests passing / all", _counts(means))
        console.print(table)
        _print_notes(means, console)
    seconds = found["seconds_per_file"]
    rate = found.get("tok_per_s")
    speed = f", {rate['value']:.0f} tokens/s" if rate else ""
    line = f"generated in batches, {seconds['p50']:.1f} s a file (median){speed}; samples: {found['samples']}"
    console.print(line, markup=False, soft_wrap=True)


_SHOWN_SCORES = ("kl", "top1_agreement")


def _suite(suite: str, sides: dict[str, Any]) -> Table:
    shown = sides["after"] or sides["before"]
    differences = sides.get("difference")
    table = _table(suite, shown)
    table.show_header = True
    for column in ("", "before", "after", *(("difference",) if differences else ())):
        table.add_column(column, justify="right" if column else "left")
    for key, label in RATES.items():
        if shown.get(key) is not None:
            cells = [rate_cell(sides["before"], key), rate_cell(sides["after"], key)]
            table.add_row(label, *cells, *([difference_cell(differences.get(key))] if differences else []))
    if shown.get("assertions_per_test") is not None:
        amounts = [amount_cell(sides[when], "assertions_per_test") for when in ("before", "after")]
        table.add_row("checks a test", *amounts)
    table.add_row("tests passing / all", _counts(sides["before"]), _counts(sides["after"]))
    return table


def _table(suite: str, means: dict[str, Any]) -> Table:
    kind = ", read and not run" if means.get("static") else ""
    return Table(
        title=f"{escape(suite)}: {means['tasks']} tasks{kind}",
        title_justify="left",
        show_header=False,
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )


def _print_notes(means: dict[str, Any], console: Console) -> None:
    """What the ranges are, and how many files were worth what, the most frequent first."""
    if means.get("intervals"):
        console.print("[dim]ranges: intervals of 95 %; of the difference, in points[/dim]", soft_wrap=True)
    reasons = sorted(means.get("reasons", {}).items(), key=lambda item: -item[1])
    if reasons:
        console.print(f"files: {', '.join(f'{count} {kind}' for kind, count in reasons)}", soft_wrap=True)
    if means.get("answers"):
        first, *more = [f"{100 * rate['value']:.0f} %" for rate in means["answers"].values()]
        within = ", ".join(f"{share} within {k}" for k, share in enumerate(more, 2))
        console.print(f"solved by answers, refinements among them: {first} by the first, {within}", soft_wrap=True)


def _print_gate(gate: dict[str, Any], console: Console) -> None:
    word = gate.get("verdict") or ("met" if gate["met"] else "missed")
    line = f"gate {gate['gate']} on {escape(gate['suite'])}: {gate['value']:.2f} (wanted {gate['wanted']:g}) "
    line += f"[{COLOURS[word]}]{word}[/{COLOURS[word]}]"
    if gate.get("interval") is not None:
        low, high = gate["interval"]
        line += f" at {gate['tasks']} tasks ({low:.2f} to {high:.2f})"
    console.print(line, soft_wrap=True)


def _counts(means: dict[str, Any] | None) -> str:
    if means is None:
        return "–"
    return f"{means['tests_passed']} / {means['tests']}" if "tests_passed" in means else f"– / {means['tests']}"
