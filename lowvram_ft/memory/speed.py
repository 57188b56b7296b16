"""`step_time`: how long a step takes on a card, and what holds it up. A model, not a measurement.

Products, traffic of the card's own memory and traffic on the bus are counted from the shape and the setup. What a card
computes is one stream, so that its products and its memory traffic follow each other (each product is the longer of
its own two); the bus runs beside them, and only what does not fit beside them is waited for, phase by phase.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Literal

from lowvram_ft.memory import activations
from lowvram_ft.memory.breakdown import activations_leave
from lowvram_ft.memory.cards import Card
from lowvram_ft.memory.machine import PROCESS_BYTES
from lowvram_ft.memory.setup import GIB, Budget, TrainingSetup
from lowvram_ft.memory.shape import ModelShape
from lowvram_ft.memory.terms import layer_linear_bytes, layer_payload_bytes, lora_tensors, optimizer_bytes
from lowvram_ft.memory.weights import embedding_place, head_place, slice_rows, table_bytes

PRODUCT_SHARE = 0.75
"""Of its rate that a card reaches in large products. Assumption."""
MEMORY_SHARE = 0.8
"""Of its bandwidth that a card reaches. Assumption."""
BUS_SHARE = 0.8
"""Of PCI Express that copies from pinned memory reach: 12.6 of 15.75 GB/s. Assumption."""
PAGEABLE_SHARE = 0.35
"""The speed of copies from memory that is not pinned, beside that of pinned memory. Assumption."""
HOST_BYTES_PER_S = 10e9
"""What an optimizer step on the host reads and writes a second. Assumption for a laptop."""
PIN_RESERVE_BYTES, PIN_RESERVE_SHARE = 4 * GIB, 0.15
"""Memory that has to stay free beside what is pinned: the larger of both (unsloth_zoo ``block_swap.py``)."""

Bound = Literal["compute", "card", "bus"]


@dataclass(frozen=True)
class StepTime:
    """One optimizer step of full rows, as the model has it.

    Attributes:
        card: whose figures were used.
        compute_s: seconds in which the tensor cores would be the limit.
        card_s: seconds in which the card's memory would be.
        bus_s: seconds for which the bus is busy.
        exposed_s: of these, seconds in which the card waits.
        step_s: seconds of the step.
        tok_per_s: tokens of full rows a second.
        bound: what there is most of: compute, the card's memory, or, if the bus is busy for longer than both, the bus.
        hidden_share: of the bus traffic that hides behind the card's work; 1 where there is none.
        resident_share: the speed beside that of the same training with everything on a card that is large enough.
    """

    card: str
    compute_s: float
    card_s: float
    bus_s: float
    exposed_s: float
    step_s: float
    tok_per_s: float
    bound: Bound
    hidden_share: float
    resident_share: float

    def to_json(self) -> dict[str, object]:
        """All of it as JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class _Work:
    """Seconds of one part of a step: products, memory traffic, and the bus in both directions."""

    compute: float = 0.0
    card: float = 0.0
    bus: float = 0.0
    waits: float = 0.0
    """Seconds on the bus that nothing can hide."""

    @property
    def exposed(self) -> float:
        return max(0.0, self.bus - self.compute - self.card) + self.waits


def step_time(shape: ModelShape, setup: TrainingSetup, budget: Budget, card: Card) -> StepTime:
    """Predict one optimizer step.

    Args:
        shape: the base model.
        setup: the configuration; rows are taken to have ``max_length`` tokens.
        budget: the machine; its memory decides how much of the host's can be pinned.
        card: the GPU.
    """
    here = _step(shape, setup, budget, card)
    at_home = replace(
        setup,
        offload_layers=0,
        offload_embedding=False,
        offload_activations=False,
        offload_optimizer=False,
        head="device" if setup.head == "host" else setup.head,
        optimizer="adamw_8bit" if setup.optimizer == "paged_adamw_8bit" else setup.optimizer,
    )
    return replace(here, resident_share=_step(shape, at_home, budget, card).step_s / here.step_s)


def _step(shape: ModelShape, setup: TrainingSetup, budget: Budget, card: Card) -> StepTime:
    a_micro_batch = _micro_batch(shape, setup, _rates(shape, setup, budget, card))
    update = _optimizer(shape, setup, _rates(shape, setup, budget, card))
    parts = [(setup.gradient_accumulation_steps, work) for work in a_micro_batch] + [(1, update)]
    compute = sum(count * work.compute for count, work in parts)
    moved = sum(count * work.card for count, work in parts)
    bus = sum(count * (work.bus + work.waits) for count, work in parts)
    exposed = sum(count * work.exposed for count, work in parts)
    step = compute + moved + exposed
    bound: Bound = "bus" if bus > compute + moved else "compute" if compute >= moved else "card"
    return StepTime(
        card=card.name,
        compute_s=compute,
        card_s=moved,
        bus_s=bus,
        exposed_s=exposed,
        step_s=step,
        tok_per_s=setup.effective_batch * setup.max_length / step,
        bound=bound,
        hidden_share=1.0 - exposed / bus if bus else 1.0,
        resident_share=1.0,
    )


@dataclass(frozen=True)
class _Rates:
    """What is reached: operations, bytes of the card's memory, bytes of the bus; a second."""

    flops: float
    memory: float
    bus: float


