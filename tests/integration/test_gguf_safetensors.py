"""Merged 16-bit folders, held against PEFT's merge and transformers; and bases in 4 bits through whole exports."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from safetensors.numpy import load_file, save_file

import gguf_export.safetensors_out
from gguf_export import (
    BrokenFileError,
    Checkpoint,
    DiskSpaceError,
    ExportError,
    export,
    merge_to_safetensors,
)
from tests.gguf_models import make_adapter, make_tiny_model


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("base"), "llama", tie=True, dtype="bfloat16")


@pytest.fixture(scope="module")
def chain(base: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two adapters whose factors are small multiples of 1/64: every sum in B @ A is exact in any order."""
    folders = []
    for seed in range(2):
        folder = make_adapter(base, tmp_path_factory.mktemp(f"adapter{seed}"), seed=seed)
        path = folder / "adapter_model.safetensors"
        exact = {name: np.round(values * 64) / 64 for name, values in load_file(path).items()}
        save_file({name: values.astype(np.float32) for name, values in exact.items()}, path)
        folders.append(folder)
    return folders


def _peft_merged(base: Path, adapters: list[Path]) -> Any:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    for adapter in adapters:
        model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    return model


def _bits(model: Any, dtype: torch.dtype) -> dict[str, Any]:
    return {name: value.to(dtype) for name, value in model.state_dict().items()}


@pytest.mark.parametrize(("name", "dtype"), [("bf16", torch.bfloat16), ("f16", torch.float16), ("f32", torch.float32)])
@pytest.mark.parametrize("n_adapters", [0, 1, 2])
def test_the_same_bits_as_peft(
    base: Path, chain: list[Path], tmp_path: Path, name: Any, dtype: torch.dtype, n_adapters: int
) -> None:
    from transformers import AutoModelForCausalLM

    adapters = chain[:n_adapters]
    out = merge_to_safetensors(base, adapters or None, tmp_path / "m", name, max_shard_bytes=300_000)
    model = AutoModelForCausalLM.from_pretrained(out, dtype="auto")
    assert model.dtype == dtype
    merged, expected = model.state_dict(), _bits(_peft_merged(base, adapters), dtype)
    assert merged.keys() == expected.keys()
    assert all(torch.equal(merged[tensor], expected[tensor]) for tensor in expected)


def test_the_order_of_a_chain_and_every_adapter_of_it_count(base: Path, chain: list[Path], tmp_path: Path) -> None:
    """The check above can fail."""
    whole, first = (
        load_file(merge_to_safetensors(base, adapters, tmp_path / str(index)) / "model.safetensors")
        for index, adapters in enumerate((chain, chain[:1]))
    )
    changed = [name for name in whole if not np.array_equal(whole[name], first[name])]
    assert len(changed) == 14


def test_files_have_at_most_the_size_that_was_asked_for(base: Path, chain: list[Path], tmp_path: Path) -> None:
    out = merge_to_safetensors(base, chain, tmp_path / "m", max_shard_bytes=300_000)
    files = sorted(path.name for path in out.glob("*.safetensors"))
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors" and len(files) > 3
    index = json.loads((out / "model.safetensors.index.json").read_text(encoding="utf-8"))
    assert set(index["weight_map"].values()) == set(files)
    sizes = [sum(values.nbytes for values in load_file(out / name).values()) for name in files]
    assert max(sizes) <= 300_000 and sum(sizes) == index["metadata"]["total_size"]
    # and one file where one is enough, with the same values
    whole = load_file(merge_to_safetensors(base, chain, tmp_path / "whole") / "model.safetensors")
    assert not (tmp_path / "whole" / "model.safetensors.index.json").exists()
    for name in files:
        for tensor, values in load_file(out / name).items():
            np.testing.assert_array_equal(values, whole[tensor])


def test_a_tied_base_comes_out_untied_where_training_changed_one_side(tmp_path: Path, base: Path) -> None:
    from transformers import AutoModelForCausalLM

    adapter = make_adapter(base, tmp_path / "adapter", target_modules=["q_proj", "lm_head"])
    out = merge_to_safetensors(base, adapter, tmp_path / "m", "f32")
    model = AutoModelForCausalLM.from_pretrained(out)
    assert model.config.tie_word_embeddings is False
    assert not torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)
    assert torch.equal(model.model.embed_tokens.weight, _peft_merged(base, []).model.embed_tokens.weight)


def test_progress_rises_to_one(base: Path, tmp_path: Path) -> None:
    steps: list[tuple[str, float]] = []
    merge_to_safetensors(base, None, tmp_path / "m", progress=lambda *step: steps.append(step))
    assert {name for name, _ in steps} == {"merge"}
    shares = [share for _, share in steps]
    assert shares[0] == 0.0 and shares[-1] == 1.0 and shares == sorted(shares)


