"""Holding the weights of a GGUF against those of base + adapter, which the export is made once more for.

Rows are merged, rounded and quantized as the export does it, and compared byte for byte. What differs is weighed:
another rounding, or another processor's sums, moves a weight by less than its type does anyway; a damaged block,
rows in another order, another base or another scale of the adapter move it further.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..adapters.adapter import Adapter
from ..checkpoints.weights import Checkpoint, Float32, Rounding
from ..families.architectures import TensorPlan, family_of, plan_tensors
from ..merge import planned_rows
from ..quantizers.block_quantizers import row_quantizer
from ..quantizers.ggml import BLOCK_TYPES
from ..quantizers.imatrix import Imatrix
from ..reading import GgufFile
from ..workers import cpu_count
from ..writing import StoredTensor

Bytes = NDArray[np.uint8]

SLAB_BYTES: Final = 4 << 20
"""As the export has it: sums of float32 may depend on how many rows are added at a time."""

SAMPLED_VALUES: Final = 1 << 30
"""A model of at most so many weights is compared as a whole, a larger one in about so many."""

_EXACT_STEP: Final = {"F32": 2.0**-16, "F16": 2.0**-10, "BF16": 2.0**-7}
_F16_SUBNORMAL_STEP: Final = 2.0**-24
"""The distance of two numbers of float16 below 2^-14, however small they are."""
_SUM_STEP: Final = 2.0**-20
"""Of the largest weight of a row: how far sums of products in float32, as other merges have them, lie apart. Where base
and change cancel each other, that is many steps of what is left."""
_ROUNDING_STEP: Final = 2.0**-7
_SAME_ROWS: Final = 0.5
_OTHER_ROUNDING: Final = 1.6
_UNKNOWN_WEIGHTS: Final = 6.0
"""How many times the error of a block may be what it is when the export is made once more."""


@dataclass(frozen=True)
class Origin:
    """What a file has to hold.

    Attributes:
        checkpoint: the base.
        adapter: what is added to it; ``None`` for the base alone.
        rounding: what merged weights are rounded to.
        imatrix: the importance matrix that it was quantized with.
    """

    checkpoint: Checkpoint
    adapter: Adapter | None
    rounding: Rounding
    imatrix: Imatrix | None = None

    @classmethod
    def open(
        cls, base: Path, adapter: Path | Sequence[Path] | None, rounding: Rounding, imatrix: Path | None = None
    ) -> Origin:
        """Open a base and its adapter.

        Raises:
            BrokenFileError: one of them is missing or damaged.
            UnsupportedError: one of them is not covered, or they do not belong together.
        """
        checkpoint = Checkpoint.open(base)
        loaded = Adapter.load(adapter) if adapter is not None else None
        if loaded is not None:
            loaded.check_fits(checkpoint)
            checkpoint = loaded.fitted(checkpoint)
        return cls(checkpoint, loaded, rounding, Imatrix.load(imatrix) if imatrix is not None else None)

    def stored(self, plan: TensorPlan, type_name: str) -> StoredTensor:
        """A tensor as the export stores it in a type."""
        weighted = self.imatrix is not None and type_name in BLOCK_TYPES
        importance = self.imatrix.of(plan.name, plan.shape[-1]) if weighted and self.imatrix is not None else None
        return StoredTensor(plan, type_name, importance)

    @cached_property
    def plans(self) -> dict[str, TensorPlan]:
        """Where each tensor of the file comes from, by its name in the file."""
        return {plan.name: plan for plan in plan_tensors(self.checkpoint, family_of(self.checkpoint))}

    def rows(self, plan: TensorPlan, rows: slice, *, adapted: bool = True, ordered: bool = True) -> Float32:
        """Rows as the file has to hold them.

        Args:
            plan: the tensor.
            rows: which; whole heads where rows are reordered.
            adapted: with the adapter.
            ordered: in the file's order, not in the checkpoint's.
        """
        adapter = self.adapter if adapted else None
        # As the export does: norms and biases are stored as they come out of the merge.
        rounding: Rounding = "f32" if plan.keep_f32 else self.rounding
        values = planned_rows(self.checkpoint, adapter, plan, rows, rounding)
        return plan.reorder(values) if ordered else values

    def changes(self, plan: TensorPlan) -> bool:
        """Whether the adapter changes a tensor."""
        return self.adapter is not None and any(self.adapter.changes(source) for source in plan.sources)


@dataclass(frozen=True)
class TensorComparison:
    """What was found out about one tensor.

    Attributes:
        plan: where it comes from.
        type_name: the type that the file stores it in.
        n_rows: how many rows were compared.
        n_same: how many of these are the same, byte for byte.
        wrong: rows that are further off than the type explains, and the first weight that is.
        slabs: the rows that were compared.
    """

    plan: TensorPlan
    type_name: str
    n_rows: int
    n_same: int
    wrong: tuple[tuple[int, int], ...]
    slabs: tuple[slice, ...]

    @property
    def all_rows(self) -> int:
        """How many rows the tensor has in the file; a vector is one."""
        return int(np.prod(self.plan.shape[:-1], dtype=np.int64))

    @property
    def is_wrong_throughout(self) -> bool:
        """Whether it differs as a whole, and not in a damaged place."""
        return len(self.wrong) > max(1, self.n_rows // 10)


def compare_weights(file: GgufFile, origin: Origin, *, seed: int = 0) -> list[TensorComparison]:
    """Compare the tensors that file and origin both have in the same shape.

    Args:
        file: the GGUF.
        origin: what it has to hold.
        seed: decides which rows of a large model are compared.
    """
    by_name = {tensor.name: tensor for tensor in file.tensors}
    pairs = [
        (plan, by_name[name])
        for name, plan in origin.plans.items()
        if name in by_name and tuple(int(n) for n in reversed(by_name[name].shape)) == plan.shape
    ]
    n_values = sum(int(np.prod(plan.shape, dtype=np.int64)) for plan, _ in pairs)
    loose = _UNKNOWN_WEIGHTS if file.has_importances and origin.imatrix is None else _OTHER_ROUNDING
    share = min(1.0, SAMPLED_VALUES / max(1, n_values))
    random = np.random.default_rng(seed)
    for name in {tensor.tensor_type.name for _, tensor in pairs} & BLOCK_TYPES.keys():
        row_quantizer(name)  # compiled once, here, not by several threads at a time
    with ThreadPoolExecutor(cpu_count(), thread_name_prefix="compare") as executor:
        found = []
        for plan, tensor in pairs:
            chosen = tuple(_sample(plan, share, random))
            parts = list(executor.map(lambda rows, p=plan, t=tensor: _compare_slab(p, t, origin, rows, loose), chosen))
            found.append(_joined(plan, tensor, chosen, parts))
    return found


def dequantized(tensor: Any, rows: slice) -> Float32:
    """Rows of a tensor of a file as float32 ``[rows, columns]``, whatever their type."""
    return float_rows(tensor.tensor_type, file_rows(tensor, rows))


def file_rows(tensor: Any, rows: slice) -> Bytes:
    """Rows of a tensor of a file as bytes ``[rows, bytes of a row]``."""
    n_rows = int(np.prod(tensor.shape[1:], dtype=np.int64))
    return np.asarray(tensor.data).reshape(-1).view(np.uint8).reshape(n_rows, -1)[rows]


def _sample(plan: TensorPlan, share: float, random: np.random.Generator) -> Iterator[slice]:
    """All slabs, or the first, the last and as many between as the share asks for."""
    every = list(slabs_of(plan))
    wanted = max(2, round(share * len(every)))
    if wanted >= len(every):
        yield from every
        return
    between = 1 + random.choice(len(every) - 2, size=wanted - 2, replace=False) if wanted > 2 else ()
    yield from (every[index] for index in sorted({0, len(every) - 1, *map(int, between)}))


def slabs_of(plan: TensorPlan) -> Iterable[slice]:
    """The slices of rows in which the export reads a tensor."""
    n_rows = plan.shape[0] if plan.shape else 1
    row_bytes = max(1, 4 * int(np.prod(plan.shape[1:], dtype=np.int64)))
    step = max(1, SLAB_BYTES // row_bytes // plan.rows_per_unit) * plan.rows_per_unit
    return [slice(start, min(start + step, n_rows)) for start in range(0, n_rows, step)]


def _compare_slab(
    plan: TensorPlan, tensor: Any, origin: Origin, rows: slice, loose: float
) -> tuple[int, int, list[tuple[int, int]]]:
    """How many rows, how many of them the same, and the wrong ones."""
    values = origin.rows(plan, rows)
    name = tensor.tensor_type.name
    expected: Bytes = origin.stored(plan, name).encode(values).reshape(-1).view(np.uint8)
    if values.ndim == 1:  # a vector is one row of the file
        found = np.asarray(tensor.data).reshape(-1).view(np.uint8)[rows.start * 4 : rows.stop * 4][None]
        expected, values = expected[None], values[None]
        first = 0
    else:
        per_row = values.size // values.shape[-1] // len(values)
        first = rows.start * per_row
        values = values.reshape(-1, values.shape[-1])
        expected = expected.reshape(len(values), -1)
        found = file_rows(tensor, slice(first, first + len(values)))
    differ = np.flatnonzero((found != expected).any(axis=1))
    if not differ.size:
        return len(values), len(values), []
    wrong = _wrong(tensor.tensor_type, values[differ], found[differ], expected[differ], len(values), loose)
    return len(values), len(values) - differ.size, [(first + int(differ[row]), weight) for row, weight in wrong]


def _wrong(
    kind: Any, values: Float32, found: Bytes, expected: Bytes, n_rows: int, loose: float
) -> list[tuple[int, int]]:
    """Rows that are further from the weights than their type explains, and their first such weight."""
    theirs = float_rows(kind, found)
    if kind.name in _EXACT_STEP:
        allowed = _EXACT_STEP[kind.name] * np.abs(values)
        if kind.name == "F16":
            allowed = np.maximum(allowed, _F16_SUBNORMAL_STEP)
        if kind.name != "BF16" and len(values) > _SAME_ROWS * n_rows:
            allowed = np.maximum(allowed, _ROUNDING_STEP * np.abs(values))  # rounded to another type
        allowed = np.maximum(allowed, _SUM_STEP * np.abs(values).max(axis=1, keepdims=True))
        far = ~(np.abs(theirs - values) <= allowed + 1e-30)
        return [(int(row), int(far[row].argmax())) for row in np.flatnonzero(far.any(axis=1))]
    import gguf

    block = gguf.GGML_QUANT_SIZES[kind][0]
    ours = float_rows(kind, expected)
    # Where most rows are the same, the same was rounded: what then differs may differ only by a rounding of a sum.
    # Where not, another rounding is behind it, or an importance matrix that nobody gave.
    most, mean = (1.1, 1.05) if len(values) < _SAME_ROWS * n_rows else (loose, loose / 1.5)
    shape = (len(values), -1, block)
    weights = np.abs(values).reshape(shape).max(axis=2)
    theirs, ours = (np.abs(side - values).reshape(shape) for side in (theirs, ours))
    far = ~(theirs.max(axis=2) <= most * ours.max(axis=2) + _ROUNDING_STEP * weights)
    far |= ~(np.sqrt((theirs**2).mean(axis=2)) <= mean * np.sqrt((ours**2).mean(axis=2)) + _ROUNDING_STEP / 4 * weights)
    return [(int(row), int(far[row].argmax()) * block) for row in np.flatnonzero(far.any(axis=1))]


def float_rows(kind: Any, stored: Bytes) -> Float32:
    """Rows of stored bytes as float32 ``[rows, columns]``; ``kind`` is gguf's type."""
    import gguf

    stored = np.ascontiguousarray(stored)
    if kind.name == "F32":
        return stored.view(np.float32)
    if kind.name == "F16":
        return stored.view(np.float16).astype(np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        return np.asarray(gguf.quants.dequantize(stored, kind), dtype=np.float32)


def _joined(
    plan: TensorPlan, tensor: Any, chosen: tuple[slice, ...], parts: Sequence[tuple[int, int, list[tuple[int, int]]]]
) -> TensorComparison:
    return TensorComparison(
        plan=plan,
        type_name=tensor.tensor_type.name,
        n_rows=sum(count for count, _, _ in parts),
        n_same=sum(same for _, same, _ in parts),
        wrong=tuple(place for _, _, wrong in parts for place in wrong),
        slabs=chosen,
    )