def _rates(shape: ModelShape, setup: TrainingSetup, budget: Budget, card: Card) -> _Rates:
    pinned = setup.offload_layers * layer_payload_bytes(shape, setup)
    pinned += shape.n_embedding * setup.compute_dtype_bytes if setup.head == "host" else 0
    room = budget.ram_bytes - budget.system_bytes - PROCESS_BYTES["gpu"]
    room -= max(PIN_RESERVE_BYTES, int(PIN_RESERVE_SHARE * budget.ram_bytes))
    over = max(0.0, 1.0 - max(0, room) / pinned) if pinned else 0.0
    slower = 1.0 - over + over / PAGEABLE_SHARE
    return _Rates(
        flops=card.flops_per_s * PRODUCT_SHARE,
        memory=card.memory_bytes_per_s * MEMORY_SHARE,
        bus=card.bus_bytes_per_s * BUS_SHARE / slower,
    )


def _micro_batch(shape: ModelShape, setup: TrainingSetup, rates: _Rates) -> tuple[_Work, _Work, _Work]:
    """Forward, loss and backward.

    Operations, with N weights of the linear layers, T tokens of S a row, attention width A: a forward pass takes
    2 N T, and 2 T S A a layer for attention under a causal mask; a backward pass the same for the gradient of the
    inputs (frozen weights have none), 2.5 times as many for attention (Dao, FlashAttention-2, section 4.1), and twice
    LoRA's own; checkpointing, another forward pass.
    """
    layers, tokens, c = shape.num_hidden_layers, setup.tokens, setup.compute_dtype_bytes
    linear = layers * sum(
        max(
            2 * tokens * item.n_weights / rates.flops,
            c * (item.n_weights + tokens * (item.in_features + item.out_features)) / rates.memory,
        )
        for item in shape.linears
    )
    attention = layers * 2 * tokens * setup.max_length * shape.attention_width / rates.flops
    lora = 2 * tokens * sum(lora_tensors(shape, setup)) / rates.flops
    saved = activations.saved_layer_bytes(shape, setup, on_gpu=True)
    written_out = 0.0
    if setup.load_in_4bit:  # read in 4 bits, written in 16; the product reads it again
        written_out = layers * (layer_linear_bytes(shape, setup) + c * shape.n_layer_linear) / rates.memory
    forward_card = written_out + 2 * layers * saved / rates.memory
    back_card = written_out + 2 * layers * (saved + activations.workspace_bytes(shape, setup)) / rates.memory
    again = setup.gradient_checkpointing
    a_layer = layer_payload_bytes(shape, setup) / rates.bus
    streamed = setup.offload_layers * a_layer
    stayed = min(setup.slot_layers - 1, setup.offload_layers) * a_layer
    kept = activations.checkpoint_bytes(shape, setup) / rates.bus if activations_leave(setup, "gpu") else 0.0
    looked_up = embedding_place(shape, setup, "gpu") == "host"
    rows = tokens * shape.hidden_size * c / rates.bus if looked_up else 0.0
    return (
        # layers come in while hidden states go out: PCI Express does both at once
        _Work(linear + attention + lora, forward_card, max(streamed, kept), rows),
        _loss(shape, setup, rates),
        _Work(
            (2 if again else 1) * linear + (3.5 if again else 2.5) * attention + (3 if again else 2) * lora,
            back_card + (forward_card if again else 0.0),
            streamed - stayed + kept,  # the last ones of the forward pass are the first that come again
        ),
    )


def _loss(shape: ModelShape, setup: TrainingSetup, rates: _Rates) -> _Work:
    """The head over every position: logits, and the gradient of its input.

    Logits are written and read about three times on the way to the loss and back, whether they exist all at once, in
    chunks of positions, or in slices of the vocabulary. A head on the host crosses the bus once, behind the products of
    the slice before; nothing hides its first slice.
    """
    tokens, c, where = setup.tokens, setup.compute_dtype_bytes, head_place(shape, setup, "gpu")
    compute = 4 * tokens * shape.n_embedding / rates.flops
    card = 3 * tokens * shape.vocab_size * (c + 4) / rates.memory
    if where == "nf4":
        written_out = table_bytes(shape, setup, "nf4") + c * shape.n_embedding
        return _Work(compute, card + written_out / rates.memory)
    if where == "host":
        first = slice_rows(shape) * shape.hidden_size * c / rates.bus
        return _Work(compute, card, shape.n_embedding * c / rates.bus - first, first)
    return _Work(compute, card)


def _optimizer(shape: ModelShape, setup: TrainingSetup, rates: _Rates) -> _Work:
    """The optimizer reads weights, gradients and moments and writes weights and moments; on the host, over the bus."""
    sizes = lora_tensors(shape, setup)
    n = sum(sizes)
    resident, paged = optimizer_bytes(sizes, setup.optimizer)
    touched = 3 * n * setup.lora_dtype_bytes + 2 * (resident + paged)
    if setup.offload_optimizer:
        return _Work(waits=2 * n * setup.lora_dtype_bytes / rates.bus + touched / HOST_BYTES_PER_S)
    return _Work(card=touched / rates.memory, waits=2 * paged / rates.bus)
