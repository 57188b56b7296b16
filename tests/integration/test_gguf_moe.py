"""Qwen3-MoE: stacked experts, held against PEFT, transformers and llama.cpp's own converter and quantizer."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from gguf_export import (
    QUANT_TYPES,
    BrokenFileError,
    Checkpoint,
    GgufFile,
    UnsupportedError,
    export,
    export_lora,
    merge_to_safetensors,
    verify,
)
from gguf_export.families.architectures import family_of, plan_tensors
from tests.gguf_models import make_adapter, make_tiny_model
from tests.official_route import Conversion, OracleUnavailable, convert, llama_cpp_source, peft_merge, quantize

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
ADAPTERS: dict[str, dict[str, Any]] = {
    "attention": {"target_modules": ATTENTION},
    "router": {"target_modules": ["q_proj", "gate"], "use_rslora": True},
    "experts-by-module": {"target_modules": ["q_proj", "gate_proj", "up_proj", "down_proj"], "r": 4},
    "experts-by-parameter": {"target_modules": ["v_proj"], "target_parameters": EXPERTS, "r": 3, "lora_alpha": 5},
    "down-alone": {"target_modules": ["v_proj"], "target_parameters": EXPERTS[1:], "r": 3},
    "gate-and-up-alone": {"target_modules": ["v_proj"], "target_parameters": EXPERTS[:1], "use_rslora": True},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("base"), "qwen3_moe", tie=False, dtype="bfloat16")


@pytest.fixture(scope="module")
def adapters(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("adapters")
    return {
        name: make_adapter(base, root / name, seed=seed, **settings)
        for seed, (name, settings) in enumerate(ADAPTERS.items())
    }


@pytest.mark.parametrize("name", ADAPTERS)
def test_merged_weights_equal_peft(base: Path, adapters: dict[str, Path], name: str, tmp_path: Path) -> None:
    out = merge_to_safetensors(base, adapters[name], tmp_path / "mine", "f32")
    mine = load_file(out / "model.safetensors")
    oracle = load_file(peft_merge(base, [adapters[name]], tmp_path / "peft") / "model.safetensors")
    unchanged = Checkpoint.open(base)
    assert mine.keys() == oracle.keys()
    changed = set()
    for tensor, values in mine.items():
        np.testing.assert_allclose(values, oracle[tensor], rtol=1e-6, atol=1e-6)
        if not np.array_equal(values, unchanged.read(tensor)):
            changed.add(tensor.split(".", 3)[-1])
    experts = {key for key in changed if ".experts." in key}
    parts = {
        "experts-by-module": 3,
        "experts-by-parameter": 3,
        "down-alone": 1,
        "gate-and-up-alone": 2,
    }
    assert len(experts) == 4 * parts.get(name, 0)  # every expert, no matter how many a token meets
    assert ("mlp.gate.weight" in changed) == (name == "router")


def test_an_adapter_of_single_experts_is_merged_too(base: Path, tmp_path: Path) -> None:
    """As PEFT saved it with transformers 4, whose experts are modules of their own."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    random = np.random.default_rng(0)
    a, b = random.standard_normal((4, 256)), random.standard_normal((256, 4))
    module = "model.layers.1.mlp.experts.2.up_proj"
    factors = {f"base_model.model.{module}.lora_{n}.weight": v.astype(np.float32) for n, v in (("A", a), ("B", b))}
    save_file(factors, folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["up_proj"], "init_lora_weights": True}
    (folder / "adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")
    merged = Checkpoint.open(merge_to_safetensors(base, folder, tmp_path / "m", "f32"))
    before = Checkpoint.open(base)
    expected = before.read(f"{module}.weight") + 2 * (b @ a)
    np.testing.assert_allclose(merged.read(f"{module}.weight"), expected, rtol=1e-5, atol=1e-5)
    other = module.replace("experts.2", "experts.3")
    np.testing.assert_array_equal(merged.read(f"{other}.weight"), before.read(f"{other}.weight"))


def _fused(base: Path, out: Path) -> Path:
    """The same model with the experts of a layer in two tensors, as transformers 5 keeps them in memory."""
    shutil.copytree(base, out)
    from safetensors.torch import load_file as load
    from safetensors.torch import save_file as save
    from torch import cat, stack

    path = out / "model.safetensors"
    weights = load(path)
    for layer in range(2):
        prefix = f"model.layers.{layer}.mlp.experts"
        gate, up, down = (
            stack([weights.pop(f"{prefix}.{expert}.{part}_proj.weight") for expert in range(4)])
            for part in ("gate", "up", "down")
        )
        weights |= {f"{prefix}.gate_up_proj": cat([gate, up], dim=1), f"{prefix}.down_proj": down}
    save(weights, path, {"format": "pt"})
    return out


