"""Metrics over samples. A file that does not parse, or holds no test, counts zero everywhere: no average hides it."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lowvram_ft.evaluation.intervals import (
    Interval,
    bootstrap_interval,
    quantile_interval,
    ratio_interval,
    share_interval,
)
from lowvram_ft.inference import percentile


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
        parses: it is Python.
        collects: pytest imports it and finds a test in it.
        assertions_per_test: checks in a test function, on the average; 0 where there is none.
        false_acceptance: share of the given wrong solutions on which it passes; 1 for a file that is no test. None
            where the task gives none.
        false_rejection: 1 where it does not pass on the correct code; None where the task gives no wrong solution.
    """

    writes_tests: bool
    n_tests: int
    n_passed: int
    passes: bool
    useful: bool
    line_coverage: float
    branch_coverage: float
    mutation_score: float
    parses: bool = False
    collects: bool = False
    assertions_per_test: float = 0.0
    false_acceptance: float | None = None
    false_rejection: float | None = None

    @property
    def single_tests_pass(self) -> float:
        """Share of its tests that pass; 0 where there is none."""
        return self.n_passed / self.n_tests if self.n_tests else 0.0

    @property
    def passes_and_kills(self) -> bool:
        """Every test passes, and they kill at least one mutant: the file can be kept as it is."""
        return self.passes and self.useful

    def to_json(self) -> dict[str, Any]:
        """Every value."""
        return asdict(self)


METRICS = (
    "parses",
    "collects",
    "writes_tests",
    "single_tests_pass",
    "useful",
    "passes",
    "passes_and_kills",
    "line_coverage",
    "branch_coverage",
    "mutation_score",
)
"""The fields and properties of `Scores` that are averaged, in the order of a table; each from 0 to 1, the higher
the better."""

ERRORS = ("false_acceptance", "false_rejection")
"""Averaged over the tasks that give wrong solutions; each from 0 to 1, lower is better."""

AMOUNTS = ("assertions_per_test", "test_lines", "n_tokens")
"""Averaged too, without a better end: checks a test function, lines of a test file that are not blank, tokens of an
answer."""

PASS_AT = (1, 3)
"""The k of Pass@k."""


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


def task_values(samples: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """Every metric of every task, averaged over its samples.

    Args:
        samples: as for `summarize`.

    Returns:
        Suite to metric to task to value, in the order of the tasks. A metric that a task does not have (an error rate
        without wrong solutions, Pass@k with fewer than k samples, the length of what is not in the record) is left out.
    """
    return {
        suite: _columns({task: _values(records) for task, records in tasks.items()})
        for suite, tasks in _by_task(samples).items()
    }


def summarize(samples: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Means by suite, each with its interval of 95 %.

    Each metric is averaged over the samples of a task first, then over tasks, so that every task weighs the same.

    Args:
        samples: records of ``samples.jsonl``: ``suite``, ``task``, ``scores``; for lengths ``test``, ``n_tokens``; for
            the count of reasons ``reason``.

    Returns:
        Suite to: the means of `METRICS`, `ERRORS` and `AMOUNTS`, ``pass@1``, ``pass@3`` (None below three samples of
        a task); ``intervals`` (metric to its ends, see `lowvram_ft.evaluation.intervals`); ``tests_passed`` and
        ``tests`` (counts over all samples), ``tasks``, ``samples_per_task``, ``reasons`` (kind of reason to the number
        of samples).
    """
    return {suite: _summary(tasks) for suite, tasks in _by_task(samples).items()}


def speed(batches: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """How fast test files were generated.

    The answers of a batch share its time, so a batch is the unit of every interval here.

    Args:
        batches: the records of each: ``seconds``, ``n_tokens``.

    Returns:
        ``seconds_per_file`` (``p50``, ``p95``, ``p50_interval``, ``p95_interval``, whose ends are None where so few
        batches cannot bound them, and ``batches``), ``tok_per_s`` (``value``, ``interval``; None without time).
    """
    seconds = [record["seconds"] for batch in batches for record in batch] or [0.0]
    shares = [_mean([record["seconds"] for record in batch]) for batch in batches]
    totals = [sum(record["seconds"] for record in batch) for batch in batches]
    tokens = [sum(record["n_tokens"] for record in batch) for batch in batches]
    files: dict[str, Any] = {"batches": len(batches)}
    for name, share in (("p50", 0.5), ("p95", 0.95)):
        files[name] = percentile(seconds, share)
        files[f"{name}_interval"] = quantile_interval(shares, share)
    timed = sum(totals) > 0
    rate = {"value": sum(tokens) / sum(totals), "interval": ratio_interval(tokens, totals)} if timed else None
    return {"seconds_per_file": files, "tok_per_s": rate}


def _by_task(samples: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, list[Mapping[str, Any]]]]:
    suites: dict[str, dict[str, list[Mapping[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for sample in samples:
        suites[sample["suite"]][sample["task"]].append(sample)
    return suites


def _summary(tasks: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    columns = _columns({task: _values(records) for task, records in tasks.items()})
    every = [record for records in tasks.values() for record in records]
    scores = [Scores(**record["scores"]) for record in every]
    fewest = min(map(len, tasks.values()))
    means: dict[str, Any] = {key: _mean(list(columns[key].values())) for key in METRICS}
    for k in PASS_AT:
        means[f"pass@{k}"] = _mean(list(columns[f"pass@{k}"].values())) if fewest >= k else None
    for key in (*ERRORS, *AMOUNTS):
        means[key] = _mean(list(columns[key].values())) if key in columns else None
    means["intervals"] = {
        key: _interval(key, list(columns[key].values())) for key, value in means.items() if value is not None
    }
    means["tests_passed"] = sum(score.n_passed for score in scores)
    means["tests"] = sum(score.n_tests for score in scores)
    means["tasks"] = len(tasks)
    means["samples_per_task"] = fewest
    means["reasons"] = dict(Counter(record["reason"].partition(":")[0] for record in every if "reason" in record))
    return means


def _values(records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Of one task."""
    scores = [Scores(**record["scores"]) for record in records]
    found = {key: _mean([float(getattr(score, key)) for score in scores]) for key in METRICS}
    n, passed = len(scores), sum(score.passes for score in scores)
    found |= {f"pass@{k}": pass_at_k(n, passed, k) for k in PASS_AT if n >= k}
    for key in ERRORS:
        errors = [value for score in scores if (value := getattr(score, key)) is not None]
        if errors:
            found[key] = _mean(errors)
    found["assertions_per_test"] = _mean([score.assertions_per_test for score in scores])
    if all("test" in record for record in records):
        found["test_lines"] = _mean([sum(map(bool, map(str.strip, r["test"].splitlines()))) for r in records])
    if all("n_tokens" in record for record in records):
        found["n_tokens"] = _mean([record["n_tokens"] for record in records])
    return found


def _columns(tasks: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Task to metric to value, turned round."""
    found: dict[str, dict[str, float]] = defaultdict(dict)
    for task, values in tasks.items():
        for key, value in values.items():
            found[key][task] = value
    return dict(found)


def _interval(key: str, values: Sequence[float]) -> Interval | None:
    return bootstrap_interval(values) if key in AMOUNTS else share_interval(values)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
