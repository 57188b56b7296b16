"""LoRA-only GGUFs, held against llama.cpp with the adapter loaded beside its base, and against its own converter."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader

from gguf_export import ExportError, UnsupportedError, export, export_lora
from tests.gguf_models import make_adapter, make_tiny_model
from tests.official_route import OracleUnavailable, llama_cpp_source

IDS = list(range(5, 45))
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CASES: dict[str, tuple[str, bool, list[dict[str, Any]]]] = {
    "llama-plain": ("llama", True, [{}]),
    "llama-rslora": ("llama", False, [{"use_rslora": True, "r": 6}]),
    "llama-embeddings": ("llama", False, [{"target_modules": [*ALL, "embed_tokens", "lm_head"], "lora_alpha": 12}]),
    "qwen2-patterns": (
        "qwen2",
        True,
        [{"rank_pattern": {"q_proj": 4, "k_proj": 3}, "alpha_pattern": {"down_proj": 5, r".*\.0\.mlp\.up_proj": 40}}],
    ),
    "qwen3-chain": ("qwen3", False, [{}, {"r": 3, "lora_alpha": 9, "target_modules": ["q_proj", "embed_tokens"]}]),
}
PROGRAM = """
import ctypes, json, sys
import numpy as np
from gguf_export._child import silence_llama
from gguf_export.proof._child_checks import Model
base, adapter, out, ids = json.load(sys.stdin)
lib = silence_llama()
model = Model(lib, base, len(ids) + 8)
if adapter:
    loaded = lib.llama_adapter_lora_init(model._model, adapter.encode())
    if not loaded:
        sys.exit("llama.cpp refuses the adapter")
    both = (type(loaded) * 1)(loaded), (ctypes.c_float * 1)(1.0)
    if lib.llama_set_adapters_lora(model._context, both[0], 1, both[1]) != 0:
        sys.exit("llama.cpp does not take the adapter")
