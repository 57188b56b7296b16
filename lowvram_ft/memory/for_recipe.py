"""A recipe's memory plan: its sections, the base model's config and this machine, put together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lowvram_ft import models
from lowvram_ft.hardware import Hardware
from lowvram_ft.memory.fit import Fit, fit
from lowvram_ft.memory.setup import Budget, TrainingSetup
from lowvram_ft.memory.shape import ModelShape
from lowvram_ft.recipe import Recipe

GIB = 1 << 30
_STEPS = ("offload_layers", "offload_embedding", "smaller_batch", "shorter")


@dataclass(frozen=True)
class StagePlan:
    """The plan of one stage.

    Attributes:
        model: the base model that is planned for: the recipe's, or the first of its fallbacks that fits.
        fit: the configuration that was chosen, and its plan.
        notes: what the user should know.
    """

    model: models.BaseModel
    fit: Fit
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The choice and every term."""
        setup = self.fit.setup
        return {
            "model": self.model.id,
            "fits": self.fit.plan.fits,
            "steps": list(self.fit.steps),
            "nearest": self.fit.nearest,
            "notes": list(self.notes),
            "max_length": setup.max_length,
            "per_device_train_batch_size": setup.per_device_train_batch_size,
            "gradient_accumulation_steps": setup.gradient_accumulation_steps,
            "offload_layers": setup.offload_layers,
            "offload_embedding": setup.offload_embedding,
            "plan": self.fit.plan.to_json(),
        }


def plan_recipe(recipe: Recipe, hardware: Hardware, overrides: Mapping[str, Any] | None = None) -> StagePlan:
    """Plan one stage.

    Args:
        recipe: the stage's sections; ``hardware.vram_gib`` and ``ram_gib`` stand for this machine where they are set.
        hardware: this machine.
        overrides: fields of `Budget` that a user gave on the command line.

    Raises:
        ModelError: the base model is unknown, or of a family that cannot be planned.
        MachineError: its config must be fetched, and the hub cannot be reached.
    """
    budget = budget_for(recipe, hardware, overrides or {})
    names = [recipe.model.base]
    if "smaller_model" in recipe.hardware.allow:
        names += recipe.model.fallbacks
    first: StagePlan | None = None
    for name in names:
        model = models.resolve(name)
        shape = ModelShape.from_config(models.config_of(model))
        allow = [word for word in recipe.hardware.allow if word in _STEPS]
        chosen = fit(shape, setup_for(recipe, on_gpu=budget.vram_bytes is not None), budget, allow)
        notes: tuple[str, ...] = (model.note,) if model.note else ()
        if first is not None and chosen.plan.fits:
            notes += (f"{first.model.id} does not fit; {model.id} is the next of model.fallbacks",)
        plan = StagePlan(model, chosen, notes)
        if chosen.plan.fits:
            return plan
        first = first or plan
    assert first is not None  # there is always model.base
    return first


def budget_for(recipe: Recipe, hardware: Hardware, overrides: Mapping[str, Any]) -> Budget:
    """The machine that is planned for: the command line's figures, else the recipe's, else this machine's."""
    section = recipe.hardware
    gpu = hardware.gpus[0].total_bytes if hardware.gpus else None
    # a recipe that demands a GPU can be planned for on a machine without one; others follow the machine
    wanted = int(section.vram_gib * GIB) if section.vram_gib and (gpu is not None or section.require_gpu) else gpu
    ram = int(section.ram_gib * GIB) if section.ram_gib else hardware.ram_total_bytes
    values: dict[str, Any] = {
        "vram_bytes": wanted,
        "ram_bytes": ram,
        "platform": hardware.platform,
        **overrides,
    }
    return Budget(**values)


def setup_for(recipe: Recipe, *, on_gpu: bool) -> TrainingSetup:
    """What a recipe asks for, down to what its memory depends on."""
    unsloth = on_gpu and recipe.hardware.engine != "reference"
    return TrainingSetup(
        load_in_4bit=recipe.quantization.load_in_4bit,
        double_quant=recipe.quantization.bnb_4bit_use_double_quant,
        r=recipe.lora.r,
        target_modules=recipe.lora.target_modules,
        lora_dropout=recipe.lora.lora_dropout,
        per_device_train_batch_size=recipe.train.per_device_train_batch_size,
        gradient_accumulation_steps=recipe.train.gradient_accumulation_steps,
        max_length=recipe.train.max_length,
        gradient_checkpointing=recipe.train.gradient_checkpointing,
        optimizer=recipe.train.optim if on_gpu else "adamw_torch",
        kernels="fused" if unsloth else "eager",
        loss_chunk=256 if unsloth else None,
    )
