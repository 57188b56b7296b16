"""Reading a finished GGUF: settings, and whether every stored value is finite."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from .errors import BrokenFileError

_SCALES: Final[Mapping[str, tuple[int, tuple[int, ...]]]] = MappingProxyType(
    {
        "Q4_0": (18, (0,)),
        "Q4_1": (20, (0, 2)),
        "Q5_0": (22, (0,)),
        "Q5_1": (24, (0, 2)),
        "Q8_0": (34, (0,)),
        "Q4_K": (144, (0, 2)),
        "Q5_K": (176, (0, 2)),
        "Q6_K": (210, (208,)),
    }
)
"""Bytes of a block, and where its float16 scales lie (``ggml-common.h``)."""

_CHUNK = 1 << 22


class GgufFile:
    """A GGUF opened for reading.

    Attributes:
        path: the file.
        tensors: ``gguf.ReaderTensor`` of each tensor.

    Raises:
        BrokenFileError: the file is missing, truncated, or not a GGUF.
    """

    def __init__(self, path: Path) -> None:
        import gguf

        self.path = Path(path)
        if not self.path.is_file():
            raise BrokenFileError(f"{self.path}: no such file; export it first")
        try:
            self._reader = gguf.GGUFReader(self.path)
            self.tensors: list[Any] = list(self._reader.tensors)
            size, end = self.path.stat().st_size, max(t.data_offset + t.n_bytes for t in self.tensors)
        except Exception as error:  # the reader fails in as many ways as a file can be damaged
            raise BrokenFileError(
                f"{self.path}: truncated or not a GGUF ({type(error).__name__}: {str(error)[:120]}); "
                "export or fetch it again"
            ) from error
        if size < end:
            raise BrokenFileError(
                f"{self.path}: truncated ({size} bytes, its header says {end}); export or fetch it again"
            )

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a setting, or ``default``."""
        field = self._reader.get_field(key)
        return default if field is None else field.contents()

    def token(self, index: int) -> str:
        """The text of one token."""
        field = self._reader.get_field("tokenizer.ggml.tokens")
        return bytes(field.parts[field.data[index]]).decode("utf-8", errors="replace")

    @property
    def n_tokens(self) -> int:
        """How many tokens the vocabulary holds."""
        field = self._reader.get_field("tokenizer.ggml.tokens")
        return 0 if field is None else len(field.data)

    @property
    def data_offset(self) -> int:
        """Where the header ends and the first tensor begins."""
        return int(self._reader.data_offset)

    @property
    def has_importances(self) -> bool:
        """Whether it was quantized with an importance matrix."""
        return self._reader.get_field("quantize.imatrix.file") is not None

    def special_text(self, role: str) -> str:
        """The text of the token of a role (``bos``, ``eos``), or ``""``."""
        index = self.get(f"tokenizer.ggml.{role}_token_id")
        return "" if index is None or not 0 <= index < self.n_tokens else self.token(index)

    def tensors_not_finite(self) -> list[str]:
        """Names of tensors with a value or a block's scale that is not finite, or of a type not known."""
        return [tensor.name for tensor in self.tensors if not _is_finite(tensor)]


def _is_finite(tensor: Any) -> bool:
    kind = tensor.tensor_type.name
    raw = tensor.data.reshape(-1).view(np.uint8)
    if kind in ("F32", "F16", "BF16"):
        wide = 4 if kind == "F32" else 2
        # All exponent bits set: infinity or NaN.
        mask = {"F32": 0x7F800000, "F16": 0x7C00, "BF16": 0x7F80}[kind]
        values = raw.view(np.uint32 if wide == 4 else np.uint16)
        return all(
            bool(((values[start : start + _CHUNK] & mask) != mask).all()) for start in range(0, len(values), _CHUNK)
        )
    if kind not in _SCALES:
        return False
    block_bytes, offsets = _SCALES[kind]
    blocks = raw.reshape(-1, block_bytes)
    for offset in offsets:
        scales = np.ascontiguousarray(blocks[:, offset : offset + 2]).view(np.uint16)
        if not ((scales & 0x7C00) != 0x7C00).all():
            return False
    return True
