"""Rotary embeddings: the settings under one set of names, and what of them goes into a GGUF."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..checkpoints.weights import Checkpoint, Float32
from .family import head_dim, integer


def rope_factors(checkpoint: Checkpoint) -> Float32 | None:
    """Llama 3's per-frequency factors (``rope_freqs.weight``), float32 ``[head_dim / 2]``.

    From transformers' ``_compute_llama3_parameters``: long wavelengths are divided by ``factor``, short ones
    are kept, those between are blended. ``None`` for any other scaling.
    """
    rope = rope_settings(checkpoint)
    if rope.get("rope_type") != "llama3":
        return None
    width = head_dim(checkpoint)
    # To the bit what llama.cpp's converter gets from torch: float32 throughout, a power that is rounded once
    # (numpy's float32 power is off by more), and a number over a tensor as a product with its reciprocal.
    exponents = np.arange(0, width, 2, dtype=np.float32) / np.float32(width)
    powers = np.float64(rope["rope_theta"]) ** exponents.astype(np.float64)
    frequencies = np.float32(1.0) / powers.astype(np.float32)
    wavelengths = np.float32(2 * math.pi) * (np.float32(1.0) / frequencies)
    factor = np.float32(rope.get("factor", 8.0))
    low, high = np.float32(rope.get("low_freq_factor", 1.0)), np.float32(rope.get("high_freq_factor", 4.0))
    original = np.float32(rope.get("original_max_position_embeddings", 8192))
    smooth = (original * (np.float32(1.0) / wavelengths) - low) / (high - low)
    blended = np.float32(1.0) / ((np.float32(1.0) - smooth) / factor + smooth)
    factors = np.where(wavelengths < original / high, 1.0, np.where(wavelengths > original / low, factor, blended))
    return factors.astype(np.float32)


def rope_settings(checkpoint: Checkpoint) -> dict[str, Any]:
    """The rotary settings under one set of names.

    transformers 5 writes ``rope_parameters`` with ``rope_theta`` and ``rope_type`` inside; before that there
    were ``rope_theta`` at the top and ``rope_scaling`` with ``type`` or ``rope_type``.
    """
    config = checkpoint.config
    rope = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    rope.setdefault("rope_type", rope.pop("type", "default"))
    rope.setdefault("rope_theta", config.get("rope_theta", 10000.0))
    return rope


def add_rope(writer: Any, checkpoint: Checkpoint) -> None:
    """Write the rotary settings to a ``gguf.GGUFWriter``."""
    import gguf

    rope = rope_settings(checkpoint)
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(rope["factor"]))
    elif rope["rope_type"] == "yarn":
        original = rope.get("original_max_position_embeddings") or integer(checkpoint, "max_position_embeddings")
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(float(rope["factor"]))
        writer.add_rope_scaling_orig_ctx_len(int(original))
        if rope.get("attention_factor") is not None:
            writer.add_rope_scaling_yarn_attn_factor(float(rope["attention_factor"]))
        if rope.get("beta_fast") is not None:
            writer.add_rope_scaling_yarn_beta_fast(float(rope["beta_fast"]))
        if rope.get("beta_slow") is not None:
            writer.add_rope_scaling_yarn_beta_slow(float(rope["beta_slow"]))
    writer.add_rope_freq_base(float(rope["rope_theta"]))
