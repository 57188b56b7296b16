"""Q4_K and Q5_K: ``x = d * scale * q - dmin * min`` in super-blocks of 8 blocks of 32.

The search and its order of operations are those of ``make_qkx2_quants``, ``quantize_row_q4_K_ref`` and
``quantize_row_q5_K_ref`` in llama.cpp's ggml-quants.c. One lane works on one super-block.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from dataclasses import dataclass

import llvmlite.ir as ir
import numpy as np

from .kernel import Kernel
from .rounding import from_half, nearest, nearest_float_within, nearest_within, to_half
from .vectors import Buffer, Cell, Index, Vector, floats, ints, word_of

_BLOCK = 32
_N_BLOCKS = 8
_UNROLL = 8


@dataclass(frozen=True)
class _Format:
    """What tells the two types apart.

    Attributes:
        name: the type.
        largest: the largest quant.
        first: what the first candidate scale adds to ``largest``.
        n_steps: candidate scales, 0.1 apart.
    """

    name: str
    largest: int
    first: float
    n_steps: int

    @property
    def candidates(self) -> list[np.float32]:
        """The numerators of the candidate scales, rounded as C rounds them."""
        f32 = np.float32
        return [f32(self.first) + f32(0.1) * f32(step) + f32(self.largest) for step in range(self.n_steps)]


_Q4_K = _Format("q4_K", 15, -1.0, 21)
_Q5_K = _Format("q5_K", 31, -0.5, 16)


@dataclass(frozen=True)
class _Fit:
    """The scale and minimum of one block, and how its quants were found."""

    scale: Vector
    low: Vector
    inverse: Vector
    low_before: Vector


def q4_k(width: int, beside: int) -> str:
    """The kernel ``q4_K`` as LLVM assembly.

    Args:
        width: super-blocks side by side.
        beside: blocks of each super-block that are searched at the same time: 1, 2, 4 or 8.
    """
    return _kernel(_Q4_K, 144, width, beside)


def q5_k(width: int, beside: int) -> str:
    """The kernel ``q5_K`` as LLVM assembly; the arguments are those of ``q4_k``."""
    return _kernel(_Q5_K, 176, width, beside)


@dataclass(frozen=True)
class _Memory:
    """Memory for one group of super-blocks.

    The vectors of ``beside`` blocks lie beside each other, so that they can be read as one wide vector.

    Attributes:
        x: the weights.
        importance: how much the error of each weight counts, for the blocks that are searched now.
        candidates: the quants that are tried now.
        quants: the quants that are stored.
    """

    x: Buffer
    importance: Buffer
    candidates: Buffer
    quants: Buffer
    scales: Buffer
    minima: Buffer
    inverses: Buffer
    lows: Buffer


def _kernel(format_: _Format, block_bytes: int, width: int, beside: int) -> str:
    kernel = Kernel(format_.name, width, _BLOCK * _N_BLOCKS, block_bytes)
    wide, n_rounds = width * beside, _N_BLOCKS // beside
    memory = _Memory(
        kernel.buffer(_BLOCK * n_rounds, floats(wide)),
        kernel.buffer(_BLOCK, floats(wide)),
        kernel.buffer(_BLOCK, floats(wide)),
        kernel.buffer(_BLOCK * n_rounds, ints(wide)),
        *(kernel.buffer(n_rounds, floats(wide)) for _ in range(4)),
    )
    n_words = block_bytes // 4
    words = kernel.buffer(n_words, kernel.ints)

    def place(i: Index) -> ir.Value:
        return kernel.beside(i, _BLOCK, beside)

    with kernel.groups() as group:
        kernel.load_group(group, memory.x.seen_as(kernel.floats), place)
        with kernel.loop(n_rounds) as round_:
            fit = _search(kernel, format_, memory, round_, wide)
            memory.scales[round_], memory.minima[round_] = fit.scale, -fit.low
            memory.inverses[round_], memory.lows[round_] = fit.inverse, fit.low_before
        for k, word in enumerate(_quantized_scales(kernel, memory)):
            words[k] = word
        with kernel.loop(n_rounds) as round_:
            _quantize(kernel, format_, memory, round_)
        quants = memory.quants.seen_as(kernel.ints)
        if format_.largest > 15:
            _pack_high_bits(kernel, quants, place, words)
        _pack_low_bits(kernel, quants, place, words, n_words - _BLOCK)
        kernel.store_group(group, words, n_words)
    return kernel.finish()


def _search(kernel: Kernel, format_: _Format, memory: _Memory, round_: ir.Value, wide: int) -> _Fit:
    """``make_qkx2_quants`` for the blocks of one round."""
    zero = kernel.zeros(wide)

    def x(i: Index) -> Vector:
        return memory.x[kernel.times(round_, _BLOCK, i)]

    squares = kernel.cell(zero)
    for i in range(_BLOCK):
        squares.add(x(i) * x(i))
    mean = (squares.get() / 32.0).sqrt()
    low = high = x(0)
    sum_w = mean + abs(x(0))
    memory.importance[0] = sum_w
    sum_x = sum_w * x(0)
    for i in range(1, _BLOCK):
        low, high = (x(i) < low).where(x(i), low), (x(i) > high).where(x(i), high)
        weight = mean + abs(x(i))
        memory.importance[i] = weight
        sum_w, sum_x = sum_w + weight, sum_x + weight * x(i)
    low = (low > 0.0).where(0.0, low)
    block = _Block(x, high, sum_w, sum_x)

    inverse = (zero + format_.largest) / (high - low)
    scale = (zero + 1.0) / inverse
    error = kernel.cell(zero)

    def add_error(i: Index) -> None:
        quant = nearest_float_within(inverse * (x(i) - low), 0, format_.largest)
        difference = scale * quant + low - x(i)
        error.add(memory.importance[i] * (difference * difference))

    kernel.repeat(_BLOCK, add_error, _UNROLL)
    best = _Best(error, *(kernel.cell(first) for first in (scale, low, inverse, low)))
    with kernel.loop(format_.n_steps) as step:
        _try_scale(kernel, format_, memory, block, kernel.table(format_.candidates, step, wide), best)
    constant = high.equals(low)
    return _Fit(
        scale=constant.where(0.0, best.scale.get()),
        low=constant.where(low, best.low.get()),
        inverse=constant.where(0.0, best.inverse.get()),
        low_before=constant.where(0.0, best.low_before.get()),
    )


@dataclass(frozen=True)
class _Block:
    """What the search knows of a block from its first pass: weights, largest one, sums of importance."""

    x: Callable[[Index], Vector]
    high: Vector
    sum_w: Vector
    sum_x: Vector


@dataclass(frozen=True)
class _Best:
    """The best fit so far."""

    error: Cell
    scale: Cell
    low: Cell
    inverse: Cell
    low_before: Cell


def _try_scale(
    kernel: Kernel, format_: _Format, memory: _Memory, block: _Block, numerator: Vector, best: _Best
) -> None:
    """One round of the search: quants of one candidate scale, the line that fits them best, its error."""
    low = best.low.get()
    inverse = numerator / (block.high - low)
    sum_l, sum_l2, sum_xl, error = (kernel.cell(kernel.zeros(numerator.n_lanes)) for _ in range(4))

    def add_sums(i: Index) -> None:
        quant = nearest_float_within(inverse * (block.x(i) - low), 0, format_.largest)
        memory.candidates[i] = quant
        weighted = memory.importance[i] * quant
        sum_l.add(weighted)
        sum_l2.add(weighted * quant)
        sum_xl.add(weighted * block.x(i))

    kernel.repeat(_BLOCK, add_sums, _UNROLL)
    sl, sl2, sxl = sum_l.get(), sum_l2.get(), sum_xl.get()
    determinant = block.sum_w * sl2 - sl * sl
    scale = (block.sum_w * sxl - block.sum_x * sl) / determinant
    new_low = (sl2 * block.sum_x - sl * sxl) / determinant
    scale, new_low = (new_low > 0.0).where(sxl / sl2, scale), (new_low > 0.0).where(0.0, new_low)

    def add_error(i: Index) -> None:
        difference = scale * memory.candidates[i] + new_low - block.x(i)
        error.add(memory.importance[i] * (difference * difference))

    kernel.repeat(_BLOCK, add_error, _UNROLL)
    better = (determinant > 0.0) & (error.get() < best.error.get())
    for cell, new in (
        (best.error, error.get()),
        (best.scale, scale),
        (best.low, new_low),
        (best.inverse, inverse),
        (best.low_before, low),
    ):
        cell.set(better.where(new, cell.get()))


def _quantized_scales(kernel: Kernel, memory: _Memory) -> list[Vector]:
    """The first 16 bytes of a super-block; ``scales`` and ``minima`` become what a reader will make of them."""
    halves, six_bits = [], []
    for buffer in (memory.scales, memory.minima):
        numbers = buffer.seen_as(kernel.floats)
        largest = kernel.zeros(kernel.width)
        for block in range(_N_BLOCKS):
            largest = (numbers[block] > largest).where(numbers[block], largest)
        inverse = (largest > 0.0).where((kernel.zeros(kernel.width) + 63.0) / largest, 0.0)
        rounded = [nearest(inverse * numbers[block]) & 0xFF for block in range(_N_BLOCKS)]
        six_bits.append([(number > 63).where(63, number) for number in rounded])
        halves.append(to_half(largest / 63.0))
        for block in range(_N_BLOCKS):
            numbers[block] = from_half(halves[-1]) * six_bits[-1][block].to_float()
    return [halves[0] | (halves[1] << 16), *_packed_scales(*six_bits)]


def _quantize(kernel: Kernel, format_: _Format, memory: _Memory, round_: ir.Value) -> None:
    """The quants of the blocks of one round, from the scales as they are stored."""
    step, minimum = memory.scales[round_], memory.minima[round_]
    inverse, low = memory.inverses[round_], memory.lows[round_]

    def quantize(i: Index) -> None:
        place = kernel.times(round_, _BLOCK, i)
        x = memory.x[place]
        # Where the step is 0, the C code leaves the quants of the search.
        value = step.equals(0.0).where(inverse * (x - low), (x + minimum) / step)
        memory.quants[place] = nearest_within(value, 0, format_.largest) & format_.largest

    kernel.repeat(_BLOCK, quantize, _UNROLL)


def _packed_scales(scales: list[Vector], minima: list[Vector]) -> list[Vector]:
    """The 12 bytes of 6-bit scales and minima (``get_scale_min_k4`` reads them), as 3 words."""
    first = [scales[j] | ((scales[j + 4] >> 4) << 6) for j in range(4)]
    second = [minima[j] | ((minima[j + 4] >> 4) << 6) for j in range(4)]
    third = [(scales[j + 4] & 15) | ((minima[j + 4] & 15) << 4) for j in range(4)]
    return [word_of(four) for four in (first, second, third)]


def _pack_low_bits(
    kernel: Kernel, quants: Buffer, place: Callable[[Index], ir.Value], words: Buffer, first_word: int
) -> None:
    """Byte *i* of pair *p* holds the low 4 bits of weight *i* of blocks 2 *p* and 2 *p* + 1."""
    with kernel.loop(_N_BLOCKS // 2) as pair, kernel.loop(_BLOCK // 4) as four:

        def low_bits(plus: int) -> Vector:
            return quants[place(kernel.times(pair, 2 * _BLOCK, kernel.times(four, 4, plus)))] & 15

        word = word_of([low_bits(i) | (low_bits(_BLOCK + i) << 4) for i in range(4)])
        words[kernel.times(pair, _BLOCK // 4, kernel.times(four, 1, first_word))] = word


def _pack_high_bits(kernel: Kernel, quants: Buffer, place: Callable[[Index], ir.Value], words: Buffer) -> None:
    """Bit *b* of byte *i* is the fifth bit of weight *i* of block *b*."""
    with kernel.loop(_BLOCK // 4) as four:

        def byte(i: int) -> Vector:
            numbers = [quants[place(kernel.times(four, 4, block * _BLOCK + i))] for block in range(_N_BLOCKS)]
            return functools.reduce(operator.or_, [(number >> 4) << bit for bit, number in enumerate(numbers)])

        words[kernel.times(four, 1, 4)] = word_of([byte(i) for i in range(4)])
