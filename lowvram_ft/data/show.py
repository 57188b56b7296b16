"""What ``data inspect`` and ``data prepare`` show."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from lowvram_ft import models
from lowvram_ft.data.funnel import LENGTHS
from lowvram_ft.data.prepared import Example, Prepared
from lowvram_ft.hardware import Hardware
from lowvram_ft.memory.for_recipe import plan_recipe
from lowvram_ft.recipe import Recipe
from lowvram_ft.rendering import ChatFormat

BINS = (128, 256, 512, 1024, 2048, 4096)
"""Upper bounds of the token histogram; the last bin has none."""


def inspect(prepared: Prepared, chat: ChatFormat, rows: int, longest: int | None = None) -> dict[str, Any]:
    """A prepared set for people: its counts, and some rows as the model sees them.

    Args:
        prepared: the set.
        chat: the model's chat format.
        rows: how many to take.
        longest: what `longest_that_fits` says.

    Returns:
        Counts, a token histogram, and for each row taken the text without loss and the text with loss.
    """
    every = (prepared.train, prepared.eval, prepared.test)
    lengths = [int(length) for examples in every for length in examples.lengths]
    shown = [example for examples in every for example in examples[:rows]][:rows]
    return {
        **prepared.to_json(),
        "histogram": _histogram(lengths),
        "longest_that_fits": longest,
        "rows": [_shown(example, chat) for example in shown],
    }


def longest_that_fits(recipe: Recipe, hardware: Hardware) -> int | None:
    """The largest of `LENGTHS` that the model knows and for which a stage fits by its memory plan; None for none.

    Neither a shorter length nor a smaller model may be given up for it.

    Raises:
        ModelError: the base model is of a family that cannot be planned.
    """
    allow = tuple(word for word in recipe.hardware.allow if word not in ("shorter", "smaller_rank", "smaller_model"))
    kept = recipe.model_copy(update={"hardware": recipe.hardware.model_copy(update={"allow": allow})})
    most = models.config_of(models.resolve(recipe.model.base)).get("max_position_embeddings", LENGTHS[-1])
    for length in reversed([length for length in LENGTHS if length <= most]):
        longer = kept.model_copy(update={"train": recipe.train.model_copy(update={"max_length": length})})
        if plan_recipe(longer, hardware).fit.plan.fits:
            return length
    return None


def _shown(example: Example, chat: ChatFormat) -> dict[str, Any]:
    row = example.row
    before = chat.prompt_text(row.prompt)
    return {
        "id": row.id,
        "tokens": len(example.input_ids),
        "without_loss": before,
        "with_loss": chat.render(row.prompt, row.completion).text[len(before) :],
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
    print_funnel(found, console)
    print_longer(found, console)
    widest = max(found["histogram"].values(), default=1) or 1
    for label, count in found["histogram"].items():
        console.print(f"  {label:>10} tokens  {count:>6}  {'#' * round(40 * count / widest)}")
    for row in found["rows"]:
        console.rule(f"{row['id']}: {row['tokens']} tokens")
        console.print(Text(row["without_loss"], style="dim"), Text(row["with_loss"], style="bold"), sep="")


def print_longer(found: dict[str, Any], console: Console) -> None:
    """Say so where the memory plan allows a length at which more rows would fit."""
    longest, now = found["longest_that_fits"], found["max_length"]
    within = {int(length): count for length, count in found["funnel"]["rows_within_tokens"].items()}
    fit_now = max((count for length, count in within.items() if length <= now), default=0)
    if longest is not None and longest > now and within[longest] > fit_now:
        console.print(
            f"  by the memory plan, train.max_length could be {longest} (it is {now}): "
            f"{within[longest]} rows would fit, and not {fit_now}"
        )


def print_funnel(found: dict[str, Any], console: Console) -> None:
    """Print what each step let through and dropped, and how many rows each length would keep."""
    for step in found["funnel"]["steps"]:
        console.print(f"  {step['step']:<14}{step['out']:>8}", markup=False)
        for reason, count in step["reasons"].items():
            console.print(f"    left out: {count} {reason}", markup=False)
    within = found["funnel"]["rows_within_tokens"]
    fits = ", ".join(f"{count} in {length}" for length, count in within.items())
    console.print(f"  rows that fit, by tokens: {fits}", markup=False)
    for note in found["notes"]:
        console.print(f"  {note}", markup=False)
