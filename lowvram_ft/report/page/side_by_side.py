"""Several runs side by side: what they reached, what they cost, and in what they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lowvram_ft.report.between import differences
from lowvram_ft.report.cells import RATES
from lowvram_ft.report.page.figures import NOTHING, plain, seconds, size
from lowvram_ft.report.page.reading import AFTER, Run
from lowvram_ft.report.page.results import AMOUNTS, cell, difference
from lowvram_ft.report.page.training import curves


def side_by_side(runs: Sequence[Run]) -> dict[str, Any]:
    """Hold runs against each other.

    Returns:
        ``labels``, ``suites`` (``name``, ``rows`` of metrics with a cell a run, ``values`` for the chart,
        ``same_tasks``, ``paired``: see `_paired`), ``costs`` (label to a text a run), ``settings`` and ``versions``
        that differ (key to a text a run), ``losses`` (for the chart).
    """
    between = differences(runs)
    return {
        "labels": [run.label for run in runs],
        "suites": [_suite(runs, name, between.get(name, ())) for name in _suites(runs)],
        "costs": {label: cells for label, cells in _costs(runs).items() if any(text != NOTHING for text in cells)},
        "settings": _differing([_settings(run) for run in runs]),
        "versions": _differing([dict(run.data.get("versions", {})) for run in runs]),
        "losses": [{"run": run.label, **point} for run in runs for point in curves(run)["trained"]],
    }


def _suites(runs: Sequence[Run]) -> list[str]:
    return list(dict.fromkeys(name for run in runs for name in run.steps.get(AFTER, {}).get("suites", {})))


def _suite(runs: Sequence[Run], name: str, between: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    means = [run.steps.get(AFTER, {}).get("suites", {}).get(name) for run in runs]
    tasks = [{key[:2] for key in run.samples.get(AFTER, {}) if key[0] == name} for run in runs]
    evaluated = [found for found, mean in zip(tasks, means, strict=True) if mean is not None]
    return {
        "name": name,
        "same_tasks": all(found == evaluated[0] for found in evaluated),
        "rows": [
            {"label": label, "cells": [cell(found, key) for found in means]}
            for key, label in (RATES | AMOUNTS).items()
            if any(found is not None and found.get(key) is not None for found in means)
        ],
        "tasks": [plain(found["tasks"]) if found is not None else NOTHING for found in means],
        "paired": _paired(between),
        "values": [value for run, found in zip(runs, means, strict=True) for value in _values(run.label, found)],
    }


def _paired(between: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """What `differences` found, as text.

    Returns:
        ``to`` (the first run), ``columns`` (the others), ``tasks`` (a text each: on how many both were evaluated) and
        ``rows`` (a metric each: ``label``, ``cells`` with ``text``, ``verdict`` and ``why``, or None). None where no
        two runs share a task.
    """
    if not any(found["metrics"] for found in between):
        return None
    return {
        "to": between[0]["to"],
        "columns": [found["run"] for found in between],
        "tasks": [plain(found["tasks"]) for found in between],
        "rows": [
            {"label": label, "cells": cells}
            for key, label in (RATES | AMOUNTS).items()
            if any(cells := [difference(found["metrics"].get(key), shares=key in RATES) for found in between])
        ],
    }


def _values(label: str, means: dict[str, Any] | None) -> list[dict[str, Any]]:
    found = []
    for key, metric in RATES.items():
        if means is None or means.get(key) is None or key.startswith("pass@"):
            continue
        low, high = (means.get("intervals") or {}).get(key) or (None, None)
        ends = [None if end is None else round(100 * end, 2) for end in (low, high)]
        found.append(
            {"metric": metric, "when": label, "value": round(100 * means[key], 2), "low": ends[0], "high": ends[1]}
        )
    return found


def _costs(runs: Sequence[Run]) -> dict[str, list[str]]:
    def of(step: str, key: str, words: Any) -> list[str]:
        return [words(run.steps[step].get(key)) if step in run.steps else NOTHING for run in runs]

    trained = [[value for step, value in run.steps.items() if step.startswith("train:")] for run in runs]
    return {
        "base model": [str(run.steps.get("plan", {}).get("base") or NOTHING) for run in runs],
        "stages trained": [f"{len(found)} of {len(run.stages)}" for run, found in zip(runs, trained, strict=True)],
        "optimizer steps": [
            plain(sum(one.get("steps") or 0 for one in found)) if found else NOTHING for found in trained
        ],
        "last loss": [f"{found[-1]['last_loss']:.3f}" if found else NOTHING for found in trained],
        "training peak": [
            size(max((one.get("peak_memory_bytes") or 0 for one in found), default=0) or None) for found in trained
        ],
        "model file": of("export", "size_bytes", size),
        "type": of("export", "quant", lambda value: value or NOTHING),
        "verified": of("verify", "ok", plain),
        "a file, median": of("bench", "file_s_p50", seconds),
        "a file, p95": of("bench", "file_s_p95", seconds),
        "first token": of("bench", "first_token_s_p50", seconds),
        "started": [str(run.data.get("started", NOTHING))[:16].replace("T", " ") for run in runs],
    }


def _settings(run: Run) -> dict[str, str]:
    """Every setting; one that differs between the stages of the run, with each stage's value."""
    stages = run.data["recipe"].get("stages", [])
    values: dict[str, dict[str, str]] = {}
    for stage in stages:
        for section, its in stage["recipe"].items():
            for key, value in its.items() if isinstance(its, dict) else ():
                values.setdefault(f"{section}.{key}", {})[stage["name"]] = plain(value)
    found = {"stages": ", ".join(stage["name"] for stage in stages)}
    for key, by_stage in values.items():
        words = [f"{name}: {value}" for name, value in by_stage.items()]
        found[key] = next(iter(by_stage.values())) if len(set(by_stage.values())) == 1 else "; ".join(words)
    return found


def _differing(found: Sequence[dict[str, str]]) -> dict[str, list[str]]:
    keys = dict.fromkeys(key for one in found for key in one)
    cells = {key: [one.get(key, NOTHING) for one in found] for key in keys}
    return {key: texts for key, texts in cells.items() if len(set(texts)) > 1}
