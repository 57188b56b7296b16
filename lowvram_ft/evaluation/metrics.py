"""Metrics over samples. A file that does not parse, or holds no test, counts zero everywhere: no average hides it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Scores:
    """What one generated test file is worth.

    Attributes:
        writes_tests: it parses and holds at least one test with an assertion.
        n_tests: tests that were collected.
        n_passed: those that pass on the correct code.
        passes: at least one test, and every one passes.
        useful: its passing tests alone kill at least one mutant.
        line_coverage: share of the statements reached, 0 to 1.
        branch_coverage: share of the branches reached, 0 to 1; of the lines where there is no branch.
        mutation_score: share of the mutants that its passing tests kill, 0 to 1.
    """

    writes_tests: bool
    n_tests: int
    n_passed: int
    passes: bool
    useful: bool
    line_coverage: float
    branch_coverage: float
    mutation_score: float

    @property
    def single_tests_pass(self) -> float:
        """Share of its tests that pass; 0 where there is none."""
        return self.n_passed / self.n_tests if self.n_tests else 0.0

    def to_json(self) -> dict[str, Any]:
        """Every value."""
        return asdict(self)


METRICS = (
    "writes_tests",
    "single_tests_pass",
    "useful",
    "passes",
    "line_coverage",
    "branch_coverage",
    "mutation_score",
)
"""The fields and properties of `Scores` that are averaged, in the order of a table."""


def pass_at_k(n: int, c: int, k: int) -> float:
    """Unbiased estimate of the chance that one of ``k`` samples passes.

    ``1 - C(n - c, k) / C(n, k)``, from Chen et al. 2021 (arXiv:2107.03374), equation 1.

    Args:
        n: samples taken, at least ``k``.
        c: those that pass.
        k: samples allowed.
    """
    if not 0 < k <= n or not 0 <= c <= n:
        raise ValueError(f"pass@k needs 0 < k <= n and 0 <= c <= n (n {n}, c {c}, k {k})")
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def summarize(samples: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Means by suite.

    Each metric is averaged over the samples of a task first, then over tasks, so that every task weighs the same.

    Args:
        samples: records of ``samples.jsonl``: ``suite``, ``task``, ``scores``, ``seconds``, ``n_tokens``.

    Returns:
        Suite to: the means of `METRICS`, ``pass@1``, ``pass@3`` (None below three samples), ``tests_passed`` and
        ``tests`` (counts over all samples), ``tasks``, ``samples_per_task``.
    """
    suites: dict[str, dict[str, list[Scores]]] = defaultdict(lambda: defaultdict(list))
    for sample in samples:
        suites[sample["suite"]][sample["task"]].append(Scores(**sample["scores"]))
    return {suite: _summary(list(tasks.values())) for suite, tasks in suites.items()}


def _summary(tasks: Sequence[Sequence[Scores]]) -> dict[str, Any]:
    means: dict[str, Any] = {
        key: _mean([_mean([float(getattr(scores, key)) for scores in task]) for task in tasks]) for key in METRICS
    }
    fewest = min(len(task) for task in tasks)
    for k in (1, 3):
        passed = [pass_at_k(len(task), sum(s.passes for s in task), k) for task in tasks] if fewest >= k else []
        means[f"pass@{k}"] = _mean(passed) if passed else None
    every = [scores for task in tasks for scores in task]
    means["tests_passed"] = sum(scores.n_passed for scores in every)
    means["tests"] = sum(scores.n_tests for scores in every)
    means["tasks"] = len(tasks)
    means["samples_per_task"] = fewest
    return means


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
