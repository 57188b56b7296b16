"""A recipe's memory plan: its sections, the base model's config and this machine, put together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any

from lowvram_ft import models
from lowvram_ft.hardware import Hardware, has_fast_bf16
from lowvram_ft.memory.cards import Card, known_card
from lowvram_ft.memory.fit import Fit, fit
from lowvram_ft.memory.levers import CLASSES, Change
from lowvram_ft.memory.search import Candidate
from lowvram_ft.memory.setup import GIB, Budget, TrainingSetup
from lowvram_ft.memory.shape import ModelShape
from lowvram_ft.memory.weights import kept_dequantized_bytes
from lowvram_ft.recipe import Recipe, Resolved
from lowvram_ft.recipe.sections import Method

UNSLOTH_LOSS_CHUNK = 256
"""Tokens whose logits exist at a time in Unsloth's loss, and in that of pairs under either engine."""
UNSLOTH_ONLY = frozenset({"offload_layers", "offload_activations", "chunked_loss"})
"""Words that the reference engine cannot follow."""

AMPLE = 4
"""4-bit weights are kept dequantized as well where so many times the memory that this takes is free."""

PLANNED = (
    "max_length", "per_device_train_batch_size", "sequences_per_row", "gradient_accumulation_steps", "r",
    "gradient_checkpointing", "offload_layers", "slot_layers", "offload_embedding", "offload_activations",
    "offload_optimizer", "head", "nf4_embedding", "optimizer", "loss_chunk", "keep_dequantized",
)  # fmt: skip
"""Fields of `TrainingSetup` that a plan decides."""


@dataclass(frozen=True)
class StagePlan:
    """The plan of one stage.

    Attributes:
        model: the base model that is planned for: the recipe's, or the first of its fallbacks that fits.
        fit: the configuration that was chosen, and its plan.
        changes: every lever that was pulled, the base model's among them.
        method: of the recipe: ``sft``, ``rft`` or ``dpo``.
        rows: rows that are trained on in an epoch, at the most; None where the recipe does not say.
        epochs: how often they are trained on.
        max_steps: the recipe's own number of steps, which stands above the epochs; None without one.
        notes: what the user should know.
    """

    model: models.BaseModel
    fit: Fit
    changes: tuple[Change, ...]
    method: Method
    rows: int | None
    epochs: float
    max_steps: int | None
    notes: tuple[str, ...]

    @property
    def epoch_s(self) -> float | None:
        """Seconds of an epoch of full rows; None where the rows or the card are not known."""
        if self.rows is None or self.fit.time is None:
            return None
        return ceil(self.rows / self.fit.setup.effective_batch) * self.fit.time.step_s

    @property
    def train_s(self) -> float | None:
        """Seconds of the stage's training on full rows; None where its steps or the card are not known."""
        if self.max_steps is not None and self.fit.time is not None:
            return self.max_steps * self.fit.time.step_s
        return None if self.epoch_s is None else self.epochs * self.epoch_s

    @property
    def cost(self) -> str:
        """What was given up, as the name of the heaviest class; empty where nothing was."""
        return CLASSES[max(change.level for change in self.changes) - 1] if self.changes else ""

    def to_json(self) -> dict[str, Any]:
        """The choice and every term."""
        runner_up = self.fit.runner_up
        return {
            "model": self.model.id,
            "method": self.method,
            "fits": self.fit.plan.fits,
            "class": self.cost,
            "changes": [_change_json(change) for change in self.changes],
            "steps": [change.text for change in self.changes],
            "nearest": self.fit.nearest,
            "notes": list(self.notes),
            **{key: getattr(self.fit.setup, key) for key in PLANNED},
            "time": self.fit.time.to_json() if self.fit.time is not None else None,
            "epoch_s": self.epoch_s,
            "train_s": self.train_s,
            "runner_up": _candidate_json(runner_up) if runner_up is not None else None,
            "plan": self.fit.plan.to_json(),
        }


def _change_json(change: Change) -> dict[str, Any]:
    return {"lever": change.lever, "class": CLASSES[change.level - 1], "text": change.text}


