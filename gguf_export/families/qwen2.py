"""Qwen2 and Qwen2.5 (llama.cpp ``conversion/qwen.py``): biases on q, k and v."""

from __future__ import annotations

from .family import Family

QWEN2 = Family(name="Qwen2", architectures=("Qwen2ForCausalLM",), gguf_arch="qwen2")
