"""Reading one safetensors file: its header, and rows of its tensors widened to float32.

The format (https://github.com/huggingface/safetensors#format): eight bytes with the length of the header,
the header as JSON (name, dtype, shape, byte offsets), then the data. Headers are checked against the size of
the file when it is opened, so a truncated download is found before anything is written.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from ..errors import BrokenFileError
from .sources import Bytes, ByteSource, LocalFile

Float32 = NDArray[np.float32]

DTYPES: Final[Mapping[str, np.dtype[Any]]] = MappingProxyType(
    {
        "F32": np.dtype(np.float32),
        "F16": np.dtype(np.float16),
        "BF16": np.dtype(ml_dtypes.bfloat16),
    }
)
"""The storage types that can be read as they are, by their safetensors name."""

_MAX_HEADER_BYTES = 100 << 20
ITEM_BYTES: Final = {"U8": 1, "I8": 1, "BOOL": 1, "I16": 2, "I32": 4, "I64": 8, "F64": 8}


@dataclass(frozen=True)
class TensorInfo:
    """Where one tensor lies.

    Attributes:
        file: the safetensors file.
        dtype: its safetensors type, for example ``"BF16"``.
        shape: its shape.
        offset: the position of its first byte in the file.
        name: its name, for messages.
    """

    file: ByteSource
    dtype: str
    shape: tuple[int, ...]
    offset: int
    name: str = ""

    @property
    def n_elements(self) -> int:
        """How many values it holds."""
        return math.prod(self.shape)

    def read_bytes(self, first: int, n_bytes: int) -> Bytes:
        """Read bytes of it as they lie in the file, from the ``first``.

        Raises:
            ExportError: they cannot be read.
        """
        item = DTYPES[self.dtype].itemsize if self.dtype in DTYPES else ITEM_BYTES.get(self.dtype, 0)
        return self.file.read(self.offset + first, n_bytes, self.name, self.offset + self.n_elements * item)

    def read(self, rows: slice | None = None) -> Float32:
        """Read rows of it as float32 ``[rows, ...]``; all of them when ``rows`` is ``None``.

        Raises:
            ExportError: they cannot be read.
        """
        dtype = DTYPES[self.dtype]
        start, stop = row_range(self.shape, rows)
        row_bytes = math.prod(self.shape[1:]) * dtype.itemsize
        values = self.read_bytes(start * row_bytes, (stop - start) * row_bytes).view(dtype)
        # ml_dtypes widens bf16 without the interpreter's lock, and as fast as shifting the bits by hand.
        return values.astype(np.float32, copy=False).reshape((stop - start, *self.shape[1:]) if self.shape else ())


def row_range(shape: tuple[int, ...], rows: slice | None) -> tuple[int, int]:
    """The first row and the one after the last of a slice with step 1; a scalar is one row."""
    start, stop, _ = (rows or slice(None)).indices(shape[0] if shape else 1)
    return start, max(start, stop)


def read_header(file: Path | ByteSource) -> dict[str, TensorInfo]:
    """Read and check the header of a safetensors file.

    Raises:
        BrokenFileError: the file is missing, damaged, or shorter than its header says.
    """
    source: ByteSource = LocalFile.open(file) if isinstance(file, Path) else file
    length = int.from_bytes(source.read(0, 8, "header").tobytes(), "little") if source.size >= 8 else 0
    if source.size < 8 or length > min(source.size - 8, _MAX_HEADER_BYTES):
        raise BrokenFileError(
            f"{source}: truncated or not a safetensors file ({source.size} bytes, its header says it needs "
            f"{8 + length} for the header alone); fetch or save it again"
        )
    try:
        header = json.loads(source.read(8, length, "header").tobytes())
    except ValueError as error:
        raise BrokenFileError(f"{source}: damaged header ({error}); fetch or save it again") from error
    tensors = {}
    end = 8 + length
    try:
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            first, last = entry["data_offsets"]
            info = TensorInfo(source, entry["dtype"], tuple(entry["shape"]), 8 + length + first, name)
            end = max(end, 8 + length + last)
            item = DTYPES[info.dtype].itemsize if info.dtype in DTYPES else ITEM_BYTES.get(info.dtype)
            if first < 0 or (item is not None and last - first != info.n_elements * item):
                raise BrokenFileError(f"{source}: {name}: its shape and its bytes disagree; fetch or save it again")
            tensors[name] = info
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BrokenFileError(f"{source}: damaged header ({error!r}); fetch or save it again") from error
    if source.size < end:
        raise BrokenFileError(
            f"{source}: truncated ({source.size} bytes, its header says {end}); fetch or save it again"
        )
    return tensors
