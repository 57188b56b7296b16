"""The same bytes as PEFT's merge, llama.cpp's converter and llama.cpp's quantizer make one after the other.

The oracle is fetched once (see tests/official_route.py); where it cannot be, these tests are skipped with the reason.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader
from gguf.quants import dequantize

from gguf_export import QUANT_TYPES, GgufFile, export, verify
from lowvram_ft.embedded_model import dequantized
from tests.gguf_models import make_adapter, make_tiny_model
from tests.official_route import Conversion, OracleUnavailable, convert, llama_cpp_source, peft_merge, quantize

PROJECTIONS = ["q_proj", "v_proj", "up_proj", "down_proj"]
ADAPTERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora": {"use_rslora": True, "target_modules": PROJECTIONS},
    "patterns": {
        "rank_pattern": {"q_proj": 4, r".*\.1\.mlp\.up_proj": 2},
        "alpha_pattern": {"down_proj": 5, "layers.0.self_attn.v_proj": 64},
    },
    "embedding": {"target_modules": [*PROJECTIONS, "embed_tokens"]},
    "modules-to-save": {"target_modules": PROJECTIONS, "modules_to_save": ["embed_tokens", "norm", "o_proj"]},
}
FAMILIES = ("llama", "qwen2", "qwen3")
QUANTS = ("Q4_K_M", "Q8_0", "F16")
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 512,
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "columns-by-32": ("llama", {"hidden_size": 96, "intermediate_size": 160}),
    "columns-by-16": ("qwen2", {"hidden_size": 112, "intermediate_size": 200, "num_attention_heads": 2}),
    "14-layers": ("qwen3", {"num_hidden_layers": 14, "intermediate_size": 256}),
    "rope-linear": ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e5, "factor": 4.0}}),
    "rope-llama3": ("llama", {"rope_parameters": LLAMA3_ROPE}),
    "rope-yarn": ("qwen2", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0}}),
    "experts": ("qwen3_moe", {}),
}
"""Shapes that need other block types than the mixture says, depth that the mixture depends on, and rope scalings."""
MORE_QUANTS = ("Q4_K_M", "Q4_K_S", "Q5_K_M", "Q6_K", "Q8_0", "BF16")


@dataclass(frozen=True)
class Case:
    """A base, its adapters, and the model that PEFT merged from them."""

    folder: Path
    base: Path
    adapters: tuple[Path, ...]
    merged: Path

    @classmethod
    def make(
        cls, folder: Path, base: Path, adapters: Sequence[Path], dtype: str = "float64", *, separate_head: bool = False
    ) -> Case:
        # The converter makes general.name of the folder's name.
        merged = peft_merge(base, adapters, folder / "merged", dtype, separate_head=separate_head)
        return cls(folder, base, tuple(adapters), merged)

    def conversion(self, outtype: str) -> Conversion:
        return Conversion(str(self.merged), str(self.folder / f"official.{outtype}.gguf"), outtype)

    def official(self, quant: str, outtype: str) -> str:
        """SHA-256 of the file that the official route makes, converted to ``outtype`` before it is quantized."""
        path = Path(self.conversion(outtype).out)
        if QUANT_TYPES[quant].rounding is None:
            path = quantize(path, self.folder / f"official.{quant}.gguf", QUANT_TYPES[quant].ftype)
        return hashlib.sha256(path.read_bytes()).hexdigest()

    def ours(self, quant: str, rounding: Any = "bf16") -> str:
        out = self.folder / f"ours.{quant}.gguf"
        return export(self.base, self.adapters, out, quant=quant, rounding=rounding, metadata={"name": "Merged"}).sha256


@pytest.fixture(scope="module", autouse=True)
def _oracle() -> None:
    try:
        llama_cpp_source()
    except OracleUnavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    """Every family, tied and untied, with every kind of adapter; all of them converted in one go."""
    root, cases = tmp_path_factory.mktemp("official"), {}
    for family in FAMILIES:
        for tied in (True, False):
            base = make_tiny_model(root / f"{family}-{tied}", family, tied, dtype="bfloat16")
            for name, settings in ADAPTERS.items():
                folder = root / f"{family}-{tied}-{name}"
                adapter = make_adapter(base, folder / "adapter", seed=len(cases), **settings)
                separate = tied and name == "embedding"
                cases[f"{family}-{tied}-{name}"] = Case.make(folder, base, [adapter], separate_head=separate)
    for name, (family, settings) in MODELS.items():
        base = make_tiny_model(root / f"base-{name}", family, dtype="bfloat16", **settings)
        lora = {"target_modules": ["q_proj", "v_proj", "o_proj"]} if name == "experts" else {}
        cases[name] = Case.make(root / name, base, [make_adapter(base, root / name / "adapter", **lora)])
    plain = cases["llama-True-plain"]
    cases["merged-in-bf16"] = Case.make(root / "bf16", plain.base, plain.adapters, "bfloat16")
    cases["merged-in-f32"] = Case.make(root / "f32", plain.base, plain.adapters, "float32")
    embedding = cases["qwen2-True-embedding"]
    cases["still-tied"] = Case.make(root / "still-tied", embedding.base, embedding.adapters)
    cases["chain"] = _chain(root / "chain", cases["qwen3-False-plain"].base)
    cases["settings"] = _settings(root / "settings", plain)
    cases["bf16-factors"] = _bf16_factors(root / "bf16-factors", plain)
    cases["old-config"] = _old_config(root / "old-config", cases["rope-linear"])
    outtypes = {"llama-False-rslora": ("bf16", "f16", "f32"), "still-tied": ("f32",)}
    convert([case.conversion(t) for name, case in cases.items() for t in outtypes.get(name, ("bf16", "f16"))])
    return cases


def _chain(folder: Path, base: Path) -> Case:
    """Three adapters, each trained on the model that the ones before were merged into."""
    first = make_adapter(base, folder / "a", seed=1, r=16)
    second = make_adapter(base, folder / "b", seed=2, r=2, use_rslora=True, target_modules=PROJECTIONS)
    third = make_adapter(base, folder / "c", seed=3, target_modules=PROJECTIONS, modules_to_save=["lm_head"])
    return Case.make(folder, base, [first, second, third])


def _settings(folder: Path, plain: Case) -> Case:
    """A base whose files say more about sampling and special tokens."""
    base = shutil.copytree(plain.base, folder / "base")
    sampling = {"do_sample": True, "temperature": 0.7, "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.05}
    _change_json(base / "generation_config.json", **sampling)
    _change_json(base / "tokenizer_config.json", add_bos_token=False, add_prefix_space=False)
    _change_json(
        base / "tokenizer.json",
        post_processor={"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True},
    )
    case = Case.make(folder, base, plain.adapters)
    shutil.copyfile(base / "generation_config.json", case.merged / "generation_config.json")
    return case


def _bf16_factors(folder: Path, case: Case) -> Case:
    """An adapter that was saved in 16 bits."""
    import torch
    from safetensors.torch import load_file, save_file

    adapter = shutil.copytree(case.adapters[0], folder / "adapter")
    tensors = load_file(adapter / "adapter_model.safetensors")
    save_file({name: t.to(torch.bfloat16) for name, t in tensors.items()}, adapter / "adapter_model.safetensors")
    return Case.make(folder, case.base, [adapter])


def _old_config(folder: Path, case: Case) -> Case:
    """A base whose config.json is as transformers 4 wrote it."""
    base = shutil.copytree(case.base, folder / "base")
    config = json.loads((base / "config.json").read_text())
    rope = config.pop("rope_parameters")
    config |= {"rope_theta": rope["rope_theta"], "rope_scaling": {"type": "linear", "factor": rope["factor"]}}
    config |= {"torch_dtype": config.pop("dtype")}
    del config["head_dim"]
    (base / "config.json").write_text(json.dumps(config))
    return Case.make(folder, base, case.adapters)


def _change_json(path: Path, **settings: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | settings), encoding="utf-8")


@pytest.mark.parametrize("name", ADAPTERS)
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_file_is_the_official_one(cases: dict[str, Case], family: str, tied: bool, name: str) -> None:
    case = cases[f"{family}-{tied}-{name}"]
    different = [
        quant for quant in QUANTS if case.ours(quant) != case.official(quant, "f16" if quant == "F16" else "bf16")
    ]
    assert not different


@pytest.mark.parametrize("name", [*MODELS, "chain", "settings", "bf16-factors", "old-config"])
def test_other_models_and_settings_give_the_official_file(cases: dict[str, Case], name: str) -> None:
    case = cases[name]
    quants = ("Q4_K_M", "Q5_K_M") if name == "14-layers" else MORE_QUANTS
    different = [quant for quant in quants if case.ours(quant) != case.official(quant, "bf16")]
    assert not different


@pytest.mark.parametrize("name", ["merged-in-bf16", "merged-in-f32"])
def test_a_merge_that_sums_in_float32_is_a_step_away_in_few_weights(cases: dict[str, Case], name: str) -> None:
    """Which weights they are depends on the processor; on some, there are none."""
    case = cases[name]
    case.ours("BF16")
    mine, official = GGUFReader(case.folder / "ours.BF16.gguf"), GGUFReader(case.conversion("bf16").out)
    n_different = n_weights = 0
    for one, other in zip(mine.tensors, official.tensors, strict=True):
        assert (one.name, one.tensor_type) == (other.name, other.tensor_type)
        if one.tensor_type == GGMLQuantizationType.BF16:
            values, theirs = (dequantize(tensor.data, tensor.tensor_type) for tensor in (one, other))
            np.testing.assert_allclose(values, theirs, rtol=2**-7, atol=np.abs(theirs).max() * 1e-6)
            n_different, n_weights = n_different + int((values != theirs).sum()), n_weights + values.size
    assert n_weights > 1_000_000
    assert n_different < n_weights / 10_000


@pytest.mark.parametrize("name", ["merged-in-bf16", "merged-in-f32"])
@pytest.mark.parametrize("outtype", ["bf16", "f16"])
def test_a_file_of_the_official_route_is_accepted(cases: dict[str, Case], name: str, outtype: str) -> None:
    case = cases[name]
    report = verify(Path(case.conversion(outtype).out), base=case.base, adapter=case.adapters[0], n_predict=1)
    assert report.ok, report.summary()
    assert "weights" in {check.name for check in report.checks}


@pytest.mark.parametrize("rounding", ["bf16", "f16", "f32"])
def test_each_rounding_is_the_route_over_a_file_of_that_type(cases: dict[str, Case], rounding: str) -> None:
    case = cases["llama-False-rslora"]
    assert case.ours("Q4_K_M", rounding) == case.official("Q4_K_M", rounding)
    assert case.ours(rounding.upper()) == case.official(rounding.upper(), rounding)
    other = {"bf16": "f16", "f16": "f32", "f32": "bf16"}[rounding]
    assert case.ours("Q4_K_M", other) != case.official("Q4_K_M", rounding)


def test_the_official_file_of_a_tied_model_is_not_what_was_trained(cases: dict[str, Case], tmp_path: Path) -> None:
    """LoRA on a tied embedding: PEFT's merge changes the head with it; a head of its own keeps what was trained."""
    case = cases["qwen2-True-embedding"]
    ids = list(range(5, 60))
    trained = _live_logits(case, ids)
    official = Path(cases["still-tied"].conversion("f32").out)
    ours = export(case.base, case.adapters, tmp_path / "ours.gguf", quant="F32").path
    assert np.abs(_llama_logits(official, ids) - trained).max() > 1
    np.testing.assert_allclose(_llama_logits(ours, ids), trained, rtol=0, atol=1e-3)
    assert "output.weight" in {tensor.name for tensor in GgufFile(ours).tensors}


