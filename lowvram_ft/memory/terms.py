"""Bytes of what stays: weights, LoRA, gradients, optimizer state. One function a formula."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil
from typing import Literal

from lowvram_ft.memory.setup import Optimizer, TrainingSetup
from lowvram_ft.memory.shape import ModelShape

NF4_BLOCK = 64
"""Weights that share one absmax (bitsandbytes ``quantize_4bit``, QLoRA section 3)."""
ABSMAX_BLOCK = 256
"""Absmax values that share one second-level constant (bitsandbytes ``quantize_4bit``, QLoRA section 3)."""
OPTIMIZER_BLOCK = 256
"""Values that share one absmax in an 8-bit state (bitsandbytes ``Optimizer2State.init_state``)."""
MIN_8BIT_VALUES = 4096
"""Smaller tensors keep a 32-bit state (bitsandbytes ``min_8bit_size``)."""
PAGED_VALUES = 100_000
"""Smaller states are not paged (bitsandbytes ``get_state_buffer``)."""

Place = Literal["gpu", "host", "disk"]


@dataclass(frozen=True)
class Term:
    """One summand of a plan.

    Attributes:
        name: unique within a plan.
        where: the memory that it takes.
        bytes: how much.
        formula: how it was computed, with the numbers in it.
        source: a paper, an upstream file, a measurement, or the word assumption.
    """

    name: str
    where: Place
    bytes: int
    formula: str
    source: str


def nf4_bytes(n_weights: int, *, double_quant: bool) -> int:
    """Bytes of one weight tensor in NF4, with everything that is kept to undo it.

    Two weights a byte; one absmax per 64 weights, which is a float32, or with double quantization a
    byte plus one float32 per 256 of them, a table of 256 float32 and a float32 offset; and NF4's own
    table of 16 float32.

    Source: Dettmers et al., QLoRA (2023), section 3; bitsandbytes ``functional.quantize_4bit``.

    Args:
        n_weights: values in the tensor.
        double_quant: whether the absmax values are quantized too.
    """
    blocks = ceil(n_weights / NF4_BLOCK)
    absmax = blocks + 4 * ceil(blocks / ABSMAX_BLOCK) + 4 * 256 + 4 if double_quant else 4 * blocks
    return ceil(n_weights / 2) + absmax + 4 * 16


def layer_payload_bytes(shape: ModelShape, setup: TrainingSetup) -> int:
    """Bytes of the seven weights of one decoder layer themselves: what streams if the layer is on the host."""
    if setup.load_in_4bit:
        return sum(ceil(item.n_weights / 2) for item in shape.linears)
    return shape.n_layer_linear * setup.compute_dtype_bytes


def layer_statistics_bytes(shape: ModelShape, setup: TrainingSetup) -> int:
    """Bytes of what undoes the quantization of one layer; it stays on the device. 0 where nothing is quantized."""
    if not setup.load_in_4bit:
        return 0
    quantized = sum(nf4_bytes(item.n_weights, double_quant=setup.double_quant) for item in shape.linears)
    return quantized - layer_payload_bytes(shape, setup)


def layer_linear_bytes(shape: ModelShape, setup: TrainingSetup) -> int:
    """Bytes of the seven weights of one decoder layer, quantized or not; biases are not in it."""
    return layer_payload_bytes(shape, setup) + layer_statistics_bytes(shape, setup)


def lora_tensors(shape: ModelShape, setup: TrainingSetup) -> list[int]:
    """Sizes of all LoRA tensors: A is r x in, B is out x r, for every target of every layer.

    Source: Hu et al., LoRA (2021), section 4.1; PEFT ``tuners/lora/layer.py``.
    """
    a_layer = [
        setup.r * width
        for linear in shape.linears
        if linear.name in setup.target_modules
        for width in (linear.in_features, linear.out_features)
    ]
    return a_layer * shape.num_hidden_layers


def optimizer_bytes(sizes: Iterable[int], optimizer: Optimizer) -> tuple[int, int]:
    """Bytes of the state of an optimizer over trainable tensors.

    AdamW keeps two moments. In 32 bits: 8 bytes a value, and with torch a float32 step a tensor. In
    8 bits: 2 bytes a value and two float32 per block of 256 for tensors of at least 4096 values, and
    two tables of 256 float32 in all. Paged moments of at least 100 000 values may leave the card.

    Source: torch ``optim/adamw.py``; bitsandbytes ``optim/optimizer.py``, ``Optimizer2State.init_state``
    and ``get_state_buffer``; Dettmers et al., 8-bit Optimizers (2022), section 2.

    Args:
        sizes: values in each trainable tensor.
        optimizer: which one.

    Returns:
        Bytes that stay on the device, and bytes that can be paged out to the host.
    """
    resident, paged, tables = 0, 0, 0
    for n, count in Counter(sizes).items():  # the same few sizes in every layer
        if optimizer == "adamw_torch":
            resident += count * (8 * n + 4)
            continue
        small = n < MIN_8BIT_VALUES
        moments = 8 * n if small else 2 * n
        if not small:
            resident += count * 2 * 4 * ceil(n / OPTIMIZER_BLOCK)
            tables = 2 * 4 * 256
        if optimizer == "paged_adamw_8bit" and n >= PAGED_VALUES:
            paged += count * moments
        else:
            resident += count * moments
    return resident + tables, paged
