"""A verification passes what is right, and says by name what is wrong: every fault is planted in a real export."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gguf_export.child
import gguf_export.families.architectures
import gguf_export.proof.llama_checks
from gguf_export import (
    BrokenFileError,
    GgufFile,
    Reference,
    ReferenceSequence,
    Verification,
    export,
    reject,
    render,
    verify,
)
from gguf_export.child import ChildResult
from tests.gguf_models import CHATML_TEMPLATE, make_adapter, make_tiny_model

MESSAGES = [{"role": "user", "content": "def add(a, b):\n    return a + b\n"}]
ANSWER = "from solution import add\n\n\ndef test_add():\n    assert add(1, 2) == 3\n"
OTHER_TEMPLATE = CHATML_TEMPLATE.replace("<|im_start|>", "<|start_header_id|>").replace("<|im_end|>", "<|eot_id|>")


class Case:
    """A tied Llama, an adapter for it, and what the two answer in transformers."""

    def __init__(self, root: Path) -> None:
        self.base = make_tiny_model(root / "base", "llama", tie=True)
        self.adapter = make_adapter(self.base, root / "adapter")
        self.reference = self._reference()
        self.q4, self.q8, self.f16 = (
            export(self.base, self.adapter, root / f"{quant}.gguf", quant=quant) for quant in ("Q4_K_M", "Q8_0", "F16")
        )

    def _reference(self) -> Reference:
        import torch
        from peft import PeftModel
        from tokenizers import Tokenizer
        from transformers import AutoModelForCausalLM

        tokenizer = Tokenizer.from_file(str(self.base / "tokenizer.json"))
        prompt = tokenizer.encode(render(CHATML_TEMPLATE, MESSAGES)).ids
        ids = prompt + tokenizer.encode(f"{ANSWER}<|im_end|>").ids
        base = AutoModelForCausalLM.from_pretrained(self.base, dtype=torch.float32)
        model = PeftModel.from_pretrained(base, self.adapter).eval()
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0].float().numpy()
            greedy = model.generate(torch.tensor([prompt]), max_new_tokens=8, do_sample=False)[0, len(prompt) :]
        row = ReferenceSequence.from_logits(ids, len(prompt), logits, MESSAGES, greedy_ids=greedy.tolist())
        return Reference((row,))


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(tmp_path_factory.mktemp("case"))


@pytest.fixture
def no_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave llama.cpp out, where what is tested needs only the file: its child takes most of the time."""
    monkeypatch.setattr(gguf_export.proof.llama_checks, "run_child", lambda _: ChildResult({}, None, "done"))


def _failed(verification: Verification) -> dict[str, str]:
    return {check.name: check.detail for check in verification.failed}


def _against_weights(path: Path, case: Case, **settings: Any) -> dict[str, str]:
    found = verify(path, base=case.base, adapter=case.adapter, n_predict=1, **settings)
    assert found.weights_compared
    return _failed(found)