def _candidate_json(candidate: Candidate) -> dict[str, Any]:
    return {
        "changes": [_change_json(change) for change in candidate.changes],
        **{key: getattr(candidate.setup, key) for key in PLANNED},
        "peak_gpu_bytes": candidate.plan.peak_gpu_bytes,
        "peak_host_bytes": candidate.plan.peak_host_bytes,
        "time": asdict(candidate.time) if candidate.time is not None else None,
    }


def plan_stages(
    resolved: Resolved, hardware: Hardware, overrides: Mapping[str, Any] | None = None, card: Card | None = None
) -> dict[str, StagePlan]:
    """Plan every stage, by name; the base model and the rank that the first one gets hold for all.

    Args:
        resolved: the recipe.
        hardware: this machine.
        overrides: fields of `Budget` that a user gave on the command line.
        card: the GPU that a user gave there.

    Raises:
        ModelError: a base model is unknown, or of a family that cannot be planned.
        MachineError: its config must be fetched, and the hub cannot be reached.
    """
    plans: dict[str, StagePlan] = {}
    first: StagePlan | None = None
    for stage in resolved.stages:
        recipe = stage.recipe if first is None else as_first(stage.recipe, first)
        plans[stage.name] = plan_recipe(recipe, hardware, overrides, card)
        first = first or plans[stage.name]
    return plans


def as_first(recipe: Recipe, first: StagePlan) -> Recipe:
    """A later stage's recipe with what the first one was given: its base model, and its rank."""
    words = tuple(word for word in recipe.hardware.allow if word not in ("smaller_model", "smaller_rank"))
    return recipe.model_copy(
        update={
            "model": recipe.model.model_copy(update={"base": first.model.id, "fallbacks": ()}),
            "lora": recipe.lora.model_copy(update={"r": first.fit.setup.r}),
            "hardware": recipe.hardware.model_copy(update={"allow": words}),
        }
    )


def plan_recipe(
    recipe: Recipe, hardware: Hardware, overrides: Mapping[str, Any] | None = None, card: Card | None = None
) -> StagePlan:
    """Plan one stage.

    Args:
        recipe: the stage's sections; ``hardware.vram_gib`` and ``ram_gib`` bound this machine where they are set.
        hardware: this machine.
        overrides: fields of `Budget` that a user gave on the command line.
        card: the GPU whose speed counts; by default this machine's, or one of the table with as much memory.

    Raises:
        ModelError: the base model is unknown, or of a family that cannot be planned.
        MachineError: its config must be fetched, and the hub cannot be reached.
    """
    budget = budget_for(recipe, hardware, overrides or {})
    if card is None and hardware.gpus:
        card = known_card(hardware.gpus[0].name)
    wanted = setup_for(recipe, on_gpu=budget.vram_bytes is not None)
    if budget.vram_bytes is None:
        wanted = replace(wanted, compute_dtype_bytes=2 if has_fast_bf16(hardware.cpu_flags) else 4)
    allow = _possible(recipe, wanted)
    names = [recipe.model.base, *(recipe.model.fallbacks if "smaller_model" in recipe.hardware.allow else ())]
    first: StagePlan | None = None
    for name in names:
        model = models.resolve(name)
        shape = ModelShape.from_config(models.config_of(model))
        setup = replace(wanted, keep_dequantized=_may_keep(shape, wanted, budget, hardware))
        found = fit(shape, setup, budget, allow, card, explain=first is None)
        changes, notes = found.changes, tuple(_notes(recipe, model, found, hardware, overrides or {}))
        if first is not None:
            text = f"{first.model.id} does not fit ► {model.id}, the next of model.fallbacks"
            changes = (Change("smaller_model", 4, text), *changes)
        train = recipe.train
        plan = StagePlan(
            model, found, changes, train.method, _rows(recipe), train.num_train_epochs, train.max_steps, notes
        )
        if found.plan.fits:
            return plan
        first = first or plan
    assert first is not None  # there is always model.base
    return first


def _notes(
    recipe: Recipe, model: models.BaseModel, found: Fit, hardware: Hardware, overrides: Mapping[str, Any]
) -> Iterator[str]:
    """What the user should know beside the plan. A disk that is short is no refusal: the base may be there already."""
    if model.note:
        yield model.note
    if recipe.data.path is not None and not Path(recipe.data.path).is_file():
        yield f"data.path: {recipe.data.path} is not there; a run wants it before its first stage"
    disk, free = found.plan.disk_bytes, hardware.disk_free_bytes
    if disk > free and not overrides:
        yield f"a run writes up to {disk / GIB:.1f} GiB in all, and {free / GIB:.1f} GiB of disk are free here"


