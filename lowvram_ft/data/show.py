"""What `data inspect`, `data prepare` and `data verify` show and write."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from lowvram_ft.data.prepare import Example, Prepared, broken_note, prepare
from lowvram_ft.data.sources import Dropped, failed_tests, load_rows
from lowvram_ft.data.verify import verify_rows
from lowvram_ft.errors import cannot_write
from lowvram_ft.execution import VerdictCache
from lowvram_ft.progress import Progress
from lowvram_ft.recipe import Recipe, Resolved
from lowvram_ft.rendering import ChatFormat
from lowvram_ft.run_dir import write_json

BINS = (128, 256, 512, 1024, 2048, 4096)
"""Upper bounds of the token histogram; the last bin has none."""


def inspect(recipe: Recipe, chat: ChatFormat, rows: int) -> dict[str, Any]:
    """Count the rows of a stage, and take some as the model sees them.

    Args:
        recipe: the stage's sections.
        chat: the model's chat format.
        rows: how many to take.

    Returns:
        Counts, a token histogram, and for each row taken the text without loss and the text with loss.
    """
    prepared = prepare(recipe.data, chat, recipe.train.max_length)
    every = [*prepared.train, *prepared.eval, *prepared.test]
    return {
        **prepared.to_json(),
        "histogram": _histogram([len(example.rendered.input_ids) for example in every]),
        "rows": [_shown(example, chat) for example in every[:rows]],
    }


def _shown(example: Example, chat: ChatFormat) -> dict[str, Any]:
    before = chat.prompt_text(example.row.prompt)
    return {
        "id": example.row.id,
        "tokens": len(example.rendered.input_ids),
        "without_loss": before,
        "with_loss": example.rendered.text[len(before) :],
    }


def _histogram(lengths: list[int]) -> dict[str, int]:
    counts: dict[str, int] = {}
    low = 0
    for high in BINS:
        counts[f"{low + 1}-{high}"] = sum(low < length <= high for length in lengths)
        low = high
    counts[f"over {low}"] = sum(length > low for length in lengths)
    return counts


def print_inspection(stage: str, found: dict[str, Any], console: Console) -> None:
    """Print what `inspect` found; the part that carries no loss is dimmed."""
    console.print(
        f"{stage}: {found['train']} rows to train on, {found['eval']} to validate, {found['test']} kept out; "
        f"{found['tokens']} tokens, {found['trained_tokens']} of them carry loss"
    )
    for reason, count in found["dropped"].items():
        console.print(f"  left out: {count} {reason}", markup=False)
    for note in found["notes"]:
        console.print(f"  {note}", markup=False)
    widest = max(found["histogram"].values(), default=1) or 1
    for label, count in found["histogram"].items():
        console.print(f"  {label:>10} tokens  {count:>6}  {'#' * round(40 * count / widest)}")
    for row in found["rows"]:
        console.rule(f"{row['id']}: {row['tokens']} tokens")
        console.print(Text(row["without_loss"], style="dim"), Text(row["with_loss"], style="bold"), sep="")


def save_prepared(recipe: Recipe, chat: ChatFormat, out: Path) -> dict[str, Any]:
    """Write the tokenized rows of a stage as Arrow files, atomically.

    Args:
        recipe: the stage's sections.
        chat: the model's chat format.
        out: the folder; gets ``train``, ``eval``, ``test`` (those that have rows) and ``prepared.json``.
    """
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()
    prepared: Prepared = prepare(recipe.data, chat, recipe.train.max_length)
    temporary = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    facts = prepared.to_json()
    try:
        for name in ("train", "eval", "test"):
            examples: tuple[Example, ...] = getattr(prepared, name)
            if examples:
                rows = [{"id": e.row.id, "input_ids": list(e.rendered.input_ids), "labels": e.labels} for e in examples]
                Dataset.from_list(rows).save_to_disk(str(temporary / name))
        write_json(temporary / "prepared.json", facts)
        shutil.rmtree(out, ignore_errors=True)
        temporary.replace(out)
    except OSError as error:
        raise cannot_write(out, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return facts


def verify_recipe(
    resolved: Resolved, min_mutation_score: float, progress: Progress, *, use_cache: bool = True
) -> dict[str, Any]:
    """Run every row of a recipe.

    Args:
        resolved: the recipe.
        min_mutation_score: least share of mutants that a row has to kill.
        progress: where a person reads how far it is.
        use_cache: take verdicts of earlier runs.

    Returns:
        How many rows were run, the mean mutation score, and the rows that do not hold, with the reason.
    """
    jobs = []
    for stage in resolved.stages:
        left_out = Dropped()
        rows = list(load_rows(stage.recipe.data, left_out))
        if note := broken_note(stage.recipe.data, left_out):
            progress.say(note)
        failed = failed_tests(stage.recipe.data) if any(row.source == "failure_traces" for row in rows) else {}
        jobs += [(row, failed.get(row.id)) for row in rows]
    count = 0

    def on_row(_place: int, _verdict: object) -> None:
        nonlocal count
        count += 1
        progress.step("verify rows", count, len(jobs))

    with VerdictCache.of_user() if use_cache else contextlib.nullcontext() as cache:
        verdicts = verify_rows(jobs, on_row, cache)
        if cache is not None and cache.hits:
            progress.say(f"{cache.hits} verdicts from earlier runs ({cache.path}); --no-cache runs them again")
    bad = [verdict.to_json() for verdict in verdicts if not verdict.ok(min_mutation_score)]
    return {
        "rows": len(verdicts),
        "passing": sum(verdict.passes for verdict in verdicts),
        "mean_mutation_score": sum(v.mutation_score for v in verdicts) / len(verdicts) if verdicts else 0.0,
        "bad": bad,
    }


def print_verified(found: dict[str, Any], console: Console) -> None:
    """Print what `verify_recipe` found."""
    for row in found["bad"]:
        failed = "" if row["failed_test_fails"] is not False else ", its failed test passes"
        reason = row["reason"] or f"kills {100 * row['mutation_score']:.0f} % of the mutants"
        console.print(f"{row['id']}: {reason}{failed}", markup=False)
    console.print(
        f"{found['rows']} rows: {found['passing']} pass, {100 * found['mean_mutation_score']:.1f} % of the mutants "
        f"killed on average, {len(found['bad'])} do not hold"
    )
