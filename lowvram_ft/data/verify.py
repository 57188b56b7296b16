"""Verify rows by running them: the test passes, again and again in other conditions, and kills mutants."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from lowvram_ft.data.row import Row
from lowvram_ft.execution import Judgement, Limits, Variation, Verdict, VerdictCache, judge, run_many, run_tests
from lowvram_ft.execution.place import root_problem

VARIATIONS = (Variation(order=1, hash_seed=1), Variation(order=2, hash_seed=2))
"""After the usual run, a test has to pass in these."""


@dataclass(frozen=True)
class RowVerdict:
    """What running a row showed.

    Attributes:
        id: of the row.
        executed: whether it could be run at all; the rest says nothing where not.
        passes: its test passes on its code.
        flaky: it does not in another order of the tests, or with another hash seed.
        mutation_score: share of the mutants that it kills, 0 to 1.
        failed_test_fails: for a failure trace, whether its failed test really fails; None for other rows.
        reason: why it does not hold, or was not run; empty where it does.
    """

    id: str
    executed: bool
    passes: bool
    flaky: bool
    mutation_score: float
    failed_test_fails: bool | None
    reason: str

    def to_json(self) -> dict[str, Any]:
        """Every value."""
        return asdict(self)

    def problem(self, min_mutation_score: float) -> str | None:
        """Why the row is not fit to teach, the same few words for all of a kind; None where it is, or was not run."""
        if not self.executed:
            return None
        if not self.passes:
            return "its test fails"
        if self.flaky:
            return "its test is flaky"
        if self.failed_test_fails is False:
            return "its failed test passes"
        if self.mutation_score < min_mutation_score:
            return f"kills less than {100 * min_mutation_score:g} % of the mutants"
        return None


def verify_rows(
    rows: Sequence[Row],
    *,
    repos: Path | None = None,
    cache: VerdictCache | None = None,
    on_row: Callable[[], None] | None = None,
) -> list[RowVerdict]:
    """Run rows, several at a time, and those that pass again under `VARIATIONS`.

    Args:
        rows: the rows.
        repos: folder with checkouts of the repositories that rows come from, as ``owner/name``, ``owner__name`` or
            ``name``; rows that need one that is not there, or is at another commit, are not executed.
        cache: verdicts of earlier runs.
        on_row: called as often as there are rows, as they are done.

    Raises:
        MachineError: the processes that run tests cannot be started.
    """
    places = [_readable(*_place(row, repos)) for row in rows]
    ran = [number for number, (_, problem) in enumerate(places) if problem is None]

    def first(number: int) -> tuple[Judgement, bool | None]:
        row, root = rows[number], places[number][0]
        failed = row.meta.get("failed_test")
        found = judge(row.code, row.module, row.test, Limits(), root, cache=cache)
        if not isinstance(failed, str):
            return found, None
        return found, not run_tests(row.code, row.module, failed, Limits(), root, cache=cache).all_passed

    def heard(*_: object) -> None:
        if on_row is not None:
            on_row()

    judged = dict(zip(ran, run_many(first, ran, on_result=heard), strict=True))
    steady = [number for number in ran if judged[number][0].verdict.all_passed]
    flaky: dict[int, str] = {}
    for variation in VARIATIONS:  # one after the other: each hash seed needs servers of its own

        def again(number: int, variation: Variation = variation) -> Verdict:
            row, root = rows[number], places[number][0]
            return run_tests(row.code, row.module, row.test, Limits(), root, variation=variation, cache=cache)

        left = [number for number in steady if number not in flaky]
        for number, verdict in zip(left, run_many(again, left), strict=True):
            if not verdict.all_passed:
                flaky[number] = _reason(verdict)
    for _ in range(len(rows) - len(ran)):
        heard()
    return [_verdict(row, judged.get(number), flaky.get(number), places[number][1]) for number, row in enumerate(rows)]


def _verdict(
    row: Row, judged: tuple[Judgement, bool | None] | None, flaky: str | None, not_executed: str | None
) -> RowVerdict:
    if judged is None:
        return RowVerdict(row.id, False, False, False, 0.0, None, f"not executed: {not_executed}")
    found, fails = judged
    passes = found.verdict.all_passed
    reason = _reason(found.verdict) if not passes else f"flaky: {flaky}" if flaky is not None else ""
    return RowVerdict(row.id, True, passes, flaky is not None, found.mutation_score, fails, reason)


def _reason(verdict: Verdict) -> str:
    bad = [result.name for result in verdict.results if result.outcome != "passed"]
    return f"{verdict.status}: {', '.join(bad[:3])}" if bad else verdict.status


def _place(row: Row, repos: Path | None) -> tuple[Path | None, str | None]:
    """The folder that a row's package is imported from, None where it needs none; or why it cannot be run."""
    if row.source == "repository":
        root = Path(str(row.meta.get("root", "")))
        return (root, None) if root.is_dir() and row.meta.get("root") else (None, "its repository is not there")
    return checkout(row.meta, repos) if row.source == "testgeneval" else (None, None)


def _readable(root: Path | None, problem: str | None) -> tuple[Path | None, str | None]:
    """The same, but for a folder that cannot be read where rows are run."""
    return root, problem if root is None or problem is not None else root_problem(root)


def checkout(facts: Mapping[str, Any], repos: Path | None) -> tuple[Path | None, str | None]:
    """The folder that a module of TestGenEval is imported from; or why there is none.

    Args:
        facts: ``repo``, ``base_commit`` and ``code_file`` of its row.
        repos: folder with checkouts, as `verify_rows` takes it.
    """
    name = str(facts.get("repo", ""))
    if repos is None:
        return None, "needs its repository; give --repos"
    for folder in (repos / name, repos / name.replace("/", "__"), repos / name.rpartition("/")[2]):
        if name and folder.is_dir():
            commit = facts.get("base_commit")
            there = _commit(folder)
            if commit and there and commit != there:
                return None, f"{name} is at {there[:12]}, and not at {str(commit)[:12]}"
            inner = next(
                (folder / part for part in ("src", "lib") if str(facts["code_file"]).startswith(f"{part}/")), folder
            )
            return inner, None
    return None, f"no checkout of {name or 'its repository'} in {repos}"


@cache
def _commit(folder: Path) -> str:
    """Commit that a checkout is at; empty where it is none."""
    if not (folder / ".git").exists():
        return ""
    command = ["git", "-C", str(folder), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60.0).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
