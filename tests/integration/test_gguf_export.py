"""Exports of tiny models, held against PEFT, transformers and llama.cpp."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import gguf_export.child
import gguf_export.families.architectures
import gguf_export.files
from gguf_export import (
    QUANT_TYPES,
    BrokenFileError,
    Checkpoint,
    DiskSpaceError,
    ExportError,
    GgufFile,
    HostMemoryError,
    Reference,
    ReferenceSequence,
    UnsupportedError,
    export,
    merge_to_safetensors,
    quantize,
    render,
    verify,
)
from gguf_export.checkpoints.weights import Rounding
from tests.gguf_models import CHATML_TEMPLATE, make_adapter, make_tiny_model

VARIANTS = {
    "llama-tied": ("llama", True, {}),
    "llama-untied-rslora": ("llama", False, {"use_rslora": True}),
    "qwen2-tied-patterns": (
        "qwen2",
        True,
        {"rank_pattern": {"q_proj": 4, r".*\.1\.mlp\.up_proj": 2}, "alpha_pattern": {"down_proj": 5}},
    ),
    "qwen2-untied-embedding": (
        "qwen2",
        False,
        {"target_modules": ["embed_tokens", "q_proj", "v_proj", "lm_head"]},
    ),
    "qwen3-tied": ("qwen3", True, {}),
}
MESSAGES = [{"role": "user", "content": "def add(a, b):\n    return a + b\n"}]
ANSWER = "from solution import add\n\n\ndef test_add():\n    assert add(1, 2) == 3\n"


class Case:
    """A base, its adapter, and what the two answer in transformers."""

    def __init__(self, root: Path, name: str) -> None:
        family, tie, lora = VARIANTS[name]
        self.base = make_tiny_model(root / "base", family, tie)
        self.adapter = make_adapter(self.base, root / "adapter", **lora)

    def peft_model(self, adapter: Path | None = None) -> Any:
        import torch
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        base = AutoModelForCausalLM.from_pretrained(self.base, dtype=torch.float32)
        return PeftModel.from_pretrained(base, adapter or self.adapter).eval()

    def ids(self) -> tuple[list[int], int]:
        """Token ids of a prompt and its answer, and where the answer starts."""
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(self.base / "tokenizer.json"))
        prompt = tokenizer.encode(render(CHATML_TEMPLATE, MESSAGES)).ids
        return prompt + tokenizer.encode(f"{ANSWER}<|im_end|>").ids, len(prompt)

    def logits(self) -> np.ndarray:
        import torch

        with torch.no_grad():
            return np.asarray(self.peft_model()(torch.tensor([self.ids()[0]])).logits[0].float().numpy())

    def reference(self) -> Reference:
        ids, start = self.ids()
        return Reference((ReferenceSequence.from_logits(ids, start, self.logits(), MESSAGES),))


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    return {name: Case(tmp_path_factory.mktemp(name), name) for name in VARIANTS}


@pytest.fixture(scope="module")
def llama(cases: dict[str, Case]) -> Case:
    return cases["llama-tied"]


@pytest.fixture(scope="module")
def q8(llama: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("q8") / "model.gguf"
    return export(llama.base, llama.adapter, out, quant="Q8_0").path


@pytest.fixture
def nothing_left(tmp_path: Path) -> Iterator[Path]:
    """A folder that has to be empty at the end."""
    folder = tmp_path / "out"
    folder.mkdir()
    yield folder
    assert list(folder.iterdir()) == []


def _failed(verification: Any) -> set[str]:
    return {check.name for check in verification.checks if not check.ok}


@pytest.mark.parametrize("name", VARIANTS)
def test_merged_weights_equal_peft(cases: dict[str, Case], name: str, tmp_path: Path) -> None:
    case = cases[name]
    merged = load_file(merge_to_safetensors(case.base, case.adapter, tmp_path / "m", "f32") / "model.safetensors")
    oracle = case.peft_model().merge_and_unload().state_dict()
    base = Checkpoint.open(case.base)
    assert set(merged) == set(base.tensors)
    changed = 0
    for tensor, values in merged.items():
        np.testing.assert_allclose(values, oracle[tensor].float().numpy(), rtol=1e-6, atol=1e-6)
        changed += not np.array_equal(values, base.read(tensor))
    assert changed == len([n for n in load_file(case.adapter / "adapter_model.safetensors") if "lora" in n]) // 2


def test_a_merged_folder_loads_in_transformers(llama: Case, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    folder = merge_to_safetensors(llama.base, llama.adapter, tmp_path / "m", "bf16")
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == torch.bfloat16
    with torch.no_grad():
        logits = model(torch.tensor([llama.ids()[0]])).logits[0].float().numpy()
    assert np.abs(logits - llama.logits()).mean() < 0.1
    with pytest.raises(ExportError, match="already there"):
        merge_to_safetensors(llama.base, None, folder)


@pytest.mark.parametrize("name", VARIANTS)
def test_f32_export_gives_the_logits_of_base_and_adapter(cases: dict[str, Case], name: str, tmp_path: Path) -> None:
    case = cases[name]
    result = export(case.base, case.adapter, tmp_path / "m.gguf", quant="F32")
    logits = _llama_logits(result.path, case.ids()[0])[:, : case.logits().shape[1]]
    np.testing.assert_allclose(logits, case.logits(), rtol=0, atol=1e-4)
    unadapted = export(case.base, None, tmp_path / "base.gguf", quant="F32")
    assert np.abs(_llama_logits(unadapted.path, case.ids()[0]) - logits).max() > 0.1


def _llama_logits(path: Path, ids: list[int]) -> np.ndarray:
    from gguf_export._child import silence_llama
    from gguf_export.proof._child_checks import Model

    return Model(silence_llama(), str(path), len(ids) + 8).logits(ids, 0, 0)


@pytest.mark.parametrize("quant", QUANT_TYPES)
def test_every_type_is_written_and_passes(cases: dict[str, Case], quant: str, tmp_path: Path) -> None:
    case = cases["qwen2-tied-patterns"]
    steps: list[tuple[str, float]] = []
    result = export(
        case.base,
        case.adapter,
        tmp_path / "m.gguf",
        quant=quant,
        metadata={"name": "tiny", "license": "apache-2.0"},
        progress=lambda step, share: steps.append((step, share)),
    )
    assert [path.name for path in tmp_path.iterdir()] == ["m.gguf"]
    assert result.size_bytes == result.path.stat().st_size
    assert result.sha256 == hashlib.sha256(result.path.read_bytes()).hexdigest()
    assert result.eos_token == "<|im_end|>"
    assert steps == sorted(steps) and steps[0] == ("write", 0.0) and steps[-1] == ("write", 1.0)
    file = GgufFile(result.path)
    assert (file.get("general.name"), file.get("general.license")) == ("tiny", "apache-2.0")
    assert file.get("general.file_type") == QUANT_TYPES[quant].ftype
    assert len(file.tensors) == result.n_tensors
    verification = verify(result.path, case.reference(), tokenizer_folder=case.base, n_predict=4)
    structural = _failed(verification) - {"KL divergence", "top-1 agreement"}
    assert not structural, verification.summary()
    assert verification.kind == "reference"
    # A random model amplifies the errors of few bits, and has near ties among its most likely tokens.
    assert verification.scores["kl"] < {"F32": 1e-6, "F16": 1e-3, "BF16": 1e-2, "Q8_0": 1e-2}.get(quant, 0.5)
    assert quant != "F32" or verification.ok, verification.summary()


@pytest.mark.parametrize("rounding", ["bf16", "f16", "f32"])
def test_one_pass_writes_the_bytes_of_llama_cpps_quantizer(
    cases: dict[str, Case], rounding: Rounding, tmp_path: Path
) -> None:
    """llama.cpp's own quantizer over the exact export: the same file, for every type."""
    for name in ("llama-untied-rslora", "qwen2-tied-patterns"):
        case = cases[name]
        exact = export(case.base, case.adapter, tmp_path / "exact.gguf", quant=rounding.upper())
        for quant in (quant for quant, kind in QUANT_TYPES.items() if kind.rounding is None):
            ours = export(case.base, case.adapter, tmp_path / "ours.gguf", quant=quant, rounding=rounding)
            quantize(exact.path, tmp_path / "theirs.gguf", quant)
            assert (tmp_path / "theirs.gguf").read_bytes() == ours.path.read_bytes(), (name, quant)
            assert set(ours.quantizers.values()) == {"lanes"}


