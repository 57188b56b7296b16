"""Is the new model better than the one in use? One metric, chosen beforehand, and a level that allows for trying often.

The metric is the share of held-out tasks for which the whole file passes and kills at least one mutant. Both models
answer the same tasks, greedily, once. Were the new one no better, a task that only one of them solves would be the new
one's with probability 1/2 at the most: the p value is the upper tail of that binomial distribution (McNemar's test,
exact and one-sided; McNemar 1947, "Note on the sampling error of the difference between correlated proportions").

Who tries again and again finds a "better" model by chance. So the k-th attempt on a held-out part is tested at
``0.05 / (k (k + 1))``: these sum to 0.05 over all k, so that by Bonferroni's inequality all attempts together, however
many, replace a model by one that is no better with a probability of 5 % at the most.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lowvram_ft.evaluation.comparison import difference

METRIC = "passes_and_kills"
"""The primary metric, of `lowvram_ft.evaluation.metrics.Scores`."""
TOTAL_LEVEL = 0.05
"""Of all attempts on a held-out part together."""


@dataclass(frozen=True)
class Decision:
    """Whether the new model replaces the one in use, and on what ground.

    Attributes:
        better: whether it does.
        k: which attempt on this held-out part it is, from 1.
        level: that the p value has to stay at or below.
        p_value: see the module.
        tasks: how many there are.
        gained: tasks that the new one alone solves.
        lost: tasks that the one in use alone solves.
        before: share that the one in use solves.
        after: share that the new one solves.
        interval: of ``after - before``, 95 %, two-sided, as of a single comparison.
    """

    better: bool
    k: int
    level: float
    p_value: float
    tasks: int
    gained: int
    lost: int
    before: float
    after: float
    interval: tuple[float, float]

    def to_json(self) -> dict[str, Any]:
        """Fields alone, as JSON types."""
        return {**asdict(self), "interval": list(self.interval), "metric": METRIC}


def level(k: int) -> float:
    """The level of the k-th attempt, from 1; all of them sum to `TOTAL_LEVEL`."""
    if k < 1:
        raise ValueError(f"attempts are counted from 1 (got {k})")
    return TOTAL_LEVEL / (k * (k + 1))


def one_sided(gained: int, lost: int) -> float:
    """P value: chance of as many gains or more among the tasks that changed, were gain and loss equally likely."""
    changed = gained + lost
    return float(sum(math.comb(changed, j) for j in range(gained, changed + 1)) / 2**changed)


def least_tasks(k: int) -> int:
    """How many tasks the k-th attempt needs, to find even a model better that gains every one of them."""
    return math.ceil(-math.log2(level(k)))


def decide(before: Mapping[str, bool], after: Mapping[str, bool], k: int) -> Decision:
    """Hold the new model against the one in use.

    Args:
        before: task to whether the one in use solves it; at least one.
        after: the same of the new one.
        k: which attempt on these tasks it is, from 1.

    Raises:
        ValueError: they are not the same tasks, or there are none.
    """
    if before.keys() != after.keys() or not before:
        raise ValueError(f"the same tasks are needed on both sides (got {len(before)} and {len(after)})")
    gained = sum(after[task] and not before[task] for task in before)
    lost = sum(before[task] and not after[task] for task in before)
    p_value = one_sided(gained, lost)
    found = difference([float(before[task]) for task in before], [float(after[task]) for task in before], shares=True)
    return Decision(
        better=p_value <= level(k),
        k=k,
        level=level(k),
        p_value=p_value,
        tasks=len(before),
        gained=gained,
        lost=lost,
        before=found["before"],
        after=found["after"],
        interval=found["interval"],
    )
