"""Quantizing rows of weights to one block type, with all cores.

Two quantizers write the same bytes: ggml's own C code, and ``lanes``, about ten times as fast. ``lanes`` is taken
where llvmlite is installed, and held against ggml's on its first use: where one byte differs, on whatever CPU or
version, ggml's is taken and a warning says so.
"""

from __future__ import annotations

import functools
import importlib.util
import math
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import ExportError, UnsupportedError
from . import ggml
from .ggml import BLOCK_TYPES, BlockType

Quantizer = Literal["lanes", "ggml"]

_PART_VALUES: Final = 1 << 18
_CHECKED_VALUES: Final = 1 << 14

_LARGEST: Final = 65504.0 * 128 * 32
"""The largest weight that any of the types holds (Q6_K). ggml's Q6_K turns much larger ones into zeros."""

_SURELY_FITS: Final = 256.0
"""Below it no scale can pass float16's 65504: a scale or minimum is a small multiple of its block's largest weight,
since one that fits the block worse than the first guess is never kept."""

_Encoder = Callable[[NDArray[np.float32], NDArray[np.uint8]], float]


class QuantizerWarning(UserWarning):
    """The fast quantizer could not be used, and why."""


@dataclass(frozen=True)
class RowQuantizer:
    """Turns rows of float32 into rows of one block type.

    Attributes:
        block_type: the type.
        quantizer: which code does it.
        reason: why it is not ``"lanes"``; empty where it is.
    """

    block_type: BlockType
    quantizer: Quantizer
    reason: str
    _encode: _Encoder

    def row_bytes(self, n_columns: int) -> int:
        """Bytes of a row.

        Raises:
            UnsupportedError: the columns are no multiple of the block.
        """
        block_type = self.block_type
        if n_columns % block_type.block_values:
            raise UnsupportedError(
                f"{block_type.name}: rows must be a multiple of {block_type.block_values} (got {n_columns}); "
                "use another type for this tensor"
            )
        return n_columns // block_type.block_values * block_type.block_bytes

    def __call__(
        self, rows: NDArray[np.float32], executor: Executor | None = None, out: NDArray[np.uint8] | None = None
    ) -> NDArray[np.uint8]:
        """Quantize rows.

        Args:
            rows: float32 ``[rows, columns]``.
            executor: threads to share the work; this one alone by default.
            out: where to write; a new array by default.

        Returns:
            uint8 ``[rows, bytes of a row]``.

        Raises:
            UnsupportedError: the columns are no multiple of the block.
            ExportError: a weight is infinite or NaN, or too large for the type's float16 scales.
        """
        rows = np.ascontiguousarray(rows, dtype=np.float32)
        shape = (rows.shape[0], self.row_bytes(rows.shape[1]))
        if out is None:
            out = np.empty(shape, np.uint8)
        elif out.shape != shape or out.dtype != np.uint8 or not out.flags.c_contiguous:
            raise ValueError(f"out: expected contiguous uint8 {shape}, got {out.dtype} {out.shape}")
        step = max(1, _PART_VALUES // max(1, rows.shape[1]))
        parts = [slice(start, start + step) for start in range(0, rows.shape[0], step)]
        run = executor.map if executor is not None else map
        for _ in run(lambda part: self._encode_part(rows[part], out[part]), parts):
            pass
        return out

    def _encode_part(self, rows: NDArray[np.float32], out: NDArray[np.uint8]) -> None:
        name = self.block_type.name
        largest = self._encode(rows, out)
        if not math.isfinite(largest):
            raise ExportError(
                f"{name}: weights that are infinite or NaN; look at the training run: it may have diverged"
            )
        if largest > _LARGEST or (largest > _SURELY_FITS and self._has_infinite_scales(out)):
            raise ExportError(
                f"{name}: weights up to {largest:.3g}, too large for the float16 scales of the type; "
                "use F16 or BF16, or look at the training run: it may have diverged"
            )

    def _has_infinite_scales(self, out: NDArray[np.uint8]) -> bool:
        blocks = out.reshape(-1, self.block_type.block_bytes)
        return any(
            ((np.ascontiguousarray(blocks[:, offset : offset + 2]).view(np.uint16) & 0x7C00) == 0x7C00).any()
            for offset in self.block_type.half_offsets
        )


@functools.cache
def row_quantizer(name: str, quantizer: Literal["auto", "lanes", "ggml"] = "auto") -> RowQuantizer:
    """The quantizer of a type; ``lanes`` compiles for about half a second the first time.

    Args:
        name: a key of ``BLOCK_TYPES``.
        quantizer: ``"auto"`` takes ``lanes`` where it can be had and has passed its check.

    Raises:
        UnsupportedError: the type is not known, or ``"lanes"`` was asked for and cannot be had.
        MissingLibraryError: llama-cpp-python, which ``lanes`` is held against, is not installed.
    """
    if name not in BLOCK_TYPES:
        raise UnsupportedError(f"quantizer: unknown type {name!r}; use one of {', '.join(BLOCK_TYPES)}")
    block_type = BLOCK_TYPES[name]
    ggml.quantize_chunk()
    encode, reason = (None, "asked for") if quantizer == "ggml" else _checked_lanes(block_type)
    if encode is not None:
        return RowQuantizer(block_type, "lanes", "", encode)
    if quantizer == "lanes":
        raise UnsupportedError(f"{name}: the fast quantizer cannot be used ({reason}); use ggml's")
    return RowQuantizer(block_type, "ggml", reason, functools.partial(_encode_with_ggml, block_type))


def weighted_quantizer(name: str, importance: NDArray[np.float32]) -> RowQuantizer:
    """Ggml's quantizer of a type, with an importance matrix.

    Args:
        name: a key of ``BLOCK_TYPES``.
        importance: float32 ``[columns]``.

    Raises:
        MissingLibraryError: llama-cpp-python is not installed.
    """
    block_type = BLOCK_TYPES[name]
    ggml.quantize_chunk()
    values = np.ascontiguousarray(importance, dtype=np.float32)
    encode = functools.partial(_encode_with_ggml, block_type, importance=values)
    return RowQuantizer(block_type, "ggml", "the fast quantizer knows no importance matrix", encode)


def _encode_with_ggml(
    block_type: BlockType,
    rows: NDArray[np.float32],
    out: NDArray[np.uint8],
    importance: NDArray[np.float32] | None = None,
) -> float:
    largest = float(np.abs(rows).max(initial=0.0))
    if not math.isfinite(largest):
        return math.inf
    ggml.encode(block_type, rows, out, importance)
    return largest


def _checked_lanes(block_type: BlockType) -> tuple[_Encoder | None, str]:
    """The fast encoder, once it has written ggml's bytes on a sample; or why not."""
    if importlib.util.find_spec("llvmlite") is None:
        return None, "llvmlite is not installed"
    try:
        from .lanes.kernels import KERNELS, lanes_encoder

        if block_type.name not in KERNELS:
            return None, "the type has no fast quantizer"
        encode = lanes_encoder(block_type.name)
    except (ImportError, AttributeError, OSError, RuntimeError, TypeError) as error:
        return None, _warned(block_type, f"llvmlite does not compile it here: {error}")
    for kind, rows in check_rows():
        shape = (rows.shape[0], rows.shape[1] // block_type.block_values * block_type.block_bytes)
        expected, found = np.empty(shape, np.uint8), np.empty(shape, np.uint8)
        ggml.encode(block_type, rows, expected)
        encode(rows, found)
        if not np.array_equal(found, expected):
            return None, _warned(block_type, f"its bytes differ from ggml's on this machine ({kind})")
    return encode, ""


def _warned(block_type: BlockType, reason: str) -> str:
    warnings.warn(f"{block_type.name}: quantizing with ggml's slow code: {reason}", QuantizerWarning, stacklevel=4)
    return reason


def check_rows(n_values: int = _CHECKED_VALUES, seed: int = 0) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Finite weights of every kind that a quantizer treats in its own way.

    Args:
        n_values: of each kind; a multiple of 256.
        seed: of the random numbers.

    Yields:
        The kind's name, and float32 ``[n_values / 256, 256]``.
    """
    rng = np.random.default_rng(seed)
    f32 = np.float32
    normal = rng.standard_normal(n_values, dtype=f32)
    n_small = n_values // 32
    sparse = np.where(rng.random(n_values) < 0.01, normal, f32(0))
    any_bits = rng.integers(0, 1 << 32, n_values, dtype=np.uint32).view(f32)
    signs = rng.integers(0, 2, n_values, dtype=np.uint32) << 31
    kinds = {
        "normal": normal * f32(0.02),
        "heavy tails": (rng.standard_t(1.5, n_values) * 0.02).astype(f32),
        "uniform": rng.random(n_values, dtype=f32),
        "rounded to bf16": (normal.view(np.uint32) & 0xFFFF0000).view(f32),
        "few values": np.round(normal),
        "all negative": -np.abs(normal) - 1,
        "zeros of both signs": signs.view(f32),
        "one weight in a hundred": sparse,
        "denormal": (rng.integers(0, 1 << 16, n_values, dtype=np.uint32) | signs).view(f32),
        "constant blocks": np.repeat(rng.standard_normal(n_small, dtype=f32), 32),
        "scales far apart": normal * np.repeat(f32(10) ** rng.uniform(-20, 3, n_small).astype(f32), 32),
        "near the largest float": np.clip(normal.astype(np.float64) * 1.5e38, -3.4e38, 3.4e38).astype(f32),
        "any finite bits": np.where(np.isfinite(any_bits), any_bits, f32(0)),
    }
    for kind, values in kinds.items():
        yield kind, np.ascontiguousarray(values, dtype=f32).reshape(-1, 256)
