"""Which types have a kernel, and running it over any number of blocks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from . import blocks_of_32, scale_alone, scale_and_minimum
from .machine import Compiled, Machine, compile_kernel

WIDTH: Final = 16
"""Blocks side by side: one AVX-512 register, two of AVX2, four of SSE2 or NEON. On a Zen 4, no other width was more
than 5 % faster for Q4_K in AVX-512, AVX2 or SSE2 code."""

_BESIDE: Final = 2  # two blocks of each super-block at a time: one waits for its sums while the other computes
_INFINITE_BITS = 0x7F800000


@dataclass(frozen=True)
class KernelSpec:
    """A kernel before it is compiled.

    Attributes:
        function: its name in the machine code.
        block_values: weights of a block.
        block_bytes: bytes that a block becomes.
        code: writes it down, as LLVM assembly.
    """

    function: str
    block_values: int
    block_bytes: int
    code: Callable[[], str]


KERNELS: Final[Mapping[str, KernelSpec]] = MappingProxyType(
    {
        "Q4_K": KernelSpec("q4_K", 256, 144, lambda: scale_and_minimum.q4_k(WIDTH, _BESIDE)),
        "Q5_K": KernelSpec("q5_K", 256, 176, lambda: scale_and_minimum.q5_k(WIDTH, _BESIDE)),
        "Q6_K": KernelSpec("q6_K", 256, 210, lambda: scale_alone.q6_k(WIDTH, _BESIDE)),
        "Q8_0": KernelSpec("q8_0", 32, 34, lambda: blocks_of_32.q8_0(WIDTH)),
        "Q5_0": KernelSpec("q5_0", 32, 22, lambda: blocks_of_32.q5_0(WIDTH)),
        "Q4_0": KernelSpec("q4_0", 32, 18, lambda: blocks_of_32.q4_0(WIDTH)),
    }
)
"""By the name of the type."""


@dataclass(frozen=True)
class LanesEncoder:
    """A compiled kernel that takes any number of blocks."""

    spec: KernelSpec
    compiled: Compiled

    def __call__(self, values: NDArray[np.float32], out: NDArray[np.uint8]) -> float:
        """Encode whole blocks.

        Args:
            values: contiguous.
            out: contiguous, one block's bytes for each of its weights' number.

        Returns:
            The largest magnitude of all weights, infinite where one is infinite or NaN.
        """
        spec = self.spec
        n_blocks = values.size // spec.block_values
        n_groups, rest = divmod(n_blocks, WIDTH)
        largest = 0
        if n_groups:
            largest = self.compiled.function(values.ctypes.data, out.ctypes.data, n_groups)
        if rest:
            padded = np.zeros((WIDTH, spec.block_values), np.float32)
            encoded = np.empty((WIDTH, spec.block_bytes), np.uint8)
            padded[:rest] = values.reshape(n_blocks, spec.block_values)[n_groups * WIDTH :]
            largest = max(largest, self.compiled.function(padded.ctypes.data, encoded.ctypes.data, 1))
            out.reshape(n_blocks, spec.block_bytes)[n_groups * WIDTH :] = encoded[:rest]
        return float(np.uint32(min(largest, _INFINITE_BITS)).view(np.float32))


def lanes_encoder(name: str, machine: Machine | None = None) -> LanesEncoder:
    """Compile the kernel of a type: about half a second.

    Args:
        name: a key of ``KERNELS``.
        machine: what to compile for; the CPU at hand by default.
    """
    spec = KERNELS[name]
    return LanesEncoder(spec, compile_kernel(spec.function, spec.code(), machine))