np.save(out, model.logits(ids, 0, 0))
"""


class Case:
    """A base, a chain of adapters, and the base as a GGUF in float32."""

    def __init__(self, root: Path, name: str) -> None:
        family, tie, adapters = CASES[name]
        self.root = root
        self.base = make_tiny_model(root / "base", family, tie)
        self.adapters = [
            make_adapter(self.base, root / f"adapter{index}", seed=index, **lora) for index, lora in enumerate(adapters)
        ]
        self.gguf = export(self.base, None, root / "base.gguf", quant="F32").path

    def merged_logits(self) -> np.ndarray:
        return _logits(export(self.base, self.adapters, self.root / "merged.gguf", quant="F32").path, None)


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    return {name: Case(tmp_path_factory.mktemp(name), name) for name in CASES}


def _logits(base: Path, adapter: Path | None) -> np.ndarray:
    """From llama.cpp in a process of its own."""
    out = base.with_suffix(".npy")
    request = json.dumps([str(base), str(adapter) if adapter else None, str(out), IDS])
    subprocess.run([sys.executable, "-c", PROGRAM], input=request, text=True, check=True, cwd=Path(__file__).parents[2])
    return np.asarray(np.load(out))


@pytest.mark.parametrize("name", CASES)
def test_base_and_adapter_in_llama_cpp_give_the_merged_models_logits(
    cases: dict[str, Case], name: str, tmp_path: Path
) -> None:
    case = cases[name]
    result = export_lora(case.adapters, case.base, tmp_path / "adapter.gguf", dtype="f32")
    merged = case.merged_logits()
    np.testing.assert_allclose(_logits(case.gguf, result.path), merged, rtol=0, atol=1e-4)
    # 16 bits are close, no adapter is not
    small = export_lora(case.adapters, case.base, tmp_path / "adapter16.gguf")
    assert small.size_bytes < 0.6 * result.size_bytes and small.n_pairs == result.n_pairs
    assert 0 < np.abs(_logits(case.gguf, small.path) - merged).max() < 0.05
    assert np.abs(_logits(case.gguf, None) - merged).max() > 0.1


def test_the_first_of_a_chain_alone_is_another_model(cases: dict[str, Case], tmp_path: Path) -> None:
    case = cases["qwen3-chain"]
    first = export_lora(case.adapters[0], case.base, tmp_path / "first.gguf", dtype="f32")
    assert np.abs(_logits(case.gguf, first.path) - case.merged_logits()).max() > 0.1


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("llama-embeddings", "f16"),
        pytest.param("llama-embeddings", "f32", marks=pytest.mark.slow),
        pytest.param("llama-plain", "bf16", marks=pytest.mark.slow),
    ],
)
def test_the_same_tensors_as_llama_cpps_converter(
    cases: dict[str, Case], name: str, dtype: Any, tmp_path: Path
) -> None:
    try:
        source = llama_cpp_source()
    except OracleUnavailable as error:
        pytest.skip(str(error))
    case = cases[name]
    environment = os.environ | {"TOKENIZERS_PARALLELISM": "false"}
    environment.pop("NO_LOCAL_GGUF", None)
    command = [sys.executable, str(source / "convert_lora_to_gguf.py"), "--base", str(case.base), "--outtype", dtype]
    command += ["--outfile", str(tmp_path / "official.gguf"), str(case.adapters[0])]
    subprocess.run(command, env=environment, capture_output=True, check=True)
    export_lora(case.adapters[0], case.base, tmp_path / "mine.gguf", dtype=dtype)
    mine, official = GGUFReader(tmp_path / "mine.gguf"), GGUFReader(tmp_path / "official.gguf")
    assert [tensor.name for tensor in mine.tensors] == [tensor.name for tensor in official.tensors]
    for tensor, other in zip(mine.tensors, official.tensors, strict=True):
        assert tensor.tensor_type == other.tensor_type and tensor.shape.tolist() == other.shape.tolist()
        np.testing.assert_array_equal(tensor.data, other.data)
    for key in ("general.architecture", "general.type", "adapter.type", "adapter.lora.alpha"):
        assert mine.fields[key].contents() == official.fields[key].contents()


def test_settings_alone_are_enough(cases: dict[str, Case], tmp_path: Path) -> None:
    case = cases["llama-plain"]
    (tmp_path / "settings").mkdir()
    config = shutil.copy(case.base / "config.json", tmp_path / "settings")
    whole = export_lora(case.adapters, case.base, tmp_path / "a.gguf").path.read_bytes()
    for base in (Path(config), tmp_path / "settings"):
        export_lora(case.adapters, base, tmp_path / "b.gguf", metadata={"name": "a"})
        assert (tmp_path / "b.gguf").read_bytes() == whole


def test_the_file_names_its_base(cases: dict[str, Case], tmp_path: Path) -> None:
    case = cases["llama-plain"]
    adapter = tmp_path / "adapter"
    shutil.copytree(case.adapters[0], adapter)
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = "owner/model"
    (adapter / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    fields = GGUFReader(export_lora(adapter, case.base, tmp_path / "a.gguf").path).fields
    assert fields["general.base_model.0.name"].contents() == "model"
    assert fields["general.base_model.0.organization"].contents() == "owner"


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ({"use_dora": True}, "DoRA has no place in a LoRA GGUF"),
        ({"modules_to_save": ["lm_head"]}, r"a change that is not low-rank \(Replaced\)"),
        ({"target_modules": ["embed_tokens"]}, "ties its embedding to its head"),
    ],
)
def test_what_such_a_file_cannot_say_is_refused(
    cases: dict[str, Case], lora: dict[str, Any], message: str, tmp_path: Path
) -> None:
    base = cases["llama-plain"].base
    adapter = make_adapter(base, tmp_path / "adapter", **lora)
    with pytest.raises(UnsupportedError, match=message) as caught:
        export_lora(adapter, base, tmp_path / "a.gguf")
    assert "merge the adapter into its base instead" in str(caught.value)
    assert not (tmp_path / "a.gguf").exists()


def test_an_adapter_of_another_base_is_refused_by_its_settings_alone(cases: dict[str, Case], tmp_path: Path) -> None:
    other = json.loads((cases["llama-plain"].base / "config.json").read_text(encoding="utf-8"))
    other["intermediate_size"] = 1024
    (tmp_path / "config.json").write_text(json.dumps(other), encoding="utf-8")
    with pytest.raises(UnsupportedError, match=r"adapter of another base model: model\.layers\.0\.mlp"):
        export_lora(cases["llama-plain"].adapters, tmp_path, tmp_path / "a.gguf")
    other["num_hidden_layers"] = 1
    other["intermediate_size"] = 512
    (tmp_path / "config.json").write_text(json.dumps(other), encoding="utf-8")
    with pytest.raises(UnsupportedError, match=r"model\.layers\.1\..*there is none"):
        export_lora(cases["llama-plain"].adapters, tmp_path, tmp_path / "a.gguf")


def test_values_too_large_for_the_type_are_named_and_nothing_is_left(cases: dict[str, Case], tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    case = cases["llama-plain"]
    shutil.copytree(case.adapters[0], tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    weights = {name: np.array(values) for name, values in load_file(path).items()}
    next(values for name, values in weights.items() if "q_proj.lora_B" in name)[0, 0] = 1e6
    save_file(weights, path)
    with pytest.raises(ExportError, match=r"q_proj\.weight: .* not finite in f16"):
        export_lora(tmp_path / "adapter", case.base, tmp_path / "out" / "a.gguf")
    assert list((tmp_path / "out").iterdir()) == []
    export_lora(tmp_path / "adapter", case.base, tmp_path / "out" / "a.gguf", dtype="bf16")
