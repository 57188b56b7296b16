"""One notch down: what a training gives up when memory runs out although the plan said that it fits.

The order is that of the search, from what changes nothing to what trains something else. A notch is a pure function of
the configuration; what can be moved is said by the engine, what may be changed by the recipe.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Literal

from lowvram_ft.memory.setup import TrainingSetup

Change = Literal["bitwise", "expectation", "numerics", "training"]
"""What a notch does to the result: nothing, bit for bit; the same in expectation; other numerics; another training."""
Lever = Literal[
    "gradient_checkpointing",
    "offload_activations",
    "offload_layers",
    "offload_embedding",
    "offload_optimizer",
    "host_head",
    "smaller_batch",
    "nf4_head",
    "nf4_embedding",
    "optimizer_8bit",
    "shorter",
]
"""What an engine can be asked to do, and, but for ``gradient_checkpointing``, the word by which a recipe allows it."""
Short = Literal["device", "host"]
"""Where memory ran out: where the model is trained, or on the host of a card."""

MOST_NOTCHES = 3
FIRST_LAYERS = 2
MIN_LENGTH = 512


@dataclass(frozen=True)
class Notch:
    """One step down.

    Attributes:
        setup: the configuration to go on with.
        change: what it does to the result.
        lever: what was pulled.
        words: the same for a reader.
    """

    setup: TrainingSetup
    change: Change
    lever: Lever
    words: str


def step_down(
    setup: TrainingSetup,
    *,
    levers: Collection[Lever],
    allow: Collection[str],
    num_layers: int,
    taken: int = 0,
    short: Short = "device",
) -> Notch | None:
    """The next configuration down, in the order of `Lever`.

    Args:
        setup: the one that memory ran out with.
        levers: what the engine can do on this machine.
        allow: words of ``hardware.allow``. Checkpointing needs none: it changes no bit and moves nothing.
        num_layers: decoder layers of the model.
        taken: notches taken before; layers go in steps of 2, 4, 8, so that three of them get somewhere.
        short: where memory ran out. What moves tensors to the host is of no use to the host.

    Returns:
        The notch; None where nothing is left.
    """
    layers = min(num_layers, setup.offload_layers + (FIRST_LAYERS << taken))
    candidates: tuple[tuple[Lever, Callable[[], Notch | None]], ...] = (
        ("gradient_checkpointing", lambda: _checkpointing(setup)),
        ("offload_activations", lambda: _activations(setup)),
        ("offload_layers", lambda: _layers(setup, layers, num_layers)),
        ("offload_embedding", lambda: _embedding(setup)),
        ("offload_optimizer", lambda: _optimizer_out(setup)),
        ("host_head", lambda: _head_out(setup)),
        ("smaller_batch", lambda: _smaller_batch(setup)),
        ("nf4_head", lambda: _nf4_head(setup)),
        ("nf4_embedding", lambda: _nf4_embedding(setup)),
        ("optimizer_8bit", lambda: _optimizer_8bit(setup)),
        ("shorter", lambda: _shorter(setup)),
    )
    for lever, notch in candidates:
        if lever not in levers or (lever != "gradient_checkpointing" and lever not in allow):
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
    if setup.gradient_checkpointing:
        return None
    words = "gradient checkpointing on: the same result, slower"
    return Notch(replace(setup, gradient_checkpointing=True), "bitwise", "gradient_checkpointing", words)


def _activations(setup: TrainingSetup) -> Notch | None:
    if setup.offload_activations or not setup.gradient_checkpointing:
        return None
    words = "checkpointed activations on the host: the same result, slower"
    return Notch(replace(setup, offload_activations=True), "bitwise", "offload_activations", words)


def _layers(setup: TrainingSetup, layers: int, num_layers: int) -> Notch | None:
    if layers == setup.offload_layers or not setup.gradient_checkpointing:
        return None
    words = f"layers on the host {setup.offload_layers} ► {layers} of {num_layers}: the same result, slower"
    return Notch(replace(setup, offload_layers=layers), "bitwise", "offload_layers", words)


def _embedding(setup: TrainingSetup) -> Notch | None:
    if setup.offload_embedding:
        return None
    words = "embedding on the host: the same result"
    return Notch(replace(setup, offload_embedding=True), "bitwise", "offload_embedding", words)


def _optimizer_out(setup: TrainingSetup) -> Notch | None:
    if setup.offload_optimizer:
        return None
    words = "optimizer state on the host: the same result, slower"
    return Notch(replace(setup, offload_optimizer=True), "bitwise", "offload_optimizer", words)


def _head_out(setup: TrainingSetup) -> Notch | None:
    if setup.head != "device":
        return None
    words = "output head on the host: the same result, slower"
    return Notch(replace(setup, head="host"), "bitwise", "host_head", words)


def _smaller_batch(setup: TrainingSetup) -> Notch | None:
    batch, steps = setup.per_device_train_batch_size, setup.gradient_accumulation_steps
    if batch % 2:  # the effective batch stays what it is, so the micro-batch has to be halved evenly
        return None
    words = f"micro-batch {batch} ► {batch // 2}, accumulation {steps} ► {2 * steps}: the same effective batch"
    smaller = replace(setup, per_device_train_batch_size=batch // 2, gradient_accumulation_steps=2 * steps)
    return Notch(smaller, "expectation", "smaller_batch", words)


def _nf4_head(setup: TrainingSetup) -> Notch | None:
    if setup.head == "nf4":
        return None
    return Notch(replace(setup, head="nf4"), "numerics", "nf4_head", "output head in NF4: other numerics")


def _nf4_embedding(setup: TrainingSetup) -> Notch | None:
    if setup.nf4_embedding:
        return None
    words = "embedding in NF4: other numerics"
    return Notch(replace(setup, nf4_embedding=True), "numerics", "nf4_embedding", words)


def _optimizer_8bit(setup: TrainingSetup) -> Notch | None:
    if setup.optimizer != "adamw_torch":
        return None
    words = "optimizer adamw_torch ► adamw_8bit: other numerics"
    return Notch(replace(setup, optimizer="adamw_8bit"), "numerics", "optimizer_8bit", words)


def _shorter(setup: TrainingSetup) -> Notch | None:
    length = setup.max_length // 2
    if length < MIN_LENGTH:
        return None
    words = f"max_length {setup.max_length} ► {length}: longer rows are left out"
    return Notch(replace(setup, max_length=length), "training", "shorter", words)
