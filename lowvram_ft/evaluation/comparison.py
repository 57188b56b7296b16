"""Before held against after, paired by task: by how much, how sure, and in a word whether it is better.

=================================  ===================================================================
difference of                      method
=================================  ===================================================================
a rate, one sample a task          Tango's score interval; McNemar's exact test beside it
a mean of shares, from 0 to 1      Student's, with one change more than there is
a mean of anything else            studentized bootstrap over the differences of tasks
=================================  ===================================================================
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lowvram_ft.evaluation.intervals import CONFIDENCE, NORMAL, Floats, Interval, bootstrap_interval, student_t
from lowvram_ft.evaluation.metrics import AMOUNTS, ERRORS, task_values
from lowvram_ft.run_dir import read_jsonl

_HALVINGS = 50
"""Of an interval of length 2: to below 1e-14."""
_ADDED = 0.8
"""Of a change: how much of one is added where means of shares are compared."""
_LARGEST = 0.5
"""Of a task that changes by all of 1: how much of one is mixed into what a typical change is."""


def mcnemar(gained: int, lost: int) -> float:
    """P value of McNemar's test, exact and two-sided: were gain and loss equally likely, how odd would this be?

    Args:
        gained: tasks that fail before and pass after.
        lost: tasks that pass before and fail after.
    """
    changed = gained + lost
    tail = sum(math.comb(changed, k) for k in range(min(gained, lost) + 1))
    return float(min(1.0, tail / 2 ** (changed - 1))) if changed else 1.0


def rate_difference_ends(gained: Floats, lost: Floats, n: int) -> tuple[Floats, Floats]:
    """Ends of many differences of paired rates at once: Tango's score interval.

    The differences that the score test with the restricted maximum likelihood estimate of the losses does not refuse
    (Tango 1998, "Equivalence test and confidence interval for the difference in proportions for the paired-sample
    design", equations 3 and 7), by bisection.

    Args:
        gained: (...), tasks that fail before and pass after.
        lost: (...), the other way round.
        n: all tasks.

    Returns:
        Lower and upper ends, (...), from -1 to 1.
    """

    def score(delta: Floats) -> Floats:
        linear = (2 * n - gained + lost) * delta - gained - lost
        losses = (np.sqrt(np.maximum(linear**2 + 8 * n * lost * delta * (1 - delta), 0.0)) - linear) / (4 * n)
        variance = n * (2 * losses + delta * (1 - delta))
        return (gained - lost - n * delta) / np.sqrt(np.maximum(variance, 1e-300))

    found = (gained - lost) / n
    ends = []
    for limit, sign in ((-1.0, 1.0), (1.0, -1.0)):
        refused, kept = np.full_like(found, limit), found
        for _ in range(_HALVINGS):
            middle = (refused + kept) / 2
            outside = sign * score(middle) > NORMAL
            refused, kept = np.where(outside, middle, refused), np.where(outside, kept, middle)
        ends.append(np.where(sign * score(np.full_like(found, limit)) > NORMAL, kept, limit))
    return ends[0], ends[1]


def share_difference_ends(before: Floats, after: Floats) -> tuple[Floats, Floats]:
    """Ends of many differences of paired means of shares at once: Student's, with one change more than there is.

    Where few tasks change, their spread is seen too small, or not at all. So most of one more change, in neither
    direction, is added to the sum of squares: of the typical size of those that there are (their mean square), drawn
    towards the largest possible, 1, as if half a task more had changed by that. The idea is that of Agresti and Caffo
    2000 ("Simple and effective confidence intervals for proportions and differences of proportions result from adding
    two successes and two failures") and, for pairs, of Bonett and Price 2012; that the estimate itself stays where it
    is, and both weights, come from simulation (``benchmarks/intervals.py``).

    Args:
        before: (..., tasks), each from 0 to 1.
        after: the same.

    Returns:
        Lower and upper ends, (...), from -1 to 1; those of a single task, which shows no spread, are -1 and 1.
    """
    change = after - before
    n = change.shape[-1]
    mean = change.mean(-1)
    if n < 2:
        return np.full_like(mean, -1.0), np.full_like(mean, 1.0)
    squares = (change**2).sum(-1)
    # how many equal changes would have this sum and this sum of squares
    changed = np.clip(np.abs(change).sum(-1) ** 2 / np.maximum(squares, 1e-300), 0.0, n)
    typical = (squares + _LARGEST) / (changed + _LARGEST)
    variance = (((change - mean[..., None]) ** 2).sum(-1) + _ADDED * typical) / (n - 1)
    half = student_t(n - 1) * np.sqrt(variance / n)
    return np.maximum(mean - half, -1.0), np.minimum(mean + half, 1.0)


def difference(before: Sequence[float], after: Sequence[float], *, shares: bool) -> dict[str, Any]:
    """Hold the values of the same tasks against each other.

    Args:
        before: one a task; at least one.
        after: of the same tasks, in the same order.
        shares: the values are from 0 to 1.

    Returns:
        ``before`` and ``after`` (means), ``difference``, ``interval`` (None where there is none), ``method``, and for
        values that are all 0 or 1 ``gained``, ``lost`` and ``p_value``.
    """
    old, new = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    found: dict[str, Any] = {
        "before": float(old.mean()),
        "after": float(new.mean()),
        "difference": float(new.mean() - old.mean()),
    }
    if not shares:
        return found | {"interval": bootstrap_interval((new - old).tolist()), "method": "bootstrap"}
    if np.isin(old, (0, 1)).all() and np.isin(new, (0, 1)).all():
        gained, lost = int((new > old).sum()), int((new < old).sum())
        low, high = rate_difference_ends(np.asarray(float(gained)), np.asarray(float(lost)), old.size)
        method = {"method": "tango", "gained": gained, "lost": lost, "p_value": mcnemar(gained, lost)}
        return found | {"interval": _pair(low, high)} | method
    return found | {"interval": _pair(*share_difference_ends(old, new)), "method": "student"}


def verdict(found: Mapping[str, Any], *, higher_is_better: bool = True) -> str:
    """``better``, ``worse``, or ``undecided``: where the interval holds 0, or McNemar's test is not below 0.05.

    Args:
        found: from `difference`.
        higher_is_better: False for an error rate.
    """
    interval: Interval | None = found["interval"]
    sure = interval is not None and not interval[0] <= 0 <= interval[1]
    if not sure or found.get("p_value", 0.0) > 1 - CONFIDENCE:
        return "undecided"
    return "better" if (found["difference"] > 0) == higher_is_better else "worse"


def compare(
    before: Iterable[Mapping[str, Any]], after: Iterable[Mapping[str, Any]]
) -> dict[str, dict[str, dict[str, Any]]]:
    """Compare two evaluations, task by task.

    Args:
        before: records of ``samples.jsonl``, as for `lowvram_ft.evaluation.metrics.summarize`.
        after: the same. Tasks that are on one side alone are left out.

    Returns:
        Suite to metric to what `difference` finds, with ``tasks`` and, but for lengths, ``verdict``. A suite without a
        common task is left out, and so is a metric that the tasks do not have.
    """
    old, new = task_values(before), task_values(after)
    return {
        suite: {
            metric: found
            for metric in old[suite]
            if (found := _compare_metric(metric, old[suite][metric], new[suite].get(metric, {}))) is not None
        }
        for suite in old
        if suite in new and old[suite]["passes"].keys() & new[suite]["passes"].keys()
    }


def compare_steps(samples: Path, before: str, after: str) -> dict[str, dict[str, dict[str, Any]]]:
    """`compare` two evaluations that are in one ``samples.jsonl``.

    Args:
        samples: the file; of records with one key the last counts, and what was not run is passed over.
        before: name of a step, such as ``"eval:before"``.
        after: name of the other one.
    """
    sides: dict[str, dict[str, dict[str, Any]]] = {before: {}, after: {}}
    for record in read_jsonl(samples):
        if record.get("step") in sides and record.get("scores") is not None:
            sides[record["step"]][record["key"]] = record
    return compare(sides[before].values(), sides[after].values())


def _compare_metric(metric: str, before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, Any] | None:
    tasks = [task for task in before if task in after]
    if not tasks:
        return None
    shares = metric not in AMOUNTS
    found = difference([before[task] for task in tasks], [after[task] for task in tasks], shares=shares)
    found["tasks"] = len(tasks)
    if shares:
        found["verdict"] = verdict(found, higher_is_better=metric not in ERRORS)
    return found


def _pair(low: Any, high: Any) -> Interval:
    return float(low), float(high)
