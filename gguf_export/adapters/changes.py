"""What one adapter does to one tensor of its base, a few rows at a time.

A change holds only where its tensors lie, and reads what a slab of rows needs when it is applied: the memory that
an adapter takes does not depend on how many tensors it changes, and any number of threads can apply it at once.

Products are summed in float64 and rounded once (`sums`): the weights are the same on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from ..checkpoints.weights import DTYPES, Float32, TensorInfo, read_rows
from .experts import ExpertLowRank
from .sums import add_product


@dataclass(frozen=True)
class LowRank:
    """LoRA, and DoRA where there is a magnitude.

    LoRA adds ``scale * B @ A``. DoRA (Liu et al. 2024, https://arxiv.org/abs/2402.09353, equation 5) then gives
    each output row the length that was trained: ``m * (W + scale * B @ A) / norm(W + scale * B @ A)``.

    Attributes:
        a: ``[r, in]``; of an embedding ``[r, rows]``, since PEFT keeps those factors transposed.
        b: ``[out, r]``; of an embedding ``[columns, r]``.
        scale: ``alpha / r``, or ``alpha / sqrt(r)`` for rsLoRA.
        transposed: the factors are those of an embedding.
        magnitude: DoRA's ``m``, ``[out]``.
    """

    a: TensorInfo
    b: TensorInfo
    scale: float
    transposed: bool = False
    magnitude: TensorInfo | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the tensor that it changes."""
        return (self.a.shape[1], self.b.shape[0]) if self.transposed else (self.b.shape[0], self.a.shape[1])

    @property
    def rank(self) -> int:
        """The inner dimension of the two factors."""
        return self.a.shape[0]

    def factors(self, rows: slice | None = None) -> tuple[Float32, Float32]:
        """``B[rows]`` and ``A``: float32 ``[rows, r]`` and ``[r, in]``, an embedding's brought to this form."""
        if self.transposed:
            return np.ascontiguousarray(_read_columns(self.a, rows).T), np.ascontiguousarray(_whole(self.b).T)
        return read_rows(self.b, rows), _whole(self.a)

    def apply(self, values: Float32, rows: slice | None) -> Float32:
        """The rows after the change; ``values`` is overwritten."""
        b, a = self.factors(rows)
        magnitude = None if self.magnitude is None else read_rows(self.magnitude, rows)
        return add_product(values, b, a, self.scale, magnitude)

    def equals_transposed(self, other: LowRank) -> bool:
        """Whether ``other`` adds the same to a head that this adds to an embedding."""
        if self.scale != other.scale or self.magnitude or other.magnitude or self.shape != other.shape:
            return False
        return all(np.array_equal(mine, its) for mine, its in zip(self.factors(), other.factors(), strict=True))


@dataclass(frozen=True)
class Replaced:
    """The whole tensor was trained: ``modules_to_save``, or a bias."""

    info: TensorInfo

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the tensor that it changes."""
        return self.info.shape

    def apply(self, values: Float32, rows: slice | None) -> Float32:
        """The rows after the change."""
        del values
        return read_rows(self.info, rows)


@dataclass(frozen=True)
class Shifted:
    """``lora_bias``: ``scale`` times the bias of factor B is added to the bias of the layer."""

    info: TensorInfo
    scale: float

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the tensor that it changes."""
        return self.info.shape

    def apply(self, values: Float32, rows: slice | None) -> Float32:
        """The rows after the change; ``values`` is overwritten."""
        values += read_rows(self.info, rows) * np.float32(self.scale)
        return values


@dataclass(frozen=True)
class TokenRows:
    """``trainable_token_indices``: some rows of an embedding or a head were trained.

    Attributes:
        info: the new rows, ``[n, columns]``.
        indices: the row of the table that each one is.
    """

    info: TensorInfo
    indices: tuple[int, ...]

    def apply(self, values: Float32, rows: slice | None) -> Float32:
        """The rows after the change; ``values`` is overwritten."""
        first = (rows.start or 0) if rows is not None else 0
        here = [(row, index - first) for row, index in enumerate(self.indices) if 0 <= index - first < len(values)]
        for row, target in here:
            values[target] = read_rows(self.info, slice(row, row + 1))[0]
        return values


Change = LowRank | Replaced | Shifted | TokenRows | ExpertLowRank


@lru_cache(maxsize=4)
def _whole(info: TensorInfo) -> Float32:
    """A factor that every slab of a tensor needs; the last few are kept, since slabs come in order."""
    values = read_rows(info)
    values.setflags(write=False)
    return values


def _read_columns(info: TensorInfo, columns: slice | None) -> Float32:
    """Columns of a matrix as float32 ``[rows, columns]``, without reading the others."""
    n_rows, n_columns = info.shape
    start, stop, _ = (columns or slice(None)).indices(n_columns)
    if (start, stop) == (0, n_columns):
        return read_rows(info)
    item_bytes = DTYPES[info.dtype].itemsize
    values = np.empty((n_rows, stop - start), np.float32)
    for row in range(n_rows):
        offset = info.offset + (row * n_columns + start) * item_bytes
        values[row] = read_rows(replace(info, shape=(stop - start,), offset=offset))
    return values
