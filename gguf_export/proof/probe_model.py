"""The smallest model that llama.cpp runs, to find out whether a build of it works on this CPU.

One Llama layer of random Q8_0 weights, 256 wide, half a megabyte: large enough for the matrix kernels that a prompt of
32 tokens or more takes (AMX among them: ``ggml/src/ggml-cpu/amx`` covers Q8_0 and asks for rows in multiples of 32).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

_WIDTH: Final = 256
_CONTEXT: Final = 256
_SQUARE: Final = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")


def write_probe_model(path: Path) -> Path:
    """Write it as a GGUF without a vocabulary; any token id below 256 will do.

    Returns:
        ``path``.
    """
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(_CONTEXT)
    writer.add_embedding_length(_WIDTH)
    writer.add_feed_forward_length(_WIDTH)
    writer.add_head_count(4)
    writer.add_head_count_kv(4)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(_WIDTH)
    writer.add_rope_dimension_count(_WIDTH // 4)
    writer.add_tokenizer_model("no_vocab")
    random, kind = np.random.default_rng(0), gguf.GGMLQuantizationType.Q8_0
    for name in ("token_embd", *(f"blk.0.{part}" for part in _SQUARE)):
        weights = random.standard_normal((_WIDTH, _WIDTH), dtype=np.float32) * np.float32(0.05)
        writer.add_tensor(f"{name}.weight", gguf.quants.quantize(weights, kind), raw_dtype=kind)
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(_WIDTH, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
