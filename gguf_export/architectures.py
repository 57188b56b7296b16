"""Model families: what their tensors and settings are called in a GGUF.

Each family is one row of ``FAMILIES``. Tensor names come from ``gguf``'s own table; the settings and the
reordering of rows follow llama.cpp's converter (``conversion/llama.py``, ``conversion/qwen.py``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from .errors import BrokenFileError, UnsupportedError
from .weights import Checkpoint, Float32

_SKIPPED = (".rotary_emb.inv_freq", ".attention.masked_bias", ".attention.bias")


@dataclass(frozen=True)
class Family:
    """What one model family needs.

    Attributes:
        name: as a reader knows it.
        architectures: the names of its class in ``config.json``.
        gguf_arch: its name in a GGUF.
        interleaved_rope: llama.cpp rotates neighbouring pairs, so the rows of q and k are reordered.
    """

    name: str
    architectures: tuple[str, ...]
    gguf_arch: str
    interleaved_rope: bool = False


FAMILIES: Final = (
    Family("Llama", ("LlamaForCausalLM", "MistralForCausalLM"), "llama", interleaved_rope=True),
    Family("Qwen2", ("Qwen2ForCausalLM",), "qwen2"),
    Family("Qwen3", ("Qwen3ForCausalLM",), "qwen3"),
)


@dataclass(frozen=True)
class TensorPlan:
    """One tensor of the GGUF.

    Attributes:
        name: its name in the GGUF.
        source: its name in the checkpoint.
        shape: its shape, rows first.
        n_heads: reorder the rows within each of this many heads; 0 to keep their order.
        keep_f32: stored as float32 whatever the type of the file.
    """

    name: str
    source: str
    shape: tuple[int, ...]
    n_heads: int
    keep_f32: bool

    @property
    def rows_per_unit(self) -> int:
        """How many rows have to be read together: one head where rows are reordered."""
        return self.shape[0] // self.n_heads if self.n_heads else 1

    def reorder(self, rows: Float32) -> Float32:
        """Bring rows of whole heads into llama.cpp's order.

        The hub's Llama rotates element ``i`` with ``i + d/2`` of a head, llama.cpp's rotates ``2i`` with
        ``2i + 1``: the two halves of each head are interleaved.
        """
        if not self.n_heads:
            return rows
        halves = rows.reshape(-1, 2, self.rows_per_unit // 2, *rows.shape[1:])
        return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows.shape)


def family_of(checkpoint: Checkpoint) -> Family:
    """The family of a checkpoint.

    Raises:
        UnsupportedError: the architecture, or a setting of it, is not covered.
    """
    config = checkpoint.config
    names = config.get("architectures") or [f"model_type {config.get('model_type', 'unknown')}"]
    for family in FAMILIES:
        if names[0] in family.architectures:
            _require_covered(checkpoint.folder, config)
            return family
    known = ", ".join(name for family in FAMILIES for name in family.architectures)
    raise UnsupportedError(
        f"{checkpoint.folder}: architecture {names[0]} is not covered (covered: {known}); merge with PEFT's "
        "merge_and_unload, then with llama.cpp: python convert_hf_to_gguf.py MERGED --outtype bf16 "
        "--outfile model.bf16.gguf && llama-quantize model.bf16.gguf model.Q4_K_M.gguf Q4_K_M"
    )


def plan_tensors(checkpoint: Checkpoint, family: Family) -> tuple[TensorPlan, ...]:
    """Every tensor of the GGUF that comes from the checkpoint, in the checkpoint's order.

    Raises:
        UnsupportedError: the checkpoint holds a tensor that the family does not have.
        BrokenFileError: a tensor is missing, or has another shape than ``config.json`` says.
    """
    import gguf

    config = checkpoint.config
    n_layers = _integer(checkpoint, "num_hidden_layers")
    arch = _gguf_arch(family)
    names = gguf.get_tensor_name_map(arch, n_layers)
    plans = []
    for source, info in checkpoint.tensors.items():
        if source.endswith(_SKIPPED) or (source == "lm_head.weight" and config.get("tie_word_embeddings")):
            continue
        name = names.get_name(source, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise UnsupportedError(
                f"{checkpoint.folder}: {source}: not a tensor of a {family.name} model; "
                "convert this model with llama.cpp's convert_hf_to_gguf.py"
            )
        n_heads = reordered_heads(checkpoint, family, source)
        keep_f32 = len(info.shape) < 2 or name.endswith("_norm.weight")
        plans.append(TensorPlan(name, source, info.shape, n_heads, keep_f32))
    _require_complete(checkpoint, plans, n_layers)
    _require_shapes(checkpoint, plans)
    return tuple(plans)


def tensor_name(checkpoint: Checkpoint, family: Family, source: str) -> str | None:
    """What a tensor of the checkpoint is called in a GGUF; ``None`` where the family has no such tensor."""
    import gguf

    names = gguf.get_tensor_name_map(_gguf_arch(family), _integer(checkpoint, "num_hidden_layers"))
    name: str | None = names.get_name(source, try_suffixes=(".weight", ".bias"))
    return name


def reordered_heads(checkpoint: Checkpoint, family: Family, source: str) -> int:
    """Within how many heads the rows of a tensor are reordered; 0 where their order is kept."""
    heads = _integer(checkpoint, "num_attention_heads")
    if family.interleaved_rope and ".self_attn.q_proj." in source:
        return heads
    if family.interleaved_rope and ".self_attn.k_proj." in source:
        return int(checkpoint.config.get("num_key_value_heads") or heads)
    return 0


def rope_factors(checkpoint: Checkpoint) -> Float32 | None:
    """Llama 3's per-frequency factors (``rope_freqs.weight``), float32 ``[head_dim / 2]``.

    From transformers' ``_compute_llama3_parameters``: long wavelengths are divided by ``factor``, short ones
    are kept, those between are blended. ``None`` for any other scaling.
    """
    rope = rope_settings(checkpoint)
    if rope.get("rope_type") != "llama3":
        return None
    head_dim = _head_dim(checkpoint)
    # To the bit what llama.cpp's converter gets from torch: float32 throughout, a power that is rounded once
    # (numpy's float32 power is off by more), and a number over a tensor as a product with its reciprocal.
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
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


def add_settings(writer: Any, checkpoint: Checkpoint) -> None:
    """Write the model's settings to a ``gguf.GGUFWriter``, in the order of llama.cpp's converter.

    Raises:
        BrokenFileError: ``config.json`` lacks a setting.
    """
    config = checkpoint.config
    heads = _integer(checkpoint, "num_attention_heads")
    writer.add_block_count(_integer(checkpoint, "num_hidden_layers"))
    writer.add_context_length(_integer(checkpoint, "max_position_embeddings"))
    writer.add_embedding_length(_integer(checkpoint, "hidden_size"))
    writer.add_feed_forward_length(_integer(checkpoint, "intermediate_size"))
    writer.add_head_count(heads)
    writer.add_head_count_kv(int(config.get("num_key_value_heads") or heads))
    _add_rope(writer, checkpoint)
    writer.add_layer_norm_rms_eps(float(config.get("rms_norm_eps", 1e-6)))
    if config.get("head_dim") is not None:
        writer.add_key_length(int(config["head_dim"]))
        writer.add_value_length(int(config["head_dim"]))


def add_llama_settings(writer: Any, checkpoint: Checkpoint) -> None:
    """Write what only the Llama family has: the vocabulary's size and the rotated dimensions."""
    writer.add_vocab_size(_integer(checkpoint, "vocab_size"))
    writer.add_rope_dimension_count(_head_dim(checkpoint))


