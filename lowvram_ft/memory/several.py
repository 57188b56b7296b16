"""One recipe on several cards: what has to be the same on all, and what each may place for itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from lowvram_ft.errors import RecipeError
from lowvram_ft.hardware import Hardware
from lowvram_ft.memory.for_recipe import plan_recipe
from lowvram_ft.memory.levers import LEVERS
from lowvram_ft.memory.setup import TrainingSetup
from lowvram_ft.recipe import Recipe, TrainSection

PLACEMENT = frozenset(
    {
        *("offload_layers", "slot_layers", "offload_embedding", "offload_activations", "offload_optimizer"),
        *("head", "gradient_checkpointing", "keep_dequantized"),
    }
)
"""Fields of `TrainingSetup` that say where something is or when it is computed, not what it is (but for a head in
NF4)."""


def smallest(machine: Hardware, cards: Sequence[Mapping[str, int | None]]) -> Hardware:
    """The machine that the common plan is made for: the least card and the least memory of all processes.

    Args:
        machine: this process's part of a machine.
        cards: ``vram_bytes`` (None for none) and ``ram_bytes`` of every process.
    """
    sizes = [card["vram_bytes"] for card in cards]
    least = min((size for size in sizes if size is not None), default=None)
    gpus = tuple(replace(gpu, total_bytes=least) for gpu in machine.gpus[:1]) if least is not None else ()
    ram = min(int(card["ram_bytes"] or 0) for card in cards)
    return replace(machine, gpus=gpus, ram_total_bytes=ram, ram_available_bytes=min(ram, machine.ram_available_bytes))


def facts_of(machine: Hardware) -> dict[str, int | None]:
    """What `smallest` has to know of a process's part of a machine."""
    return {
        "vram_bytes": machine.gpus[0].total_bytes if machine.gpus else None,
        "ram_bytes": machine.ram_total_bytes,
    }


def for_one_of(recipe: Recipe, local_world_size: int) -> Recipe:
    """The recipe as one process of a machine plans it: ``hardware.ram_gib`` is for all of them."""
    ram = recipe.hardware.ram_gib
    if ram is None or local_world_size == 1:
        return recipe
    hardware = recipe.hardware.model_copy(update={"ram_gib": ram / local_world_size})
    return recipe.model_copy(update={"hardware": hardware})


def place_for(recipe: Recipe, common: Mapping[str, Any], machine: Hardware) -> dict[str, Any]:
    """The plan of one process: that of the smallest card, or one that places more on this card.

    Args:
        recipe: as the common plan has it: model, length and batches are fixed.
        common: the plan for the smallest card, as `StagePlan.to_json` has it.
        machine: this process's part.

    Returns:
        A plan that differs from the common one in `PLACEMENT` alone; the common one where there is none.
    """
    allowed = tuple(word for word in recipe.hardware.allow if LEVERS[word] == 1)  # bitwise the same
    own = plan_recipe(
        recipe.model_copy(update={"hardware": recipe.hardware.model_copy(update={"allow": allowed})}), machine
    ).to_json()
    names = {field.name for field in fields(TrainingSetup)} & own.keys() & common.keys()
    same = all(own[name] == common[name] for name in names - PLACEMENT)
    one_head = "nf4" not in (own.get("head"), common.get("head")) or own.get("head") == common.get("head")
    return own if own["fits"] and same and one_head and own["model"] == common["model"] else dict(common)


def share_of(train: TrainSection, world_size: int) -> TrainSection:
    """What one process accumulates, so that all together keep the effective batch.

    Raises:
        RecipeError: the accumulation cannot be shared evenly; says what could.
    """
    batch, steps = train.per_device_train_batch_size, train.gradient_accumulation_steps
    if steps % world_size == 0:
        return train.model_copy(update={"gradient_accumulation_steps": steps // world_size})
    effective = batch * steps
    could = []
    splits = [(micro, effective // micro) for micro in range(batch, 0, -1) if effective % (micro * world_size) == 0]
    if splits:
        micro, count = splits[0]
        could.append(
            f"keep the effective batch of {effective} with --set train.per_device_train_batch_size={micro} "
            f"--set train.gradient_accumulation_steps={count}"
        )
    else:
        nearest = max(1, round(steps / world_size)) * world_size
        could.append(f"set train.gradient_accumulation_steps={nearest} (an effective batch of {batch * nearest})")
    counts = [count for count in range(2, steps + 1) if steps % count == 0]
    could.append(f"start {' or '.join(map(str, counts[:4]))} processes" if counts else "start one process")
    raise RecipeError(
        [
            f"train.gradient_accumulation_steps: {world_size} processes cannot share it evenly (got {steps}, "
            f"micro-batch {batch}); {', or '.join(could)}"
        ]
    )
