"""Which of llama.cpp's splitters a tokenizer's pre-tokenizer is.

llama.cpp has its own splitter for each pre-tokenizer and picks it by the name in ``tokenizer.ggml.pre``. The
name is found here from the *structure* of the pre-tokenizer, not from a hash of token ids, so a tokenizer
with another vocabulary but a known splitter works; an unknown structure is an error, never a guess.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ..errors import UnsupportedError

SPM_HINT = (
    "is not covered, only byte-level BPE is; merge with PEFT's merge_and_unload and convert with llama.cpp's "
    "convert_hf_to_gguf.py"
)

_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3 = _QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
_DEEPSEEK_CODER = ("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+")

_Part = tuple[object, ...]
_BYTES: _Part = ("ByteLevel", False, False)
_GPT2: _Part = ("ByteLevel", True, False)
_DIGITS: _Part = ("Digits", True)


def _split(pattern: str) -> _Part:
    return ("Split", pattern, "Isolated", False)


_PRE_TOKENIZERS: Final[tuple[tuple[tuple[_Part, ...], bool, str], ...]] = (
    ((_DIGITS, _GPT2), False, "smollm"),
    ((_GPT2,), False, "gpt-2"),
    ((_split(_QWEN2), _BYTES), False, "qwen2"),
    ((_split(_LLAMA3), _BYTES), True, "llama-bpe"),
    ((_split(_LLAMA3), _BYTES), False, "smaug-bpe"),
    ((*map(_split, _DEEPSEEK_CODER), _DIGITS, _BYTES), False, "deepseek-coder"),
)
"""Structure of the pre-tokenizer, ``ignore_merges``, and llama.cpp's name (``src/llama-vocab.cpp``)."""

ADDS_BOS: Final = frozenset({"llama-bpe"})
"""The names with which llama.cpp begins a sequence with BOS unless the file says otherwise."""


def pre_tokenizer_name(path: Path, data: Mapping[str, Any]) -> str:
    """llama.cpp's name for the pre-tokenizer of a ``tokenizer.json``.

    ``byte_fallback`` is not looked at: files rebuilt from a GGUF set it on byte-level vocabularies too. What
    decides is the pre-tokenizer.

    Raises:
        UnsupportedError: not byte-level BPE, or a structure that is not known; the message holds its hash.
    """
    model, normalizer = data["model"], data.get("normalizer")
    if model.get("type") != "BPE":
        raise UnsupportedError(f"{path}: a tokenizer of type {model.get('type')} {SPM_HINT}")
    parts = tuple(_part(entry) for entry in _flat(data.get("pre_tokenizer"), "pretokenizers"))
    normalizers = [entry["type"] for entry in _flat(normalizer, "normalizers")]
    ignore_merges = bool(model.get("ignore_merges"))
    if not any(part[0] == "ByteLevel" for part in parts) and model.get("byte_fallback"):
        raise UnsupportedError(f"{path}: a SentencePiece tokenizer (BPE with byte_fallback) {SPM_HINT}")
    for known, ignores, name in _PRE_TOKENIZERS:
        if parts == known and ignores == ignore_merges and set(normalizers) <= {"NFC"}:
            return name
    structure = json.dumps([parts, normalizers, ignore_merges], ensure_ascii=False, sort_keys=True)
    digest = hashlib.sha256(structure.encode()).hexdigest()[:16]
    raise UnsupportedError(
        f"{path}: unknown pre-tokenizer (structure {digest}); llama.cpp would split text in another way than "
        "the model was trained with: convert this model with llama.cpp's convert_hf_to_gguf.py, "
        "and report the hash"
    )


def _flat(entry: Mapping[str, Any] | None, children: str) -> list[Mapping[str, Any]]:
    if entry is None:
        return []
    if entry.get("type") == "Sequence":
        return [leaf for child in entry[children] for leaf in _flat(child, children)]
    return [entry]


def _part(entry: Mapping[str, Any]) -> _Part:
    kind = entry["type"]
    if kind == "ByteLevel":
        return (kind, bool(entry.get("use_regex", True)), bool(entry.get("add_prefix_space")))
    if kind == "Digits":
        return (kind, bool(entry.get("individual_digits")))
    if kind == "Split":
        pattern = entry["pattern"]
        text = pattern.get("Regex", pattern.get("String"))
        return (kind, text, entry["behavior"], bool(entry.get("invert")))
    return (kind, json.dumps(entry, sort_keys=True))
