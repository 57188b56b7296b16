"""Q6_K: ``x = d * scale * q`` in super-blocks of 16 blocks of 16.

The search and its order of operations are those of ``make_qx_quants`` (with ``rmse_type`` 1) and
``quantize_row_q6_K_ref`` in llama.cpp's ggml-quants.c. One lane works on one super-block.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import llvmlite.ir as ir
import numpy as np

from .kernel import Kernel
from .rounding import from_half, nearest, nearest_float_within, nearest_within, to_half
from .vectors import Buffer, Cell, Index, Vector, floats, ints, word_of

_BLOCK = 16
_N_BLOCKS = 16
_BYTES = 210
_UNROLL = 8
_TINY = 1e-15  # GROUP_MAX_EPS: blocks below it are stored as zeros

_NUMERATORS = [-(np.float32(32) + np.float32(0.1) * np.float32(step)) for step in [*range(-9, 0), *range(1, 10)]]


@dataclass(frozen=True)
class _Memory:
    """Memory for one group of super-blocks; the vectors of ``beside`` blocks lie beside each other.

    Attributes:
        x: the weights.
        squares: of the weights of the blocks that are searched now: how much their error counts.
        cubes: square times weight.
        quants: the quants that are stored.
        scales: of the blocks.
        inverses: what the quants of the search were found with.
        kept: all bits set but for tiny blocks.
    """

    x: Buffer
    squares: Buffer
    cubes: Buffer
    quants: Buffer
    scales: Buffer
    inverses: Buffer
    kept: Buffer


def q6_k(width: int, beside: int) -> str:
    """The kernel ``q6_K`` as LLVM assembly.

    Args:
        width: super-blocks side by side.
        beside: blocks of each super-block that are searched at the same time: a power of two up to 16.
    """
    kernel = Kernel("q6_K", width, _BLOCK * _N_BLOCKS, _BYTES)
    wide, n_rounds = width * beside, _N_BLOCKS // beside
    memory = _Memory(
        kernel.buffer(_BLOCK * n_rounds, floats(wide)),
        kernel.buffer(_BLOCK, floats(wide)),
        kernel.buffer(_BLOCK, floats(wide)),
        kernel.buffer(_BLOCK * n_rounds, ints(wide)),
        kernel.buffer(n_rounds, floats(wide)),
        kernel.buffer(n_rounds, floats(wide)),
        kernel.buffer(n_rounds, ints(wide)),
    )
    words = kernel.buffer(_BYTES // 4, kernel.ints)

    def place(i: Index) -> ir.Value:
        return kernel.beside(i, _BLOCK, beside)

    with kernel.groups() as group:
        kernel.load_group(group, memory.x.seen_as(kernel.floats), place)
        with kernel.loop(n_rounds) as round_:
            _search(kernel, memory, round_, wide)
        scales, half, used = _quantized_scales(kernel, memory)
        with kernel.loop(n_rounds) as round_:
            _quantize(kernel, memory, round_)
        quants = memory.quants.seen_as(kernel.ints)
        _pack_low_bits(kernel, quants, place, words, used)
        _pack_high_bits(kernel, quants, place, words, used)
        for k in range(0, _N_BLOCKS, 4):
            words[48 + k // 4] = word_of(scales[k : k + 4]) & used
        kernel.store_group(group, words, _BYTES // 4)
        kernel.store_halves(group, half & used, _BYTES - 2)
    return kernel.finish()


def _search(kernel: Kernel, memory: _Memory, round_: ir.Value, wide: int) -> None:
    """``make_qx_quants`` for the blocks of one round."""

    def x(i: Index) -> Vector:
        return memory.x[kernel.times(round_, _BLOCK, i)]

    largest = magnitude = kernel.zeros(wide)
    for i in range(_BLOCK):
        larger = abs(x(i)) > magnitude
        largest, magnitude = larger.where(x(i), largest), larger.where(abs(x(i)), magnitude)
        square = x(i) * x(i)
        memory.squares[i], memory.cubes[i] = square, square * x(i)

    inverse = (kernel.zeros(wide) + -32.0) / largest
    sum_lx, sum_l2 = _sums(kernel, memory, x, inverse)
    scale = sum_l2.differs(0.0).where(sum_lx / sum_l2, 0.0)
    best_scale, best, best_inverse = kernel.cell(scale), kernel.cell(scale * sum_lx), kernel.cell(inverse)
    with kernel.loop(len(_NUMERATORS)) as step:
        inverse = kernel.table(_NUMERATORS, step, wide) / largest
        sum_lx, sum_l2 = _sums(kernel, memory, x, inverse)
        better = (sum_l2 > 0.0) & (sum_lx * sum_lx > best.get() * sum_l2)
        scale = sum_lx / sum_l2
        for cell, new in ((best_scale, scale), (best, scale * sum_lx), (best_inverse, inverse)):
            cell.set(better.where(new, cell.get()))
    tiny = magnitude < _TINY
    memory.scales[round_] = tiny.where(0.0, best_scale.get())
    memory.inverses[round_] = best_inverse.get()
    memory.kept[round_] = tiny.where(0, kernel.all_ones(wide))


def _sums(kernel: Kernel, memory: _Memory, x: Callable[[Index], Vector], inverse: Vector) -> tuple[Vector, Vector]:
    """What a candidate scale is judged by: weighted sums of quant times weight and of squared quants."""
    sum_lx: Cell = kernel.cell(kernel.zeros(inverse.n_lanes))
    sum_l2: Cell = kernel.cell(kernel.zeros(inverse.n_lanes))

    def add(i: Index) -> None:
        quant = nearest_float_within(inverse * x(i), -32, 31)
        sum_lx.add(memory.cubes[i] * quant)
        sum_l2.add(memory.squares[i] * quant * quant)

    kernel.repeat(_BLOCK, add, _UNROLL)
    return sum_lx.get(), sum_l2.get()


def _quantized_scales(kernel: Kernel, memory: _Memory) -> tuple[list[Vector], Vector, Vector]:
    """The 8-bit scales, ``d`` as float16 and which super-blocks are more than zeros (all bits set).

    ``scales`` becomes what a reader will make of them.
    """
    numbers = memory.scales.seen_as(kernel.floats)
    largest = magnitude = kernel.zeros(kernel.width)
    for block in range(_N_BLOCKS):
        larger = abs(numbers[block]) > magnitude
        largest = larger.where(numbers[block], largest)
        magnitude = larger.where(abs(numbers[block]), magnitude)
    inverse = (kernel.zeros(kernel.width) + -128.0) / largest
    half = to_half((kernel.zeros(kernel.width) + 1.0) / inverse)
    scales = []
    for block in range(_N_BLOCKS):
        rounded = nearest(inverse * numbers[block])
        byte = (rounded > 127).where(127, rounded) & 0xFF
        scales.append(byte)
        signed = byte - ((byte & 0x80) << 1)
        numbers[block] = from_half(half) * signed.to_float()
    return scales, half, (magnitude < _TINY).where(0, kernel.all_ones(kernel.width))


def _quantize(kernel: Kernel, memory: _Memory, round_: ir.Value) -> None:
    """The quants of the blocks of one round, from the scales as they are stored."""
    step, inverse, kept = memory.scales[round_], memory.inverses[round_], memory.kept[round_]
    # Where the step is 0, the C code leaves the quants of the search, and those of a tiny block at 0.
    found = step.equals(0.0)
    for i in range(_BLOCK):
        place = kernel.times(round_, _BLOCK, i)
        x = memory.x[place]
        quant = ((nearest_within(found.where(inverse * x, x / step), -32, 31) & 0xFF) + 32) & 0x3F
        memory.quants[place] = found.where(quant & kept, quant)


def _pack_low_bits(
    kernel: Kernel, quants: Buffer, place: Callable[[Index], ir.Value], words: Buffer, used: Vector
) -> None:
    """In each half, byte *i* holds the low 4 bits of weights *i* and *i* + 64."""
    with kernel.loop(2) as half, kernel.loop(16) as four:

        def low_bits(plus: int) -> Vector:
            return quants[place(kernel.times(half, 128, kernel.times(four, 4, plus)))] & 15

        word = word_of([low_bits(i) | (low_bits(i + 64) << 4) for i in range(4)])
        words[kernel.times(half, 16, four)] = word & used


def _pack_high_bits(
    kernel: Kernel, quants: Buffer, place: Callable[[Index], ir.Value], words: Buffer, used: Vector
) -> None:
    """In each half, byte *i* holds the high 2 bits of weights *i*, *i* + 32, *i* + 64 and *i* + 96."""
    with kernel.loop(2) as half, kernel.loop(8) as four:

        def byte(i: int) -> Vector:
            far = [quants[place(kernel.times(half, 128, kernel.times(four, 4, i + 32 * k)))] >> 4 for k in range(4)]
            return far[0] | (far[1] << 2) | (far[2] << 4) | (far[3] << 6)

        words[kernel.times(half, 8, kernel.times(four, 1, 32))] = word_of([byte(i) for i in range(4)]) & used
