"""Tiny random models with a tokenizer trained on the spot, as folders in the hub's layout."""

from __future__ import annotations

import importlib
import importlib.util
import json
from pathlib import Path
from typing import Any

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

CHATML_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

_CORPUS = (
    "def add(a, b):\n    return a + b\n",
    "from solution import add\n\n\ndef test_add():\n    assert add(1, 2) == 3\n",
    "import pytest\n\n\n@pytest.mark.parametrize('x', [1, 2, 30, 400])\ndef test_x(x):\n    assert x > 0\n",
    "class Stack:\n    def __init__(self):\n        self.items = []\n\n    def push(self, item):\n",
    "### Task: Write pytest tests\n\n### Code Under Test:\n\n### Constraints:\npytest only.\n",
    "with pytest.raises(ValueError):\n    parse('not a number')\n",
    "The quick brown fox jumps over the lazy dog; it isn't 3.14 metres, they've said.\n",
)


def make_tokenizer(
    path: Path,
    vocab_size: int = 600,
    template: str = CHATML_TEMPLATE,
    more_special: tuple[str, ...] = (),
    composed: bool = False,
) -> Path:
    """Train a byte-level BPE tokenizer and write its files to ``path``.

    Args:
        path: the folder to write.
        vocab_size: most tokens.
        template: the chat template.
        more_special: special tokens beside `SPECIAL_TOKENS`.
        composed: whether texts are brought into Unicode's form NFC first, as Qwen's tokenizers do.

    Returns:
        ``path``.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    path.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    if composed:
        tokenizer.normalizer = normalizers.NFC()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(dict.fromkeys((*SPECIAL_TOKENS, *more_special))),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS * 3, trainer)
    tokenizer.save(str(path / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|endoftext|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "model_max_length": 2048,
        "clean_up_tokenization_spaces": False,
    }
    (path / "tokenizer_config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")
    (path / "chat_template.jinja").write_text(template, encoding="utf-8")
    return path


def _torch() -> Any:
    """Torch; where it is not installed (``make test-pythons``), the test that asks for a model leaves itself out."""
    if importlib.util.find_spec("torch") is None:
        import pytest

        pytest.skip("needs torch")
    return importlib.import_module("torch")


def make_tiny_model(
    path: Path,
    family: str = "llama",
    tie: bool = True,
    seed: int = 0,
    dtype: str = "float32",
    template: str = CHATML_TEMPLATE,
    more_special: tuple[str, ...] = (),
    **overrides: Any,
) -> Path:
    """Write a random model of two layers with its tokenizer to ``path``.

    Hidden size 256, so that K-quants apply; weights wide enough that attention and every projection matter.

    Args:
        path: the folder to write.
        family: ``"llama"``, ``"qwen2"``, ``"qwen3"`` or ``"qwen3_moe"``.
        tie: share the embedding with the output head.
        seed: of the random weights.
        dtype: torch's name of the type to save in.
        template: the chat template.
        more_special: special tokens that it needs beside `SPECIAL_TOKENS`.
        overrides: further settings of the model's config.

    Returns:
        ``path``.
    """
    torch = _torch()
    import transformers

    make_tokenizer(path, template=template, more_special=more_special, composed=family.startswith("qwen"))
    from tokenizers import Tokenizer

    n_tokens = Tokenizer.from_file(str(path / "tokenizer.json")).get_vocab_size()
    settings: dict[str, Any] = {
        # A few rows more than tokens, as real models have.
        "vocab_size": n_tokens + (-n_tokens % 32) + 32,
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": tie,
        "initializer_range": 0.08,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    if family.startswith("qwen3"):
        settings["head_dim"] = 64
    if family == "qwen3_moe":
        settings |= {"moe_intermediate_size": 256, "num_experts": 4, "num_experts_per_tok": 2, "norm_topk_prob": True}
    settings.update(overrides)
    names = {"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3", "qwen3_moe": "Qwen3Moe"}
    config = getattr(transformers, f"{names[family]}Config")(**settings)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = getattr(transformers, f"{names[family]}ForCausalLM")(config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.ndim == 1:  # norms and biases: anything but their neutral start
                    parameter.add_(torch.randn_like(parameter) * 0.1)
                elif "embed_tokens" in name and tie:
                    parameter.mul_(0.5)
    model.to(getattr(torch, dtype)).save_pretrained(path)
    return path


def ascii_model(folder: Path) -> Path:
    """A tiny model that writes ASCII, and no start of a message.

    After a byte of a longer character, llama-cpp-python's server goes on past ``max_tokens``, and it leaves the text of
    control tokens out.
    """
    from safetensors.numpy import load_file, save_file
    from tokenizers import Tokenizer

    make_tiny_model(folder, tie=False)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tensors = load_file(folder / "model.safetensors")
    head = tensors["lm_head.weight"]
    for token in range(len(head)):
        text = tokenizer.decode([token], skip_special_tokens=False) if token < tokenizer.get_vocab_size() else ""
        if not text.isascii() or text in ("", "<|im_start|>"):
            head[token] = 0
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def make_adapter(base: Path, path: Path, seed: int = 0, **lora: Any) -> Path:
    """Save a PEFT LoRA adapter for ``base`` with random factors that change every layer visibly.

    Args:
        base: a folder that ``make_tiny_model`` wrote.
        path: the folder to write.
        seed: of the random factors.
        lora: settings of ``peft.LoraConfig``; all seven projections and rank 8 by default.

    Returns:
        ``path``.
    """
    torch = _torch()
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    projections = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    settings: dict[str, Any] = {"r": 8, "lora_alpha": 16, "target_modules": projections}
    settings.update(lora)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), LoraConfig(**settings))
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        for name, parameter in model.named_parameters():
            if "lora_magnitude" in name:
                parameter.mul_(1 + torch.randn_like(parameter) * 0.1)
            elif "lora_" in name:
                parameter.copy_(torch.randn_like(parameter) * 0.05)
            elif parameter.requires_grad:  # modules_to_save, biases, token rows
                parameter.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(path)
    return path


def write_imatrix(path: Path, measured: dict[str, tuple[Any, int]]) -> Path:
    """Write an importance matrix as llama-imatrix does: float32 sums of squares, and counts, by GGUF name."""
    import gguf
    import numpy as np

    writer = gguf.GGUFWriter(path, "imatrix")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["calibration.txt"])
    writer.add_uint32("imatrix.chunk_count", 7)
    writer.add_uint32("imatrix.chunk_size", 512)
    for name, (sums, count) in measured.items():
        writer.add_tensor(f"{name}.in_sum2", sums.reshape(1, -1))
        writer.add_tensor(f"{name}.counts", np.full((1, 1), count, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
