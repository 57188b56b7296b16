"""``data verify``: run the rows of a recipe; and the same as a filter of a prepared set."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from lowvram_ft.data.collect import BATCH, Collected, Verify, collect
from lowvram_ft.data.prepared import Example
from lowvram_ft.data.verify import RowVerdict, verify_rows
from lowvram_ft.execution import VerdictCache
from lowvram_ft.execution.ray_pool import judged_at
from lowvram_ft.progress import Progress
from lowvram_ft.recipe import DataSection, Resolved


def verify_recipe(
    resolved: Resolved,
    min_mutation_score: float,
    progress: Progress,
    *,
    repos: Path | None = None,
    use_cache: bool = True,
    ray_address: str | None = None,
) -> dict[str, Any]:
    """Run every row of a recipe that its filters let through.

    Args:
        resolved: the recipe.
        min_mutation_score: least share of mutants that a row has to kill.
        progress: where a person reads how far it is.
        repos: folder with checkouts of the repositories that rows come from.
        use_cache: take verdicts of earlier runs. They are kept on this machine, wherever rows are run.
        ray_address: of the cluster that runs them, as `lowvram_ft.execution.ray_pool.read_address` takes it; None for
            this machine.

    Returns:
        How many rows were run, the mean mutation score, and the rows that do not hold or were not run, with the reason.
    """
    with judged_at(ray_address, progress.say):
        verdicts = _verified(resolved, progress, repos, use_cache)
    executed = [verdict for verdict in verdicts if verdict.executed]
    scores = [verdict.mutation_score for verdict in executed]
    return {
        "rows": len(verdicts),
        "executed": len(executed),
        "passing": sum(verdict.passes for verdict in executed),
        "flaky": sum(verdict.flaky for verdict in executed),
        "mean_mutation_score": sum(scores) / len(scores) if scores else 0.0,
        "bad": [verdict.to_json() for verdict in executed if verdict.problem(min_mutation_score)],
        "not_executed": [verdict.to_json() for verdict in verdicts if not verdict.executed],
    }


def _verified(resolved: Resolved, progress: Progress, repos: Path | None, use_cache: bool) -> list[RowVerdict]:
    verdicts: list[RowVerdict] = []
    for stage in resolved.stages:
        section, suites = stage.recipe.data, stage.recipe.eval.suites
        with _collected(section, suites, progress) as found, _cache(use_cache) as cache:
            places = found.choose(None).places
            for start in range(0, len(places), BATCH):
                rows = [found.examples[int(place)].row for place in places[start : start + BATCH]]
                step = _steps(progress, start, len(places))
                verdicts += verify_rows(rows, repos=repos, cache=cache, on_row=step)
            if cache is not None and cache.hits:
                progress.say(f"{cache.hits} verdicts from earlier runs ({cache.path}); --no-cache runs them again")
    return verdicts


def verifier(section: DataSection, progress: Progress, *, repos: Path | None = None) -> Verify | None:
    """What `prepare` runs rows with; None where the section does not ask for it."""
    if not section.verify:
        return None
    done = 0

    def verify(examples: Sequence[Example]) -> list[tuple[str | None, dict[str, object]]]:
        nonlocal done
        step = _steps(progress, done, done + len(examples))
        with _cache(True) as cache:
            verdicts = verify_rows([example.row for example in examples], repos=repos, cache=cache, on_row=step)
        done += len(examples)
        return [(verdict.problem(section.min_mutation_score), _facts(verdict)) for verdict in verdicts]

    return verify


def _facts(verdict: RowVerdict) -> dict[str, object]:
    if not verdict.executed:
        return {"executed": verdict.reason}
    return {"executed": "passes", "mutation_score": round(verdict.mutation_score, 4)}


def _steps(progress: Progress, done: int, total: int) -> Callable[[], None]:
    def step() -> None:
        nonlocal done
        done += 1
        progress.step("verify rows", done, total)

    return step


@contextlib.contextmanager
def _cache(use: bool) -> Iterator[VerdictCache | None]:
    with VerdictCache.of_user() if use else contextlib.nullcontext() as cache:
        yield cache


@contextlib.contextmanager
def _collected(section: DataSection, suites: Sequence[str], progress: Progress) -> Iterator[Collected]:
    """The rows that pass every filter which runs nothing; their lengths are not looked at."""
    with tempfile.TemporaryDirectory(prefix="lowvram-ft-rows-") as folder:
        log = Path(folder) / "dropped.jsonl"
        with log.open("w", encoding="utf-8") as file:
            found = collect(section, None, 0, Path(folder), file, suites=suites)
            for note in found.notes:
                progress.say(note)
            for reason, count in found.funnel.dropped.items():
                progress.say(f"{section.source}: left out before it was run: {count} {reason}")
            yield found


def print_verified(found: dict[str, Any], console: Console) -> None:
    """Print what `verify_recipe` found."""
    for row in found["bad"]:
        failed = "" if row["failed_test_fails"] is not False else ", its failed test passes"
        reason = row["reason"] or f"kills {100 * row['mutation_score']:.0f} % of the mutants"
        console.print(f"{row['id']}: {reason}{failed}", markup=False)
    for row in found["not_executed"]:
        console.print(f"{row['id']}: {row['reason']}", markup=False)
    flaky = f", {found['flaky']} of them flaky" if found["flaky"] else ""
    left = f", {len(found['not_executed'])} were not executed" if found["not_executed"] else ""
    console.print(
        f"{found['rows']} rows: {found['passing']} pass{flaky}, {100 * found['mean_mutation_score']:.1f} % of the "
        f"mutants killed on average, {len(found['bad'])} do not hold{left}"
    )
