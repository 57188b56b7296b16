"""Whether every block of a quantized tensor is one that its quantizer can have written.

llama.cpp's quantizers (``ggml/src/ggml-quants.c``) leave marks. They scale to the largest weight of a block, so
that the largest number of the range is used: in Q8_0 one weight is 127 or -127; in Q5_0 and Q4_0 the one with the
largest magnitude is the lowest number; in Q5_1 and Q4_1 the range's both ends are used; in Q4_K and Q5_K the largest
of the eight scales, and of the eight minimums, is 63, and neither float16 factor is negative; in Q6_K the lowest of
the sixteen scales is -128. A block of random bytes breaks a rule nine times in ten in the K types and Q8_0, one to
three times in four in the simpler ones; a page of a broken disk holds dozens of blocks. What was quantized with an
importance matrix does not keep to them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..quantizers.ggml import BLOCK_TYPES, BlockType

Bytes = NDArray[np.uint8]
Flags = NDArray[np.bool_]

_PART_BLOCKS: Final = 1 << 17

_LARGEST_STEP: Final = 4096.0
"""A block's scale over that which nine in ten stay below. Real models reach 25, a flipped exponent bit 65536."""

_FEW: Final = 0.01
"""Zero blocks inside rows that are not zero: above this share the model was pruned, below it a piece is lost."""


@dataclass(frozen=True)
class CorruptedBlock:
    """A block that no quantizer writes.

    Attributes:
        tensor: the tensor's name.
        row: its row, over all leading dimensions.
        first_weight: the place in the row of the block's first weight.
        reason: what is wrong with it.
    """

    tensor: str
    row: int
    first_weight: int
    reason: str

    def __str__(self) -> str:
        return f"{self.tensor}: row {self.row}, weights from {self.first_weight}: {self.reason}"


