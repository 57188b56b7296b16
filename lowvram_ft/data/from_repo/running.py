"""Which rows of a repository pass when they are run, and with which of their tests."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lowvram_ft.data.from_repo.rows import RowObject
from lowvram_ft.data.from_repo.source_tree import LeftOut
from lowvram_ft.data.imports import CannotNormalize, import_from_solution
from lowvram_ft.data.row import SOLUTION
from lowvram_ft.data.trimming import trim
from lowvram_ft.execution import Limits, Verdict, run_stream, run_tests

ROUNDS = 4
"""How often a row is run at the most, each time without the tests that did not pass."""
_ROOM = 0.6
"""Share of a file's time that its tests may use, where all of them together took too long."""
_EXCEPTION = re.compile(r"^E\s+(?:[\w.]+\.)?(\w+)(?::|$)", re.MULTILINE)


def keep_passing(
    row: Mapping[str, Any], left_out: LeftOut | None = None, limits: Limits | None = None
) -> RowObject | None:
    """A row with those of its tests that pass when they are run; None where none does.

    Tests that fail, are skipped or take too long are dropped, and what is left is run again. A single definition that
    cannot stand beside the module that it is from (a registry takes each name once, a class is held against its twin)
    is served in that module's place.

    Args:
        row: as `rows` gives it.
        left_out: collects tests and rows that are dropped.
        limits: those of the executor by default.

    Raises:
        MachineError: there is no sandbox here, or it could not be started.
    """
    left_out = left_out if left_out is not None else LeftOut()
    limits = limits if limits is not None else Limits()
    own = LeftOut()
    kept = _keep_passing(dict(row), own, limits)
    if kept is None and row["kind"] == "function" and row["module"] == SOLUTION:
        beside = LeftOut()
        kept = _keep_passing({**row, "module": row["origin"]}, beside, limits)
        own = own if kept is None else beside
    left_out.merge(own)
    return kept


def _keep_passing(row: RowObject, left_out: LeftOut, limits: Limits) -> RowObject | None:
    for turn in range(ROUNDS):
        verdict = run_tests(row["code_src"], row["module"], row["test_src"], limits, Path(row["root"]))
        if verdict.all_passed:
            return row
        if not verdict.results:
            left_out.add(f"{row['kind']}: {_reason(verdict)}", row["id"])
            return None
        there = trim.tests_of(row["test_src"])
        good = _passing(verdict, limits) | (_unreached(verdict) if turn < ROUNDS - 2 else frozenset())
        keep = [name for name in there if name in good]
        if not keep or len(keep) == len(there):
            left_out.add(f"{row['kind']}: none of its tests passes", row["id"])
            return None
        for name, outcome in _worst(verdict).items():
            if name not in good and name in there:
                left_out.add(f"test {'takes too long' if outcome == 'passed' else outcome}", f"{row['id']}::{name}")
        row = _with_tests(row, keep)
    left_out.add(f"{row['kind']}: its tests pass only together with others", row["id"])
    return None


def _with_tests(row: RowObject, keep: list[str]) -> RowObject:
    test = trim.trim_test(row["test_src"], keep)
    with contextlib.suppress(CannotNormalize):  # what is left may reach the code through a helper of its own
        test = import_from_solution(test, row["code_src"])
    return {**row, "test_src": test}


def _worst(verdict: Verdict) -> dict[str, str]:
    """Test functions and their outcome over all parameters: ``passed`` only where all pass."""
    found: dict[str, str] = {}
    for result in verdict.results:
        name = result.name.partition("[")[0]
        if found.get(name, "passed") == "passed":
            found[name] = result.outcome
    return found


def _passing(verdict: Verdict, limits: Limits) -> frozenset[str]:
    passed = [name for name, outcome in _worst(verdict).items() if outcome == "passed"]
    if verdict.status != "timeout":
        return frozenset(passed)
    took: dict[str, float] = {}
    for result in verdict.results:
        name = result.name.partition("[")[0]
        took[name] = took.get(name, 0.0) + result.duration_s
    spent, kept = 0.0, []
    for name in sorted(passed, key=lambda one: (took[one], one)):
        spent += took[name]
        if spent > _ROOM * limits.wall_s:
            break
        kept.append(name)
    return frozenset(kept)


def _unreached(verdict: Verdict) -> frozenset[str]:
    """Tests that never had their turn, because others before them took all the time: they get it in the next round."""
    if verdict.status != "timeout":
        return frozenset()
    names = {result.name.partition("[")[0] for result in verdict.results}
    tried = {r.name.partition("[")[0] for r in verdict.results if r.outcome != "error" or r.duration_s > 0}
    return frozenset(names - tried)


def _reason(verdict: Verdict) -> str:
    if verdict.status == "collection_error":
        found = _EXCEPTION.findall(verdict.log)
        return f"cannot be imported alone ({found[-1]})" if found else "cannot be imported alone"
    return f"{verdict.status.replace('_', ' ')}"


def verified(
    found: Iterable[Mapping[str, Any]],
    left_out: LeftOut | None = None,
    *,
    on_row: Callable[[int, bool], None] | None = None,
    workers: int | None = None,
) -> Iterator[RowObject]:
    """Those of the rows that pass when they are run, in their order, as `keep_passing` leaves them.

    Args:
        found: rows, taken as they are needed.
        left_out: collects tests and rows that are dropped.
        on_row: called with how many rows have been run and whether the last one is kept.
        workers: how many are run at a time; None for one a CPU.

    Raises:
        MachineError: there is no sandbox here, or it could not be started.
    """
    whole = left_out if left_out is not None else LeftOut()

    def run(row: Mapping[str, Any]) -> tuple[RowObject | None, LeftOut]:
        own = LeftOut()
        return keep_passing(row, own), own

    for place, (kept, own) in enumerate(run_stream(run, found, workers=workers)):
        whole.merge(own)
        if on_row is not None:
            on_row(place + 1, kept is not None)
        if kept is not None:
            yield kept
