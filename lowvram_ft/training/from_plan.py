"""What an engine takes, from a recipe and its memory plan as ``run.json`` holds it."""

from __future__ import annotations

from typing import Any

from lowvram_ft.recipe import Recipe
from lowvram_ft.training.engines.protocol import PEAK, LoadPlan


def as_planned(recipe: Recipe, plan: dict[str, Any]) -> Recipe:
    """The recipe with what the plan changed. With another rank, LoRA's scale ``lora_alpha / r`` stays what it was."""
    keys = ("max_length", "per_device_train_batch_size", "gradient_accumulation_steps", "gradient_checkpointing")
    changed = {key: plan[key] for key in keys}
    if plan["plan"]["device"] == "gpu":
        changed["optim"] = plan["optimizer"]
    r, alpha = recipe.lora.r, recipe.lora.lora_alpha
    lora = {"r": plan["r"], "lora_alpha": max(1, alpha * plan["r"] // r)}
    return recipe.model_copy(
        update={"train": recipe.train.model_copy(update=changed), "lora": recipe.lora.model_copy(update=lora)}
    )


def load_plan(recipe: Recipe, plan: dict[str, Any]) -> LoadPlan:
    """How the engine loads the model."""
    usable = plan["plan"]["usable_gpu_bytes"]
    return LoadPlan(
        quantization=recipe.quantization,
        lora=recipe.lora,
        max_length=plan["max_length"],
        gradient_checkpointing=recipe.train.gradient_checkpointing,
        offload_layers=plan["offload_layers"],
        offload_embedding=plan["offload_embedding"],
        head=plan["head"],
        nf4_embedding=plan["nf4_embedding"],
        slot_layers=plan["slot_layers"],
        offload_activations=plan["offload_activations"],
        loss_chunk=plan["loss_chunk"],
        keep_dequantized=plan["keep_dequantized"],
        vram_bytes=usable or None,
        seed=recipe.train.seed,
        planned_bytes=planned_bytes(plan["plan"]),
        budget_bytes=budget_bytes(plan["plan"]),
    )


def planned_bytes(plan: dict[str, Any]) -> dict[str, int]:
    """Bytes of each term on the device that trains, and of the peak on a card."""
    found = {term["name"]: term["bytes"] for term in plan["terms"] if term["where"] == plan["device"]}
    return found | ({PEAK: plan["peak_gpu_bytes"]} if plan["device"] == "gpu" else {})


def budget_bytes(plan: dict[str, Any]) -> int:
    """The peak that is planned while a stage trains: of the card, or without one of this process."""
    if plan["device"] == "gpu":
        return int(plan["peak_gpu_bytes"])
    others = sum(term["bytes"] for term in plan["terms"] if term["name"] == "system")
    phases = {phase["name"]: phase["bytes"] for phase in plan["host_phases"]}
    return int(max(phases["loading"], phases["training"]) - others)