def corrupted_blocks(tensor: Any, *, with_importances: bool = False) -> list[CorruptedBlock]:
    """The blocks of a tensor that its quantizer cannot have written.

    Args:
        tensor: a ``gguf.ReaderTensor``.
        with_importances: it was quantized with an importance matrix: only scales are looked at.
    """
    block_type = BLOCK_TYPES.get(tensor.tensor_type.name)
    if block_type is None:
        return []
    blocks = np.asarray(tensor.data).reshape(-1).view(np.uint8).reshape(-1, block_type.block_bytes)
    per_row = int(tensor.shape[0]) // block_type.block_values
    scales = np.concatenate([_magnitudes(block_type, part) for part in _parts(blocks)])
    found: list[tuple[Flags, str]] = []
    if not with_importances:
        rule, reason = _RULES[block_type.name]
        found.append((~np.concatenate([rule(part) for part in _parts(blocks)]), reason))
    used = scales[scales > 0]
    if used.size:
        limit = _LARGEST_STEP * float(np.quantile(used, 0.9))
        found.append((scales > limit, f"its scale is over {_LARGEST_STEP:.0f} times that of nine in ten blocks"))
    found.append((_lost(scales.reshape(-1, per_row)).reshape(-1), "all zero in a row that is not"))
    reasons = {int(index): reason for flags, reason in reversed(found) for index in np.flatnonzero(flags)}
    return [
        CorruptedBlock(tensor.name, index // per_row, index % per_row * block_type.block_values, reason)
        for index, reason in sorted(reasons.items())
    ]


def _parts(blocks: Bytes) -> Iterator[Bytes]:
    for start in range(0, len(blocks), _PART_BLOCKS):
        yield blocks[start : start + _PART_BLOCKS]


def _halves(blocks: Bytes, offset: int) -> NDArray[np.float32]:
    return np.ascontiguousarray(blocks[:, offset : offset + 2]).view(np.float16).reshape(-1).astype(np.float32)


def _magnitudes(block_type: BlockType, blocks: Bytes) -> NDArray[np.float32]:
    """The larger of a block's scale and minimum; zero only where the whole block is."""
    values: NDArray[np.float32] = np.abs(_halves(blocks, block_type.half_offsets[0]))
    for offset in block_type.half_offsets[1:]:
        values = np.maximum(values, np.abs(_halves(blocks, offset)))
    return values


def _lost(scales: NDArray[np.float32]) -> Flags:
    """Zero blocks inside rows that are not zero, where they are too few for a pruned model."""
    zero = scales == 0
    inside = zero & ~zero.all(axis=1, keepdims=True)
    return inside if 0 < inside.sum() <= max(1, _FEW * inside.size) else np.zeros_like(inside)


def _six_bits(blocks: Bytes) -> tuple[Bytes, Bytes]:
    """The eight scales and the eight minimums of Q4_K and Q5_K, ``[blocks, 8]`` each."""
    packed = blocks[:, 4:16]
    high = packed[:, 8:]
    scales = np.concatenate([packed[:, :4] & 63, (high & 15) | (packed[:, :4] >> 6 << 4)], axis=1)
    minimums = np.concatenate([packed[:, 4:8] & 63, (high >> 4) | (packed[:, 4:8] >> 6 << 4)], axis=1)
    return scales, minimums


def _scale_and_minimum(blocks: Bytes) -> Flags:
    scale, minimum = _halves(blocks, 0), _halves(blocks, 2)
    scales, minimums = _six_bits(blocks)
    fits = (scales.max(axis=1) == 63) | (scale == 0)
    fits &= (minimums.max(axis=1) == 63) | (minimum == 0)
    return np.asarray(fits & (scale >= 0) & (minimum >= 0))


def _q6_k(blocks: Bytes) -> Flags:
    lowest = blocks[:, 192:208].view(np.int8).min(axis=1)
    return np.asarray((lowest == -128) | (_halves(blocks, 208) == 0))


def _q8_0(blocks: Bytes) -> Flags:
    values = blocks[:, 2:].view(np.int8).astype(np.int16)
    scale = _halves(blocks, 0)
    return np.asarray(((np.abs(values).max(axis=1) == 127) | (scale == 0)) & (scale >= 0))


def _numbers(blocks: Bytes, start: int, high: int | None) -> Bytes:
    """The 32 numbers of a 4 or 5 bit block, ``[blocks, 32]``."""
    nibbles = blocks[:, start:]
    numbers = np.concatenate([nibbles & 15, nibbles >> 4], axis=1)
    if high is not None:
        numbers |= np.unpackbits(blocks[:, high : high + 4], axis=1, bitorder="little") << 4
    return numbers


def _from_zero(start: int, high: int | None) -> Callable[[Bytes], Flags]:
    def rule(blocks: Bytes) -> Flags:
        return np.asarray((_numbers(blocks, start, high).min(axis=1) == 0) | (_halves(blocks, 0) == 0))

    return rule


def _both_ends(start: int, high: int | None, largest: int) -> Callable[[Bytes], Flags]:
    def rule(blocks: Bytes) -> Flags:
        numbers, scale = _numbers(blocks, start, high), _halves(blocks, 0)
        used = (numbers.min(axis=1) == 0) & (numbers.max(axis=1) == largest)
        return np.asarray((used | (scale == 0)) & (scale >= 0))

    return rule


_RULES: Final[Mapping[str, tuple[Callable[[Bytes], Flags], str]]] = MappingProxyType(
    {
        "Q4_0": (_from_zero(2, None), "no weight has the lowest number"),
        "Q4_1": (_both_ends(4, None, 15), "its weights do not span the range"),
        "Q5_0": (_from_zero(6, 2), "no weight has the lowest number"),
        "Q5_1": (_both_ends(8, 4, 31), "its weights do not span the range"),
        "Q8_0": (_q8_0, "no weight has the largest number"),
        "Q4_K": (_scale_and_minimum, "its scales do not reach 63, or a factor is negative"),
        "Q5_K": (_scale_and_minimum, "its scales do not reach 63, or a factor is negative"),
        "Q6_K": (_q6_k, "its scales do not reach -128"),
    }
)
