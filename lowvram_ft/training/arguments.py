"""What the trainers of rows and of pairs have in common: their arguments, and what is to be said to their libraries."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lowvram_ft.recipe import TrainSection
from lowvram_ft.training.engines.protocol import Loaded


def training_arguments(loaded: Loaded, train: TrainSection, evaluates: bool, output_dir: Path) -> dict[str, Any]:
    """The recipe's section as arguments of ``transformers.TrainingArguments``, every one that matters.

    Args:
        loaded: the model.
        train: the recipe's section.
        evaluates: whether there is a validation loss.
        output_dir: for checkpoints.
    """
    on_cpu = loaded.device == "cpu"
    return {
        "output_dir": str(output_dir),
        "learning_rate": train.learning_rate,
        "num_train_epochs": train.num_train_epochs,
        "max_steps": train.max_steps if train.max_steps is not None else -1,
        "per_device_train_batch_size": train.per_device_train_batch_size,
        "per_device_eval_batch_size": train.per_device_train_batch_size,
        "gradient_accumulation_steps": train.gradient_accumulation_steps,
        "gradient_checkpointing": train.gradient_checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False} if train.gradient_checkpointing else None,
        "warmup_steps": train.warmup_steps,
        "lr_scheduler_type": train.lr_scheduler_type,
        # the 8-bit optimizers exist to save VRAM; on a CPU their kernels are slower than the state is large
        "optim": "adamw_torch" if on_cpu else train.optim,
        "weight_decay": train.weight_decay,
        "max_grad_norm": train.max_grad_norm,
        "eval_strategy": "steps" if evaluates else "no",
        "eval_steps": train.eval_steps,
        "save_strategy": "steps",
        "save_steps": train.eval_steps,
        "load_best_model_at_end": False,  # `Saver` does it: each checkpoint holds the best weights
        "restore_callback_states_from_checkpoint": True,  # early stopping counts on
        "metric_for_best_model": "eval_loss" if evaluates else None,
        "greater_is_better": False if evaluates else None,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "log_level_replica": "error",  # as `keep_quiet` has it; else all but the first of several processes talk
        "report_to": "none",
        "disable_tqdm": True,
        "bf16": loaded.dtype == "bfloat16",
        "fp16": loaded.dtype == "float16",
        "use_cpu": on_cpu,
        "dataloader_pin_memory": not on_cpu,
        "remove_unused_columns": False,
        "seed": train.seed,
        "data_seed": train.seed,
        "average_tokens_across_devices": True,
        "ddp_find_unused_parameters": False,  # every LoRA weight takes part in every forward pass
        "ddp_broadcast_buffers": False,  # none of them changes
    }


def keep_to_one_device(config: Any) -> None:
    """Keep a process to its own device.

    Args:
        config: a ``transformers.TrainingArguments``.
    """
    import torch

    # one process trains on one card; transformers would put further ones that it sees to work with DataParallel
    config._n_gpu = min(1, config.n_gpu)
    if config.use_cpu and config.world_size > 1:
        # accelerate numbers CPUs by process; the trainer resumes an optimizer there, and torch.load knows no "cpu:0"
        config.__dict__["_setup_devices"] = torch.device("cpu")


def undo_rounding(model: Any, exact: Mapping[str, Any]) -> None:
    """Give the adapter its own type again, which TRL makes bfloat16 where the base is in 4 bits.

    An update of AdamW is about the learning rate. Beside a weight of 0.02, 2e-5 is less than the half step of
    bfloat16's 8 bits, and lost; in float32, as PEFT makes adapters and Unsloth trains them, none is.

    Args:
        model: a ``peft.PeftModel``.
        exact: its trained weights as they were, by name.
    """
    for name, parameter in model.named_parameters():
        if name in exact:
            parameter.data = exact[name]


def keep_quiet() -> None:
    """Silence what the libraries say of themselves, on the screen and to the hub; our progress says what a user needs.

    Every trainer of TRL's reports its class and settings to the hub, from a thread of its own.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    import datasets
    import huggingface_hub.constants
    import transformers

    huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY = True
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    warnings.filterwarnings("ignore", module=r"(torch|trl|transformers|peft|accelerate|bitsandbytes)\b.*")
