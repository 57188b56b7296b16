"""One notch down: what a training gives up when memory runs out although the plan said that it fits.

The order is that of the search, from what changes nothing to what trains something else. A notch is a pure function of
the configuration; what can be moved is said by the engine, what may be changed by the recipe.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Literal

from lowvram_ft.memory.levers import LEVERS
from lowvram_ft.memory.setup import TrainingSetup
from lowvram_ft.memory.space import LOSS_CHUNK, MIN_LENGTH

Lever = Literal[
    "checkpointing",
    "offload_activations",
    "offload_layers",
    "offload_embedding",
    "offload_optimizer",
    "offload_head",
    "smaller_batch",
    "chunked_loss",
    "nf4_head",
    "nf4_embedding",
    "optimizer_8bit",
    "shorter",
]
"""What an engine can be asked to do in the middle of a run, in the order in which it is tried: the words of
``hardware.allow`` (`lowvram_ft.memory.levers`), less those of which a run cannot go on with what it has trained:
``smaller_rank`` (the adapter and its moments have another shape) and ``smaller_model``."""
Short = Literal["device", "host"]
"""Where memory ran out: where the model is trained, or on the host of a card."""

MOST_NOTCHES = 3
FIRST_LAYERS = 2
MIN_CHUNK = 64
"""Tokens of a loss in chunks, below which fewer save little beside the last hidden states."""


@dataclass(frozen=True)
class Notch:
    """One step down.

    Attributes:
        setup: the configuration to go on with.
        lever: what was pulled.
        words: the same for a reader.
    """

    setup: TrainingSetup
    lever: Lever
    words: str

    @property
    def level(self) -> int:
        """What it does to the result: 1 nothing, bit for bit; 2 the same in expectation; 3 and 4 change it."""
        return LEVERS[self.lever]


def step_down(
    setup: TrainingSetup,
    *,
    levers: Collection[Lever],
    allow: Collection[str],
    num_layers: int,
    tied: bool,
    taken: int = 0,
    short: Short = "device",
) -> Notch | None:
    """The next configuration down, in the order of `Lever`.

    Args:
        setup: the one that memory ran out with.
        levers: what the engine can do on this machine.
        allow: words of ``hardware.allow``.
        num_layers: decoder layers of the model.
        tied: whether embedding and head are one tensor: then they move together, under the head's name.
        taken: notches taken before; layers go in steps of 2, 4, 8, so that three of them get somewhere.
        short: where memory ran out. What moves tensors to the host is of no use to the host.

    Returns:
        The notch; None where nothing is left.
    """
    layers = min(num_layers, setup.offload_layers + (FIRST_LAYERS << taken))
    candidates: tuple[tuple[Lever, Callable[[], Notch | None]], ...] = (
        ("checkpointing", lambda: _checkpointing(setup)),
        ("offload_activations", lambda: _activations(setup)),
        ("offload_layers", lambda: _layers(setup, layers, num_layers)),
        ("offload_embedding", lambda: None if tied else _embedding(setup)),
        ("offload_optimizer", lambda: _optimizer_out(setup)),
        ("offload_head", lambda: _head_out(setup)),
        ("smaller_batch", lambda: _smaller_batch(setup)),
        ("chunked_loss", lambda: _chunked(setup)),
        ("nf4_head", lambda: _nf4_head(setup)),
        ("nf4_embedding", lambda: None if tied else _nf4_embedding(setup)),
        ("optimizer_8bit", lambda: _optimizer_8bit(setup)),
        ("shorter", lambda: _shorter(setup)),
    )
    for lever, notch in candidates:
        if lever not in levers or lever not in allow:
            continue
        if short == "host" and not _helps_host(lever, setup):
            continue
        found = notch()
        if found is not None:
            return found
    return None


def _helps_host(lever: Lever, setup: TrainingSetup) -> bool:
    """Whether a lever makes less of what a training on a card keeps on the host."""
    return setup.offload_activations and lever in ("smaller_batch", "shorter")


def _checkpointing(setup: TrainingSetup) -> Notch | None:
    if setup.keep_dequantized:
        words = "4-bit weights dequantized at each use: the same result, slower"
        return Notch(replace(setup, keep_dequantized=False), "checkpointing", words)
    if setup.gradient_checkpointing:
        return None
    words = "gradient checkpointing on: the same result, slower"
    return Notch(replace(setup, gradient_checkpointing=True), "checkpointing", words)


def _activations(setup: TrainingSetup) -> Notch | None:
    if setup.offload_activations or not setup.gradient_checkpointing:
        return None
    words = "checkpointed activations on the host: the same result, slower"
    return Notch(replace(setup, offload_activations=True), "offload_activations", words)


def _layers(setup: TrainingSetup, layers: int, num_layers: int) -> Notch | None:
    if layers == setup.offload_layers or not setup.gradient_checkpointing:
        return None
    words = f"layers on the host {setup.offload_layers} ► {layers} of {num_layers}: the same result, slower"
    return Notch(replace(setup, offload_layers=layers), "offload_layers", words)


def _embedding(setup: TrainingSetup) -> Notch | None:
    if setup.offload_embedding:
        return None
    words = "embedding on the host: the same result"
    return Notch(replace(setup, offload_embedding=True), "offload_embedding", words)


def _optimizer_out(setup: TrainingSetup) -> Notch | None:
    if setup.offload_optimizer:
        return None
    words = "optimizer state on the host: the same result, slower"
    return Notch(replace(setup, offload_optimizer=True), "offload_optimizer", words)


def _head_out(setup: TrainingSetup) -> Notch | None:
    if setup.head != "device":
        return None
    words = "output head on the host: the same result, slower"
    return Notch(replace(setup, head="host"), "offload_head", words)


def _smaller_batch(setup: TrainingSetup) -> Notch | None:
    batch, steps = setup.per_device_train_batch_size, setup.gradient_accumulation_steps
    if batch == 1:
        return None
    effective = batch * steps
    half = max(part for part in range(1, batch // 2 + 1) if effective % part == 0)  # or the next that comes out even
    words = f"micro-batch {batch} ► {half}, accumulation {steps} ► {effective // half}: the same effective batch"
    smaller = replace(setup, per_device_train_batch_size=half, gradient_accumulation_steps=effective // half)
    return Notch(smaller, "smaller_batch", words)


def _chunked(setup: TrainingSetup) -> Notch | None:
    if setup.head != "device":  # its loss has slices of the vocabulary, for all tokens
        return None
    chunk = setup.tokens if setup.loss_chunk is None else min(setup.loss_chunk, setup.tokens)
    if chunk <= MIN_CHUNK:
        return None
    smaller = max(MIN_CHUNK, min(LOSS_CHUNK, chunk // 2))
    words = f"the loss over {smaller} tokens at a time: the same sum"
    return Notch(replace(setup, loss_chunk=smaller), "chunked_loss", words)


def _nf4_head(setup: TrainingSetup) -> Notch | None:
    if setup.head == "nf4":
        return None
    return Notch(replace(setup, head="nf4"), "nf4_head", "output head in NF4: other numerics")


def _nf4_embedding(setup: TrainingSetup) -> Notch | None:
    if setup.nf4_embedding:
        return None
    words = "embedding in NF4: other numerics"
    return Notch(replace(setup, nf4_embedding=True), "nf4_embedding", words)


def _optimizer_8bit(setup: TrainingSetup) -> Notch | None:
    if setup.optimizer != "adamw_torch":
        return None
    words = "optimizer adamw_torch ► adamw_8bit: other numerics"
    return Notch(replace(setup, optimizer="adamw_8bit"), "optimizer_8bit", words)


def _shorter(setup: TrainingSetup) -> Notch | None:
    length = setup.max_length // 2
    if length < MIN_LENGTH:
        return None
    words = f"max_length {setup.max_length} ► {length}: longer rows are left out"
    return Notch(replace(setup, max_length=length), "shorter", words)
