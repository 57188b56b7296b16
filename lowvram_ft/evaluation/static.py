"""What the text of a test file says where it cannot be run: nothing of passing, covering or killing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from lowvram_ft.execution import read_shape


def read_text(test: str) -> dict[str, Any]:
    """Facts of a test file that was not run.

    Returns:
        ``parses``, ``writes_tests`` (it parses, and a test function holds a check), ``tests`` (test functions) and
        ``assertions`` (the checks in them).
    """
    shape = read_shape(test)
    return {
        "parses": shape.problem is None,
        "writes_tests": shape.assertions > 0,
        "tests": shape.test_functions,
        "assertions": shape.assertions,
    }


def summarize_static(records: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Means by suite of what was not run; ``static`` is set in each, and no metric that needs a run is there.

    Args:
        records: of ``samples.jsonl``, with ``static``.

    Returns:
        Suite to ``static``, ``tasks``, ``samples_per_task``, ``parses``, ``writes_tests`` and ``assertions_per_test``
        (0 where there is no test), each a mean over the samples of a task first, then over tasks, and ``tests``.
    """
    suites: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        suites[record["suite"]][record["task"]].append(record["static"])
    found: dict[str, dict[str, Any]] = {}
    for suite, by_task in suites.items():
        tasks = list(by_task.values())
        found[suite] = {
            "static": True,
            "tasks": len(tasks),
            "samples_per_task": min(map(len, tasks)),
            "parses": _mean(_mean(float(facts["parses"]) for facts in task) for task in tasks),
            "writes_tests": _mean(_mean(float(facts["writes_tests"]) for facts in task) for task in tasks),
            "assertions_per_test": _mean(_mean(_rate(facts) for facts in task) for task in tasks),
            "tests": sum(facts["tests"] for task in tasks for facts in task),
        }
    return found


def _rate(facts: Mapping[str, Any]) -> float:
    return float(facts["assertions"]) / facts["tests"] if facts["tests"] else 0.0


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers)
