"""Writing the tensors of a GGUF in one pass: slabs of rows are read, merged, rounded, encoded and appended.

Slabs are worked on by a pool of threads and written in order. A slab is a few megabytes, so what is in memory does
not depend on the model.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .adapters.adapter import Adapter
from .checkpoints.weights import ROUNDED, Checkpoint, Float32, Rounding, slabs
from .errors import ExportError, UnsupportedError
from .families.architectures import TensorPlan
from .merge import planned_rows
from .quantizers.block_quantizers import RowQuantizer, row_quantizer, weighted_quantizer
from .quantizers.ggml import BLOCK_TYPES
from .workers import in_order

_Slab = tuple[int, NDArray[np.uint8], bool]
"""How many weights, their bytes, and whether the tensor ends with them."""

_ALIGNMENT: Final = 32
_EXACT: Final = {"F32": ROUNDED["f32"], "F16": ROUNDED["f16"], "BF16": ROUNDED["bf16"]}


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as it will lie in the file.

    Attributes:
        plan: where it comes from, and its name and shape.
        type_name: ggml's name of the type it is stored in.
        importance: how much each column matters, float32 ``[columns]``; all the same when ``None``.
    """

    plan: TensorPlan
    type_name: str
    importance: Float32 | None = None

    @property
    def quantizer(self) -> RowQuantizer | None:
        """What turns its rows into blocks; ``None`` where it is stored as it is."""
        if self.type_name in _EXACT:
            return None
        # Q8_0 has no choice to make that an importance could sway, and ggml looks at none
        if self.importance is None or self.type_name == "Q8_0":
            return row_quantizer(self.type_name)
        return weighted_quantizer(self.type_name, self.importance)

    @property
    def n_values(self) -> int:
        """How many weights it has."""
        return int(np.prod(self.plan.shape, dtype=np.int64))

    @property
    def n_bytes(self) -> int:
        """Its size in the file, without padding."""
        if self.type_name in _EXACT:
            return self.n_values * _EXACT[self.type_name].itemsize
        block = BLOCK_TYPES[self.type_name]
        return self.n_values // block.block_values * block.block_bytes

    def declare(self, writer: Any) -> None:
        """Announce it to a ``gguf.GGUFWriter``."""
        import gguf

        shape: tuple[int, ...] = self.plan.shape
        dtype: Any = np.dtype(np.uint8)
        if self.type_name in _EXACT:
            dtype = _EXACT[self.type_name]
        else:  # gguf takes the shape of a quantized tensor in bytes
            shape = (*shape[:-1], self.n_bytes // (self.n_values // shape[-1]))
        raw = gguf.GGMLQuantizationType[self.type_name]
        writer.add_tensor_info(self.plan.name, shape, dtype, self.n_bytes, raw_dtype=raw)

    def encode(self, values: Float32) -> NDArray[Any]:
        """Rows of weights as the bytes of the type.

        Raises:
            ExportError: a weight is too large for the type.
        """
        quantizer = self.quantizer
        if quantizer is None:
            with np.errstate(over="ignore"):
                return np.ascontiguousarray(values.astype(_EXACT[self.type_name], copy=False)).view(np.uint8)
        try:
            return quantizer(values.reshape(-1, values.shape[-1]))
        except UnsupportedError:
            raise
        except ExportError as error:
            raise ExportError(f"{self.plan.source}: {error}") from error


@dataclass(frozen=True)
class Source:
    """Where the weights of a file come from.

    Attributes:
        checkpoint: the base.
        adapter: what is added to it; ``None`` for the base alone.
        rounding: what merged weights are rounded to before they are stored.
    """

    checkpoint: Checkpoint
    adapter: Adapter | None
    rounding: Rounding


class _HashedFile:
    """A file that only grows, and its SHA-256."""

    def __init__(self, path: Path) -> None:
        content = path.read_bytes()
        self._file = path.open("ab", buffering=0)
        self._digest = hashlib.sha256(content)
        self.n_bytes = len(content)

    def append(self, data: bytes | memoryview) -> None:
        view = memoryview(data).cast("B")
        self._digest.update(view)
        while view:
            view = view[self._file.write(view) :]
        self.n_bytes += memoryview(data).nbytes

    def pad(self) -> None:
        """Append zeros up to the alignment of a GGUF."""
        self.append(bytes(-self.n_bytes % _ALIGNMENT))

    def close(self) -> str:
        """Flush it to the disk; its SHA-256 as hexadecimal."""
        os.fsync(self._file.fileno())
        self._file.close()
        return self._digest.hexdigest()


def write_gguf(
    writer: Any,
    path: Path,
    rope_factors: Float32 | None,
    tensors: Sequence[StoredTensor],
    source: Source,
    report: Callable[[float], None],
    n_threads: int | None = None,
    rope_position: int = 0,
) -> tuple[str, int]:
    """Write a whole file: header, settings, tensors.

    Args:
        writer: a ``gguf.GGUFWriter`` that has its settings, and no tensor yet.
        path: the file to write; a temporary name, since it is not whole until this returns.
        rope_factors: ``rope_freqs.weight``, which no checkpoint holds.
        tensors: in the order of the file.
        source: where their values come from.
        report: called with the share that is done, 0 to 1.
        n_threads: threads that encode; as many as this process may use by default.
        rope_position: how many tensors lie before ``rope_freqs.weight``.

    Returns:
        SHA-256 as hexadecimal, and bytes.

    Raises:
        ExportError: a weight is not finite, or too large for the type.
        BrokenFileError: reading fails.
    """
    for position, tensor in enumerate(tensors):
        if position == rope_position and rope_factors is not None:
            writer.add_tensor_info("rope_freqs.weight", rope_factors.shape, rope_factors.dtype, rope_factors.nbytes)
        tensor.declare(writer)
    try:
        writer.write_header_to_file(path)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
    finally:
        writer.close()
    out = _HashedFile(path)
    out.pad()
    for name in {tensor.type_name for tensor in tensors} - _EXACT.keys():
        row_quantizer(name)  # compiled once, here, not by several threads at a time
    n_values, done, n_tensors = sum(tensor.n_values for tensor in tensors), 0, 0
    report(0.0)
    with closing(in_order(_jobs(tensors, source), n_threads)) as finished:
        for count, encoded, ends in finished:
            if n_tensors == rope_position and rope_factors is not None:
                out.append(rope_factors.tobytes())
                out.pad()
                rope_factors = None
            out.append(encoded.data)
            if ends:
                out.pad()
                n_tensors += 1
            done += count
            report(done / n_values)
    return out.close(), out.n_bytes


def _jobs(tensors: Sequence[StoredTensor], source: Source) -> Iterator[Callable[[], _Slab]]:
    """One for each slab, in the order of the file."""
    for tensor in tensors:
        n_rows = tensor.plan.shape[0]
        for rows in slabs(tensor.plan, tensor.plan.rows_per_unit):
            yield partial(_encode, tensor, source, rows, rows.stop == n_rows)


def _encode(tensor: StoredTensor, source: Source, rows: slice, ends: bool) -> _Slab:
    # llama.cpp's converter stores norms and biases as they come out of the merge, whatever the type of the file.
    rounding: Rounding = "f32" if tensor.type_name == "F32" else source.rounding
    values = planned_rows(source.checkpoint, source.adapter, tensor.plan, rows, rounding)
    return values.size, tensor.encode(tensor.plan.reorder(values)), ends
