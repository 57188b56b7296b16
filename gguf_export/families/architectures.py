"""What the tensors and settings of a checkpoint are called in a GGUF.

Tensor names come from ``gguf``'s own table; what families differ in is in `families`, a file each; the settings and
the reordering of rows follow llama.cpp's converter (``conversion/llama.py``, ``conversion/qwen.py``).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np

from ..checkpoints.weights import Checkpoint, Float32
from ..errors import BrokenFileError, UnsupportedError
from ..families import FAMILIES, Family
from .family import head_dim, integer
from .qwen3_moe import n_experts
from .rope import add_rope, rope_factors, rope_settings

__all__ = [
    "FAMILIES",
    "Family",
    "TensorPlan",
    "add_family_settings",
    "add_settings",
    "expected_shape",
    "family_of",
    "plan_tensors",
    "reordered_heads",
    "rope_factors",
    "rope_settings",
    "tensor_name",
]

_SKIPPED = (".rotary_emb.inv_freq", ".attention.masked_bias", ".attention.bias")
_EXPERT: Final = re.compile(r"(.+\.mlp\.experts)\.(\d+)\.(gate|up|down)_proj\.weight")
_EXPERT_PARTS: Final = ("down", "gate", "up")
"""In the order in which llama.cpp's converter writes them."""


@dataclass(frozen=True)
class TensorPlan:
    """One tensor of the GGUF.

    Attributes:
        name: its name in the GGUF.
        source: its name in the checkpoint; of a stack of experts, the first one's.
        shape: its shape, rows first.
        n_heads: reorder the rows within each of this many heads; 0 to keep their order.
        keep_f32: stored as float32 whatever the type of the file.
        stacked: the experts that the tensor is made of, one behind the other; each is one of its rows.
    """

    name: str
    source: str
    shape: tuple[int, ...]
    n_heads: int
    keep_f32: bool
    stacked: tuple[str, ...] = ()

    @property
    def sources(self) -> tuple[str, ...]:
        """Every tensor of the checkpoint that goes into it."""
        return self.stacked or (self.source,)

    @property
    def n_elements(self) -> int:
        """How many values it holds."""
        return math.prod(self.shape)

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
            _require_covered(checkpoint.folder, config, family)
            return family
    known = ", ".join(name for family in FAMILIES for name in family.architectures)
    raise UnsupportedError(
        f"{checkpoint.folder}: architecture {names[0]} is not covered (covered: {known}); merge with PEFT's "
        "merge_and_unload, then with llama.cpp: python convert_hf_to_gguf.py MERGED --outtype bf16 "
        "--outfile model.bf16.gguf && llama-quantize model.bf16.gguf model.Q4_K_M.gguf Q4_K_M"
    )


def plan_tensors(checkpoint: Checkpoint, family: Family) -> tuple[TensorPlan, ...]:
    """Every tensor of the GGUF that comes from the checkpoint, in the order of llama.cpp's converter.

    That is the order of the checkpoint; the experts of a layer are stacked where the last of them stands.

    Raises:
        UnsupportedError: the checkpoint holds a tensor that the family does not have.
        BrokenFileError: a tensor is missing, or has another shape than ``config.json`` says.
    """
    plans: list[TensorPlan] = []
    waiting: dict[str, dict[str, dict[int, str]]] = {}
    experts = n_experts(checkpoint.config)
    for source in checkpoint.tensors:
        if source.endswith(_SKIPPED) or (source == "lm_head.weight" and checkpoint.config.get("tie_word_embeddings")):
            continue
        if experts and (match := _EXPERT.fullmatch(source)):
            stack, index, part = match.groups()
            parts = waiting.setdefault(stack, {part: {} for part in _EXPERT_PARTS})
            parts[part][int(index)] = source
            if all(set(found) == set(range(experts)) for found in parts.values()):
                plans += [_stack(checkpoint, family, stack, part, waiting[stack][part]) for part in _EXPERT_PARTS]
                del waiting[stack]
        else:
            plans.append(_plan(checkpoint, family, source))
    for stack, parts in waiting.items():
        found = ", ".join(f"{len(indices)} {part}" for part, indices in parts.items())
        raise BrokenFileError(
            f"{checkpoint.folder}: {stack}: not all of its {experts} experts are there, or more ({found}); "
            "fetch or save the weights again"
        )
    _require_complete(checkpoint, family, plans)
    _require_shapes(checkpoint, family, plans)
    return tuple(plans)


def _plan(checkpoint: Checkpoint, family: Family, source: str) -> TensorPlan:
    name = _known_name(checkpoint, family, source)
    shape = checkpoint.tensors[source].shape
    keep_f32 = len(shape) < 2 or name.endswith(("_norm.weight", "ffn_gate_inp.weight"))
    return TensorPlan(name, source, shape, reordered_heads(checkpoint, family, source), keep_f32)


def _stack(checkpoint: Checkpoint, family: Family, stack: str, part: str, sources: Mapping[int, str]) -> TensorPlan:
    name = _known_name(checkpoint, family, f"{stack}.{part}_proj.weight")
    ordered = tuple(sources[index] for index in range(len(sources)))
    shapes = {checkpoint.tensors[source].shape for source in ordered}
    if len(shapes) > 1:
        raise BrokenFileError(
            f"{checkpoint.folder}: {stack}: experts of different shapes ({sorted(shapes)}); fetch the weights again"
        )
    return TensorPlan(name, ordered[0], (len(ordered), *shapes.pop()), 0, keep_f32=False, stacked=ordered)


def _known_name(checkpoint: Checkpoint, family: Family, source: str) -> str:
    name = tensor_name(checkpoint, family, source)
    if name is None:
        raise UnsupportedError(
            f"{checkpoint.folder}: {source}: not a tensor of a {family.name} model; "
            "convert this model with llama.cpp's convert_hf_to_gguf.py"
        )
    return name