def test_another_rounding_writes_other_bytes(llama: Case, q8: Path, tmp_path: Path) -> None:
    other = export(llama.base, llama.adapter, tmp_path / "m.gguf", quant="Q8_0", rounding="f16").path
    assert other.read_bytes() != q8.read_bytes()


def test_little_memory_is_found_before_anything_is_written(
    llama: Case, nothing_left: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf_export.files, "available_memory", lambda: 100 << 20)
    with pytest.raises(HostMemoryError, match=r"0\.38 GiB needed, 100\.0 MiB available; close other programs"):
        export(llama.base, llama.adapter, nothing_left / "m.gguf")


def test_exports_are_reproducible(llama: Case, q8: Path, tmp_path: Path) -> None:
    first = q8.read_bytes()
    again = export(llama.base, llama.adapter, tmp_path / "again.gguf", quant="Q8_0").path
    assert again.read_bytes() == first


def _damage(case: Case, folder: Path, damage: str) -> tuple[Path, Path]:
    """A copy of a case with one fault in it."""
    base = shutil.copytree(case.base, folder / "base")
    adapter = shutil.copytree(case.adapter, folder / "adapter")
    if damage == "truncated base":
        path = base / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-1000])
    elif damage == "truncated adapter":
        path = adapter / "adapter_model.safetensors"
        path.write_bytes(path.read_bytes()[:-1000])
    elif damage == "another base":
        shutil.rmtree(base)
        make_tiny_model(base, "llama", intermediate_size=768)
    elif damage == "architecture":
        config = json.loads((base / "config.json").read_text())
        (base / "config.json").write_text(json.dumps(config | {"architectures": ["GPT2LMHeadModel"]}))
    elif damage == "pissa":
        config = json.loads((adapter / "adapter_config.json").read_text())
        (adapter / "adapter_config.json").write_text(json.dumps(config | {"init_lora_weights": "pissa"}))
    else:
        raise AssertionError(damage)
    return base, adapter


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        ("truncated base", BrokenFileError, r"base/model\.safetensors: truncated \(\d+ bytes"),
        ("truncated adapter", BrokenFileError, r"adapter_model\.safetensors: truncated"),
        ("another base", UnsupportedError, r"adapter of another base model: .*_proj\.weight: shape \["),
        ("architecture", UnsupportedError, "GPT2LMHeadModel is not covered"),
        ("pissa", UnsupportedError, "init_lora_weights 'pissa' is not covered"),
    ],
)
def test_bad_input_is_refused_and_nothing_is_written(
    llama: Case, tmp_path: Path, nothing_left: Path, damage: str, error: type[ExportError], message: str
) -> None:
    base, adapter = _damage(llama, tmp_path, damage)
    with pytest.raises(error, match=message) as caught:
        export(base, adapter, nothing_left / "m.gguf")
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


