"""Llama, and Mistral, which has its layout (llama.cpp ``conversion/llama.py``)."""

from __future__ import annotations

from typing import Any

from ..checkpoints.weights import Checkpoint
from .family import Family, head_dim, integer


def _add_settings(writer: Any, checkpoint: Checkpoint) -> None:
    writer.add_vocab_size(integer(checkpoint, "vocab_size"))
    writer.add_rope_dimension_count(head_dim(checkpoint))


LLAMA = Family(
    name="Llama",
    architectures=("LlamaForCausalLM", "MistralForCausalLM"),
    gguf_arch="llama",
    interleaved_rope=True,
    add_settings=_add_settings,
)
