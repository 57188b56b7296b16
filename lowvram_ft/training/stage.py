"""Train one stage: load, prepare, check the mask, train, save the adapter. Takes up where it was killed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf_export import Adapter, Checkpoint
from lowvram_ft.data.prepare import cached_set
from lowvram_ft.data.prepared import Prepared
from lowvram_ft.data.verify_recipe import verifier
from lowvram_ft.errors import MachineError, TrainingError, cannot_write, is_disk_full
from lowvram_ft.progress import Progress
from lowvram_ft.recipe import Recipe
from lowvram_ft.rendering import from_folder
from lowvram_ft.training.engines import Engine, LoadPlan
from lowvram_ft.training.sft import assert_completion_mask, keep_quiet

CHECKPOINT_FILES = (
    "trainer_state.json",
    "adapter_model.safetensors",
    "optimizer.pt",
    "scheduler.pt",
    "rng_state.pth",
)


@dataclass(frozen=True)
class Trained:
    """What training a stage gave.

    Attributes:
        adapter: a standard PEFT folder.
        result: what goes into ``run.json``.
    """

    adapter: Path
    result: dict[str, Any]


def train_stage(
    name: str,
    recipe: Recipe,
    model: Path,
    engine: Engine,
    plan: LoadPlan,
    out: Path,
    *,
    adapter: Path | None,
    progress: Progress,
    event: Callable[..., None],
) -> Trained:
    """Train one stage.

    Args:
        name: of the stage.
        recipe: its sections.
        model: folder of the base model.
        engine: who loads and trains.
        plan: how the model is loaded.
        out: folder of the stage; gets ``adapter/`` and, while it runs, ``checkpoints/``.
        adapter: PEFT folder to continue; None starts a new one.
        progress: where a person reads how far it is.
        event: where a program reads it.

    Raises:
        DataError: no row is left, or the data is broken.
        ModelError: the model or the adapter cannot be used.
        gguf_export.ExportError: the adapter is broken, or belongs to another base model.
        TrainingError: the loss is not finite, or the mask is wrong.
        MachineError: the disk is full.
    """
    keep_quiet()  # first: bitsandbytes, which transformers imports, says more while it is imported
    import torch
    from transformers import EarlyStoppingCallback

    from lowvram_ft.training.callbacks import Report, memory_bytes

    if adapter is not None:  # PEFT passes over tensors that have no place in the base
        Adapter.load(adapter).check_fits(Checkpoint.open(model))
    chat = from_folder(model)
    prepared = cached_set(
        recipe.data, chat, plan.max_length, suites=recipe.eval.suites, verify=verifier(recipe.data, progress)
    )
    for note in prepared.notes:
        progress.say(note)
    progress.say(_describe(name, prepared))
    loaded = engine.load(model, plan, adapter)
    callbacks: list[Any] = [Report(name, progress, event)]
    if recipe.train.early_stopping_patience is not None and prepared.eval:
        callbacks.append(EarlyStoppingCallback(early_stopping_patience=recipe.train.early_stopping_patience))
    checkpoints = out / "checkpoints"
    trainer = engine.trainer(
        recipe.train.method,
        loaded,
        recipe.train,
        prepared.train.for_trainer(),
        prepared.eval.for_trainer() if prepared.eval else None,
        checkpoints,
        callbacks,
    )
    assert_completion_mask(trainer, prepared.train)
    resume = newest_checkpoint(checkpoints)
    if resume is not None:
        progress.say(f"train {name}: resumes at {resume.name}")
        event("resumed", stage=name, checkpoint=resume.name)
    try:
        trainer.train(resume_from_checkpoint=str(resume) if resume is not None else None)
        folder = _save(trainer.model, out)
    except torch.OutOfMemoryError as error:
        raise MachineError(
            f"{name}: out of memory on the GPU; lower train.max_length, or see: lowvram-ft plan RECIPE"
        ) from error
    except Exception as error:
        if not isinstance(error, OSError) and not is_disk_full(error):
            raise
        raise cannot_write(out, error) from error
    shutil.rmtree(checkpoints, ignore_errors=True)
    result = {
        "engine": engine.name,
        "device": loaded.device,
        "dtype": loaded.dtype,
        "data": prepared.to_json(),
        "steps": trainer.state.global_step,
        "planned_steps": trainer.state.max_steps,
        **_losses(trainer.state.log_history),
        "peak_memory_bytes": memory_bytes(),
    }
    return Trained(folder, result)


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that is whole; one that a kill left half-written is passed over."""
    numbered = [
        path
        for path in folder.glob("checkpoint-*")
        if path.is_dir() and path.name.removeprefix("checkpoint-").isdigit()
    ]
    for path in sorted(numbered, key=lambda p: int(p.name.removeprefix("checkpoint-")), reverse=True):
        if _is_whole(path):
            return path
    return None


def _is_whole(checkpoint: Path) -> bool:
    """Whether every file is there; the trainer writes ``trainer_state.json`` last."""
    if not all((checkpoint / name).is_file() for name in CHECKPOINT_FILES):
        return False
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except ValueError:
        return False
    return True


def _save(model: Any, out: Path) -> Path:
    """Save the adapter as a PEFT folder, atomically."""
    folder, temporary = out / "adapter", out / ".adapter.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    model.save_pretrained(temporary)
    if not (temporary / "adapter_model.safetensors").is_file():
        raise TrainingError(f"{temporary}: PEFT saved no adapter_model.safetensors; check the versions with doctor")
    shutil.rmtree(folder, ignore_errors=True)
    temporary.replace(folder)
    return folder


def _losses(history: list[dict[str, Any]]) -> dict[str, Any]:
    losses = [entry["loss"] for entry in history if "loss" in entry]
    validation = [entry["eval_loss"] for entry in history if "eval_loss" in entry]
    return {
        "first_loss": losses[0] if losses else None,
        "last_loss": losses[-1] if losses else None,
        "best_eval_loss": min(validation) if validation else None,
    }


def _describe(name: str, prepared: Prepared) -> str:
    facts = prepared.to_json()
    dropped = ", ".join(f"{count} {reason}" for reason, count in prepared.dropped.items())
    return (
        f"stage {name}: {facts['train']} rows to train on, {facts['eval']} to validate, {facts['tokens']} tokens "
        f"({facts['median']} in the median row, {facts['longest']} in the longest)"
        + (f"; left out: {dropped}" if dropped else "")
    )
