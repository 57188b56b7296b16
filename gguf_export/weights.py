"""Reading a checkpoint of safetensors files: whole tensors or row slabs, widened to float32.

The format (https://github.com/huggingface/safetensors#format): eight bytes with the length of the header,
the header as JSON (name, dtype, shape, byte offsets), then the data. Headers are checked against the size of
the file when a checkpoint is opened, so a truncated download is found before anything is written.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from .errors import BrokenFileError, UnsupportedError
from .files import read_json

Float32 = NDArray[np.float32]
Rounding = Literal["bf16", "f16", "f32"]

DTYPES: Final[Mapping[str, np.dtype[Any]]] = MappingProxyType(
    {
        "F32": np.dtype(np.float32),
        "F16": np.dtype(np.float16),
        "BF16": np.dtype(ml_dtypes.bfloat16),
    }
)
"""The storage types that can be read, by their safetensors name."""

ROUNDED: Final[Mapping[str, np.dtype[Any]]] = MappingProxyType(
    {"bf16": DTYPES["BF16"], "f16": DTYPES["F16"], "f32": DTYPES["F32"]}
)
"""The type that merged values are rounded to, by the name of the rounding."""

_SLAB_BYTES = 16 << 20
_MAX_HEADER_BYTES = 100 << 20


@dataclass(frozen=True)
class TensorInfo:
    """Where one tensor lies.

    Attributes:
        file: the safetensors file.
        dtype: its safetensors type, for example ``"BF16"``.
        shape: its shape.
        offset: the position of its first byte in the file.
    """

    file: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int

    @property
    def n_elements(self) -> int:
        """How many values it holds."""
        return math.prod(self.shape)


def read_header(path: Path) -> dict[str, TensorInfo]:
    """Read and check the header of a safetensors file.

    Raises:
        BrokenFileError: the file is missing, damaged, or shorter than its header says.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, _MAX_HEADER_BYTES):
                raise BrokenFileError(
                    f"{path}: truncated or not a safetensors file ({size} bytes, its header says it needs "
                    f"{8 + length} for the header alone); fetch or save it again"
                )
            header = json.loads(file.read(length))
    except FileNotFoundError as error:
        raise BrokenFileError(f"{path}: no such file; fetch or save the weights again") from error
    except (OSError, ValueError) as error:
        raise BrokenFileError(f"{path}: damaged header ({error}); fetch or save it again") from error
    tensors = {}
    end = 8 + length
    try:
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            first, last = entry["data_offsets"]
            tensors[name] = TensorInfo(path, entry["dtype"], tuple(entry["shape"]), 8 + length + first)
            end = max(end, 8 + length + last)
            known = DTYPES.get(entry["dtype"])
            if known is not None and last - first != tensors[name].n_elements * known.itemsize:
                raise BrokenFileError(f"{path}: {name}: its shape and its bytes disagree; fetch or save it again")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BrokenFileError(f"{path}: damaged header ({error!r}); fetch or save it again") from error
    if size < end:
        raise BrokenFileError(f"{path}: truncated ({size} bytes, its header says {end}); fetch or save it again")
    return tensors


