"""What a stage trains on, by its method: rows of a recipe's data, the winners of a pair set, or its pairs."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

from lowvram_ft.data.pairs import WINNERS, read_pairs, read_winners
from lowvram_ft.data.prepare import cached_set
from lowvram_ft.data.prepared import Prepared
from lowvram_ft.data.prepared_pairs import PreparedPairs, prepare_pairs, refuse_evaluation_tasks
from lowvram_ft.data.verify_recipe import verifier
from lowvram_ft.errors import DataError
from lowvram_ft.progress import Progress
from lowvram_ft.recipe import Recipe
from lowvram_ft.rendering import from_folder
from lowvram_ft.run_dir import write_text
from lowvram_ft.training.engines import LoadPlan
from lowvram_ft.training.processes.ranks import Ranks


def for_method(
    name: str, recipe: Recipe, plan: LoadPlan, pairs: Path | None, out: Path, ranks: Ranks
) -> tuple[Recipe, LoadPlan]:
    """What is trained on and how, by the method of a recipe.

    Args:
        name: of the stage.
        recipe: its sections.
        plan: how the model is loaded.
        pairs: folder of a pair set, or a JSONL file.
        out: folder of the stage; gets the winners that ``rft`` trains on.
        ranks: this process among those that train together.

    Raises:
        DataError: there are no pairs for a method that needs them, or they are broken.
    """
    method = recipe.train.method
    if method == "sft":
        return recipe, plan
    if pairs is None:
        raise DataError(f"{name}: train.method = {method} trains on pairs (got none); make a pair set first")
    if method == "dpo":  # a margin is the difference of two sums over hundreds of tokens: dropout would drown it
        return recipe, replace(plan, dropout=False)
    path = out / WINNERS
    winners = read_winners(pairs)
    refuse_evaluation_tasks(winners, recipe.data, recipe.eval.suites)
    if ranks.leads:
        write_text(path, "".join(json.dumps(asdict(winner)) + "\n" for winner in winners))
    ranks.gather(None)
    changes = {"source": "winners", "path": str(path), "verify": False, "min_mutation_score": 0.0}
    own = {"subset": None, "hub_id": None, "split": "train", "max_read": None, "max_rows": None, "filters": None}
    data = recipe.data.model_copy(update={**changes, **own, "duplicates": None, "too_long": "drop"})
    return recipe.model_copy(update={"data": data}), plan


def prepared_for(
    name: str, recipe: Recipe, model: Path, max_length: int, pairs: Path | None, progress: Progress
) -> Prepared | PreparedPairs:
    """The rows, from the cache where they are there; or the pairs. Says what they are.

    Args:
        name: of the stage.
        recipe: its sections, from `for_method`.
        model: folder of the base model.
        max_length: most tokens of a row, or of a prompt and one completion.
        pairs: as for `for_method`.
        progress: where a person reads it.

    Raises:
        DataError: no row is left, or the data is broken.
    """
    prepared: Prepared | PreparedPairs
    if recipe.train.method == "dpo":
        assert pairs is not None  # `for_method` has seen to it
        prepared = prepare_pairs(read_pairs(pairs), recipe.data, from_folder(model), max_length, recipe.eval.suites)
    else:
        prepared = cached_set(
            recipe.data,
            from_folder(model),
            max_length,
            suites=recipe.eval.suites,
            verify=verifier(recipe.data, progress),
        )
    if isinstance(prepared, Prepared):
        for note in prepared.notes:
            progress.say(note)
    progress.say(_describe(name, prepared))
    return prepared


def _describe(name: str, prepared: Prepared | PreparedPairs) -> str:
    facts = prepared.to_json()
    what = "pairs" if isinstance(prepared, PreparedPairs) else "rows"
    dropped = ", ".join(f"{count} {reason}" for reason, count in prepared.dropped.items())
    return (
        f"stage {name}: {facts['train']} {what} to train on, {facts['eval']} to validate, {facts['tokens']} tokens "
        f"({facts['median']} in the median {what.removesuffix('s')}, {facts['longest']} in the longest)"
        + (f"; left out: {dropped}" if dropped else "")
    )
