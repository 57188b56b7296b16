"""Which tensor gets which type, held against llama.cpp's own decision: its dry run on files that are only a header."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import gguf
import numpy as np
import pytest

from gguf_export.quantize import QUANT_TYPES
from gguf_export.quantizers.mixture import ModelFacts, file_order, is_quantized, target_types


@dataclass(frozen=True)
class Shape:
    """A model by its numbers."""

    arch: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    feed_forward: int
    vocab: int
    tied: bool
    head_dim: int = 0
    biases: bool = False
    experts: int = 0

    def tensors(self) -> dict[str, tuple[int, ...]]:
        head = self.head_dim or self.hidden // self.heads
        found: dict[str, tuple[int, ...]] = {
            "token_embd.weight": (self.vocab, self.hidden),
            "output_norm.weight": (self.hidden,),
        }
        if not self.tied:
            found["output.weight"] = (self.vocab, self.hidden)
        for layer in range(self.layers):
            part = {
                "attn_norm.weight": (self.hidden,),
                "ffn_norm.weight": (self.hidden,),
                "attn_q.weight": (self.heads * head, self.hidden),
                "attn_k.weight": (self.kv_heads * head, self.hidden),
                "attn_v.weight": (self.kv_heads * head, self.hidden),
                "attn_output.weight": (self.hidden, self.heads * head),
            }
            if self.experts:
                part["ffn_gate_inp.weight"] = (self.experts, self.hidden)
                for name in ("gate", "up"):
                    part[f"ffn_{name}_exps.weight"] = (self.experts, self.feed_forward, self.hidden)
                part["ffn_down_exps.weight"] = (self.experts, self.hidden, self.feed_forward)
            else:
                part["ffn_gate.weight"] = part["ffn_up.weight"] = (self.feed_forward, self.hidden)
                part["ffn_down.weight"] = (self.hidden, self.feed_forward)
            if self.arch.startswith("qwen3"):
                part["attn_q_norm.weight"] = part["attn_k_norm.weight"] = (head,)
            if self.biases:
                for name, rows in (("q", self.heads), ("k", self.kv_heads), ("v", self.kv_heads)):
                    part[f"attn_{name}.bias"] = (rows * head,)
            found |= {f"blk.{layer}.{name}": shape for name, shape in part.items()}
        return found

    @property
    def facts(self) -> ModelFacts:
        return ModelFacts(self.layers, self.experts, self.layers == 80 and self.heads != self.kv_heads)


MODELS = {
    "deepseek-coder-6.7b": Shape("llama", 4096, 32, 32, 32, 11008, 32256, False),
    "deepseek-coder-1.3b": Shape("llama", 2048, 24, 16, 16, 5504, 32256, False),
    "qwen2.5-coder-7b": Shape("qwen2", 3584, 28, 28, 4, 18944, 152064, False, biases=True),
    "qwen2.5-coder-3b": Shape("qwen2", 2048, 36, 16, 2, 11008, 151936, True, biases=True),
    "qwen2.5-coder-1.5b": Shape("qwen2", 1536, 28, 12, 2, 8960, 151936, True, biases=True),
    "qwen2.5-coder-0.5b": Shape("qwen2", 896, 24, 14, 2, 4864, 151936, True, biases=True),
    "qwen3-4b": Shape("qwen3", 2560, 36, 32, 8, 9728, 151936, True, head_dim=128),
    "qwen3-1.7b": Shape("qwen3", 2048, 28, 16, 8, 6144, 151936, True, head_dim=128),
    "qwen3-0.6b": Shape("qwen3", 1024, 28, 16, 8, 3072, 151936, True, head_dim=128),
    "smollm2-135m": Shape("llama", 576, 30, 9, 3, 1536, 49152, True),
    "llama-3-70b": Shape("llama", 8192, 80, 64, 8, 28672, 128256, False),
    "qwen2.5-72b": Shape("qwen2", 8192, 80, 64, 8, 29568, 152064, False, biases=True),
    "qwen3-coder-30b-a3b": Shape("qwen3moe", 2048, 48, 32, 4, 768, 151936, False, head_dim=128, experts=128),
    "eight-experts": Shape("qwen3moe", 512, 20, 8, 4, 768, 1024, False, head_dim=128, experts=8),
    "columns-of-48": Shape("llama", 240, 10, 5, 5, 336, 1024, False),
    "nineteen-layers": Shape("llama", 512, 19, 8, 4, 768, 1024, True),
}

_DRY_RUN = """
import ctypes, json, sys, llama_cpp
lines = []
@llama_cpp.llama_log_callback
def keep(level, text, _):
    lines.append(text.decode())
