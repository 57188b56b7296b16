"""Random weights of a real model's shape, as a folder in the hub's layout: enough for memory and speed."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lowvram_ft.memory import ModelShape

_STD = 0.02


def tensors(shape: ModelShape) -> Iterator[tuple[str, list[tuple[str, tuple[int, ...]]]]]:
    """The files of a checkpoint, each with the names and shapes of its tensors, as transformers names them."""
    table = (shape.vocab_size, shape.hidden_size)
    ends = [("model.embed_tokens.weight", table), ("model.norm.weight", (shape.hidden_size,))]
    if not shape.tie_word_embeddings:
        ends.append(("lm_head.weight", table))
    for name, size in ends:
        yield f"{name.split('.')[-2]}.safetensors", [(name, size)]
    for layer in range(shape.num_hidden_layers):
        found: list[tuple[str, tuple[int, ...]]] = []
        for linear in shape.linears:
            block = "self_attn" if linear.name in ("q_proj", "k_proj", "v_proj", "o_proj") else "mlp"
            stem = f"model.layers.{layer}.{block}.{linear.name}"
            found.append((f"{stem}.weight", (linear.out_features, linear.in_features)))
            if linear.bias:
                found.append((f"{stem}.bias", (linear.out_features,)))
        norms = ["input_layernorm", "post_attention_layernorm"]
        found += [(f"model.layers.{layer}.{norm}.weight", (shape.hidden_size,)) for norm in norms]
        if shape.qk_norm:
            heads = [f"model.layers.{layer}.self_attn.{name}_norm.weight" for name in "qk"]
            found += [(name, (shape.head_dim,)) for name in heads]
        yield f"layer-{layer:03d}.safetensors", found


def write_checkpoint(config: dict[str, Any], folder: Path, device: str = "cpu", seed: int = 0) -> Path:
    """Write a checkpoint in bfloat16, a file at a time.

    Args:
        config: the model's ``config.json``.
        folder: to write; one that is whole already is kept.
        device: where the random numbers are made.
        seed: of the numbers.

    Returns:
        ``folder``.
    """
    import torch

    index = folder / "model.safetensors.index.json"
    if index.is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator(device=device).manual_seed(seed)
    where: dict[str, str] = {}
    total = 0
    for file, listed in tensors(ModelShape.from_config(config)):
        values = []
        for name, size in listed:
            value = torch.empty(size, dtype=torch.bfloat16, device=device)
            if "norm" in name:
                value.fill_(1.0)
            else:
                value.normal_(0.0, _STD, generator=generator)
            values.append(value.cpu())
            where[name] = file
        total += _save(folder / file, listed, values)
    (folder / "config.json").write_text(json.dumps({**config, "dtype": "bfloat16"}), encoding="utf-8")
    _write_tokenizer(folder)
    index.write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": where}), encoding="utf-8")
    return folder


def _save(path: Path, listed: list[tuple[str, tuple[int, ...]]], values: list[Any]) -> int:
    """One safetensors file, written without a copy of it in memory."""
    import torch

    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for (name, size), value in zip(listed, values, strict=True):
        begin, end = end, end + value.numel() * value.element_size()
        header[name] = {"dtype": "BF16", "shape": list(size), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for value in values:
            file.write(memoryview(value.contiguous().view(torch.uint8).reshape(-1).numpy()))
    return end


def _write_tokenizer(folder: Path) -> None:
    """A tokenizer of bytes: loaders want one, and nothing is tokenized here."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<|end|>": 0, **{letter: place for place, letter in enumerate(letters, 1)}}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|end|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|end|>",
        "pad_token": "<|end|>",
        "bos_token": "<|end|>",
        "chat_template": "{% for m in messages %}{{ m['content'] }}<|end|>{% endfor %}",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
