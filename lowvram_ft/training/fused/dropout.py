"""Dropout masks as bits: four draws from one 64-bit number, and a product with the mask that is one bitwise and.

PyTorch draws a mask with ``bernoulli_``, one number of the generator an element (5 to 6 ns), and multiplies. In a
LoRA model of seven projections that is a seventh of a training step on a CPU. Here an element takes 15 bits, so that
one number of the same generator makes four, and a checkpoint that holds the generator's state holds the masks.
"""

from __future__ import annotations

import math

import torch

STEPS = 1 << 15
"""A probability is a multiple of one in so many; the inverse scale is that of the probability that is really used."""


def drop_threshold(p: float) -> int:
    """How many of `STEPS` are dropped for a dropout probability."""
    return round(p * STEPS)


def keep_scale(p: float) -> float:
    """What kept elements are multiplied by, so that the expectation stays: 1 / (1 - p) of the p that is really used."""
    return STEPS / (STEPS - drop_threshold(p))


def keep_bits(shape: torch.Size, p: float) -> torch.Tensor:
    """Draw a mask from torch's default generator.

    Args:
        shape: of what is masked.
        p: probability of dropping an element, rounded to a multiple of 1 / `STEPS`.

    Returns:
        int16 of that shape: all bits set where an element is kept, none where it is dropped.
    """
    count = math.prod(shape)
    words = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    draws = words.view(torch.int16)[:count].view(shape)
    draws &= STEPS - 1  # uniform in [0, STEPS)
    draws -= drop_threshold(p)  # below 0 where it is dropped
    draws >>= 15  # the sign bit everywhere
    return draws.bitwise_not_()


def apply_bits(x: torch.Tensor, bits: torch.Tensor) -> torch.Tensor:
    """``x`` where the mask keeps it, 0 elsewhere; unscaled.

    Args:
        x: bfloat16, float16 or float32.
        bits: from `keep_bits`, of the same shape.
    """
    if x.element_size() == 2:
        return (x.contiguous().view(torch.int16) & bits).view(x.dtype)
    return (x.contiguous().view(torch.int32) & bits).view(x.dtype)
