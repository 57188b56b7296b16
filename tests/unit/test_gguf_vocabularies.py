"""Vocabularies of real models: what is written makes llama.cpp split text as the model's own tokenizer does.

The vocabularies of Qwen2, DeepSeek-Coder and Llama 3 lie in llama.cpp's source, each with texts and the ids that the
original tokenizer gave for them (see tests/official_route.py for where that comes from; skipped with the reason where
it cannot be fetched). From each, a ``tokenizer.json`` is rebuilt with the pre-tokenizer of the original.
"""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import lowvram_ft
from gguf_export.vocabulary.pretokenizers import _DEEPSEEK_CODER, _LLAMA3, _QWEN2
from gguf_export.vocabulary.tokenizer import CONTROL, USER_DEFINED, Vocabulary, load_vocabulary
from lowvram_ft.embedded_model import _write_tokenizer, gguf_path
from lowvram_ft.errors import MissingExtraError
from tests.gguf_models import CHATML_TEMPLATE
from tests.official_route import Conversion, OracleUnavailable, convert, llama_cpp_source

BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}


def _split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


REAL: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
    "qwen2": ([_split(_QWEN2), BYTES], {"normalizer": {"type": "NFC"}}),
    "deepseek-coder": (
        [*map(_split, _DEEPSEEK_CODER), {"type": "Digits", "individual_digits": True}, BYTES],
        {"normalizer": {"type": "Sequence", "normalizers": []}},
    ),
    "llama-bpe": ([_split(_LLAMA3), BYTES], {"ignore_merges": True}),
}
CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6,
}
CODE = (
    "def f(x):\n\treturn {'a': [1, 22, 333]}  # ½ Äpfel, 日本語, 🦙\r\n\r\n\n    assert f(0x1F) != 3.14e-10\n",
    "import pytest\n\n\n@pytest.mark.parametrize(('a', 'b'), [(1, 2), (-10, 3000)])\ndef test_it(a, b):\n    ...\n",
    "SELECT * FROM t WHERE  name='O''Brien'   -- don't\n",
)


_SCALARS = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))


def _settings(path: Path) -> dict[str, Any]:
    """The settings of a GGUF: what ``gguf.GGUFReader`` gives, in a tenth of its time for long lists of strings."""
    data, position = path.read_bytes(), 24

    def read(kind: int) -> Any:
        nonlocal position
        if kind in _SCALARS:
            start, position = position, position + struct.calcsize(_SCALARS[kind])
            return struct.unpack_from(f"<{_SCALARS[kind]}", data, start)[0]
        if kind == 8:
            start, position = position + 8, position + 8 + int.from_bytes(data[position : position + 8], "little")
            return data[start:position].decode()
        element, n = struct.unpack_from("<IQ", data, position)
        position += 12
        return [read(element) for _ in range(n)]

    n_settings = int.from_bytes(data[16:24], "little")
    return {read(8): read(read(4)) for _ in range(n_settings)}