def test_nothing_is_left_of_what_failed(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(base, broken)
    path = broken / "model.safetensors"
    weights = {name: np.array(values) for name, values in load_file(path).items()}
    weights["model.norm.weight"][0] = np.inf
    save_file(weights, path)
    with pytest.raises(ExportError, match=r"model\.norm\.weight: .* not finite"):
        merge_to_safetensors(broken, None, tmp_path / "m")

    def interrupt(_step: str, share: float) -> None:
        if share > 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge_to_safetensors(base, None, tmp_path / "m", progress=interrupt)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1 << 20))
    with pytest.raises(DiskSpaceError, match="not enough disk space"):
        merge_to_safetensors(base, None, tmp_path / "m")
    assert [path.name for path in tmp_path.iterdir()] == ["broken"]


def test_a_shard_that_becomes_shorter_in_the_middle_is_named(base: Path, tmp_path: Path) -> None:
    changing = tmp_path / "changing"
    shutil.copytree(base, changing)

    def cut(_step: str, _share: float) -> None:
        with (changing / "model.safetensors").open("r+b") as file:
            file.truncate(20_000)

    with pytest.raises(BrokenFileError, match=r"model\.safetensors: .*: the file became shorter"):
        merge_to_safetensors(changing, None, tmp_path / "m", progress=cut)
    assert not (tmp_path / "m").exists()


def test_the_next_run_removes_what_a_killed_one_left(base: Path, tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from gguf_export import merge_to_safetensors as merge\n"
        "merge(Path(sys.argv[1]), None, Path(sys.argv[2]), progress=lambda *_: (print(flush=True), time.sleep(60)))"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(base), str(tmp_path / "m")], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert [path.name for path in tmp_path.iterdir()] == [".m.tmp-merged"]
    merge_to_safetensors(base, None, tmp_path / "m")
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_full_disk_in_the_middle_is_a_clear_error(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = gguf_export.safetensors_out._write_all

    def full(file: Any, data: Any) -> None:
        if file.tell() > 100_000:
            raise OSError(28, "No space left on device")
        whole(file, data)

    monkeypatch.setattr(gguf_export.safetensors_out, "_write_all", full)
    with pytest.raises(DiskSpaceError, match="not enough disk space"):
        merge_to_safetensors(base, None, tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


# A base that exists only in 4 bits


@pytest.fixture(scope="module", params=["nf4-double", "fp4"])
def four_bits(request: pytest.FixtureRequest, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base as transformers + bitsandbytes save it."""
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    kind, _, double = request.param.partition("-")
    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=kind,
        bnb_4bit_use_double_quant=bool(double),
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    folder = tmp_path_factory.mktemp("four_bits")
    AutoModelForCausalLM.from_pretrained(base, quantization_config=settings).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(base / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def dequantized(four_bits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same base after bitsandbytes' own dequantization, saved in bf16."""
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Linear4bit
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(four_bits)
    folder = tmp_path_factory.mktemp("dequantized")
    weights = {name: value for name, value in model.state_dict().items() if ".weight." not in name}
    for name, module in model.named_modules():
        if isinstance(module, Linear4bit):
            weights[f"{name}.weight"] = dequantize_4bit(module.weight.data, module.weight.quant_state)
    weights.pop("lm_head.weight", None)  # tied
    from safetensors.torch import save_file as save_torch

    save_torch(weights, folder / "model.safetensors", {"format": "pt"})
    for path in four_bits.glob("*[!s]"):
        shutil.copyfile(path, folder / path.name)
    config = json.loads((four_bits / "config.json").read_text(encoding="utf-8"))
    del config["quantization_config"]
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def test_a_base_in_4_bits_is_read_as_bitsandbytes_dequantizes_it(four_bits: Path, dequantized: Path) -> None:
    mine, oracle = Checkpoint.open(four_bits), Checkpoint.open(dequantized)
    assert set(mine.tensors) == set(oracle.tensors)
    kinds = {info.dtype for info in mine.tensors.values()}
    assert len(kinds) == 2 and kinds < {"NF4", "FP4", "BF16"}
    for name, info in oracle.tensors.items():
        assert mine.tensors[name].shape == info.shape
        np.testing.assert_array_equal(mine.read(name), oracle.read(name))


def test_exports_of_a_base_in_4_bits_are_those_of_the_dequantized_one(
    four_bits: Path, dequantized: Path, chain: list[Path], tmp_path: Path
) -> None:
    metadata = {"name": "m"}
    for quant in ("F32", "Q4_K_M"):
        mine = export(four_bits, chain[0], tmp_path / "mine.gguf", quant=quant, metadata=metadata)
        oracle = export(dequantized, chain[0], tmp_path / "oracle.gguf", quant=quant, metadata=metadata)
        assert mine.sha256 == oracle.sha256
    assert len(GGUFReader(mine.path).tensors) == mine.n_tensors


def test_a_base_in_4_bits_comes_out_in_16(
    four_bits: Path, dequantized: Path, chain: list[Path], tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    out = merge_to_safetensors(four_bits, chain[0], tmp_path / "m")
    model = AutoModelForCausalLM.from_pretrained(out, dtype="auto")
    assert "quantization_config" not in model.config.to_dict()
    expected = _bits(_peft_merged(dequantized, chain[:1]), torch.bfloat16)
    merged = model.state_dict()
    assert all(torch.equal(merged[name], expected[name]) for name in expected)
