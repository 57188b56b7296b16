"""The one path of supervised fine-tuning: TRL's ``SFTTrainer`` on rows that are rendered and masked already."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lowvram_ft.data.prepared import IGNORE_INDEX, Example
from lowvram_ft.errors import TrainingError
from lowvram_ft.recipe import TrainSection
from lowvram_ft.training.arguments import keep_quiet, keep_to_one_device, training_arguments, undo_rounding
from lowvram_ft.training.engines.protocol import Loaded

if TYPE_CHECKING:
    from datasets import Dataset


def build_sft_trainer(
    loaded: Loaded,
    train: TrainSection,
    rows: Dataset,
    eval_rows: Dataset | None,
    output_dir: Path,
    callbacks: Sequence[Any],
    trainer_class: Any = None,
) -> Any:
    """Build the trainer. Every argument that matters is passed: the engines' defaults differ.

    Args:
        loaded: the model.
        train: the recipe's section.
        rows: ``input_ids`` and ``labels`` of each training row.
        eval_rows: the same for the validation loss; None for none.
        output_dir: for checkpoints.
        callbacks: of type ``transformers.TrainerCallback``.
        trainer_class: an engine's own ``SFTTrainer``; TRL's by default.
    """
    from transformers import PrinterCallback
    from trl import SFTTrainer

    from lowvram_ft.training.processes.ddp import leave_frozen_alone
    from lowvram_ft.training.processes.order import put_in_order

    keep_quiet()
    leave_frozen_alone(loaded.model)
    exact = {name: p.data for name, p in loaded.model.named_parameters() if p.requires_grad}
    trainer = (trainer_class or SFTTrainer)(
        model=loaded.model,
        args=sft_config(loaded, train, eval_rows is not None, output_dir),
        train_dataset=rows,
        eval_dataset=eval_rows,
        processing_class=loaded.tokenizer,
        callbacks=list(callbacks),
    )
    undo_rounding(loaded.model, exact)
    put_in_order(trainer)
    trainer.remove_callback(PrinterCallback)  # it prints to stdout, which is for results
    return trainer


def sft_config(loaded: Loaded, train: TrainSection, evaluates: bool, output_dir: Path) -> Any:
    """The recipe's section as TRL's ``SFTConfig``."""
    from trl import SFTConfig

    config = SFTConfig(
        **training_arguments(loaded, train, evaluates, output_dir),
        max_length=None,  # rows that are too long were dropped: nothing is ever cut
        packing=False,
        train_sampling_strategy="group_by_length",
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    keep_to_one_device(config)
    return config


def assert_completion_mask(trainer: Any, examples: Sequence[Example]) -> None:
    """Hold the batches that the trainer really sees against the rendered rows, before the first step.

    Every row of the training set, as it comes out of the trainer's own data set and collator: exactly the completion's
    tokens and the end token carry loss, nothing was cut, padding carries none.

    Raises:
        TrainingError: a row differs; names it.
    """
    seen = trainer.train_dataset
    if len(seen) != len(examples):
        raise TrainingError(f"completion mask: the trainer sees {len(seen)} rows of {len(examples)}; report this")
    for start in range(0, len(examples), 16):
        part = examples[start : start + 16]
        batch = trainer.data_collator([dict(seen[start + i]) for i in range(len(part))])
        for i, example in enumerate(part):
            ids, labels = batch["input_ids"][i].tolist(), batch["labels"][i].tolist()
            length = len(example.input_ids)
            padding = len(labels) - length
            if ids[:length] != list(example.input_ids) or labels != (example.labels + [IGNORE_INDEX] * padding):
                raise TrainingError(
                    f"completion mask: row {example.row.id} carries loss on other tokens than its completion and end "
                    "token; report this with the versions that `lowvram-ft doctor` prints"
                )
