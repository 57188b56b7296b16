"""What a plan may pull to make a model fit: the words of ``hardware.allow``, and what each of them costs in kind."""

from __future__ import annotations

from dataclasses import dataclass

from lowvram_ft.memory.setup import HEAD_SLICE_ROWS, TrainingSetup
from lowvram_ft.memory.shape import ModelShape

CLASSES = (
    "bitwise the same",
    "the same in expectation",
    "changed numerics",
    "a different training",
)
"""What a lever does to the result, from nothing to the most. A later class is tried only where no earlier one fits.

1. Bitwise the same: only where something is kept, or when it is computed again.
2. The same in expectation: other sums of the same terms. With dropout 0 equal to rounding (1e-5), because the loss is
   normalized over all tokens of the effective batch.
3. Changed numerics: other rounding of weights or of optimizer state.
4. A different training: other rows, another adapter, another model.
"""

LEVERS: dict[str, int] = {
    "checkpointing": 1,
    "offload_embedding": 1,
    "offload_head": 1,
    "offload_optimizer": 1,
    "offload_activations": 1,
    "offload_layers": 1,
    "smaller_batch": 2,
    "chunked_loss": 2,
    "optimizer_8bit": 3,
    "nf4_embedding": 3,
    "nf4_head": 3,
    "shorter": 4,
    "smaller_rank": 4,
    "smaller_model": 4,
}
"""Every word of ``hardware.allow``, and its class."""

ALLOW = tuple(LEVERS)
DEFAULT_ALLOW = tuple(word for word, level in LEVERS.items() if level <= 2)
"""What is allowed where a recipe says nothing: whatever leaves the training what it was."""


@dataclass(frozen=True)
class Change:
    """A lever that was pulled.

    Attributes:
        lever: the word of ``hardware.allow``.
        level: its class, from 1.
        text: what it changed, for people.
    """

    lever: str
    level: int
    text: str


def changes_between(wanted: TrainingSetup, chosen: TrainingSetup, shape: ModelShape) -> tuple[Change, ...]:
    """The levers that make one setup of another, the heaviest class first."""
    texts: dict[str, str] = {}
    if chosen.max_length != wanted.max_length:
        texts["shorter"] = f"max_length {wanted.max_length} ► {chosen.max_length}: longer rows are left out"
    if chosen.r != wanted.r:
        texts["smaller_rank"] = f"r {wanted.r} ► {chosen.r}: an adapter with less room"
    if chosen.nf4_embedding and not wanted.nf4_embedding:
        what = "embedding and head" if shape.tie_word_embeddings else "embedding"
        texts["nf4_embedding"] = f"{what} in NF4"
    if chosen.head == "nf4" and wanted.head != "nf4":
        texts["nf4_head"] = "head in NF4"
    if chosen.optimizer != wanted.optimizer and wanted.optimizer == "adamw_torch":
        texts["optimizer_8bit"] = f"optimizer {wanted.optimizer} ► {chosen.optimizer}: its state in 8 bits"
    if chosen.per_device_train_batch_size != wanted.per_device_train_batch_size:
        texts["smaller_batch"] = (
            f"micro-batch {wanted.per_device_train_batch_size} ► {chosen.per_device_train_batch_size}, "
            f"accumulation {wanted.gradient_accumulation_steps} ► {chosen.gradient_accumulation_steps}: "
            "the same effective batch"
        )
    if chosen.loss_chunk != wanted.loss_chunk:
        texts["chunked_loss"] = f"the loss over {chosen.loss_chunk} tokens at a time: the same sum"
    texts |= _placements(wanted, chosen, shape)
    order = sorted(texts, key=lambda word: -LEVERS[word])
    return tuple(Change(word, LEVERS[word], texts[word]) for word in order)


def _placements(wanted: TrainingSetup, chosen: TrainingSetup, shape: ModelShape) -> dict[str, str]:
    texts = {}
    again = []
    if chosen.gradient_checkpointing != wanted.gradient_checkpointing:
        again.append(
            "activations computed again in the backward pass: the same result, slower"
            if chosen.gradient_checkpointing
            else "no checkpointing, because all activations fit: the same result, faster"
        )
    if wanted.keep_dequantized and not chosen.keep_dequantized:
        again.append("4-bit weights dequantized at each use: the same result, slower")
    if again:
        texts["checkpointing"] = "; ".join(again)
    if chosen.offload_embedding and not wanted.offload_embedding:
        texts["offload_embedding"] = "embedding on the host: the same result"
    if chosen.head == "host" and wanted.head != "host":
        texts["offload_head"] = f"head on the host, {HEAD_SLICE_ROWS} rows at a time on the card: the same result"
    if (chosen.offload_optimizer, chosen.optimizer) != (wanted.offload_optimizer, wanted.optimizer):
        if chosen.offload_optimizer and not wanted.offload_optimizer:
            texts["offload_optimizer"] = "optimizer and its step on the host: the same result, slower"
        elif chosen.optimizer == "paged_adamw_8bit":
            texts["offload_optimizer"] = "optimizer state paged to the host: the same result, slower"
    if chosen.offload_activations and not wanted.offload_activations:
        texts["offload_activations"] = "checkpointed activations on the host: the same result"
    if chosen.offload_layers != wanted.offload_layers:
        layers = f"{chosen.offload_layers} of {shape.num_hidden_layers} layers"
        ahead = chosen.slot_layers - 1
        texts["offload_layers"] = f"{layers} on the host, {ahead} fetched ahead: the same result, slower"
    return texts
