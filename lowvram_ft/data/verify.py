"""Verify rows by running them: the test passes on the code, and kills mutants of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

from lowvram_ft.data.row import Row
from lowvram_ft.execution import Judgement, Limits, VerdictCache, judge, run_many, run_tests


@dataclass(frozen=True)
class RowVerdict:
    """What running a row showed.

    Attributes:
        id: of the row.
        passes: its test passes on its code.
        mutation_score: share of the mutants that it kills, 0 to 1.
        failed_test_fails: for a failure trace, whether its failed test really fails; None for other rows.
        reason: why it does not pass; empty where it does.
    """

    id: str
    passes: bool
    mutation_score: float
    failed_test_fails: bool | None
    reason: str

    def to_json(self) -> dict[str, Any]:
        """Every value."""
        return asdict(self)

    def ok(self, min_mutation_score: float) -> bool:
        """Whether the row is fit to teach."""
        return self.passes and self.mutation_score >= min_mutation_score and self.failed_test_fails is not False


def verify_rows(
    rows: Iterable[tuple[Row, str | None]],
    on_row: Callable[[int, RowVerdict], None] | None = None,
    cache: VerdictCache | None = None,
) -> list[RowVerdict]:
    """Run rows, several at a time.

    Args:
        rows: each with its failed test, or None.
        on_row: called with the place of each row and its verdict, as soon as it is there.
        cache: verdicts of earlier runs.

    Raises:
        MachineError: the processes that run tests cannot be started.
    """
    return run_many(lambda job: _verify(job, cache), rows, on_result=on_row)


def _verify(job: tuple[Row, str | None], cache: VerdictCache | None) -> RowVerdict:
    row, failed = job
    found = judge(row.code, row.module, row.test, Limits(), cache=cache)
    fails = None
    if failed is not None:
        fails = not run_tests(row.code, row.module, failed, Limits(), cache=cache).all_passed
    passes = found.verdict.all_passed
    return RowVerdict(row.id, passes, found.mutation_score, fails, "" if passes else _reason(found))


def _reason(found: Judgement) -> str:
    verdict = found.verdict
    bad = [result.name for result in verdict.results if result.outcome != "passed"]
    return f"{verdict.status}: {', '.join(bad[:3])}" if bad else verdict.status