def _possible(recipe: Recipe, wanted: TrainingSetup) -> list[str]:
    """The words that the recipe allows and its engine can follow."""
    words: list[str] = [word for word in recipe.hardware.allow if wanted.kernels == "fused" or word not in UNSLOTH_ONLY]
    if wanted.optimizer == "adamw_torch":  # no engine steps torch's AdamW on the host; bitsandbytes pages its own
        words = [word for word in words if word != "offload_optimizer"]
    return words


def _may_keep(shape: ModelShape, wanted: TrainingSetup, budget: Budget, hardware: Hardware) -> bool:
    """Whether a CPU's memory is ample for 4-bit weights in the compute type besides."""
    if wanted.kernels != "cpu" or not wanted.load_in_4bit:
        return False
    kept = kept_dequantized_bytes(shape, replace(wanted, keep_dequantized=True))
    return AMPLE * kept < min(hardware.ram_available_bytes, budget.ram_bytes - budget.system_bytes)


def _rows(recipe: Recipe) -> int | None:
    if recipe.data.max_rows is None or recipe.train.method != "sft":
        return None
    return max(1, round(recipe.data.max_rows * (1.0 - recipe.data.eval_share - recipe.data.test_share)))


def budget_for(recipe: Recipe, hardware: Hardware, overrides: Mapping[str, Any]) -> Budget:
    """The machine that is planned for: the command line's figures, else the recipe's, else this machine's.

    Where the recipe can be trained, its figures are bounds: a machine that has less is planned as it is. A recipe that
    demands a GPU can be planned on a machine without one, and its figures then stand for another machine.
    """
    section = recipe.hardware
    gpu = hardware.gpus[0].total_bytes if hardware.gpus else None
    elsewhere = gpu is None and section.require_gpu
    vram, ram = gpu, hardware.ram_total_bytes
    if section.vram_gib and (gpu is not None or elsewhere):
        vram = int(section.vram_gib * GIB) if gpu is None else min(gpu, int(section.vram_gib * GIB))
    if section.ram_gib:
        ram = int(section.ram_gib * GIB) if elsewhere else min(ram, int(section.ram_gib * GIB))
    values: dict[str, Any] = {
        "vram_bytes": vram,
        "ram_bytes": ram,
        "platform": hardware.platform,
        **overrides,
    }
    return Budget(**values)


def setup_for(recipe: Recipe, *, on_gpu: bool) -> TrainingSetup:
    """What a recipe asks for, down to what its memory depends on."""
    unsloth = on_gpu and recipe.hardware.engine != "reference"
    pairs = recipe.train.method == "dpo"
    return TrainingSetup(
        load_in_4bit=recipe.quantization.load_in_4bit,
        double_quant=recipe.quantization.bnb_4bit_use_double_quant,
        r=recipe.lora.r,
        target_modules=recipe.lora.target_modules,
        lora_dropout=0.0 if pairs else recipe.lora.lora_dropout,
        per_device_train_batch_size=recipe.train.per_device_train_batch_size,
        sequences_per_row=2 if pairs else 1,
        gradient_accumulation_steps=recipe.train.gradient_accumulation_steps,
        max_length=recipe.train.max_length,
        gradient_checkpointing=recipe.train.gradient_checkpointing,
        optimizer=recipe.train.optim if on_gpu else "adamw_torch",
        n_ctx=recipe.export.n_ctx,
        kernels="fused" if unsloth else "eager" if on_gpu else "cpu",
        loss_chunk=UNSLOTH_LOSS_CHUNK if unsloth or pairs else None,
        more_ggufs=_more_ggufs(recipe),
    )


def _more_ggufs(recipe: Recipe) -> int:
    """Exports that a stage has on the disk at a time, beside the last one of its run."""
    section = recipe.preference
    sampled = recipe.train.method != "sft" and section.pairs is None and section.url is None
    measured = section.rounds > 1 and section.held_out_tasks > 0  # the model before a round stays until it is worse
    return sampled * (2 if measured else 1) + recipe.eval.after_each_stage
