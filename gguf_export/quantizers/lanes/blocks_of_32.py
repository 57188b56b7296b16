"""Q8_0, Q5_0 and Q4_0: ``x = d * q`` in blocks of 32.

The order of operations is that of ``quantize_row_q8_0_ref``, ``quantize_row_q5_0_ref`` and
``quantize_row_q4_0_ref`` in llama.cpp's ggml-quants.c. One lane works on one block.
"""

from __future__ import annotations

import functools
import operator

from .kernel import Kernel
from .rounding import round_half_away, to_half, truncate
from .vectors import Buffer, Vector, word_of

_BLOCK = 32


def q8_0(width: int) -> str:
    """The kernel ``q8_0`` as LLVM assembly, for ``width`` blocks side by side."""
    kernel = Kernel("q8_0", width, _BLOCK, 34)
    x, words = kernel.buffer(_BLOCK, kernel.floats), kernel.buffer(8, kernel.ints)
    with kernel.groups() as group:
        kernel.load_group(group, x, lambda i: i)
        magnitude = kernel.zeros(width)
        for i in range(_BLOCK):
            magnitude = (magnitude > abs(x[i])).where(magnitude, abs(x[i]))
        step = magnitude / 127.0
        inverse = _inverse(kernel, step)
        for k in range(0, _BLOCK, 4):
            words[k // 4] = word_of([round_half_away(x[i] * inverse) & 0xFF for i in range(k, k + 4)])
        kernel.store_halves(group, to_half(step), 0)
        kernel.store_group(group, words, 8, byte=2)
    return kernel.finish()


def q4_0(width: int) -> str:
    """The kernel ``q4_0`` as LLVM assembly, for ``width`` blocks side by side."""
    kernel = Kernel("q4_0", width, _BLOCK, 18)
    x, quants, words = _buffers(kernel, 4)
    with kernel.groups() as group:
        kernel.load_group(group, x, lambda i: i)
        kernel.store_halves(group, _signed_quants(kernel, x, quants, 8), 0)
        for k, word in enumerate(_packed_low_bits(quants)):
            words[k] = word
        kernel.store_group(group, words, 4, byte=2)
    return kernel.finish()


def q5_0(width: int) -> str:
    """The kernel ``q5_0`` as LLVM assembly, for ``width`` blocks side by side."""
    kernel = Kernel("q5_0", width, _BLOCK, 22)
    x, quants, words = _buffers(kernel, 5)
    with kernel.groups() as group:
        kernel.load_group(group, x, lambda i: i)
        kernel.store_halves(group, _signed_quants(kernel, x, quants, 16), 0)
        words[0] = functools.reduce(operator.or_, [(quants[i] >> 4) << i for i in range(_BLOCK)])
        for k, word in enumerate(_packed_low_bits(quants)):
            words[1 + k] = word
        kernel.store_group(group, words, 5, byte=2)
    return kernel.finish()


def _buffers(kernel: Kernel, n_words: int) -> tuple[Buffer, Buffer, Buffer]:
    x, quants = kernel.buffer(_BLOCK, kernel.floats), kernel.buffer(_BLOCK, kernel.ints)
    return x, quants, kernel.buffer(n_words, kernel.ints)


def _inverse(kernel: Kernel, step: Vector) -> Vector:
    return step.equals(0.0).where(0.0, (kernel.zeros(kernel.width) + 1.0) / step)


def _signed_quants(kernel: Kernel, x: Buffer, quants: Buffer, middle: int) -> Vector:
    """Fill ``quants`` with 0 to 2 * ``middle`` - 1 and return ``d`` as float16.

    The weight of the largest magnitude becomes 0: it is ``-middle`` steps from the middle.
    """
    largest = magnitude = kernel.zeros(kernel.width)
    for i in range(_BLOCK):
        larger = magnitude < abs(x[i])
        magnitude, largest = larger.where(abs(x[i]), magnitude), larger.where(x[i], largest)
    step = largest / -float(middle)
    inverse = _inverse(kernel, step)
    for i in range(_BLOCK):
        quant = truncate(x[i] * inverse + (middle + 0.5))
        quants[i] = (quant > 2 * middle - 1).where(2 * middle - 1, quant)
    return to_half(step)


def _packed_low_bits(quants: Buffer) -> list[Vector]:
    """Byte *i* holds the low 4 bits of weights *i* and *i* + 16."""
    return [
        word_of([(quants[i] & 15) | ((quants[i + 16] & 15) << 4) for i in range(k, k + 4)]) for k in range(0, 16, 4)
    ]