def tensor_name(checkpoint: Checkpoint, family: Family, source: str) -> str | None:
    """What a tensor of the checkpoint is called in a GGUF; ``None`` where the family has no such tensor."""
    names = _name_map(family.gguf_arch, integer(checkpoint, "num_hidden_layers"))
    name: str | None = names.get_name(source, try_suffixes=(".weight", ".bias"))
    return name


@cache
def _name_map(gguf_arch: str, n_layers: int) -> Any:
    """Gguf's table of names, which takes 10 ms to make."""
    import gguf

    arch = next(arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == gguf_arch)
    return gguf.get_tensor_name_map(arch, n_layers)


def reordered_heads(checkpoint: Checkpoint, family: Family, source: str) -> int:
    """Within how many heads the rows of a tensor are reordered; 0 where their order is kept."""
    heads = integer(checkpoint, "num_attention_heads")
    if family.interleaved_rope and ".self_attn.q_proj." in source:
        return heads
    if family.interleaved_rope and ".self_attn.k_proj." in source:
        return int(checkpoint.config.get("num_key_value_heads") or heads)
    return 0


def add_settings(writer: Any, checkpoint: Checkpoint) -> None:
    """Write the model's settings to a ``gguf.GGUFWriter``, in the order of llama.cpp's converter.

    Raises:
        BrokenFileError: ``config.json`` lacks a setting.
    """
    config = checkpoint.config
    heads = integer(checkpoint, "num_attention_heads")
    writer.add_block_count(integer(checkpoint, "num_hidden_layers"))
    writer.add_context_length(integer(checkpoint, "max_position_embeddings"))
    writer.add_embedding_length(integer(checkpoint, "hidden_size"))
    writer.add_feed_forward_length(integer(checkpoint, "intermediate_size"))
    writer.add_head_count(heads)
    writer.add_head_count_kv(int(config.get("num_key_value_heads") or heads))
    add_rope(writer, checkpoint)
    writer.add_layer_norm_rms_eps(float(config.get("rms_norm_eps", 1e-6)))
    if experts := n_experts(config):
        writer.add_expert_count(experts)
        writer.add_expert_used_count(integer(checkpoint, "num_experts_per_tok"))
    if config.get("head_dim") is not None or writer.arch == "llama":
        # transformers writes it into every Llama's config.json, so a merged folder has it though its base may not.
        writer.add_key_length(head_dim(checkpoint))
        writer.add_value_length(head_dim(checkpoint))


def add_family_settings(writer: Any, checkpoint: Checkpoint) -> None:
    """Write what only its family has: in a file of llama.cpp's converter, these settings follow the file's type."""
    family_of(checkpoint).add_settings(writer, checkpoint)


def _require_covered(folder: Path, config: Mapping[str, Any], family: Family) -> None:
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
        *((True, problem) for problem in family.problems(config)),
    )
    for refused, setting in problems:
        if refused:
            raise UnsupportedError(
                f"{folder / 'config.json'}: {setting} is not covered; "
                "convert this model with llama.cpp's convert_hf_to_gguf.py"
            )


def _require_complete(checkpoint: Checkpoint, family: Family, plans: list[TensorPlan]) -> None:
    """Check that each layer holds what the first one holds, and that nothing of the frame is missing."""
    names = {plan.name for plan in plans}
    layer = {name.split(".", 2)[2] for name in names if name.startswith("blk.0.")}
    needed = {"token_embd.weight", "output_norm.weight"}
    if not checkpoint.config.get("tie_word_embeddings"):
        needed.add("output.weight")
    parts = ("attn_q", "attn_k", "attn_v", "attn_output", "attn_norm", "ffn_norm")
    layer |= {f"{part}.weight" for part in (*parts, *family.feed_forward(checkpoint))}
    needed |= {f"blk.{index}.{part}" for index in range(integer(checkpoint, "num_hidden_layers")) for part in layer}
    if missing := sorted(needed - names):
        raise BrokenFileError(
            f"{checkpoint.folder}: {len(missing)} tensors are missing (the first: {missing[0]}); "
            "fetch or save the weights again"
        )


def expected_shape(checkpoint: Checkpoint, family: Family, name: str) -> tuple[int, ...] | None:
    """The shape that ``config.json`` gives a matrix of the GGUF; ``None`` for what it says nothing of."""
    heads = integer(checkpoint, "num_attention_heads")
    kv_heads = int(checkpoint.config.get("num_key_value_heads") or heads)
    hidden, width, vocab = integer(checkpoint, "hidden_size"), head_dim(checkpoint), integer(checkpoint, "vocab_size")
    expected = {
        "token_embd": (vocab, hidden),
        "output": (vocab, hidden),
        "attn_q": (heads * width, hidden),
        "attn_k": (kv_heads * width, hidden),
        "attn_v": (kv_heads * width, hidden),
        "attn_output": (hidden, heads * width),
        **family.feed_forward(checkpoint),
    }
    part = name.split(".", 2)[2] if name.startswith("blk.") else name
    return expected.get(part.removesuffix(".weight")) if part.endswith(".weight") else None


def _require_shapes(checkpoint: Checkpoint, family: Family, plans: list[TensorPlan]) -> None:
    for plan in plans:
        shape = expected_shape(checkpoint, family, plan.name)
        if shape is not None and plan.shape != shape:
            raise BrokenFileError(
                f"{checkpoint.folder}: {plan.source}: shape {list(plan.shape)}, config.json says "
                f"{list(shape)}; the folder mixes two models, fetch it again"
            )
