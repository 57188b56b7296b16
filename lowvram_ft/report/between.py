"""Differences between runs, paired by task: the first one against each of the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lowvram_ft.evaluation.comparison import compare
from lowvram_ft.report.page.reading import AFTER, Run


def differences(runs: Sequence[Run]) -> dict[str, list[dict[str, Any]]]:
    """Hold what each run reached after training against the first one, on the tasks that both have.

    Args:
        runs: the one to compare with first. A task is the same where its name and its code are: a repository that has
            changed between two evaluations asks for something else.

    Returns:
        Suite to an entry for each run but the first: ``run`` and ``to`` (labels), ``tasks`` (how many both have, and
        each of them ran), ``metrics`` (metric to what `lowvram_ft.evaluation.comparison.difference` finds, with
        ``verdict``; empty where they share no task). A suite that the first run does not have is left out.
    """
    first = runs[0]
    own = _of_suites(first)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in own}
    for run in runs[1:]:
        its = _of_suites(run)
        for name, tasks in own.items():
            found[name].append({"run": run.label, "to": first.label, **_compared(tasks, its.get(name, {}))})
    return found


def _of_suites(run: Run) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Suite to task to its samples, of those that could be run."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for (suite, task, _), record in run.samples.get(AFTER, {}).items():
        if record.get("scores") is not None:
            found.setdefault(suite, {}).setdefault(task, []).append(record)
    return found


def _compared(
    own: Mapping[str, Sequence[dict[str, Any]]], its: Mapping[str, Sequence[dict[str, Any]]]
) -> dict[str, Any]:
    both = [task for task in own if task in its and own[task][0].get("code") == its[task][0].get("code")]
    before, after = ([record for task in both for record in side[task]] for side in (own, its))
    metrics = next(iter(compare(before, after).values()), {})
    return {"tasks": len(both), "metrics": metrics}
