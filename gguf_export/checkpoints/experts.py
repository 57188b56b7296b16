"""Experts that a file keeps in one tensor, seen as the matrices that they are.

The hub's files have a matrix for each expert. transformers 5 keeps them stacked in memory, ``gate_up_proj``
``[experts, 2 * inner, hidden]`` (gate above up) and ``down_proj`` ``[experts, hidden, inner]``, and a state dict that
was saved as it is has them so in the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from ..checkpoints.nf4 import FourBitTensor
from ..checkpoints.shards import DTYPES, TensorInfo
from ..errors import UnsupportedError

_STACKS: Final[Mapping[str, tuple[str, ...]]] = {
    ".mlp.experts.gate_up_proj": ("gate", "up"),
    ".mlp.experts.down_proj": ("down",),
}


def split_experts(tensors: Mapping[str, TensorInfo | FourBitTensor]) -> dict[str, TensorInfo | FourBitTensor]:
    """Replace each stack of experts by a tensor for each expert, under the hub's names.

    Raises:
        UnsupportedError: a stack is of another shape, or in 4 bits.
    """
    split: dict[str, TensorInfo | FourBitTensor] = {}
    for name, info in tensors.items():
        suffix = next((suffix for suffix in _STACKS if name.endswith(suffix)), None)
        if suffix is None:
            split[name] = info
            continue
        parts = _STACKS[suffix]
        if not isinstance(info, TensorInfo) or info.dtype not in DTYPES or len(info.shape) != 3:
            raise UnsupportedError(f"{info.file}: {name}: experts stored as {info.dtype} of shape {list(info.shape)}")
        n_experts, n_rows, n_columns = info.shape
        if n_rows % len(parts):
            raise UnsupportedError(f"{info.file}: {name}: {n_rows} rows are not gate above up")
        shape = (n_rows // len(parts), n_columns)
        n_bytes = shape[0] * shape[1] * DTYPES[info.dtype].itemsize
        for expert in range(n_experts):
            for position, part in enumerate(parts):
                own = f"{name.removesuffix(suffix)}.mlp.experts.{expert}.{part}_proj.weight"
                offset = info.offset + (expert * len(parts) + position) * n_bytes
                split[own] = replace(info, shape=shape, offset=offset, name=own)
    return split
