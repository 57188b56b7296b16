"""Switch a PEFT model over to the fused functions, and only what they cover.

Nothing of the model changes but the ``forward`` of its LoRA modules and the name of its attention: weights, names and
what is saved are PEFT's. A call that a fused function does not cover (a merged or disabled adapter, several of them,
DoRA, attention with a cache or with padding on the left) goes to the module's own ``forward``.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora.layer import Linear as LoraModule
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from lowvram_ft.training.fused.attention import CausalAttention
from lowvram_ft.training.fused.lora import LoraLinear

ATTENTION = "lowvram_ft_causal"
Weight = Callable[[], torch.Tensor]


@dataclass(frozen=True)
class Fused:
    """What was switched over.

    Attributes:
        lora_modules: modules whose forward and backward are fused.
        attention: whether attention is.
        dequantized_bytes: what the 4-bit weights take that are kept dequantized as well; 0 where none are.
    """

    lora_modules: int
    attention: bool
    dequantized_bytes: int


def fuse(model: Any, *, keep_dequantized: bool = False) -> Fused:
    """Switch a model over, in place.

    Args:
        model: a ``peft.PeftModel`` on the CPU.
        keep_dequantized: hold 4-bit weights in the compute type beside their 4 bits, which are then dequantized once
            and not at each use. The numbers are the same.
    """
    AttentionInterface.register(ATTENTION, causal_attention)
    AttentionMaskInterface.register(ATTENTION, right_padding_mask)
    config = model.get_base_model().config
    attention = config._attn_implementation == "sdpa"
    if attention:
        config._attn_implementation = ATTENTION
    count = extra = 0
    for module in model.modules():
        weight = _frozen_weight(module, keep_dequantized)
        if weight is None:
            continue
        quantized = type(module) is not LoraModule
        if keep_dequantized and quantized:
            extra += weight().nbytes
        module.forward = types.MethodType(_forward(weight, quantized), module)
        count += 1
    return Fused(count, attention, extra)


def _frozen_weight(module: Any, keep_dequantized: bool) -> Weight | None:
    """How the weight under a LoRA module is got; None where the module is not one that is covered."""
    if type(module) is LoraModule and type(module.base_layer) is torch.nn.Linear and not module.fan_in_fan_out:
        return None if module.base_layer.weight.requires_grad else lambda: module.base_layer.weight
    if type(module).__name__ != "Linear4bit" or not hasattr(module, "lora_A") or not _is_4bit(module.base_layer):
        return None
    if keep_dequantized:
        kept = _dequantized(module.base_layer)
        return lambda: kept
    return lambda: _dequantized(module.base_layer)


def _is_4bit(layer: Any) -> bool:
    from bitsandbytes.nn import Linear4bit

    return isinstance(layer, Linear4bit)


def _dequantized(layer: Any) -> torch.Tensor:
    """The weight of a ``bitsandbytes.nn.Linear4bit``, as its own matrix product makes it at each call."""
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(layer.weight.data, layer.weight.quant_state).to(layer.compute_dtype)


def _forward(weight: Weight, quantized: bool) -> Callable[..., torch.Tensor]:
    """The forward of a LoRA module around a frozen weight; a quantized one returns the type that it was given."""

    def forward(self: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        names = self.active_adapters
        if args or kwargs or self.disable_adapters or self.merged or len(names) != 1 or not _is_vanilla(self, names[0]):
            return _own_forward(self, x, *args, **kwargs)
        (name,) = names
        a, b = self.lora_A[name].weight, self.lora_B[name].weight
        if torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")
        elif x.dtype == a.dtype == (self.base_layer.compute_dtype if quantized else self.base_layer.weight.dtype):
            dtype = x.dtype
        else:  # PEFT computes the two halves in two types
            return _own_forward(self, x)
        dropout = self.lora_dropout[name]
        p = dropout.p if self.training and isinstance(dropout, torch.nn.Dropout) else 0.0
        y: torch.Tensor = LoraLinear.apply(x, a, b, weight, self.base_layer.bias, self.scaling[name], p, dtype)
        return y.to(x.dtype) if quantized else y

    return forward


def _own_forward(module: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
    """PEFT's own forward, which an instance's attribute hides."""
    y: torch.Tensor = type(module).forward(module, *args, **kwargs)
    return y


def _is_vanilla(module: Any, name: str) -> bool:
    """Whether an adapter is the plain sum of LoRA's paper in this module."""
    return name in module.lora_A and name not in module.lora_variant and not module.lora_bias[name]


def causal_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention in the terms of ``transformers.AttentionInterface``: shapes [B, H, T, D], returns [B, T, H, D]."""
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    if attention_mask is not None or dropout or not causal or query.shape[2] != key.shape[2]:
        plain: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, is_causal=is_causal, **kwargs
        )
        return plain
    if torch.is_autocast_enabled("cpu"):  # as PyTorch casts the inputs of its own function
        dtype = torch.get_autocast_dtype("cpu")
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return CausalAttention.apply(query, key, value, scale).transpose(1, 2), None


def right_padding_mask(
    batch_size: int, q_length: int, kv_length: int, attention_mask: torch.Tensor | None = None, **kwargs: Any
) -> torch.Tensor | None:
    """The mask in the terms of ``transformers.AttentionMaskInterface``: the causal one alone for padding on the right.

    Args:
        batch_size: rows.
        q_length: queries of a row.
        kv_length: keys of a row; more than the queries where there is a cache.
        attention_mask: [B, T]; True where a token is real.
        kwargs: the rest of what ``transformers.masking_utils.sdpa_mask`` takes.
    """
    if attention_mask is not None and attention_mask.ndim == 2 and q_length == kv_length:
        on_the_right = attention_mask[:, 1:] <= attention_mask[:, :-1]
        attention_mask = None if bool(on_the_right.all()) else attention_mask
    mask: torch.Tensor | None = sdpa_mask(
        batch_size=batch_size, q_length=q_length, kv_length=kv_length, attention_mask=attention_mask, **kwargs
    )
    return mask