class Real:
    """A vocabulary of llama.cpp's source as a tokenizer folder, its texts, and the ids that belong to them."""

    def __init__(self, source: Path, name: str, folder: Path) -> None:
        path = source / "models" / f"ggml-vocab-{name}.gguf"
        facts = _settings(path)
        self.tokens, self.types, self.merges = (
            facts[f"tokenizer.ggml.{part}"] for part in ("tokens", "token_type", "merges")
        )
        self.texts = Path(f"{path}.inp").read_text("utf-8").split("\n__ggml_vocab_test__\n")
        self.ids = [[int(index) for index in line.split()] for line in Path(f"{path}.out").read_text().split("\n")]
        self.name, self.folder, self.special = name, folder, facts
        self.write()

    def write(self, **model: Any) -> None:
        parts, more = REAL[self.name]
        added = [index for index, kind in enumerate(self.types) if kind in (CONTROL, USER_DEFINED)]
        added = [index for index in added if self.tokens[index] != f"[PAD{index}]"]
        first = min(added)
        data = {
            "version": "1.0",
            "added_tokens": [
                {"id": i, "content": self.tokens[i], "special": self.types[i] == CONTROL, "single_word": False}
                | {"lstrip": False, "rstrip": False, "normalized": self.types[i] != CONTROL}
                for i in added
            ],
            "normalizer": more.get("normalizer"),
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": parts},
            "post_processor": {"type": "Sequence", "processors": [BYTES, *self.begin()]},
            "decoder": BYTES,
            "model": {
                "type": "BPE",
                "fuse_unk": False,
                "byte_fallback": False,
                "ignore_merges": more.get("ignore_merges", False),
                "vocab": {token: index for index, token in enumerate(self.tokens[:first])},
                "merges": self.merges,
            }
            | model,
        }
        self.folder.mkdir(exist_ok=True)
        architecture = "Qwen2ForCausalLM" if self.name == "qwen2" else "LlamaForCausalLM"
        bos, eos = (self.tokens[self.special[f"tokenizer.ggml.{role}_token_id"]] for role in ("bos", "eos"))
        template = "{{ bos_token }}" * bool(self.begin()) + CHATML_TEMPLATE.replace("<|im_end|>", eos)
        files = {
            "tokenizer.json": json.dumps(data),
            "tokenizer_config.json": json.dumps(
                {"bos_token": bos, "eos_token": eos, "tokenizer_class": "PreTrainedTokenizerFast"}
            ),
            "chat_template.jinja": template,
            "config.json": json.dumps(CONFIG | {"architectures": [architecture], "vocab_size": len(self.tokens)}),
        }
        for name, text in files.items():
            (self.folder / name).write_text(text, encoding="utf-8")

    def begin(self) -> list[dict[str, Any]]:
        """What puts BOS before every text: Llama 3's and DeepSeek's tokenizers do, Qwen's does not."""
        if self.name == "qwen2":
            return []
        index = self.special["tokenizer.ggml.bos_token_id"]
        text = self.tokens[index]
        single = [{"SpecialToken": {"id": text, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
        tokens = {text: {"id": text, "ids": [index], "tokens": [text]}}
        pair = [*single, {"Sequence": {"id": "B", "type_id": 1}}]
        return [{"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": tokens}]

    def load(self) -> Vocabulary:
        return load_vocabulary(self.folder, {}, len(self.tokens))


@pytest.fixture(scope="module")
def reals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Real]:
    try:
        source = llama_cpp_source()
    except OracleUnavailable as error:
        pytest.skip(str(error))
    return {name: Real(source, name, tmp_path_factory.mktemp(name)) for name in REAL}


@pytest.fixture(params=REAL)
def real(reals: dict[str, Real], request: pytest.FixtureRequest) -> Real:
    return reals[request.param]


def _llama_ids(path: Path, texts: list[str]) -> list[list[int]]:
    from llama_cpp import Llama

    llama = Llama(str(path), vocab_only=True, verbose=False)
    try:
        return [llama.tokenize(text.encode(), add_bos=False, special=False) for text in texts]
    finally:
        llama.close()


def _write(vocabulary: Vocabulary, path: Path, arch: str = "llama") -> Path:
    """A GGUF with this vocabulary and nothing else."""
    from gguf import GGUFWriter

    writer = GGUFWriter(path, arch)
    vocabulary.add_to(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def test_llama_cpp_and_tokenizers_give_the_ids_of_the_original(real: Real, tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    vocabulary = real.load()
    assert vocabulary.pre == real.name
    assert list(vocabulary.merges) == real.merges
    assert list(vocabulary.tokens) == real.tokens
    texts, expected = real.texts, real.ids
    assert len(texts) == len(expected) > 40
    path = _write(vocabulary, tmp_path / "vocab.gguf", "qwen2" if real.name == "qwen2" else "llama")
    assert _llama_ids(path, texts) == expected
    tokenizer = Tokenizer.from_file(str(real.folder / "tokenizer.json"))
    assert [tokenizer.encode(text, add_special_tokens=False).ids for text in [*texts, *CODE]] == [
        *expected,
        *_llama_ids(path, list(CODE)),
    ]


def test_another_splitter_gives_other_ids(real: Real, tmp_path: Path) -> None:
    wrong = replace(real.load(), pre="gpt-2" if real.name != "llama-bpe" else "deepseek-coder")
    assert _llama_ids(_write(wrong, tmp_path / "wrong.gguf"), real.texts) != real.ids


def test_byte_fallback_does_not_make_a_sentencepiece_vocabulary(real: Real, tmp_path: Path) -> None:
    """A tokenizer.json that was rebuilt from a GGUF says ``byte_fallback: true`` of a byte-level vocabulary."""
    expected = real.load()
    real.write(byte_fallback=True)
    assert real.load() == expected
    real.write()


@pytest.mark.slow
def test_the_converter_writes_the_same_vocabulary(reals: dict[str, Real], tmp_path: Path) -> None:
    """Its name of the pre-tokenizer comes from a hash of token ids, ours from the structure."""
    jobs = []
    for real in reals.values():
        jobs.append(Conversion(str(real.folder), str(tmp_path / f"{real.name}.gguf"), pre="", vocab_only=True))
    convert(jobs)
    for real, job in zip(reals.values(), jobs, strict=True):
        official = [(key, value) for key, value in _settings(Path(job.out)).items() if "tokenizer" in key]
        arch = "qwen2" if real.name == "qwen2" else "llama"
        ours = _settings(_write(real.load(), tmp_path / f"ours-{real.name}.gguf", arch))
        assert ("tokenizer.ggml.pre", real.name) in official
        assert [(key, value) for key, value in ours.items() if "tokenizer" in key] == official


def test_smollm2_gives_the_ids_of_its_own_gguf(tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    try:
        original = gguf_path()
    except MissingExtraError as error:
        pytest.skip(str(error))
    facts = _settings(original)
    _write_tokenizer(facts, tmp_path)
    vocabulary = load_vocabulary(tmp_path, {}, len(facts["tokenizer.ggml.tokens"]))
    assert vocabulary.pre == facts["tokenizer.ggml.pre"] == "smollm"
    assert list(vocabulary.tokens) == facts["tokenizer.ggml.tokens"]
    assert list(vocabulary.types) == facts["tokenizer.ggml.token_type"]
    assert list(vocabulary.merges) == facts["tokenizer.ggml.merges"]
    samples = Path(lowvram_ft.__file__).parent / "data" / "samples" / "functions.jsonl"
    code = [json.loads(line)["code"] for line in samples.read_text("utf-8").splitlines()[:50]]
    texts = [*CODE, *code, "1234 12.5e-10", " \n\n \t  x", "Ünïcödé 日本語 🦙‍♂️ \u200b"]
    ids = _llama_ids(original, texts)
    assert _llama_ids(_write(vocabulary, tmp_path / "vocab.gguf"), texts) == ids
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert [tokenizer.encode(text, add_special_tokens=False).ids for text in texts] == ids
    assert [tokenizer.decode(ids) for ids in ids] == texts