def _add_rope(writer: Any, checkpoint: Checkpoint) -> None:
    import gguf

    rope = rope_settings(checkpoint)
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(rope["factor"]))
    elif rope["rope_type"] == "yarn":
        original = rope.get("original_max_position_embeddings") or _integer(checkpoint, "max_position_embeddings")
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


def _require_covered(folder: Path, config: Mapping[str, Any]) -> None:
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    rope_type = rope.get("rope_type") or rope.get("type") or "default"
    sliding = config.get("use_sliding_window", config.get("sliding_window") is not None)
    layer_types = config.get("layer_types") or []
    partial = rope.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))
    problems = (
        (rope_type not in ("default", "linear", "yarn", "llama3"), f"rope_type {rope_type}"),
        (partial not in (None, 1, 1.0), f"partial_rotary_factor {partial}"),
        (config.get("hidden_act", "silu") not in ("silu", "swish"), f"hidden_act {config.get('hidden_act')}"),
        ((sliding and config.get("sliding_window")) or "sliding_attention" in layer_types, "sliding_window"),
        (
            rope_type != "default" and rope_type != "llama3" and "factor" not in rope,
            "rope scaling, no factor",
        ),
    )
    for refused, setting in problems:
        if refused:
            raise UnsupportedError(
                f"{folder / 'config.json'}: {setting} is not covered; "
                "convert this model with llama.cpp's convert_hf_to_gguf.py"
            )


