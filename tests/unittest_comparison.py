"""Whether a converted test file means what the original means: both are run, on the code and on mutants of it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from lowvram_ft.data.unittest_style.convert import collected_name
from lowvram_ft.execution import MutationReport, Verdict, mutation_analysis, run_tests

_BAD = ("failed", "error", "timeout", "killed")


@dataclass(frozen=True)
class Difference:
    """What one file does and the other does not.

    Attributes:
        where: ``"the code"``, or the mutant.
        what: which test, and both outcomes.
    """

    where: str
    what: str


def original_name(converted: str, originals: Sequence[str]) -> str | None:
    """The test of the original that a test of the converted file comes from."""
    if converted in originals:
        return converted
    plain = converted.partition("[")[0]
    for name in originals:
        holder, _, method = name.rpartition("::")
        if plain in (name, method, f"{collected_name(holder)}::{method}"):
            return name
    return None


def outcomes(verdict: Verdict, originals: Sequence[str]) -> dict[str, str]:
    """Test of the original to ``passed``, ``skipped`` or ``failed``, for all the tests that it has become."""
    found: dict[str, set[str]] = {}
    for result in verdict.results:
        name = original_name(result.name, originals) or f"unknown: {result.name}"
        found.setdefault(name, set()).add("failed" if result.outcome in _BAD else result.outcome)
    ranks = ("failed", "passed", "skipped")
    return {name: min(some, key=ranks.index) for name, some in found.items()}


def compare_run(code: str, original: str, converted: str, where: str = "the code") -> list[Difference]:
    """Run both files on one text of the module, and compare them test by test."""
    first, second = (run_tests(code, "solution", test) for test in (original, converted))
    if first.status != "ran" or second.status != "ran":
        broken = first.status != "ran", second.status != "ran"
        return [] if all(broken) else [Difference(where, f"{first.status}, but {second.status}: {second.log[-300:]}")]
    names = [result.name for result in first.results]
    before, after = outcomes(first, names), outcomes(second, names)
    every = sorted(before.keys() | after.keys())
    return [
        Difference(where, f"{name}: {before.get(name)}, but {after.get(name)}")
        for name in every
        if before.get(name) != after.get(name)
    ]


def compare_mutants(
    code: str, original: str, converted: str, max_mutants: int | None = None
) -> tuple[list[Difference], int, int]:
    """Plant faults under those tests of both files that pass, and compare which are found.

    Returns:
        What differs, how many mutants were run, and how many the original kills.
    """
    first = run_tests(code, "solution", original)
    names = [result.name for result in first.results]
    second = run_tests(code, "solution", converted)
    same = [r.name for r in second.results if original_name(r.name, names) in first.passing]
    if not first.passing:
        return [], 0, 0
    reports: list[MutationReport] = [
        mutation_analysis(code, "solution", test, tests=chosen, max_mutants=max_mutants)
        for test, chosen in ((original, first.passing), (converted, same))
    ]
    differences = []
    run = killed = 0
    for before, after in zip(reports[0].mutants, reports[1].mutants, strict=True):
        found = [one.outcome in ("killed", "timeout") for one in (before, after)]
        run += before.outcome in ("killed", "timeout", "survived", "not_covered")
        killed += found[0]
        if "not_run" not in (before.outcome, after.outcome) and found[0] != found[1]:
            differences.append(Difference(before.diff, f"{before.outcome}, but {after.outcome}"))
    return differences, run, killed


def runs_here(last_python: tuple[int, int]) -> bool:
    """Whether this Python's unittest has what a test file uses."""
    return sys.version_info[:2] <= last_python
