"""Importance matrices: how much each column of a weight matters, measured by llama.cpp's ``llama-imatrix``.

Two formats (llama.cpp ``common/imatrix-loader.cpp``): GGUF with ``NAME.in_sum2`` and ``NAME.counts``, and the older
``imatrix.dat``. Both hold sums of squared activations and how many were summed; the quantizer wants the mean.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from ..checkpoints.weights import Float32
from ..errors import BrokenFileError, UnsupportedError
from ..reading import GgufFile

_SUMS, _COUNTS = ".in_sum2", ".counts"


@dataclass(frozen=True)
class Imatrix:
    """An importance matrix.

    Attributes:
        path: where it was read from.
        importance: mean squared activation of each column, float32 ``[columns]``, by the tensor's GGUF name.
        datasets: the texts that it was measured on.
        n_chunks: how many stretches of text were measured.
    """

    path: Path
    importance: Mapping[str, Float32]
    datasets: tuple[str, ...]
    n_chunks: int

    @classmethod
    def load(cls, path: Path) -> Imatrix:
        """Read either format.

        Raises:
            BrokenFileError: the file is missing, truncated, or no importance matrix.
        """
        path = Path(path)
        if not path.is_file():
            raise BrokenFileError(f"{path}: no such file; make one with llama.cpp's llama-imatrix")
        with path.open("rb") as file:
            is_gguf = file.read(4) == b"GGUF"
        found = _read_gguf(path) if is_gguf else _read_legacy(path)
        for name, values in found.importance.items():
            if not np.isfinite(values).all():
                raise BrokenFileError(f"{path}: {name}: values that are not finite; measure it again")
        return found

    def of(self, name: str, n_columns: int) -> Float32 | None:
        """The importance of a tensor's columns, or ``None`` where it was not measured.

        Raises:
            UnsupportedError: it was measured on a model of another shape.
        """
        values = self.importance.get(name)
        if values is not None and values.size != n_columns:
            if name == "token_embd.weight":  # llama.cpp measures it in another way, and passes over it
                return None
            raise UnsupportedError(
                f"{self.path}: {name}: measured for {values.size} columns, the model has {n_columns}; "
                "use the importance matrix of this model"
            )
        return values

    def add_settings(self, writer: Any) -> None:
        """Write what ``llama-quantize`` notes of it to a ``gguf.GGUFWriter``; texts are cut at 127 bytes as there."""
        writer.add_string("quantize.imatrix.file", _cut(str(self.path)))
        if self.datasets:
            writer.add_string("quantize.imatrix.dataset", _cut(self.datasets[0]))
        writer.add_uint32("quantize.imatrix.entries_count", len(self.importance))
        if self.n_chunks > 0:
            writer.add_uint32("quantize.imatrix.chunks_count", self.n_chunks)


def _cut(text: str) -> str:
    return text.encode()[:127].decode(errors="ignore")


def _read_gguf(path: Path) -> Imatrix:
    file = GgufFile(path)
    tensors = {tensor.name: np.asarray(tensor.data) for tensor in file.tensors}
    importance = {}
    for key, sums in tensors.items():
        if not key.endswith(_SUMS):
            continue
        name = key.removesuffix(_SUMS)
        counts = tensors.get(name + _COUNTS)
        if counts is None or not counts.size or sums.size % counts.size:
            raise BrokenFileError(f"{path}: {name}: its counts are missing or do not fit; measure it again")
        per_matrix = sums.reshape(counts.size, -1).astype(np.float32)
        times = counts.reshape(-1, 1).astype(np.float32)
        # What no text has reached counts the same everywhere.
        mean = np.divide(per_matrix, times, out=np.ones_like(per_matrix), where=times > 0)
        importance[name] = mean.reshape(-1)
    if not importance or file.get("imatrix.chunk_count") is None:
        raise BrokenFileError(f"{path}: a GGUF, but no importance matrix; make one with llama.cpp's llama-imatrix")
    datasets = tuple(file.get("imatrix.datasets") or ())
    return Imatrix(path, MappingProxyType(importance), datasets, int(file.get("imatrix.chunk_count")))


def _read_legacy(path: Path) -> Imatrix:
    data = path.read_bytes()
    importance: dict[str, Float32] = {}
    datasets: tuple[str, ...] = ()
    n_chunks, place = 0, 4
    try:
        for _ in range(_positive(struct.unpack_from("<i", data)[0])):
            length = struct.unpack_from("<i", data, place)[0]
            name = data[place + 4 : place + 4 + length].decode()
            n_calls, n_values = struct.unpack_from("<ii", data, place + 4 + length)
            place += 12 + length
            values = np.frombuffer(data, np.float32, _positive(n_values), place)
            place += values.nbytes
            importance[name] = values / np.float32(n_calls) if n_calls > 0 else values
        if place < len(data):
            n_chunks, length = struct.unpack_from("<ii", data, place)
            datasets = (data[place + 8 : place + 8 + length].decode(),) if length > 0 else ()
    except (struct.error, ValueError, UnicodeDecodeError) as error:
        raise BrokenFileError(f"{path}: truncated or no importance matrix ({error}); measure it again") from error
    return Imatrix(path, MappingProxyType(importance), datasets, n_chunks)


def _positive(count: int) -> int:
    if count < 1:
        raise ValueError(f"a count of {count}")
    return count