def _require_complete(checkpoint: Checkpoint, plans: list[TensorPlan], n_layers: int) -> None:
    """Check that each layer holds what the first one holds, and that nothing of the frame is missing."""
    names = {plan.name for plan in plans}
    layer = {name.split(".", 2)[2] for name in names if name.startswith("blk.0.")}
    needed = {"token_embd.weight", "output_norm.weight"}
    if not checkpoint.config.get("tie_word_embeddings"):
        needed.add("output.weight")
    parts = ("attn_q", "attn_k", "attn_v", "attn_output", "attn_norm", "ffn_norm")
    for part in (*parts, "ffn_gate", "ffn_up", "ffn_down"):
        layer.add(f"{part}.weight")
    needed |= {f"blk.{index}.{part}" for index in range(n_layers) for part in layer}
    if missing := sorted(needed - names):
        raise BrokenFileError(
            f"{checkpoint.folder}: {len(missing)} tensors are missing (the first: {missing[0]}); "
            "fetch or save the weights again"
        )


def expected_shape(checkpoint: Checkpoint, name: str) -> tuple[int, ...] | None:
    """The shape that ``config.json`` gives a matrix of the GGUF; ``None`` for what it says nothing of."""
    heads = _integer(checkpoint, "num_attention_heads")
    kv_heads = int(checkpoint.config.get("num_key_value_heads") or heads)
    hidden, head_dim = _integer(checkpoint, "hidden_size"), _head_dim(checkpoint)
    feed_forward, vocab = _integer(checkpoint, "intermediate_size"), _integer(checkpoint, "vocab_size")
    expected = {
        "token_embd.weight": (vocab, hidden),
        "output.weight": (vocab, hidden),
        "attn_q.weight": (heads * head_dim, hidden),
        "attn_k.weight": (kv_heads * head_dim, hidden),
        "attn_v.weight": (kv_heads * head_dim, hidden),
        "attn_output.weight": (hidden, heads * head_dim),
        "ffn_gate.weight": (feed_forward, hidden),
        "ffn_up.weight": (feed_forward, hidden),
        "ffn_down.weight": (hidden, feed_forward),
    }
    return expected.get(name.split(".", 2)[2] if name.startswith("blk.") else name)


def _require_shapes(checkpoint: Checkpoint, plans: list[TensorPlan]) -> None:
    for plan in plans:
        shape = expected_shape(checkpoint, plan.name)
        if shape is not None and plan.shape != shape:
            raise BrokenFileError(
                f"{checkpoint.folder}: {plan.source}: shape {list(plan.shape)}, config.json says "
                f"{list(shape)}; the folder mixes two models, fetch it again"
            )


def _gguf_arch(family: Family) -> Any:
    import gguf

    return next(arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == family.gguf_arch)


def _head_dim(checkpoint: Checkpoint) -> int:
    explicit = checkpoint.config.get("head_dim")
    if explicit is not None:
        return int(explicit)
    return _integer(checkpoint, "hidden_size") // _integer(checkpoint, "num_attention_heads")


def _integer(checkpoint: Checkpoint, key: str) -> int:
    value = checkpoint.config.get(key)
    if not isinstance(value, int):
        raise BrokenFileError(
            f"{checkpoint.folder / 'config.json'}: {key} is missing (got {value!r}); fetch the file again"
        )
    return value