def test_both_layouts_of_experts_are_the_same_model(base: Path, adapters: dict[str, Path], tmp_path: Path) -> None:
    fused = _fused(base, tmp_path / "fused")
    mine, theirs = Checkpoint.open(fused), Checkpoint.open(base)
    assert set(mine.tensors) == set(theirs.tensors)
    for name in theirs.tensors:
        np.testing.assert_array_equal(mine.read(name), theirs.read(name))
    for quant in ("Q4_K_M", "F16"):
        files = [
            export(folder, adapters["experts-by-module"], tmp_path / "m.gguf", quant=quant, metadata={"name": "m"})
            for folder in (fused, base)
        ]
        assert files[0].sha256 == files[1].sha256


@pytest.mark.parametrize(("name", "n_experts"), [("attention", 4), ("experts-by-module", 4), ("attention", 8)])
def test_the_same_bytes_as_the_official_route(
    base: Path, adapters: dict[str, Path], name: str, n_experts: int, tmp_path: Path
) -> None:
    try:
        llama_cpp_source()
    except OracleUnavailable as error:
        pytest.skip(str(error))
    adapter = adapters[name]
    if n_experts == 8:  # llama.cpp's mixture has a rule for exactly eight
        base = make_tiny_model(tmp_path / "base", "qwen3_moe", tie=False, dtype="bfloat16", num_experts=8)
        adapter = make_adapter(base, tmp_path / "adapter", **ADAPTERS[name])
    merged = peft_merge(base, [adapter], tmp_path / "merged")
    convert([Conversion(str(merged), str(tmp_path / f"official.{kind}.gguf"), kind) for kind in ("bf16", "f16")])
    for quant, kind in (("Q4_K_M", "bf16"), ("Q8_0", "bf16"), ("F16", "f16")):
        official = tmp_path / f"official.{kind}.gguf"
        if QUANT_TYPES[quant].rounding is None:
            official = quantize(official, tmp_path / f"official.{quant}.gguf", QUANT_TYPES[quant].ftype)
        mine = export(base, adapter, tmp_path / "mine.gguf", quant=quant, metadata={"name": "Merged"})
        assert mine.sha256 == hashlib.sha256(official.read_bytes()).hexdigest()


def test_the_file_passes_its_verification(base: Path, adapters: dict[str, Path], tmp_path: Path) -> None:
    result = export(base, adapters["experts-by-parameter"], tmp_path / "m.gguf", quant="Q8_0")
    verification = verify(result.path, tokenizer_folder=base)
    assert verification.ok, [check for check in verification.checks if not check.ok]
    file = GgufFile(result.path)
    assert file.get("qwen3moe.expert_count") == 4 and file.get("qwen3moe.expert_feed_forward_length") == 256


def test_llama_cpp_gives_the_logits_of_base_and_adapter(base: Path, adapters: dict[str, Path], tmp_path: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from tests.integration.test_gguf_lora import IDS, _logits

    name = "experts-by-parameter"
    result = export(base, adapters[name], tmp_path / "m.gguf", quant="F32")
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with torch.no_grad():
        unadapted = model(torch.tensor([IDS])).logits[0].numpy().copy()
        expected = PeftModel.from_pretrained(model, adapters[name]).eval()(torch.tensor([IDS])).logits[0].numpy()
    found = _logits(result.path, None)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)
    assert np.abs(found - unadapted).max() > 0.1


def test_experts_that_are_missing_are_named(base: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(base, tmp_path / "broken")
    from safetensors.torch import load_file as load
    from safetensors.torch import save_file as save

    weights = load(broken / "model.safetensors")
    del weights["model.layers.1.mlp.experts.3.up_proj.weight"]
    save(weights, broken / "model.safetensors")
    checkpoint = Checkpoint.open(broken)
    with pytest.raises(BrokenFileError, match=r"layers\.1\.mlp\.experts: not all of its 4 experts .*3 up"):
        plan_tensors(checkpoint, family_of(checkpoint))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"norm_topk_prob": False}, "norm_topk_prob false"),
        ({"mlp_only_layers": [0]}, "mlp_only_layers"),
        ({"decoder_sparse_step": 2}, "decoder_sparse_step 2"),
        ({"num_local_experts": None}, "num_experts is missing"),
    ],
)
def test_other_mixtures_are_refused_by_name(base: Path, settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = shutil.copytree(base, tmp_path / "m")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8")) | settings
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(UnsupportedError, match=message):
        export(folder, None, tmp_path / "m.gguf")


def test_lora_on_experts_has_to_be_merged(base: Path, adapters: dict[str, Path], tmp_path: Path) -> None:
    assert export_lora(adapters["attention"], base, tmp_path / "a.gguf").n_pairs == 8
    with pytest.raises(UnsupportedError, match="LoRA on experts is not covered in a LoRA GGUF; merge"):
        export_lora(adapters["experts-by-module"], base, tmp_path / "b.gguf")


def test_other_parameters_are_refused_by_name(adapters: dict[str, Path], base: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(adapters["attention"], tmp_path / "adapter")
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | {"target_parameters": ["mlp.shared.weight"]}
    path.write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(UnsupportedError, match=r"target_parameters 'mlp\.shared\.weight' is not covered"):
        export(base, folder, tmp_path / "m.gguf")
