"""The cells of a table: shares, amounts, differences, each with its interval; and what people call each metric."""

from __future__ import annotations

from typing import Any

RATES = {
    "parses": "parses",
    "collects": "collects",
    "writes_tests": "writes tests",
    "single_tests_pass": "single tests passing",
    "useful": "useful files",
    "passes": "whole files passing",
    "passes_and_kills": "passes and kills",
    "line_coverage": "line coverage",
    "branch_coverage": "branch coverage",
    "mutation_score": "mutation score",
    "pass@1": "Pass@1",
    "pass@3": "Pass@3",
    "false_acceptance": "wrong code accepted",
    "false_rejection": "right code rejected",
}
"""Key of a mean to what people call it, in the order of the table."""

COLOURS = {"better": "green", "met": "green", "worse": "red", "missed": "yellow", "undecided": "dim"}
"""A verdict's colour."""


def rate_cell(means: dict[str, Any] | None, key: str) -> str:
    """A share and its interval, in percent."""
    value = means.get(key) if means is not None else None
    if means is None or value is None:
        return "–"
    ends = means.get("intervals", {}).get(key)
    return f"{100 * value:.1f} %" + (f" ({100 * ends[0]:.0f}–{100 * ends[1]:.0f})" if ends else "")


def amount_cell(means: dict[str, Any] | None, key: str) -> str:
    """A mean that is no share, and its interval."""
    value = means.get(key) if means is not None else None
    if means is None or value is None:
        return "–"
    ends = means.get("intervals", {}).get(key)
    return f"{value:.1f}" + (f" ({max(0.0, ends[0]):.1f}–{ends[1]:.1f})" if ends else "")


def difference_cell(found: dict[str, Any] | None) -> str:
    """The interval of a difference of shares, in points, and what it says."""
    if found is None or found["interval"] is None:
        return "–"
    low, high = (f"{100 * end:+.0f}" for end in found["interval"])
    colour = COLOURS[found["verdict"]]
    return f"{low} to {high} [{colour}]{found['verdict']}[/{colour}]"
