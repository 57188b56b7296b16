"""A model folder open for reading: whole tensors or row slabs of it, widened to float32.

What lies underneath is hidden here: one file or many (`shards`), on this machine or on a hub (`sources`,
`hub`), 16 or 32 bits or 4 (`nf4`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal, Protocol

import numpy as np

from ..errors import BrokenFileError, UnsupportedError
from ..files import read_json
from .experts import split_experts
from .hub import remote_files
from .nf4 import FourBitTensor, four_bit_tensors
from .shards import DTYPES, Float32, TensorInfo, read_header

__all__ = [
    "DTYPES",
    "ROUNDED",
    "Checkpoint",
    "Float32",
    "Rounding",
    "Tensor",
    "TensorInfo",
    "read_header",
    "read_rows",
    "slabs",
]

Rounding = Literal["bf16", "f16", "f32"]
Tensor = TensorInfo | FourBitTensor
"""A tensor of a checkpoint: ``name``, ``file``, ``dtype``, ``shape``, ``n_elements`` and ``read(rows)``."""

ROUNDED: Final[Mapping[str, np.dtype[Any]]] = MappingProxyType(
    {"bf16": DTYPES["BF16"], "f16": DTYPES["F16"], "f32": DTYPES["F32"]}
)
"""The type that merged values are rounded to, by the name of the rounding."""

_SLAB_BYTES = 4 << 20


@dataclass(frozen=True)
class Checkpoint:
    """A model folder in the hub's layout, open for lazy reading from any number of threads.

    A base that exists only in 4 bits (bitsandbytes NF4 or FP4) is read as the values that it was trained with.
    Somebody who trained on a 16-bit base that was quantized when it was loaded (QLoRA) exports onto that 16-bit
    base, as PEFT and the other tools do; to export onto the rounded weights that training saw, save the
    quantized base (``save_pretrained``) and give that folder.

    Attributes:
        folder: the folder.
        config: ``config.json``.
        tensors: every tensor of the model by name, in the order of the files. A tensor in 4 bits is one entry
            with the shape of its matrix and dtype ``"NF4"`` or ``"FP4"``.
    """

    folder: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

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
        _require_known_quantization(folder, config)
        tensors = split_experts(four_bit_tensors(_read_tensors(folder)))
        for name, info in tensors.items():
            _require_dtype(name, info)
        return cls(folder, MappingProxyType(config), MappingProxyType(tensors))

    def read(self, name: str, rows: slice | None = None) -> Float32:
        """Read a tensor, or some of its rows. Any number of threads may read at once.

        Args:
            name: the tensor's name.
            rows: a slice of its first dimension, with step 1; all rows when ``None``.

        Returns:
            float32 ``[rows, ...]``, a fresh array.

        Raises:
            BrokenFileError: there is no such tensor, or reading fails; the message names the file and the tensor.
        """
        if name not in self.tensors:
            raise BrokenFileError(f"{self.folder}: tensor {name}: missing; fetch or save the weights again")
        return self.tensors[name].read(rows)


def read_rows(info: Tensor, rows: slice | None = None) -> Float32:
    """Read rows of one tensor as float32 ``[rows, ...]``; all of them when ``rows`` is ``None``.

    Raises:
        BrokenFileError: the bytes cannot be read.
    """
    return info.read(rows)


class Sized(Protocol):
    """What has a shape, rows first."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""

    @property
    def n_elements(self) -> int:
        """How many values it holds."""


def slabs(info: Sized, multiple: int = 1) -> Iterator[slice]:
    """Cut the rows of a tensor into slices of about 4 MiB as float32.

    Args:
        info: the tensor.
        multiple: every slice but the last holds a multiple of this many rows.
    """
    n_rows = info.shape[0] if info.shape else 1
    row_bytes = max(1, 4 * info.n_elements // max(1, n_rows))
    step = max(1, _SLAB_BYTES // row_bytes // multiple) * multiple
    for start in range(0, n_rows, step):
        yield slice(start, min(start + step, n_rows))


def _require_known_quantization(folder: Path, config: Mapping[str, Any]) -> None:
    quantization = config.get("quantization_config")
    if not quantization:
        return
    method = quantization.get("quant_method", "unknown") if isinstance(quantization, dict) else "unknown"
    if method == "bitsandbytes" and quantization.get("load_in_8bit"):
        method = "bitsandbytes LLM.int8()"
    if method != "bitsandbytes":
        raise UnsupportedError(
            f"{folder}: weights quantized by {method} are not covered (bitsandbytes NF4 and FP4 are); "
            "use the 16-bit checkpoint of the same model"
        )


def _read_tensors(folder: Path) -> dict[str, TensorInfo]:
    single, index_path = "model.safetensors", folder / "model.safetensors.index.json"
    remote = remote_files(folder)
    if single in remote or (folder / single).is_file():
        return read_header(remote.get(single, folder / single))
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
        tensors.update(read_header(remote.get(shard, folder / shard)))
    for name in weight_map:
        if name not in tensors:
            raise BrokenFileError(f"{index_path}: {name}: in no shard; fetch or save the weights again")
    return tensors


def _require_dtype(name: str, info: Tensor) -> None:
    if isinstance(info, TensorInfo) and info.dtype not in DTYPES:
        raise UnsupportedError(
            f"{info.file}: {name}: stored as {info.dtype}, which is not covered; use a checkpoint in bf16, f16 or f32"
        )
