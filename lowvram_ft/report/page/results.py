"""What the evaluations of a run say: before beside after, stage by stage, and what became of the files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lowvram_ft.report.cells import RATES
from lowvram_ft.report.page.figures import NOTHING, amount, amounts, percent, percents, points
from lowvram_ft.report.page.reading import AFTER, BEFORE, Run

AMOUNTS = {"assertions_per_test": "checks a test", "test_lines": "lines a file", "n_tokens": "tokens an answer"}
"""Key of a mean that is no share to what people call it."""
MEANING = {
    "parses": "the answer is Python",
    "collects": "pytest finds tests in it",
    "writes_tests": "a test asserts something",
    "single_tests_pass": "of all tests of a file",
    "useful": "its passing tests kill at least one mutant",
    "passes": "every test of the file passes",
    "passes_and_kills": "every test passes, and a planted fault is caught",
    "line_coverage": "statements that the tests run",
    "branch_coverage": "branches that the tests take",
    "mutation_score": "planted faults that passing tests catch",
    "pass@1": "whole file passes, one try",
    "pass@3": "whole file passes, three tries",
    "false_acceptance": "passes on a wrong solution; lower is better",
    "false_rejection": "fails on the right solution; lower is better",
}
"""Key of a mean to what it says, for people who meet it for the first time."""
REASONS = (
    "passes and kills", "some tests fail", "kills nothing", "fails", "skipped", "no check", "no test", "stopped",
    "not collected", "no Python", "empty", "prompt too long", "not run",
)  # fmt: skip
"""Kinds of reasons, the best first (docs/run-directory.md)."""


def suites(run: Run) -> list[dict[str, Any]]:
    """The suites of a run.

    Returns:
        Of each: ``name``, ``tasks``, ``samples_per_task``, ``static`` (read and not run), ``columns`` (what the
        evaluations are called), ``rows`` (a metric each: ``label``, ``meaning``, ``cells`` with ``value`` and
        ``interval``, ``difference`` with ``text``, ``verdict`` and ``why``), ``values`` (for the chart), ``reasons``.
    """
    evaluations = {step: name for step, name in run.evaluations.items() if step in run.steps}
    names = dict.fromkeys(name for step in evaluations for name in run.steps[step]["suites"])
    return [_suite(run, name, evaluations) for name in names]


def _suite(run: Run, name: str, evaluations: Mapping[str, str]) -> dict[str, Any]:
    means = {step: run.steps[step]["suites"].get(name) for step in evaluations}
    differences = run.steps.get("compare", {}).get("suites", {}).get(name, {})
    shown = next(found for found in reversed(list(means.values())) if found is not None)
    rows = []
    for key, label in (RATES | AMOUNTS).items():
        if not any(found is not None and found.get(key) is not None for found in means.values()):
            continue
        if key == "pass@1" and shown.get("samples_per_task", 1) == 1:  # the same as whole files passing
            continue
        rows.append(
            {
                "key": key,
                "label": label,
                "meaning": MEANING.get(key, ""),
                "cells": [cell(found, key) for found in means.values()],
                "difference": difference(differences.get(key), shares=key in RATES),
            }
        )
    return {
        "name": name,
        "tasks": shown["tasks"],
        "samples_per_task": shown.get("samples_per_task", 1),
        "static": bool(shown.get("static")),
        "columns": list(evaluations.values()),
        "compared": bool(differences),
        "rows": rows,
        "values": _values(means, evaluations),
        "reasons": _reasons(means, evaluations),
        "counts": [_counts(found) for found in means.values()],
        "answers": _answers(shown),
    }


def cell(means: Mapping[str, Any] | None, key: str) -> dict[str, str]:
    """A mean and its interval, as text."""
    value = means.get(key) if means is not None else None
    if means is None or value is None:
        return {"value": NOTHING, "interval": ""}
    ends = means.get("intervals", {}).get(key)
    if key in RATES:
        return {"value": percent(value), "interval": percents(ends)}
    return {"value": amount(value), "interval": amounts(ends)}


def difference(found: Mapping[str, Any] | None, *, shares: bool) -> dict[str, str] | None:
    """A paired difference as text: its interval, the verdict, and where that comes from; None where there is none."""
    if found is None or found["interval"] is None:
        return None
    low, high = found["interval"]
    text = points(found["interval"]) if shares else f"{low:+.1f} to {high:+.1f}"
    why = f"{found['tasks']} tasks on both sides; {found['method']}"
    if "gained" in found:
        why += f"; {found['gained']} gained, {found['lost']} lost, p = {found['p_value']:.2g}"
    return {"text": text, "verdict": found.get("verdict", ""), "why": why}


def stage_by_stage(run: Run) -> list[dict[str, Any]]:
    """What each stage changed, where the stages were compared.

    Returns:
        Suites, each with ``name``, ``columns`` (stages) and ``rows`` (metric; a difference a stage from the one
        before it, and from the base).
    """
    compared = run.steps.get("compare:stages", {}).get("stages", [])
    names = dict.fromkeys(suite for stage in compared for suite in stage["since_before"])
    return [
        {
            "name": name,
            "columns": [stage["name"] for stage in compared],
            "rows": [
                {
                    "label": label,
                    "since_before": [
                        difference(_of(stage, "since_before", name, key), shares=True) for stage in compared
                    ],
                    "since_base": [difference(_of(stage, "since_base", name, key), shares=True) for stage in compared],
                }
                for key, label in RATES.items()
                if any(_of(stage, "since_before", name, key) for stage in compared)
            ],
        }
        for name in names
    ]


def _of(stage: Mapping[str, Any], since: str, suite: str, key: str) -> Mapping[str, Any] | None:
    found: Mapping[str, Any] | None = stage[since].get(suite, {}).get(key)
    return found


def _values(means: Mapping[str, Any], evaluations: Mapping[str, str]) -> list[dict[str, Any]]:
    """Rates with their intervals in percent, for the chart; with stages between, before and after alone."""
    ends = {step for step in (BEFORE, AFTER) if step in evaluations} or set(list(evaluations)[-1:])
    found = []
    for step in evaluations:
        for key, label in RATES.items():
            if step not in ends or key.startswith("pass@") or means[step] is None or means[step].get(key) is None:
                continue
            low, high = (means[step].get("intervals") or {}).get(key) or (None, None)
            found.append(
                {
                    "metric": label,
                    "when": evaluations[step],
                    "value": round(100 * means[step][key], 2),
                    "low": None if low is None else round(100 * low, 2),
                    "high": None if high is None else round(100 * high, 2),
                }
            )
    return found


def _reasons(means: Mapping[str, Any], evaluations: Mapping[str, str]) -> list[dict[str, Any]]:
    """What became of the files, the best first, a record for each kind and evaluation."""
    order = {kind: place for place, kind in enumerate(REASONS)}
    return [
        {"when": evaluations[step], "kind": kind, "files": count, "order": order.get(kind, len(order))}
        for step, found in means.items()
        if found is not None
        for kind, count in sorted(found.get("reasons", {}).items(), key=lambda item: order.get(item[0], len(order)))
    ]


def _counts(means: Mapping[str, Any] | None) -> str:
    if means is None or "tests" not in means:
        return NOTHING
    return f"{means.get('tests_passed', NOTHING)} / {means['tests']}"


def _answers(means: Mapping[str, Any]) -> list[str]:
    """Of suites with refinements: the share that is solved within so many answers."""
    return [percent(rate["value"]) for rate in (means.get("answers") or {}).values()]