llama_cpp.llama_log_set(keep, ctypes.c_void_p(0))
found = {}
for name, ftype in json.loads(sys.argv[2]).items():
    lines.clear()
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.dry_run = ftype, True
    code = llama_cpp.llama_model_quantize(sys.argv[1].encode(), b"/nowhere/out.gguf", ctypes.byref(params))
    found[name] = [code, "".join(lines)]
print(json.dumps(found))
"""
_LINE = re.compile(r"^\[ *\d+/ *\d+\] +(\S+) +- \[.*?\], type = +(\w+), size = [^(\n]*?(?:\((\w+)\))?$", re.MULTILINE)


def llama_cpp_types(shape: Shape, folder: Path) -> dict[str, dict[str, str]]:
    """What llama.cpp would make of each tensor, in its order, by file type."""
    path = folder / "header.gguf"
    writer = gguf.GGUFWriter(path=None, arch=shape.arch)
    writer.add_block_count(shape.layers)
    writer.add_context_length(4096)
    writer.add_embedding_length(shape.hidden)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(shape.vocab)
    head = shape.head_dim or shape.hidden // shape.heads
    writer.add_rope_dimension_count(head)
    writer.add_key_length(head)
    writer.add_value_length(head)
    if shape.experts:
        writer.add_expert_count(shape.experts)
        writer.add_expert_used_count(8)
        writer.add_expert_feed_forward_length(shape.feed_forward)
    size = 0
    for name, dimensions in shape.tensors().items():
        kept = not is_quantized(name, len(dimensions))
        count = int(np.prod(dimensions))
        n_bytes = count * (4 if kept else 2)
        dtype = np.dtype(np.float32 if kept else np.float16)
        writer.add_tensor_info(name, dimensions, dtype, n_bytes)
        size += n_bytes + (-n_bytes % 32)
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with path.open("r+b") as file:  # sparse: nothing of the weights is stored
        file.truncate(path.stat().st_size + 4096 + size)
    ftypes = {quant.name: quant.ftype for quant in QUANT_TYPES.values() if quant.rounding is None}
    answer = subprocess.run(
        [sys.executable, "-c", _DRY_RUN, str(path), json.dumps(ftypes)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found = {}
    for name, (code, log) in json.loads(answer.stdout).items():
        assert code == 0, log[-2000:]
        lines = _LINE.findall(re.sub(r"size = [^\n]*?-> *[\d.]+ MiB", "size = ", log))
        found[name] = {tensor: (new or old).upper() for tensor, old, new in lines}
    return found


@pytest.mark.parametrize("model", MODELS)
def test_every_tensor_gets_the_type_that_llama_cpp_gives_it(model: str, tmp_path: Path) -> None:
    shape = MODELS[model]
    theirs = llama_cpp_types(shape, tmp_path)
    for quant, expected in theirs.items():
        ours = target_types(shape.tensors(), quant, shape.facts)
        assert list(ours.items()) == list(expected.items()), (model, quant)
        assert len(ours) == len(shape.tensors())


def test_a_rule_off_by_one_layer_is_seen(tmp_path: Path) -> None:
    shape = MODELS["nineteen-layers"]
    theirs = llama_cpp_types(shape, tmp_path)["Q4_K_M"]
    wrong = replace(shape.facts, n_layers=shape.layers + 5)
    assert target_types(shape.tensors(), "Q4_K_M", wrong) != theirs


def test_tensors_without_a_layer_come_first_and_layers_count() -> None:
    names = ["blk.10.a", "output.weight", "blk.2.b", "blk.2.a", "token_embd.weight"]
    assert file_order(names) == ["output.weight", "token_embd.weight", "blk.2.a", "blk.2.b", "blk.10.a"]
