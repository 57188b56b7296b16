"""The vocabulary of a GGUF: pre-tokenizer by structure, token types, end token, padding."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gguf_export.errors import BrokenFileError, UnsupportedError
from gguf_export.vocabulary.pretokenizers import _LLAMA3, _QWEN2, pre_tokenizer_name
from gguf_export.vocabulary.tokenizer import (
    CONTROL,
    NORMAL,
    UNUSED,
    USER_DEFINED,
    load_vocabulary,
)
from tests.gguf_models import make_tokenizer

PATH = Path("tokenizer.json")
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
GPT2 = BYTES | {"use_regex": True}
DIGITS = {"type": "Digits", "individual_digits": True}


def _split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def _sequence(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": list(parts)}


DEEPSEEK = _sequence(
    _split("[\r\n]"),
    _split(r"\s?\p{L}+"),
    _split(r"\s?\p{P}+"),
    _split("[一-龥ࠀ-一가-퟿]+"),
    DIGITS,
    BYTES,
)


def _data(pre: Any, normalizer: Any = None, **model: Any) -> dict[str, Any]:
    return {"model": {"type": "BPE", **model}, "pre_tokenizer": pre, "normalizer": normalizer}


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (_data(_sequence(DIGITS, GPT2)), "smollm"),
        (_data(_sequence(DIGITS, GPT2), byte_fallback=True), "smollm"),
        (_data(GPT2), "gpt-2"),
        (_data(_sequence(_split(_QWEN2), BYTES), {"type": "NFC"}), "qwen2"),
        (_data(_sequence(_split(_LLAMA3), BYTES), ignore_merges=True), "llama-bpe"),
        (_data(_sequence(_split(_LLAMA3), BYTES)), "smaug-bpe"),
        (_data(DEEPSEEK, {"type": "Sequence", "normalizers": []}), "deepseek-coder"),
    ],
)
def test_pre_tokenizer_is_named_by_its_structure(data: dict[str, Any], name: str) -> None:
    assert pre_tokenizer_name(PATH, data) == name


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (_data(_sequence(_split(r"\w+"), BYTES)), r"unknown pre-tokenizer \(structure [0-9a-f]{16}\)"),
        (_data(_sequence(GPT2, DIGITS)), "unknown pre-tokenizer"),
        (_data(GPT2, {"type": "Lowercase"}), "unknown pre-tokenizer"),
        (_data(BYTES | {"add_prefix_space": True, "use_regex": True}), "unknown pre-tokenizer"),
        (_data(None, byte_fallback=True), "SentencePiece"),
        ({"model": {"type": "Unigram"}}, "type Unigram"),
    ],
)
def test_what_is_not_known_is_refused(data: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        pre_tokenizer_name(PATH, data)


def test_vocabulary_is_padded_to_the_embedding(tmp_path: Path) -> None:
    make_tokenizer(tmp_path)
    n_tokens = len(json.loads((tmp_path / "tokenizer.json").read_text())["model"]["vocab"])
    vocabulary = load_vocabulary(tmp_path, {}, n_tokens + 5)
    assert len(vocabulary.tokens) == len(vocabulary.types) == n_tokens + 5
    assert vocabulary.types[-5:] == (UNUSED,) * 5
    assert vocabulary.types[:4] == (CONTROL, CONTROL, CONTROL, NORMAL)
    assert vocabulary.text_of("eos") == "<|im_end|>"
    assert vocabulary.text_of("bos") == "<|endoftext|>"
    assert not vocabulary.add_bos
    assert all(merge.count(" ") == 1 for merge in vocabulary.merges)
    with pytest.raises(BrokenFileError, match="embedding has 300 rows"):
        load_vocabulary(tmp_path, {}, 300)


def test_end_token_is_the_one_that_the_template_writes(tmp_path: Path) -> None:
    make_tokenizer(tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    settings["eos_token"] = "<|endoftext|>"  # as several base models have it
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    assert load_vocabulary(tmp_path, {}, 640).text_of("eos") == "<|im_end|>"
    assert load_vocabulary(tmp_path, {}, 640, eos_token="<|im_start|>").text_of("eos") == "<|im_start|>"
    plain = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    assert load_vocabulary(tmp_path, {}, 640, chat_template=plain).text_of("eos") == "<|endoftext|>"
    with pytest.raises(UnsupportedError, match=r"'<\|nope\|>' is not in the vocabulary"):
        load_vocabulary(tmp_path, {}, 640, eos_token="<|nope|>")


def test_bos_is_added_only_where_the_template_writes_it(tmp_path: Path) -> None:
    make_tokenizer(tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text()) | {"add_bos_token": True}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    assert not load_vocabulary(tmp_path, {}, 640).add_bos
    template = "{{ bos_token }}{% for m in messages %}{{ m['content'] }}<|im_end|>{% endfor %}"
    assert load_vocabulary(tmp_path, {}, 640, chat_template=template).add_bos


def test_added_tokens_that_look_special_are_control(tmp_path: Path) -> None:
    make_tokenizer(tmp_path)
    data = json.loads((tmp_path / "tokenizer.json").read_text())
    for index, text in ((620, "<｜begin▁of▁sentence｜>"), (621, "ü"), (622, "a▁b")):
        data["added_tokens"].append({"id": index, "content": text, "special": False})
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    vocabulary = load_vocabulary(tmp_path, {}, 640)
    assert vocabulary.types[620:623] == (CONTROL, USER_DEFINED, USER_DEFINED)
    assert vocabulary.tokens[620:623] == ("<｜begin▁of▁sentence｜>", "ü", "a b")


def test_missing_pieces_say_what_to_do(tmp_path: Path) -> None:
    make_tokenizer(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    with pytest.raises(UnsupportedError, match="no chat template"):
        load_vocabulary(tmp_path, {}, 640)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(BrokenFileError, match="not a tokenizer"):
        load_vocabulary(tmp_path, {}, 640, chat_template="x")
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(BrokenFileError, match="no such file"):
        load_vocabulary(tmp_path, {}, 640)
    (tmp_path / "tokenizer.model").touch()
    with pytest.raises(UnsupportedError, match="SentencePiece"):
        load_vocabulary(tmp_path, {}, 640)
