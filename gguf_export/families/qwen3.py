"""Qwen3 (llama.cpp ``conversion/qwen.py``): norms of q and k, no biases."""

from __future__ import annotations

from .family import Family

QWEN3 = Family(name="Qwen3", architectures=("Qwen3ForCausalLM",), gguf_arch="qwen3")
