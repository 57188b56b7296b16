"""Qwen3-MoE, as Qwen3-Coder-30B-A3B (llama.cpp ``conversion/qwen.py``): every feed-forward is a choice of experts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..checkpoints.weights import Checkpoint
from .family import Family, Shapes, integer


def n_experts(config: Mapping[str, Any]) -> int:
    """How many experts a layer has; transformers 5 renamed the setting. 0 for a dense model."""
    return int(config.get("num_local_experts") or config.get("num_experts") or 0)


def _feed_forward(checkpoint: Checkpoint) -> Shapes:
    hidden, inner = integer(checkpoint, "hidden_size"), integer(checkpoint, "moe_intermediate_size")
    experts = n_experts(checkpoint.config)
    return {
        "ffn_gate_inp": (experts, hidden),
        "ffn_gate_exps": (experts, inner, hidden),
        "ffn_up_exps": (experts, inner, hidden),
        "ffn_down_exps": (experts, hidden, inner),
    }


def _add_settings(writer: Any, checkpoint: Checkpoint) -> None:
    writer.add_expert_feed_forward_length(integer(checkpoint, "moe_intermediate_size"))


def _problems(config: Mapping[str, Any]) -> tuple[str, ...]:
    checks = (
        (n_experts(config) < 1, "num_experts is missing"),
        (bool(config.get("mlp_only_layers")), "mlp_only_layers (layers without experts)"),
        (config.get("decoder_sparse_step", 1) != 1, f"decoder_sparse_step {config.get('decoder_sparse_step')}"),
        # llama.cpp divides the chosen experts' weights by their sum (src/models/qwen3moe.cpp).
        (not config.get("norm_topk_prob", False), "norm_topk_prob false"),
    )
    return tuple(setting for refused, setting in checks if refused)


QWEN3_MOE = Family(
    name="Qwen3-MoE",
    architectures=("Qwen3MoeForCausalLM",),
    gguf_arch="qwen3moe",
    feed_forward=_feed_forward,
    add_settings=_add_settings,
    problems=_problems,
)
