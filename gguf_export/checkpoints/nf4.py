"""Reading weights that exist only in 4 bits: NF4 and FP4 as bitsandbytes stores them.

NF4 (Dettmers et al. 2023, QLoRA, https://arxiv.org/abs/2305.14314, section 3 and appendix E): every block of 64
values (over the flattened tensor) has one absolute maximum, and each value is one of 16 shares of it. With double
quantization the maxima are 8-bit codes themselves, in blocks of 256, plus an offset.

transformers saves one such weight ``X`` as (bitsandbytes ``QuantState.as_dict(packed=True)``)::

    X                                    two values a byte, the first in the high half; [n / 2, 1]
    X.absmax                             a maximum a block; uint8 codes with double quantization
    X.quant_map                          the 16 shares
    X.quant_state.bitsandbytes__nf4      JSON: shape, dtype, blocksize, and the nested ones
    X.nested_absmax, X.nested_quant_map  with double quantization alone

The arithmetic is that of ``bitsandbytes.functional.dequantize_4bit``, bit for bit (but for the sign of FP4's second
zero, on which its own kernels differ): float32 products, rounded to the type that the weights had before they were
quantized (``dtype`` of the JSON), which training computed with.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from ..errors import BrokenFileError, UnsupportedError
from .shards import DTYPES, Float32, TensorInfo, row_range
from .sources import ByteSource

_STATE: Final = ".quant_state.bitsandbytes__"
_TORCH_DTYPES: Final = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_PARTS: Final = (".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map")
_CHUNK_BYTES: Final = 1 << 16

SHARES: Final[Mapping[str, tuple[float, ...]]] = MappingProxyType(
    {
        "nf4": (
            *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
            *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
            *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
            *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
        ),
        "fp4": (
            *(0.0, 1 / 192, 2 / 3, 1.0, 1 / 3, 1 / 2, 1 / 6, 1 / 4),
            *(0.0, -1 / 192, -2 / 3, -1.0, -1 / 3, -1 / 2, -1 / 6, -1 / 4),
        ),
    }
)
"""What the 16 codes stand for. bitsandbytes computes with its own table, whatever ``quant_map`` says."""


@dataclass(frozen=True)
class DoubleQuant:
    """What the 8-bit codes of the maxima stand for: ``codes[q] * absmax[i // blocksize] + offset``."""

    absmax: TensorInfo
    codes: Float32
    blocksize: int
    offset: np.float32


@dataclass(frozen=True)
class FourBitTensor:
    """One tensor in 4 bits, seen as the matrix that it stands for.

    Attributes:
        packed: the codes, two a byte.
        dtype: ``"NF4"`` or ``"FP4"``.
        shape: of the matrix.
        absmax: the maxima of the blocks, or their codes.
        blocksize: values a block.
        rounded: the type that dequantized values are rounded to.
        double_quant: where the maxima are codes.
    """

    packed: TensorInfo
    dtype: str
    shape: tuple[int, ...]
    absmax: TensorInfo
    blocksize: int
    rounded: np.dtype[Any]
    double_quant: DoubleQuant | None

    @property
    def file(self) -> ByteSource:
        """The file with the codes."""
        return self.packed.file

    @property
    def name(self) -> str:
        """The tensor's name."""
        return self.packed.name

    @property
    def n_elements(self) -> int:
        """How many values the matrix has."""
        return math.prod(self.shape)

    def read(self, rows: slice | None = None) -> Float32:
        """Read rows as float32 ``[rows, ...]``; all of them when ``rows`` is ``None``.

        Raises:
            ExportError: they cannot be read.
        """
        start, stop = row_range(self.shape, rows)
        row_size = math.prod(self.shape[1:])
        first, last = start * row_size, stop * row_size
        if first == last:
            return np.empty((0, *self.shape[1:]), np.float32)
        # Blocks run over the end of a row: read whole ones, and cut.
        first_block, last_block = first // self.blocksize, -(-last // self.blocksize)
        begin = first_block * self.blocksize
        end = min(last_block * self.blocksize, self.n_elements)
        codes = self.packed.read_bytes(begin // 2, (end + 1) // 2 - begin // 2)
        values = _dequantize(codes, self._maxima(first_block, last_block), self.blocksize, self._pairs(), self.rounded)
        return values[first - begin : last - begin].reshape(stop - start, *self.shape[1:])

    def _pairs(self) -> Float32:
        """float32 ``[256, 2]``: the two shares that each byte stands for."""
        shares = np.array(SHARES[self.dtype.lower()], np.float32)
        return np.stack([np.repeat(shares, 16), np.tile(shares, 16)], axis=1)

    def _maxima(self, first: int, last: int) -> Float32:
        nested = self.double_quant
        if nested is None:
            return self.absmax.read(slice(first, last))
        begin = first // nested.blocksize
        outer = nested.absmax.read(slice(begin, -(-last // nested.blocksize)))
        of_block = np.arange(first, last) // nested.blocksize - begin
        codes = self.absmax.read_bytes(first, last - first)
        # One rounding for the product and one for the sum, as bitsandbytes does it in two steps.
        return nested.codes[codes] * outer[of_block] + nested.offset


def _dequantize(
    packed: np.ndarray[Any, np.dtype[np.uint8]],
    maxima: Float32,
    blocksize: int,
    pairs: Float32,
    rounded: np.dtype[Any],
) -> Float32:
    """Whole blocks (the last one may be cut short) as float32 ``[2 * bytes]``, a cache's worth at a time."""
    bytes_per_block = blocksize // 2
    n_blocks = -(-packed.size // bytes_per_block)
    out = np.empty((n_blocks * bytes_per_block, 2), np.float32)
    both = pairs.view(np.uint64).ravel()  # a pair is moved as one number of 64 bits
    step = max(1, _CHUNK_BYTES // bytes_per_block)
    for block in range(0, n_blocks, step):
        chunk = packed[block * bytes_per_block : (block + step) * bytes_per_block]
        target = out[block * bytes_per_block : block * bytes_per_block + chunk.size]
        np.take(both, chunk, out=target.view(np.uint64).ravel(), mode="clip")
        blocks = out[block * bytes_per_block : (block + step) * bytes_per_block].reshape(-1, blocksize)
        if chunk.size % bytes_per_block:
            blocks[-1, 2 * (chunk.size % bytes_per_block) :] = 0
        blocks *= maxima[block : block + step, None]
        if rounded != np.float32:
            blocks[:] = blocks.astype(rounded)
    return out.reshape(-1)


def four_bit_tensors(tensors: Mapping[str, TensorInfo]) -> dict[str, TensorInfo | FourBitTensor]:
    """Gather the parts of each 4-bit weight into the one matrix that they stand for.

    Args:
        tensors: what the files hold.

    Returns:
        The tensors of the model. Without 4-bit weights they are in the order of the files; with them sorted by name,
        as a file of 16-bit weights is (safetensors sorts by type first, and only one type is left).

    Raises:
        BrokenFileError: a part is missing, or the parts do not fit together.
        UnsupportedError: the weights are packed in a way that is not known.
    """
    states = {name.split(_STATE)[0]: name for name in tensors if _STATE in name}
    parts = {weight + part for weight in states for part in _PARTS} | set(states.values())
    gathered: dict[str, TensorInfo | FourBitTensor] = {}
    for name, info in sorted(tensors.items()) if states else tensors.items():
        if name in states:
            gathered[name] = _gather(tensors, info, states[name])
        elif name not in parts:
            gathered[name] = info
    return gathered


def _gather(tensors: Mapping[str, TensorInfo], packed: TensorInfo, state_name: str) -> FourBitTensor:
    where, kind = f"{packed.file}: {packed.name}", state_name.split(_STATE)[1]
    state = _state(tensors[state_name])
    shape, dtype, blocksize = state.get("shape"), str(state.get("dtype")), state.get("blocksize")
    if kind not in SHARES or state.get("quant_type", kind) != kind or dtype not in _TORCH_DTYPES:
        raise UnsupportedError(f"{where}: stored as {kind} of {dtype}, which is not covered; use the 16-bit checkpoint")
    if not isinstance(shape, list) or not isinstance(blocksize, int) or blocksize < 2 or blocksize % 2:
        raise BrokenFileError(f"{where}: its state has no shape or blocksize ({state}); fetch or save it again")
    n_elements = math.prod(shape)
    n_blocks = -(-n_elements // blocksize)
    shares = np.array(SHARES[kind], np.float32)
    if not np.array_equal(_part(tensors, packed, ".quant_map", 16).read().ravel(), shares):
        raise UnsupportedError(f"{where}: its quant_map is not that of {kind}; use the 16-bit checkpoint")
    absmax = _part(tensors, packed, ".absmax", n_blocks)
    double_quant = None
    if "nested_offset" in state:
        nested_blocksize = int(state["nested_blocksize"])
        double_quant = DoubleQuant(
            absmax=_part(tensors, packed, ".nested_absmax", -(-n_blocks // nested_blocksize)),
            codes=_part(tensors, packed, ".nested_quant_map", 256).read().ravel(),
            blocksize=nested_blocksize,
            offset=np.float32(state["nested_offset"]),
        )
    if absmax.dtype != "U8" if double_quant else absmax.dtype not in DTYPES:
        raise BrokenFileError(f"{where}: its maxima are stored as {absmax.dtype}; fetch or save it again")
    # FSDP keeps the bytes under another type (bnb_4bit_quant_storage): they are the same bytes.
    item = DTYPES[packed.dtype].itemsize if packed.dtype in DTYPES else 1
    if packed.n_elements * item != -(-n_elements // 2):
        raise BrokenFileError(f"{where}: its shape and its bytes disagree; fetch or save it again")
    return FourBitTensor(
        packed, kind.upper(), tuple(shape), absmax, blocksize, DTYPES[_TORCH_DTYPES[dtype]], double_quant
    )


def _state(info: TensorInfo) -> dict[str, Any]:
    try:
        state = json.loads(info.read_bytes(0, info.n_elements).tobytes())
    except ValueError as error:
        raise BrokenFileError(f"{info.file}: {info.name}: is not JSON ({error}); fetch or save it again") from error
    if not isinstance(state, dict):
        raise BrokenFileError(f"{info.file}: {info.name}: is not a JSON object; fetch or save it again")
    return state


def _part(tensors: Mapping[str, TensorInfo], packed: TensorInfo, part: str, n_elements: int) -> TensorInfo:
    info = tensors.get(packed.name + part)
    if info is None or info.n_elements != n_elements:
        got = "missing" if info is None else f"{info.n_elements} values, not {n_elements}"
        raise BrokenFileError(f"{packed.file}: {packed.name + part}: {got}; fetch or save the weights again")
    return info