def test_a_tokenizer_that_composes_accents_is_compared_on_composed_texts(tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    base = make_tiny_model(tmp_path / "base", "qwen2", tie=True)
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    messages = [{"role": "user", "content": "def cafe\u0301():\n    return 1\n"}]
    ids = tokenizer.encode(render(CHATML_TEMPLATE, messages)).ids
    assert (
        ids
        == tokenizer.encode(
            render(CHATML_TEMPLATE, [{"role": "user", "content": "def caf\u00e9():\n    return 1\n"}])
        ).ids
    )
    row = ReferenceSequence.from_logits([*ids, 2], len(ids), np.zeros((len(ids) + 1, 32), np.float32), messages)
    result = export(base, None, tmp_path / "m.gguf", quant="F16")
    found = verify(result.path, Reference((row,)), base=base, n_predict=1)
    assert not {"token ids", "prompts", "round trip"} & set(_failed(found)), found.summary()
    assert "token ids" in {check.name for check in found.checks} >= {"prompts", "round trip"}
    other = tmp_path / "other"
    shutil.copytree(base, other)
    data = json.loads((other / "tokenizer.json").read_text(encoding="utf-8"))
    data["normalizer"] = None
    (other / "tokenizer.json").write_text(json.dumps(data), encoding="utf-8")
    assert "prompts" in _failed(verify(result.path, Reference((row,)), base=other, n_predict=1)), "trained on NFC's ids"


def test_a_clean_file_passes_alone_and_against_base_and_adapter(case: Case) -> None:
    for result in (case.q4, case.q8, case.f16):
        alone = verify(result.path, n_predict=4)
        assert alone.ok and alone.kind == "standalone", alone.summary()
        assert "by itself alone, without a reference" in alone.summary().splitlines()[0]
        whole = verify(
            result.path,
            case.reference,
            base=case.base,
            adapter=case.adapter,
            sha256=result.sha256,
            chat_template=CHATML_TEMPLATE,
            n_predict=4,
        )
        # A random model amplifies the errors of few bits.
        scored = {"KL divergence", "top-1 agreement", "perplexity"}
        assert set(_failed(whole)) <= (set() if result is case.f16 else scored), whole.summary()
        assert {check.name for check in whole.checks} >= {
            "checksum", "structure", "values", "blocks", "vocabulary", "end token", "chat template", "settings",
            "weights", "llama.cpp", "round trip", "token ids", "prompts", "answer", "greedy answers", "end of answers",
            *scored,
        }  # fmt: skip
        weights = next(check for check in whole.checks if check.name == "weights")
        assert weights.detail.startswith(f"{result.n_tensors} tensors hold base + adapter: ")
        assert weights.detail.endswith("byte for byte")
        assert "against the answers of base + adapter and the weights of base + adapter" in whole.summary()
    assert whole.scores["n_greedy"] == 1
    assert json.loads(json.dumps(whole.to_json()))["checks"][0]["name"] == "checksum"


def test_greedy_answers_are_those_of_transformers(case: Case, tmp_path: Path) -> None:
    path = export(case.base, case.adapter, tmp_path / "m.gguf", quant="F32").path
    assert verify(path, case.reference, n_predict=1).scores["n_greedy_same"] == 1
    row = case.reference.sequences[0]
    other = Reference((ReferenceSequence(**{**vars(row), "greedy_ids": row.greedy_ids[::-1]}),))
    assert verify(path, other, n_predict=1).scores["n_greedy_same"] == 0


@pytest.mark.usefixtures("no_child")
@pytest.mark.parametrize("quant", ["Q4_K_M", "F16"])
@pytest.mark.parametrize("order", ["checkpoint", "twice", "rolled"])
def test_a_wrong_permutation(case: Case, tmp_path: Path, monkeypatch: Any, quant: str, order: str) -> None:
    right = gguf_export.families.architectures.TensorPlan.reorder

    def wrong(self: Any, rows: Any) -> Any:
        if not self.n_heads or order == "checkpoint":
            return rows
        return right(self, right(self, rows)) if order == "twice" else np.roll(right(self, rows), 1, axis=0)

    with monkeypatch.context() as patched:
        patched.setattr(gguf_export.families.architectures.TensorPlan, "reorder", wrong)
        path = export(case.base, case.adapter, tmp_path / "m.gguf", quant=quant).path
    said = {"checkpoint": "as in the checkpoint", "twice": "reordered twice", "rolled": "in another order"}[order]
    failed = _against_weights(path, case)
    assert set(failed) == {"row order"}
    assert "wrong permutation of rows in blk.0.attn_" in failed["row order"] and said in failed["row order"]


def test_the_reference_sees_a_fault_without_a_name_for_it(case: Case, tmp_path: Path, monkeypatch: Any) -> None:
    other = make_adapter(case.base, tmp_path / "other", seed=5)
    stranger = make_tiny_model(tmp_path / "stranger", "llama", tie=True, seed=7)
    twice = _with_alpha(case.adapter, tmp_path / "twice", 2.0)
    pairs = [(case.base, other), (case.base, None), (stranger, case.adapter), (case.base, twice)]
    for index, (base, adapter) in enumerate(pairs):
        path = export(base, adapter, tmp_path / f"{index}.gguf", quant="F16").path
        assert "KL divergence" in _failed(verify(path, case.reference, n_predict=1))
    monkeypatch.setattr(gguf_export.families.architectures.TensorPlan, "reorder", lambda self, rows: rows)
    path = export(case.base, case.adapter, tmp_path / "m.gguf", quant="F16").path
    assert "KL divergence" in _failed(verify(path, case.reference, n_predict=1))


def test_a_wrong_end_token(case: Case, tmp_path: Path) -> None:
    path = export(case.base, case.adapter, tmp_path / "m.gguf", quant="Q8_0", eos_token="<|endoftext|>").path
    alone = _failed(verify(path, n_predict=1))
    assert alone == {
        "end token": "wrong end token: the file ends answers with <|endoftext|>, its template with <|im_end|>"
    }
    trained = _failed(verify(path, case.reference, n_predict=1))["end token"]
    assert trained.endswith("training with <|im_end|>")


def test_a_wrong_template(case: Case, tmp_path: Path) -> None:
    foreign = export(case.base, case.adapter, tmp_path / "a.gguf", quant="Q8_0", chat_template=OTHER_TEMPLATE).path
    alone = _failed(verify(foreign, n_predict=1))
    assert (
        "wrong template: writes <|start_header_id|>; <|eot_id|>, which are no single tokens" in alone["chat template"]
    )
    subtle = CHATML_TEMPLATE.replace("assistant\n", "assistant")
    path = export(case.base, case.adapter, tmp_path / "b.gguf", quant="Q8_0", chat_template=subtle).path
    assert verify(path, n_predict=1).ok  # nothing in the file says what was trained
    assert _failed(verify(path, case.reference, n_predict=1))["prompts"].startswith("wrong template: 1 of 1 texts")
    known = _failed(verify(path, chat_template=CHATML_TEMPLATE, n_predict=1))
    assert known == {"chat template": 'wrong template: it differs from the trained one from "\' }}{% endif %}" on'}


def _write(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def _tensor(path: Path, kind: str) -> Any:
    found = (t for t in GgufFile(path).tensors if t.tensor_type.name == kind and t.name.startswith("blk."))
    return next(found)


BLOCK = {"Q4_K": (144, 16), "Q6_K": (210, 0), "Q8_0": (34, 2)}
"""Bytes of a block, and where its numbers lie."""


@pytest.mark.usefixtures("no_child")
@pytest.mark.parametrize(("steps", "passes"), [(1, True), (64, False)])
def test_sums_that_round_otherwise_below_the_normal_numbers(
    case: Case, tmp_path: Path, steps: int, passes: bool
) -> None:
    """Another processor's sums may move a weight by a step of float16, which is a large share of a tiny weight."""
    path = Path(shutil.copy(case.f16.path, tmp_path / "m.gguf"))
    tensor = next(tensor for tensor in GgufFile(path).tensors if tensor.name == "blk.0.ffn_up.weight")
    values = np.asarray(tensor.data).reshape(-1).view(np.uint16) & 0x7FFF
    place = int(np.flatnonzero((values > 0x10) & (values < 0x200))[0])  # subnormal: 16 to 512 steps from zero
    with path.open("r+b") as file:
        at = int(tensor.data_offset) + 2 * place
        file.seek(at)
        (found,) = np.frombuffer(file.read(2), np.uint16)
        file.seek(at)
        file.write(np.uint16(found + steps).tobytes())
    failed = _failed(verify(path, base=case.base, adapter=case.adapter))
    assert ("corrupted block" in failed) is not passes, failed


@pytest.mark.usefixtures("no_child")
@pytest.mark.parametrize("kind", BLOCK)
def test_one_corrupted_block(case: Case, tmp_path: Path, kind: str) -> None:
    result = case.q8 if kind == "Q8_0" else case.q4
    tensor = _tensor(result.path, kind)
    size, numbers = BLOCK[kind]
    per_row = int(tensor.shape[0]) * size // (32 if kind == "Q8_0" else 256) // size
    place = int(tensor.data_offset) + 5 * size  # of the sixth block

    flipped = Path(shutil.copy(result.path, tmp_path / "flipped.gguf"))
    byte = flipped.read_bytes()[place + numbers + 3]
    # The highest bit of one weight: -128 for a number that was not negative shows by itself, so it is avoided.
    _write(flipped, place + numbers + 3, bytes([byte ^ (0x08 if kind != "Q8_0" else 0x40)]))
    failed = _against_weights(flipped, case)
    assert f"{tensor.name} row {5 // per_row}, from weight " in failed["corrupted block"], failed
    changed = _failed(verify(flipped, sha256=result.sha256, n_predict=1))
    assert "the file changed after it" in changed["checksum"]

    scrambled = Path(shutil.copy(result.path, tmp_path / "scrambled.gguf"))
    _write(scrambled, place, np.random.default_rng(0).integers(0, 120, size, dtype=np.uint8).tobytes())
    alone = _failed(verify(scrambled, n_predict=1))["blocks"]
    assert alone.startswith(f"one corrupted block: {tensor.name}: row {5 // per_row}, weights from "), alone

    nan = Path(shutil.copy(result.path, tmp_path / "nan.gguf"))
    _write(nan, place + {"Q6_K": 208}.get(kind, 0), np.float16("nan").tobytes())
    assert tensor.name in _failed(verify(nan, n_predict=1))["values"]


@pytest.mark.usefixtures("no_child")
def test_a_lost_page(case: Case, tmp_path: Path) -> None:
    path = Path(shutil.copy(case.q4.path, tmp_path / "m.gguf"))
    tensor = next(t for t in GgufFile(path).tensors if t.name == "blk.1.ffn_down.weight")
    _write(path, int(tensor.data_offset) + 211 * 3, bytes(210 * 2))
    assert "all zero in a row that is not" in _failed(verify(path, n_predict=1))["blocks"]


@pytest.mark.usefixtures("no_child")
def test_an_adapter_of_another_base(case: Case, tmp_path: Path) -> None:
    other = make_tiny_model(tmp_path / "other", "llama", tie=True, seed=7)
    path = export(other, case.adapter, tmp_path / "m.gguf", quant="Q4_K_M").path
    detail = _against_weights(path, case)["base"]
    assert detail.startswith("the file was made from another base: ") and "another model of the same shape" in detail

    sibling = _sibling(case.base, tmp_path / "sibling")
    path = export(sibling, case.adapter, tmp_path / "sibling.gguf", quant="Q4_K_M").path
    assert "another state of the same model" in _against_weights(path, case)["base"]

    wider = make_tiny_model(tmp_path / "wider", "llama", tie=True, intermediate_size=768)
    path = export(wider, None, tmp_path / "wider.gguf", quant="Q8_0").path
    failed = _against_weights(path, case)
    assert "the file is of another base model: blk.0.ffn_down.weight is [256, 768]" in failed["base"]
    assert "llama.feed_forward_length is 768, the base's 512" in failed["settings"]


def _sibling(base: Path, folder: Path) -> Path:
    """The same model, trained a little further."""
    from safetensors.numpy import load_file, save_file

    shutil.copytree(base, folder)
    random = np.random.default_rng(0)
    weights = load_file(folder / "model.safetensors")
    for name, values in weights.items():
        noise = random.standard_normal(values.shape, dtype=np.float32)
        weights[name] = values + np.float32(0.2) * values.std() * noise
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _with_alpha(adapter: Path, folder: Path, factor: float) -> Path:
    shutil.copytree(adapter, folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    config["lora_alpha"] *= factor
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.usefixtures("no_child")
@pytest.mark.parametrize("quant", ["Q4_K_M", "F16"])
@pytest.mark.parametrize("weak", [1.0, 1 / 16])
def test_alpha_off_by_two(case: Case, tmp_path: Path, quant: str, weak: float) -> None:
    """A weak adapter changes a weight by less than the type's own error does."""
    adapter = _with_alpha(case.adapter, tmp_path / "trained", weak)
    for factor in (2.0, 0.5):
        wrong = _with_alpha(adapter, tmp_path / f"times-{factor}", factor)
        path = export(case.base, wrong, tmp_path / f"{factor}.gguf", quant=quant).path
        failed = _failed(verify(path, base=case.base, adapter=adapter, n_predict=1))
        assert set(failed) == {"adapter scale"}, failed
        said = float(failed["adapter scale"].removeprefix("the adapter was added ").split()[0])
        assert said == pytest.approx(factor, abs=0.1)


@pytest.mark.usefixtures("no_child")
def test_the_adapter_is_missing_or_another_one(case: Case, tmp_path: Path) -> None:
    path = export(case.base, None, tmp_path / "base.gguf", quant="Q4_K_M").path
    assert _against_weights(path, case)["adapter"].startswith("the file holds the base alone, without the adapter")
    other = make_adapter(case.base, tmp_path / "adapter", seed=5)
    path = export(case.base, other, tmp_path / "other.gguf", quant="Q4_K_M").path
    assert _against_weights(path, case)["adapter"].startswith("the file holds another adapter than this one")
    alone = verify(case.q8.path, base=case.base, n_predict=1)
    assert "no adapter was given" in _failed(alone)["base"]


@pytest.mark.usefixtures("no_child")
def test_another_rounding_is_no_fault(case: Case, tmp_path: Path) -> None:
    path = export(case.base, case.adapter, tmp_path / "m.gguf", quant="Q4_K_M", rounding="f32").path
    found = verify(path, base=case.base, adapter=case.adapter, rounding="bf16", n_predict=1)
    assert found.ok, found.summary()
    assert "the rest within the type's error" in found.summary()


@pytest.mark.usefixtures("no_child")
def test_an_importance_matrix_is_no_fault(case: Case, tmp_path: Path) -> None:
    matrix = _imatrix(case, tmp_path / "imatrix.gguf")
    result = export(case.base, case.adapter, tmp_path / "m.gguf", quant="Q4_K_M", imatrix=matrix)
    given = verify(result.path, base=case.base, adapter=case.adapter, imatrix=matrix)
    assert given.ok and "byte for byte" in given.summary() and "the rest within" not in given.summary(), given.summary()
    unknown = verify(result.path, base=case.base, adapter=case.adapter)
    assert unknown.ok and "the rest within the type's error" in unknown.summary(), unknown.summary()
    twice = _with_alpha(case.adapter, tmp_path / "twice", 2.0)
    path = export(case.base, twice, tmp_path / "twice.gguf", quant="Q4_K_M", imatrix=matrix).path
    for settings in ({"imatrix": matrix}, {}):
        assert set(_failed(verify(path, base=case.base, adapter=case.adapter, **settings))) == {"adapter scale"}


def _imatrix(case: Case, path: Path) -> Path:
    """Importances as llama-imatrix writes them: sums of squares of each column's inputs, and how often."""
    import gguf

    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["tests"])
    writer.add_uint32("imatrix.chunk_count", 4)
    writer.add_uint32("imatrix.chunk_size", 512)
    for tensor in GgufFile(case.q4.path).tensors:
        if len(tensor.shape) == 2:
            sums = rng.lognormal(0, 1, int(tensor.shape[0])).astype(np.float32) * 4
            writer.add_tensor(f"{tensor.name}.in_sum2", sums)
            writer.add_tensor(f"{tensor.name}.counts", np.array([4], dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.usefixtures("no_child")
def test_settings_of_another_model(case: Case, tmp_path: Path) -> None:
    base = shutil.copytree(case.base, tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    rope = config.get("rope_parameters", config)
    rope["rope_theta"] = 5e5
    (base / "config.json").write_text(json.dumps(config))
    failed = _failed(verify(case.q8.path, base=base, adapter=case.adapter, n_predict=1))
    assert set(failed) == {"settings"} and "llama.rope.freq_base is 10000.0" in failed["settings"]


@pytest.mark.usefixtures("no_child")
def test_another_vocabulary(case: Case, tmp_path: Path) -> None:
    folder = shutil.copytree(case.base, tmp_path / "base")
    data = json.loads((folder / "tokenizer.json").read_text())
    swapped = sorted(data["model"]["vocab"], key=data["model"]["vocab"].get)[-2:]
    a, b = (data["model"]["vocab"][token] for token in swapped)
    data["model"]["vocab"] |= {swapped[0]: b, swapped[1]: a}
    (folder / "tokenizer.json").write_text(json.dumps(data))
    failed = _failed(verify(case.q8.path, tokenizer_folder=folder, n_predict=1))
    assert failed["vocabulary"].startswith("2 differ from tokenizer.json: id ")


def test_an_answer_that_does_not_end(case: Case) -> None:
    found = verify(case.q8.path, n_predict=0, require_stop=True)
    assert "no end token" in _failed(found)["answer"]
    assert verify(case.q8.path, n_predict=0).ok


@pytest.mark.parametrize("keep", [0, 100, 50_000, -1])
def test_a_truncated_file_is_one_failed_check(case: Case, tmp_path: Path, keep: int) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(case.q8.path.read_bytes()[:keep])
    verification = verify(path)
    assert set(_failed(verification)) == {"structure"} and len(verification.checks) == 1
    with pytest.raises(BrokenFileError, match="truncated"):
        GgufFile(path)
    with pytest.raises(BrokenFileError, match="no such file"):
        GgufFile(tmp_path / "nowhere.gguf")


@pytest.mark.usefixtures("no_child")
def test_a_file_that_is_too_long_or_lacks_a_tensor(case: Case, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(case.q8.path.read_bytes() + bytes(64))
    assert "its header says" in _failed(verify(path, n_predict=1))["structure"]
    path.write_bytes(case.q8.path.read_bytes().replace(b"blk.1.ffn_up.weight", b"blk.1.ffn_uq.weight"))
    failed = _failed(verify(path, n_predict=1))["structure"]
    assert "blk.1.ffn_up.weight: missing" in failed and "blk.1.ffn_uq.weight: no tensor" in failed


@pytest.mark.parametrize("signal_name", ["ILL", "SEGV", "KILL"])
def test_a_crash_of_llama_cpp_is_a_failed_check(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signal_name: str
) -> None:
    script = tmp_path / "python"
    script.write_text(f'#!/bin/sh\necho \'{{"begin": "load"}}\'\nkill -{signal_name} $$\n')
    script.chmod(0o755)
    monkeypatch.setattr(gguf_export.child.sys, "executable", str(script))
    failed = _failed(verify(case.q8.path))
    assert set(failed) == {"llama.cpp"} and failed["llama.cpp"].startswith("failed in step load")
    advice = {"ILL": "-mno-amx-tile", "SEGV": "crashed with SIGSEGV", "KILL": "lack of memory"}
    assert advice[signal_name] in failed["llama.cpp"]


def test_a_file_that_llama_cpp_refuses_is_a_failed_check(case: Case, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(case.q8.path.read_bytes().replace(b"llama.block_count", b"llama.block_cuont"))
    failed = _failed(verify(path))
    assert "block_count" in failed["llama.cpp"] and "llama.block_count: missing" in failed["structure"]


def test_a_rejected_file_keeps_its_reasons(case: Case, tmp_path: Path) -> None:
    path = export(case.base, case.adapter, tmp_path / "m.gguf", quant="Q8_0", eos_token="<|endoftext|>").path
    verification = verify(path, n_predict=1)
    rejected = reject(path, verification)
    assert not path.exists() and rejected.name == "m.gguf.rejected"
    lines = (tmp_path / "m.gguf.rejected.txt").read_text().splitlines()
    assert lines[0] == "FAILED: m.gguf (Q8_0), by itself alone, without a reference: 1 of 8 checks failed"
    assert any(line.startswith("  FAILED  end token      wrong end token") for line in lines)
