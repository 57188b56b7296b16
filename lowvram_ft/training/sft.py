"""The one path of supervised fine-tuning: TRL's ``SFTTrainer`` on rows that are rendered and masked already."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lowvram_ft.data.prepared import IGNORE_INDEX, Example
from lowvram_ft.errors import TrainingError
from lowvram_ft.recipe import TrainSection
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
    _undo_rounding(loaded.model, exact)
    put_in_order(trainer)
    trainer.remove_callback(PrinterCallback)  # it prints to stdout, which is for results
    return trainer


def _undo_rounding(model: Any, exact: Mapping[str, Any]) -> None:
    """Give the adapter its own type again, which TRL makes bfloat16 where the base is in 4 bits.

    An update of AdamW is about the learning rate. Beside a weight of 0.02, 2e-5 is less than the half step of
    bfloat16's 8 bits, and lost; in float32, as PEFT makes adapters and Unsloth trains them, none is.
    """
    for name, parameter in model.named_parameters():
        if name in exact:
            parameter.data = exact[name]


def sft_config(loaded: Loaded, train: TrainSection, evaluates: bool, output_dir: Path) -> Any:
    """The recipe's section as TRL's ``SFTConfig``."""
    import torch
    from trl import SFTConfig

    on_cpu = loaded.device == "cpu"
    config = SFTConfig(
        output_dir=str(output_dir),
        learning_rate=train.learning_rate,
        num_train_epochs=train.num_train_epochs,
        max_steps=train.max_steps if train.max_steps is not None else -1,
        per_device_train_batch_size=train.per_device_train_batch_size,
        per_device_eval_batch_size=train.per_device_train_batch_size,
        gradient_accumulation_steps=train.gradient_accumulation_steps,
        gradient_checkpointing=train.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False} if train.gradient_checkpointing else None,
        warmup_steps=train.warmup_steps,
        lr_scheduler_type=train.lr_scheduler_type,
        # the 8-bit optimizers exist to save VRAM; on a CPU their kernels are slower than the state is large
        optim="adamw_torch" if on_cpu else train.optim,
        weight_decay=train.weight_decay,
        max_grad_norm=train.max_grad_norm,
        max_length=None,  # rows that are too long were dropped: nothing is ever cut
        packing=False,
        train_sampling_strategy="group_by_length",
        eval_strategy="steps" if evaluates else "no",
        eval_steps=train.eval_steps,
        save_strategy="steps",
        save_steps=train.eval_steps,
        load_best_model_at_end=False,  # `Saver` does it: each checkpoint holds the best weights
        restore_callback_states_from_checkpoint=True,  # early stopping counts on
        metric_for_best_model="eval_loss" if evaluates else None,
        greater_is_better=False if evaluates else None,
        logging_steps=1,
        logging_nan_inf_filter=False,
        log_level_replica="error",  # as `keep_quiet` has it; else all but the first of several processes talk
        report_to="none",
        disable_tqdm=True,
        bf16=loaded.dtype == "bfloat16",
        fp16=loaded.dtype == "float16",
        use_cpu=on_cpu,
        dataloader_pin_memory=not on_cpu,
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        seed=train.seed,
        data_seed=train.seed,
        average_tokens_across_devices=True,
        ddp_find_unused_parameters=False,  # every LoRA weight takes part in every forward pass
        ddp_broadcast_buffers=False,  # none of them changes
    )
    # one process trains on one card; transformers would put further ones that it sees to work with DataParallel
    config._n_gpu = min(1, config.n_gpu)
    if on_cpu and config.world_size > 1:
        # accelerate numbers CPUs by process; the trainer resumes an optimizer there, and torch.load knows no "cpu:0"
        config.__dict__["_setup_devices"] = torch.device("cpu")
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


def keep_quiet() -> None:
    """Silence what the libraries say of themselves; our progress says what a user needs."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    import datasets
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    warnings.filterwarnings("ignore", module=r"(torch|trl|transformers|peft|accelerate|bitsandbytes)\b.*")
