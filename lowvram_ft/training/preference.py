"""The one path of preference training: TRL's ``DPOTrainer`` on pairs that are rendered and compared already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lowvram_ft.data.prepared_pairs import LogProbs, PairExample
from lowvram_ft.errors import TrainingError
from lowvram_ft.recipe import TrainSection
from lowvram_ft.training.arguments import keep_quiet, keep_to_one_device, training_arguments, undo_rounding
from lowvram_ft.training.engines.protocol import Loaded

if TYPE_CHECKING:
    from datasets import Dataset

REFERENCE_COPY = "ref"
"""The adapter that TRL adds to a PEFT model as the reference; ours is on the disk, and its place is better used."""


def build_preference_trainer(
    loaded: Loaded,
    train: TrainSection,
    rows: Dataset,
    eval_rows: Dataset | None,
    output_dir: Path,
    callbacks: Sequence[Any],
) -> Any:
    """Build the trainer. Every argument that matters is passed: the engines' defaults differ.

    Args:
        loaded: the model.
        train: the recipe's section.
        rows: pairs with their reference log-probabilities (`lowvram_ft.data.prepared_pairs.for_trainer`).
        eval_rows: the same for the validation loss; None for none.
        output_dir: for checkpoints.
        callbacks: of type ``transformers.TrainerCallback``.
    """
    from transformers import PrinterCallback
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    from lowvram_ft.training.pair_trainer import PairTrainer
    from lowvram_ft.training.processes.ddp import leave_frozen_alone
    from lowvram_ft.training.processes.order import put_pairs_in_order

    keep_quiet()
    leave_frozen_alone(loaded.model)
    exact = {name: p.data for name, p in loaded.model.named_parameters() if p.requires_grad}
    pad = loaded.tokenizer.pad_token_id
    trainer = PairTrainer(
        model=loaded.model,
        ref_model=None,
        args=preference_config(loaded, train, eval_rows is not None, output_dir),
        data_collator=DataCollatorForPreference(
            pad_token_id=pad if pad is not None else loaded.tokenizer.eos_token_id, max_length=None
        ),
        train_dataset=rows,
        eval_dataset=eval_rows,
        processing_class=loaded.tokenizer,
        callbacks=list(callbacks),
    )
    if REFERENCE_COPY in loaded.model.peft_config:
        loaded.model.delete_adapter(REFERENCE_COPY)
    undo_rounding(loaded.model, exact)
    trainer.model_accepts_loss_kwargs = True  # what `PairTrainer.compute_loss` returns is not to be divided again
    trainer.loss_chunk, trainer.compute_dtype = loaded.loss_chunk, loaded.dtype
    put_pairs_in_order(trainer)
    trainer.remove_callback(PrinterCallback)  # it prints to stdout, which is for results
    return trainer


def preference_config(loaded: Loaded, train: TrainSection, evaluates: bool, output_dir: Path) -> Any:
    """The recipe's section as TRL's ``DPOConfig``."""
    from trl import DPOConfig

    arguments = training_arguments(loaded, train, evaluates, output_dir)
    # alone, pairs are not padded to one another, and a mean over micro-batches is one over pairs
    arguments["per_device_eval_batch_size"] = 1
    weights = {train.loss_type: 1.0} | ({"sft": train.sft_weight} if train.sft_weight else {})
    config = DPOConfig(
        **arguments,
        loss_type=list(weights),
        loss_weights=list(weights.values()),
        beta=train.beta,
        label_smoothing=0.0,
        use_weighting=False,
        ld_alpha=None,
        f_divergence_type="reverse_kl",
        disable_dropout=True,
        precompute_ref_log_probs=False,  # `lowvram_ft.training.references` does it, and keeps them
        sync_ref_model=False,
        activation_offloading=False,
        padding_free=False,
        max_length=None,  # pairs that are too long were dropped: nothing is ever cut
        truncation_mode="keep_start",
        pad_to_multiple_of=None,
    )
    keep_to_one_device(config)
    return config


def assert_pair_masks(trainer: Any, examples: Sequence[PairExample], references: Mapping[str, LogProbs]) -> None:
    """Hold the batches that the trainer really sees against the rendered pairs, before the first step.

    Every pair of the training set, as it comes out of the trainer's own data set and collator: winner and loser follow
    the same prompt, exactly their tokens and the end token count, nothing was cut, padding counts for nothing, and the
    reference log-probabilities are those of the pair.

    Raises:
        TrainingError: a pair differs; names it.
    """
    seen = trainer.train_dataset
    if len(seen) < len(examples):
        raise TrainingError(f"pairs: the trainer sees {len(seen)} of {len(examples)}; report this")
    for place, example in enumerate(examples):
        batch = {name: tensor.tolist() for name, tensor in trainer.data_collator([dict(seen[place])]).items()}
        completions = (example.chosen_ids, example.rejected_ids)
        compared = (batch["ref_chosen_logps"][0], batch["ref_rejected_logps"][0])
        same = len(batch["input_ids"]) == 2 and all(
            _holds(batch, number, example, completion) for number, completion in enumerate(completions)
        )
        if not same or compared != references[example.digest]:
            raise TrainingError(
                f"pairs: {example.pair.id} is compared on other tokens than its completions and end tokens, or with "
                "another reference; report this with the versions that `lowvram-ft doctor` prints"
            )


def _holds(batch: Mapping[str, Any], number: int, example: PairExample, completion: Sequence[int]) -> bool:
    """Whether a sequence of a micro-batch is the prompt and a completion of a pair, and padding."""
    before, length = len(example.prompt_ids), len(example.prompt_ids) + len(completion)
    padding = [0] * (example.length - length)
    there, counted = [1] * length + padding, [0] * before + [1] * len(completion) + padding
    ids = batch["input_ids"][number]
    return (
        (len(ids), ids[:length]) == (example.length, [*example.prompt_ids, *completion])
        and batch["attention_mask"][number] == there
        and batch["completion_mask"][number] == counted
    )
