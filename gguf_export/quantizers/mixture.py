"""Which block type each tensor of a quantized file gets, and in which order the tensors lie.

llama.cpp's rule (``src/llama-quant.cpp``: ``tensor_allows_quantization``, ``llama_tensor_get_type_impl``,
``tensor_type_fallback``), for the types in ``QUANT_TYPES`` and the families of this package. The order is that of
llama.cpp's loader: by layer, those without one first, then by name; the counters of the rule run in it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

_DEFAULT_TYPES: Final[Mapping[str, str]] = MappingProxyType(
    {"Q8_0": "Q8_0", "Q6_K": "Q6_K", "Q5_K_M": "Q5_K", "Q4_K_M": "Q4_K", "Q4_K_S": "Q4_K"}
)

_BLOCK_VALUES: Final[Mapping[str, int]] = MappingProxyType(
    {"Q4_K": 256, "Q5_K": 256, "Q6_K": 256, "Q5_0": 32, "Q5_1": 32, "Q8_0": 32}
)

_FALLBACKS: Final[Mapping[str, str]] = MappingProxyType({"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"})

_LAYER: Final = re.compile(r"blk\.(\d+)\.")


@dataclass(frozen=True)
class ModelFacts:
    """What the rule asks of a model.

    Attributes:
        n_layers: decoder layers.
        n_experts: experts of a layer; 0 for a dense model.
        is_70b: llama.cpp takes it for a 70B (80 layers, grouped heads): values get more bits there.
    """

    n_layers: int
    n_experts: int = 0
    is_70b: bool = False


def file_order(names: Sequence[str]) -> list[str]:
    """The order in which llama.cpp writes tensors: by layer, those without one first, then by name."""
    return sorted(names, key=lambda name: (_layer_of(name), name.encode()))


def is_quantized(name: str, n_dimensions: int) -> bool:
    """Whether the tensor is quantized at all, or kept as it is."""
    return (
        n_dimensions >= 2
        and name.endswith("weight")
        and "_norm.weight" not in name
        and "ffn_gate_inp.weight" not in name
    )


def target_types(shapes: Mapping[str, tuple[int, ...]], quant: str, facts: ModelFacts) -> dict[str, str]:
    """The type of every tensor of a quantized file, in the order of the file.

    Args:
        shapes: shape of each tensor by its GGUF name, rows first.
        quant: a quantized type of ``QUANT_TYPES``.
        facts: of the model.

    Returns:
        ggml's type by tensor: a block type, ``"F16"`` where no block fits its columns, ``"F32"`` where it is kept.
    """
    rule = _Rule(quant, facts, shapes)
    return {
        name: rule.type_of(name) if is_quantized(name, len(shapes[name])) else "F32"
        for name in file_order(list(shapes))
    }


class _Rule:
    """The rule with its two counters; tensors are asked for in the order of the file."""

    def __init__(self, quant: str, facts: ModelFacts, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._quant = quant
        self._facts = facts
        self._shapes = shapes
        self._tied = "output.weight" not in shapes
        self._n_values = sum("attn_v.weight" in name for name in shapes)
        self._values_seen = 0
        self._downs_seen = 0

    def type_of(self, name: str) -> str:
        columns = self._shapes[name][-1]
        wanted = _DEFAULT_TYPES[self._quant]
        if name == "output.weight" or (self._tied and name == "token_embd.weight"):
            wanted = "Q6_K" if columns % _BLOCK_VALUES[wanted] == 0 and wanted != "Q8_0" else "Q8_0"
        elif "attn_v.weight" in name:
            wanted = self._value_type(wanted)
        elif "attn_k.weight" in name and self._facts.n_experts == 8:
            wanted = "Q8_0"
        elif "ffn_down" in name:
            wanted = self._down_type(name, wanted)
        elif "attn_output.weight" in name and self._facts.n_experts == 8 and self._quant in ("Q4_K_S", "Q4_K_M"):
            wanted = "Q5_K"
        return _fitting(wanted, columns)

    def _value_type(self, wanted: str) -> str:
        index, self._values_seen = self._values_seen, self._values_seen + 1
        if self._quant in ("Q4_K_M", "Q5_K_M") and _more_bits(index, self._n_values):
            wanted = "Q6_K"
        elif self._quant == "Q4_K_S" and index < 4:
            wanted = "Q5_K"
        if self._facts.is_70b and wanted == "Q4_K":
            wanted = "Q5_K"
        return "Q8_0" if self._facts.n_experts == 8 else wanted

    def _down_type(self, name: str, wanted: str) -> str:
        index, self._downs_seen = self._downs_seen, self._downs_seen + 1
        if self._facts.n_experts > 1:
            index = _layer_of(name)
        if self._quant in ("Q4_K_M", "Q5_K_M") and _more_bits(index, self._facts.n_layers):
            return "Q6_K"
        if self._quant == "Q4_K_S" and index < self._facts.n_layers // 8:
            return "Q5_K"
        return wanted


def _more_bits(index: int, count: int) -> bool:
    """The layers that matter most: the first and the last eighth, and every third between."""
    return index < count // 8 or index >= 7 * count // 8 or (index - count // 8) % 3 == 2


def _fitting(wanted: str, columns: int) -> str:
    if columns % _BLOCK_VALUES[wanted]:
        wanted = _FALLBACKS.get(wanted, wanted)
    return wanted if columns % _BLOCK_VALUES[wanted] == 0 else "F16"


def _layer_of(name: str) -> int:
    match = _LAYER.match(name)
    return int(match.group(1)) if match else -1
