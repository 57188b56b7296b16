"""Train one stage: load, prepare, check the mask, train, save the adapter. Takes up where it was killed.

Memory that runs out is caught: the stage steps down one notch and goes on from the last finished step.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf_export import Adapter, Checkpoint
from lowvram_ft.data.prepared import Prepared
from lowvram_ft.data.prepared_pairs import PreparedPairs
from lowvram_ft.errors import LowvramError, MachineError, TrainingError, cannot_write, is_disk_full
from lowvram_ft.memory.notches import Short
from lowvram_ft.memory.shape import ModelShape
from lowvram_ft.progress import Progress
from lowvram_ft.recipe import Recipe
from lowvram_ft.training.arguments import keep_quiet
from lowvram_ft.training.engines import Engine, LoadPlan
from lowvram_ft.training.inputs import for_method, prepared_for
from lowvram_ft.training.processes.ranks import Ranks
from lowvram_ft.training.recovery.checkpoints import flush
from lowvram_ft.training.reporting.reporters import Records


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
    ranks: Ranks,
    pairs: Path | None = None,
    records: Records | None = None,
) -> Trained:
    """Train one stage.

    Its checkpoints stay until `clear_checkpoints`: a run that is killed before it has recorded the result finds them.

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
        ranks: this process among those that train together; the first alone writes to ``out``.
        pairs: folder of a pair set, or a JSONL file of pairs: what ``dpo`` trains on, and ``rft`` on the winners of.
            Rows of ``recipe.data`` are trained on by ``sft`` alone; its seed and shares split pairs, too.
        records: where those of ``train.report_to`` write; None where nothing is to be recorded.

    Raises:
        DataError: no row is left, or the data is broken; or the method needs pairs, and there are none.
        ModelError: the model or the adapter cannot be used.
        gguf_export.ExportError: the adapter is broken, or belongs to another base model.
        TrainingError: the loss is not finite, or the mask is wrong.
        MachineError: memory runs out although all was given up that may be, the adapter cannot be written, or the GPU
            is gone.
        KeyboardInterrupt: the run was asked to end; the last finished step is saved.
    """
    keep_quiet()  # first: bitsandbytes, which transformers imports, says more while it is imported
    import torch

    from lowvram_ft.training.recovery.attempt import Attempt
    from lowvram_ft.training.recovery.descent import Descent
    from lowvram_ft.training.recovery.out_of_memory import HostWatch, host_memory, is_lost_device, let_go, shortage_of
    from lowvram_ft.training.recovery.saving import Saver
    from lowvram_ft.training.recovery.stopping import StopRequest
    from lowvram_ft.training.reporting.memory import meter

    recipe, plan = for_method(name, recipe, plan, pairs, out, ranks)
    if adapter is not None:  # PEFT passes over tensors that have no place in the base
        Adapter.load(adapter).check_fits(Checkpoint.open(model))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        torch.cuda.set_device(ranks.local_rank)
    progress.measure(meter(device, plan.budget_bytes))
    checkpoints = out / "checkpoints"
    event = _through_a_full_disk(event, progress)
    shape = ModelShape.from_config(json.loads((model / "config.json").read_text(encoding="utf-8")))
    descent = Descent(name, recipe, plan, engine.levers(device), shape, device == "cuda", checkpoints)
    here: Short = "device" if device == "cpu" else "host"
    minutes = recipe.train.save_minutes
    with StopRequest() as stop:
        while True:
            watch = HostWatch(host_memory(), lambda: descent.may_step_down(here))
            saver = Saver(name, 60 * minutes if minutes else None, stop, watch, progress, event)
            attempt = Attempt(name, engine, device, checkpoints, saver, progress, event, ranks)
            try:
                stop.at_once()
                progress.doing("preparing rows")
                with ranks.first():  # makes the set; the others map the same files
                    prepared = prepared_for(name, descent.recipe, model, descent.plan.max_length, pairs, progress)
                callbacks = _callbacks(name, descent.recipe, descent.plan, prepared, progress, event)
                callbacks += records.callbacks(recipe.train.report_to, progress) if records is not None else []
                attempt.train(descent.recipe, model, descent.plan, prepared, adapter, callbacks)
                stop.at_once()
                dropout = recipe.lora.lora_dropout if adapter is None else _dropout_of(adapter)
                return _finish(attempt, engine, prepared, out, descent.notches, ranks, dropout)
            except KeyboardInterrupt as error:
                attempt.rescue(error)
                raise
            except Exception as error:
                shortage = attempt.shortage(error)
                if shortage is None:
                    if not isinstance(error, LowvramError) and not is_lost_device(error):
                        attempt.rescue(None)
                    if isinstance(error, OSError) or is_disk_full(error):
                        raise cannot_write(out, error) from error
                    if is_lost_device(error):
                        raise _gpu_gone(name, error) from error
                    if shortage_of(error, device) is not None:
                        raise _no_way_down(name, error) from error
                    raise
                let_go(error)
            attempt.rescue(None)
            attempt.release()
            taken = descent.step_down(shortage)
            progress.say(
                f"train {name}: out of memory in {taken['phase']} after step {taken['step']}; {taken['words']}"
            )
            event("stepped_down", stage=name, **taken)


def clear_checkpoints(out: Path) -> None:
    """Remove what only a stage that has not ended needs."""
    shutil.rmtree(out / "checkpoints", ignore_errors=True)


def _callbacks(
    name: str,
    recipe: Recipe,
    plan: LoadPlan,
    prepared: Prepared | PreparedPairs,
    progress: Progress,
    event: Callable[..., None],
) -> list[Any]:
    from transformers import EarlyStoppingCallback

    from lowvram_ft.training.reporting.callbacks import Report
    from lowvram_ft.training.reporting.plan_watch import PlanWatch

    callbacks: list[Any] = [Report(name, progress, event), PlanWatch(name, plan.planned_bytes, progress, event)]
    if recipe.train.early_stopping_patience is not None and prepared.eval:
        callbacks.append(EarlyStoppingCallback(early_stopping_patience=recipe.train.early_stopping_patience))
    return callbacks


def _finish(
    attempt: Any,
    engine: Engine,
    prepared: Prepared | PreparedPairs,
    out: Path,
    notches: list[dict[str, Any]],
    ranks: Ranks,
    lora_dropout: float,
) -> Trained:
    """Save the adapter, and say how it went."""
    from lowvram_ft.training.reporting.callbacks import memory_bytes

    loaded, trainer = attempt.loaded, attempt.trainer
    peaks = ranks.gather(memory_bytes())
    folder = _save(trainer.model, out, lora_dropout) if ranks.leads else out / "adapter"
    result = {
        "engine": engine.name,
        "device": loaded.device,
        "dtype": loaded.dtype,
        "data": prepared.to_json(),
        "steps": trainer.state.global_step,
        "planned_steps": trainer.state.max_steps,
        **_losses(trainer.state.log_history),
        **_margins(trainer.state.log_history),
        "notches": notches,
        "processes": ranks.world_size,
        "peak_memory_bytes": max(peaks),
    }
    return Trained(folder, result)


def _through_a_full_disk(event: Callable[..., None], progress: Progress) -> Callable[..., None]:
    """Events that a full disk keeps from being written do not end a training; the first is told of."""
    told = False

    def record(kind: str, **fields: Any) -> None:
        nonlocal told
        try:
            event(kind, **fields)
        except MachineError as error:
            if error.__cause__ is None or not is_disk_full(error.__cause__):
                raise
            if not told:
                progress.say(f"{error}; training goes on, and what happens meanwhile is not recorded")
            told = True

    return record


def _no_way_down(name: str, error: BaseException) -> MachineError:
    reason = str(error).splitlines()[0]
    return MachineError(
        f"{name}: out of memory ({reason}), and several processes that train together cannot step down; lower "
        "train.max_length or hardware.vram_gib; the same command goes on at the newest checkpoint"
    )


def _gpu_gone(name: str, error: BaseException) -> MachineError:
    reason = str(error).splitlines()[0]
    return MachineError(
        f"{name}: the GPU does not answer any more ({reason}), as after a suspend with a driver that does not keep the "
        "card's memory; run the same command again, it goes on at the newest checkpoint"
    )


def _dropout_of(adapter: Path) -> float:
    """What an adapter was made with."""
    return float(json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))["lora_dropout"])


def _save(model: Any, out: Path, lora_dropout: float) -> Path:
    """Save the adapter as a PEFT folder, atomically.

    Its dropout is the one that it was made with, also where this stage trained without: a later one goes on with it.
    """
    folder, temporary = out / "adapter", out / ".adapter.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    for config in model.peft_config.values():
        config.lora_dropout = lora_dropout
    model.save_pretrained(temporary)
    if not (temporary / "adapter_model.safetensors").is_file():
        raise TrainingError(f"{temporary}: PEFT saved no adapter_model.safetensors; check the versions with doctor")
    flush(temporary)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.replace(folder)
    flush(out)
    return folder


def _losses(history: list[dict[str, Any]]) -> dict[str, Any]:
    losses = [entry["loss"] for entry in history if "loss" in entry]
    validation = [entry["eval_loss"] for entry in history if "eval_loss" in entry]
    return {
        "first_loss": losses[0] if losses else None,
        "last_loss": losses[-1] if losses else None,
        "best_eval_loss": min(validation) if validation else None,
    }


def _margins(history: list[dict[str, Any]]) -> dict[str, Any]:
    """How winners are preferred in the end, where pairs were trained on."""
    trained = [entry["rewards/margins"] for entry in history if "rewards/margins" in entry]
    validated = [entry for entry in history if "eval_rewards/margins" in entry]
    if not trained:
        return {}
    best = min(validated, key=lambda entry: float(entry["eval_loss"]), default={})
    return {
        "first_reward_margin": trained[0],
        "last_reward_margin": trained[-1],
        "best_eval_reward_margin": best.get("eval_rewards/margins"),
        "best_eval_reward_accuracy": best.get("eval_rewards/accuracies"),
    }