def test_byte_fallback_in_a_byte_level_tokenizer_changes_nothing(cases: dict[str, Case], tmp_path: Path) -> None:
    """As a tokenizer.json that was rebuilt from a GGUF may say; whoever believes it writes another vocabulary."""
    case = cases["llama-True-plain"]
    base = shutil.copytree(case.base, tmp_path / "base")
    model = json.loads((base / "tokenizer.json").read_text())["model"]
    _change_json(base / "tokenizer.json", model=model | {"byte_fallback": True})
    path = tmp_path / "ours.gguf"
    assert export(base, case.adapters, path, quant="BF16", metadata={"name": "Merged"}).sha256 == case.ours("BF16")


@pytest.mark.slow
def test_smollm2_is_the_official_file(tmp_path: Path) -> None:
    base = dequantized()
    case = Case.make(tmp_path, base, [make_adapter(base, tmp_path / "adapter")])
    convert([case.conversion("bf16")])
    different = [quant for quant in MORE_QUANTS if case.ours(quant) != case.official(quant, "bf16")]
    assert not different


def test_another_adapter_is_another_file(cases: dict[str, Case]) -> None:
    first, second = cases["llama-True-plain"], cases["llama-True-rslora"]
    assert first.ours("Q8_0") == first.official("Q8_0", "bf16") != second.ours("Q8_0")


def _live_logits(case: Case, ids: list[int]) -> np.ndarray:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(case.base, dtype=torch.float32)
    for adapter in case.adapters:
        model = PeftModel.from_pretrained(model, adapter)
    with torch.no_grad():
        return np.asarray(model.eval()(torch.tensor([ids])).logits[0].numpy())


def _llama_logits(path: Path, ids: list[int]) -> np.ndarray:
    from gguf_export._child import silence_llama
    from gguf_export.proof._child_checks import Model

    return Model(silence_llama(), str(path), len(ids) + 8).logits(ids, 0, 0)