def test_unknown_names_are_refused(llama: Case, nothing_left: Path) -> None:
    out = nothing_left / "m.gguf"
    with pytest.raises(UnsupportedError, match="quant: unknown type 'Q3_K'; use one of F32"):
        export(llama.base, None, out, quant="Q3_K")
    with pytest.raises(UnsupportedError, match="rounding: unknown type"):
        export(llama.base, None, out, rounding="f64")  # type: ignore[arg-type]
    with pytest.raises(UnsupportedError, match="metadata: unknown key 'colour'"):
        export(llama.base, None, out, metadata={"colour": "red"})


def test_no_room_is_found_before_anything_is_written(
    llama: Case, nothing_left: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 1 << 20))
    with pytest.raises(DiskSpaceError, match="not enough disk space") as caught:
        export(llama.base, llama.adapter, nothing_left / "m.gguf")
    assert caught.value.exit_code == 3


def test_weights_that_are_not_finite_are_named(llama: Case, tmp_path: Path, nothing_left: Path) -> None:
    from safetensors.numpy import save_file

    adapter = shutil.copytree(llama.adapter, tmp_path / "adapter")
    tensors = load_file(adapter / "adapter_model.safetensors")
    name = next(name for name in tensors if "up_proj.lora_B" in name)
    tensors[name][0, 0] = np.nan
    save_file(tensors, adapter / "adapter_model.safetensors")
    with pytest.raises(ExportError, match=r"up_proj\.weight: .* not finite"):
        export(llama.base, adapter, nothing_left / "m.gguf")


@pytest.mark.parametrize("moment", [0.0, 0.5, 1.0])
def test_ctrl_c_leaves_nothing(llama: Case, nothing_left: Path, moment: float) -> None:
    def interrupt(_: str, share: float) -> None:
        if share >= moment:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(llama.base, llama.adapter, nothing_left / "m.gguf", progress=interrupt)


_KILLED = """
import os, signal, sys
from pathlib import Path
from gguf_export import export

def kill(step, share):
    if share >= float(sys.argv[4]):
        os.kill(os.getpid(), signal.SIGKILL)

export(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), quant="Q8_0", progress=kill)
"""


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_killed_export_leaves_no_file_and_the_next_one_cleans_up(
    llama: Case, q8: Path, tmp_path: Path, share: float
) -> None:
    out = tmp_path / "m.gguf"
    command = [sys.executable, "-c", _KILLED, str(llama.base), str(llama.adapter), str(out), str(share)]
    environment = os.environ | {"PYTHONPATH": str(Path(gguf_export.__file__).parent.parent)}
    assert subprocess.run(command, env=environment, check=False).returncode == -signal.SIGKILL
    assert not out.exists()
    assert any(tmp_path.iterdir()), "the test has to kill it while a temporary file is there"
    export(llama.base, llama.adapter, out, quant="Q8_0")
    assert [path.name for path in tmp_path.iterdir()] == ["m.gguf"]
    assert out.read_bytes() == q8.read_bytes()


def test_llama_cpp_stays_silent(llama: Case, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = export(llama.base, llama.adapter, tmp_path / "m.gguf").path
    verify(path, n_predict=1)
    assert capfd.readouterr() == ("", "")