@dataclass(frozen=True)
class Checkpoint:
    """A model folder in the hub's layout, open for lazy reading.

    Attributes:
        folder: the folder.
        config: ``config.json``.
        tensors: every tensor by name, in the order of the files.
    """

    folder: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]

    @classmethod
    def open(cls, folder: Path) -> Checkpoint:
        """Open a folder with ``config.json`` and ``model.safetensors``, sharded or not.

        Raises:
            BrokenFileError: a file is missing, truncated or damaged.
            UnsupportedError: the weights are in another format, or stored in a type that is not covered.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise BrokenFileError(f"{folder}: no such folder; give a model folder in the hub's layout")
        config = read_json(folder / "config.json", "a model folder needs it")
        if config.get("quantization_config"):
            method = config["quantization_config"].get("quant_method", "unknown")
            raise UnsupportedError(
                f"{folder}: quantized weights are not covered (got {method}); "
                "use the 16-bit checkpoint of the same model"
            )
        tensors = _read_tensors(folder)
        for name, info in tensors.items():
            _require_dtype(name, info)
        return cls(folder, MappingProxyType(config), MappingProxyType(tensors))

    def read(self, name: str, rows: slice | None = None) -> Float32:
        """Read a tensor, or some of its rows.

        Args:
            name: the tensor's name.
            rows: a slice of its first dimension, with step 1; all rows when ``None``.

        Returns:
            float32 ``[rows, ...]``.

        Raises:
            BrokenFileError: there is no such tensor, or reading fails.
        """
        if name not in self.tensors:
            raise BrokenFileError(f"{self.folder}: tensor {name}: missing; fetch or save the weights again")
        return read_rows(self.tensors[name], rows)


def read_rows(info: TensorInfo, rows: slice | None = None) -> Float32:
    """Read rows of one tensor as float32 ``[rows, ...]``; all of them when ``rows`` is ``None``.

    Raises:
        BrokenFileError: the bytes cannot be read.
    """
    dtype = DTYPES[info.dtype]
    n_rows = info.shape[0] if info.shape else 1
    start, stop, _ = (rows or slice(None)).indices(n_rows)
    row_size = info.n_elements // n_rows if n_rows else 0
    try:
        with info.file.open("rb") as file:
            file.seek(info.offset + start * row_size * dtype.itemsize)
            values = np.fromfile(file, dtype=dtype, count=(stop - start) * row_size)
    except OSError as error:
        raise BrokenFileError(f"{info.file}: cannot be read ({error}); check the disk") from error
    if values.size != (stop - start) * row_size:
        raise BrokenFileError(f"{info.file}: became shorter while it was read; fetch or save it again")
    return values.astype(np.float32, copy=False).reshape((stop - start, *info.shape[1:]) if info.shape else ())


def slabs(info: TensorInfo, multiple: int = 1) -> Iterator[slice]:
    """Cut the rows of a tensor into slices of about 16 MiB as float32.

    Args:
        info: the tensor.
        multiple: every slice but the last holds a multiple of this many rows.
    """
    n_rows = info.shape[0] if info.shape else 1
    row_bytes = max(1, 4 * info.n_elements // max(1, n_rows))
    step = max(1, _SLAB_BYTES // row_bytes // multiple) * multiple
    for start in range(0, n_rows, step):
        yield slice(start, min(start + step, n_rows))


def _read_tensors(folder: Path) -> dict[str, TensorInfo]:
    index_path = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file():
        return read_header(folder / "model.safetensors")
    if not index_path.is_file():
        if any(folder.glob("pytorch_model*.bin")):
            raise UnsupportedError(
                f"{folder}: only pytorch_model.bin weights, which can run code when read; "
                "save the model again as safetensors (model.save_pretrained)"
            )
        raise BrokenFileError(
            f"{folder}: neither model.safetensors nor its index is there; fetch or save the weights again"
        )
    weight_map = read_json(index_path, "sharded weights need it").get("weight_map")
    if not isinstance(weight_map, dict):
        raise BrokenFileError(f"{index_path}: holds no weight_map; fetch it again")
    tensors: dict[str, TensorInfo] = {}
    for shard in sorted(set(weight_map.values())):
        tensors.update(read_header(folder / shard))
    for name in weight_map:
        if name not in tensors:
            raise BrokenFileError(f"{index_path}: {name}: in no shard; fetch or save the weights again")
    return tensors


def _require_dtype(name: str, info: TensorInfo) -> None:
    if info.dtype not in DTYPES:
        raise UnsupportedError(
            f"{info.file}: {name}: stored as {info.dtype}, which is not covered; use a checkpoint in bf16, f16 or f32"
        )
