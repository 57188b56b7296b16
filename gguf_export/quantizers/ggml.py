"""ggml's own quantizer, from the library that llama-cpp-python ships.

``libggml-base`` holds the plain C code alone: it loads by itself, needs no instruction beyond the platform's
baseline, and ctypes lets other threads run while it works.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..errors import MissingLibraryError

_FILE_NAMES: Final = ("libggml-base.so", "libggml-base.dylib", "ggml-base.dll")


@dataclass(frozen=True)
class BlockType:
    """A type that stores weights in blocks.

    Attributes:
        name: as ggml spells it.
        number: its number (``enum ggml_type`` in ``ggml.h``).
        block_values: weights of a block.
        block_bytes: bytes of a block.
        half_offsets: where a block's float16 scales lie.
    """

    name: str
    number: int
    block_values: int
    block_bytes: int
    half_offsets: tuple[int, ...]


BLOCK_TYPES: Final[Mapping[str, BlockType]] = MappingProxyType(
    {
        block_type.name: block_type
        for block_type in (
            BlockType("Q4_0", 2, 32, 18, (0,)),
            BlockType("Q4_1", 3, 32, 20, (0, 2)),
            BlockType("Q5_0", 6, 32, 22, (0,)),
            BlockType("Q5_1", 7, 32, 24, (0, 2)),
            BlockType("Q8_0", 8, 32, 34, (0,)),
            BlockType("Q4_K", 12, 256, 144, (0, 2)),
            BlockType("Q5_K", 13, 256, 176, (0, 2)),
            BlockType("Q6_K", 14, 256, 210, (208,)),
        )
    }
)


@functools.cache
def quantize_chunk() -> Callable[..., int]:
    """``ggml_quantize_chunk`` of ``ggml.h``.

    Raises:
        MissingLibraryError: llama-cpp-python is not installed, or its library does not load.
    """
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or not spec.submodule_search_locations:
        raise MissingLibraryError(
            "quantize: needs llama-cpp-python (not installed); install it with: pip install llama-cpp-python"
        )
    folder = Path(spec.submodule_search_locations[0]) / "lib"
    path = next((folder / name for name in _FILE_NAMES if (folder / name).is_file()), None)
    if path is None:
        raise MissingLibraryError(f"{folder}: no ggml-base library in it; install llama-cpp-python again")
    try:
        function: Any = ctypes.CDLL(str(path)).ggml_quantize_chunk
    except (OSError, AttributeError) as error:
        raise MissingLibraryError(f"{path}: does not load ({error}); install llama-cpp-python again") from error
    function.restype = ctypes.c_size_t
    pointer, count = ctypes.c_void_p, ctypes.c_int64
    function.argtypes = (ctypes.c_int, pointer, pointer, count, count, count, pointer)
    return function  # type: ignore[no-any-return]


def encode(
    block_type: BlockType,
    rows: NDArray[np.float32],
    out: NDArray[np.uint8],
    importance: NDArray[np.float32] | None = None,
) -> None:
    """Quantize whole rows with ggml's code, in this thread.

    Args:
        block_type: the type.
        rows: contiguous ``[rows, columns]``, the columns a multiple of the block's weights.
        out: contiguous ``[rows, bytes of a row]``.
        importance: contiguous ``[columns]``: how much an error in each column costs; all the same by default.
    """
    weights = None if importance is None else importance.ctypes.data
    quantize_chunk()(block_type.number, rows.ctypes.data, out.ctypes.data, 0, *rows.shape, weights)
