"""The vocabulary of a GGUF, from ``tokenizer.json``: byte-level BPE only.

llama.cpp has its own splitter for each pre-tokenizer and picks it by the name in ``tokenizer.ggml.pre``. The
name is found here from the *structure* of the pre-tokenizer, not from a hash of token ids, so a tokenizer
with another vocabulary but a known splitter works; an unknown structure is an error, never a guess.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from .errors import BrokenFileError, UnsupportedError
from .files import read_json
from .templates import render, template_of, text_after_answer

NORMAL: Final = 1
CONTROL: Final = 3
USER_DEFINED: Final = 4
UNUSED: Final = 5

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


@dataclass(frozen=True)
class Vocabulary:
    """What a GGUF holds about its tokenizer.

    Attributes:
        tokens: the text of each id, byte-level encoded; as many as the embedding has rows.
        types: llama.cpp's kind of each token.
        merges: ``"left right"``, best first.
        pre: llama.cpp's name of the pre-tokenizer.
        special_ids: ids by role: ``bos``, ``eos``, ``unk``, ``pad``.
        add_bos: begin every sequence with ``bos``.
        chat_template: the Jinja template.
    """

    tokens: tuple[str, ...]
    types: tuple[int, ...]
    merges: tuple[str, ...]
    pre: str
    special_ids: Mapping[str, int]
    add_bos: bool
    chat_template: str

    def text_of(self, role: str) -> str:
        """The text of a special token, or ``""`` where the tokenizer has none for this role."""
        return self.tokens[self.special_ids[role]] if role in self.special_ids else ""


def load_vocabulary(
    folder: Path,
    config: Mapping[str, Any],
    n_rows: int,
    *,
    eos_token: str | None = None,
    chat_template: str | None = None,
) -> Vocabulary:
    """Read the tokenizer of a model folder.

    Args:
        folder: holds ``tokenizer.json`` and mostly ``tokenizer_config.json``.
        config: the model's ``config.json``.
        n_rows: rows of the embedding; the vocabulary is padded to it with unused tokens.
        eos_token: the token that ends an answer; by default the one that the chat template writes after an
            answer, else the tokenizer's.
        chat_template: the template that was trained; by default the folder's.

    Raises:
        UnsupportedError: not byte-level BPE, an unknown pre-tokenizer, or no chat template.
        BrokenFileError: ``tokenizer.json`` is missing or damaged, or does not fit the model.
    """
    path = Path(folder) / "tokenizer.json"
    if not path.is_file() and (Path(folder) / "tokenizer.model").is_file():
        raise UnsupportedError(f"{folder}: a SentencePiece tokenizer (tokenizer.model) {_SPM_HINT}")
    data = read_json(path, "a model folder needs its tokenizer")
    try:
        pre = pre_tokenizer_name(path, data)
        tokens, types = _tokens(path, data, n_rows)
        merges = tuple(_merge(entry) for entry in data["model"]["merges"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise BrokenFileError(f"{path}: not a tokenizer ({error!r}); fetch it again") from error
    config_path = Path(folder) / "tokenizer_config.json"
    settings = read_json(config_path, "a tokenizer needs it") if config_path.is_file() else {}
    template = chat_template if chat_template is not None else template_of(folder)
    if not template:
        raise UnsupportedError(f"{folder}: no chat template; give the one that the model was trained with")
    ids = {token: index for index, token in enumerate(tokens) if types[index] != UNUSED}
    special = _special_ids(settings, config, ids)
    special["eos"] = _end_token(path, template, types, ids, special, eos_token)
    bos = tokens[special["bos"]] if "bos" in special else ""
    # A model that was trained through a template without the token never saw it: then none is added.
    add_bos = bool(bos) and _adds_bos(data, settings, bos) and _opens_with(template, bos)
    return Vocabulary(tokens, types, merges, pre, special, add_bos, template)


def pre_tokenizer_name(path: Path, data: Mapping[str, Any]) -> str:
    """llama.cpp's name for the pre-tokenizer of a ``tokenizer.json``.

    ``byte_fallback`` is not looked at: files rebuilt from a GGUF set it on byte-level vocabularies too. What
    decides is the pre-tokenizer.

    Raises:
        UnsupportedError: not byte-level BPE, or a structure that is not known; the message holds its hash.
    """
    model, normalizer = data["model"], data.get("normalizer")
    if model.get("type") != "BPE":
        raise UnsupportedError(f"{path}: a tokenizer of type {model.get('type')} {_SPM_HINT}")
    parts = tuple(_part(entry) for entry in _flat(data.get("pre_tokenizer"), "pretokenizers"))
    normalizers = [entry["type"] for entry in _flat(normalizer, "normalizers")]
    ignore_merges = bool(model.get("ignore_merges"))
    if not any(part[0] == "ByteLevel" for part in parts) and model.get("byte_fallback"):
        raise UnsupportedError(f"{path}: a SentencePiece tokenizer (BPE with byte_fallback) {_SPM_HINT}")
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


_SPM_HINT = (
    "is not covered, only byte-level BPE is; merge with PEFT's merge_and_unload and convert with llama.cpp's "
    "convert_hf_to_gguf.py"
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


def _tokens(path: Path, data: Mapping[str, Any], n_rows: int) -> tuple[tuple[str, ...], tuple[int, ...]]:
    by_id = {int(index): token for token, index in data["model"]["vocab"].items()}
    types = dict.fromkeys(by_id, NORMAL)
    for added in data.get("added_tokens") or ():
        index, text = int(added["id"]), added["content"]
        control = added.get("special") or _looks_special(text)
        types[index] = CONTROL if control else USER_DEFINED
        by_id[index] = text if control else text.replace("\u2581", " ")
    if max(by_id) >= n_rows:
        raise BrokenFileError(
            f"{path}: {max(by_id) + 1} tokens, but the model's embedding has {n_rows} rows; "
            "use the tokenizer that belongs to the model"
        )
    tokens = tuple(by_id.get(index, f"[PAD{index}]") for index in range(n_rows))
    return tokens, tuple(types.get(index, UNUSED) for index in range(n_rows))


def _looks_special(text: str) -> bool:
    """Markers that some models do not flag as special (DeepSeek-Coder's, for one)."""
    return text == "<pad>" or (text.startswith(("<|", "<｜")) and text.endswith(("|>", "｜>")))


def _merge(entry: str | list[str]) -> str:
    """``"left right"``; spaces inside a part become U+0120, as byte-level BPE writes them."""
    if isinstance(entry, str):
        return entry
    left, right = entry
    return f"{left.replace(' ', chr(0x120))} {right.replace(' ', chr(0x120))}"


def _special_ids(settings: Mapping[str, Any], config: Mapping[str, Any], ids: Mapping[str, int]) -> dict[str, int]:
    found = {}
    for role in ("bos", "eos", "unk", "pad"):
        token = settings.get(f"{role}_token")
        text = token.get("content") if isinstance(token, dict) else token
        index = ids.get(text) if isinstance(text, str) else None
        if index is None:
            configured = config.get(f"{role}_token_id")
            first: Any = configured[0] if isinstance(configured, list) and configured else configured
            index = first
        if isinstance(index, int) and 0 <= index <= max(ids.values()):
            found[role] = index
    return found


def _end_token(
    path: Path,
    template: str,
    types: tuple[int, ...],
    ids: Mapping[str, int],
    special: Mapping[str, int],
    eos_token: str | None,
) -> int:
    """The id of the token that ends an answer."""
    if eos_token is not None:
        if eos_token not in ids:
            raise UnsupportedError(f"{path}: end token {eos_token!r} is not in the vocabulary; give one that is")
        return ids[eos_token]
    texts = {index: text for text, index in ids.items()}
    bos, eos = (texts.get(special.get(role, -1), "") for role in ("bos", "eos"))
    after = text_after_answer(template, bos_token=bos, eos_token=eos)
    written = [
        (after.index(text), -len(text), index)
        for text, index in ids.items()
        if types[index] in (CONTROL, USER_DEFINED) and text in after
    ]
    if written:
        return min(written)[2]
    if "eos" not in special:
        raise UnsupportedError(f"{path}: no end token in the chat template or the settings; give eos_token")
    return special["eos"]


def _adds_bos(data: Mapping[str, Any], settings: Mapping[str, Any], bos: str) -> bool:
    explicit = settings.get("add_bos_token")
    if isinstance(explicit, bool):
        return explicit
    processor = data.get("post_processor") or {}
    for entry in processor.get("processors", [processor]):
        single = entry.get("single") or []
        if entry.get("type") == "TemplateProcessing" and len(single) > 1:
            return bool(single[0].get("SpecialToken", {}).get("id") == bos)
    return False


def _opens_with(template: str, bos: str) -> bool:
    return render(template, [{"role": "user", "content": "hello"}], bos_token=bos).startswith(bos)
