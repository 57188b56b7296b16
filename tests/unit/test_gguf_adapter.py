"""Reading PEFT adapters: scale, patterns, and everything that is refused. PEFT itself is the oracle in
tests/integration/test_gguf_export.py.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from gguf_export.adapter import Adapter
from gguf_export.errors import BrokenFileError, ExportError, UnsupportedError
from gguf_export.weights import Checkpoint, TensorInfo

MODULE = "model.layers.0.self_attn.q_proj"
KEY = f"base_model.model.{MODULE}"


def _adapter(path: Path, tensors: dict[str, np.ndarray] | None = None, rank: int = 4, **settings: Any) -> Path:
    path.mkdir(exist_ok=True)
    config = {
        "peft_type": "LORA",
        "r": 4,
        "lora_alpha": 8,
        "bias": "none",
        "base_model_name_or_path": "acme/m",
    }
    (path / "adapter_config.json").write_text(json.dumps(config | settings), encoding="utf-8")
    random = np.random.default_rng(0)
    if tensors is None:
        tensors = {
            f"{KEY}.lora_A.weight": random.normal(size=(rank, 6)).astype(np.float32),
            f"{KEY}.lora_B.weight": random.normal(size=(10, rank)).astype(np.float32),
        }
    save_file(tensors, path / "adapter_model.safetensors")
    return path


def _checkpoint(**shapes: tuple[int, ...]) -> Checkpoint:
    tensors = {name.replace("__", "."): TensorInfo(Path("m"), "F32", s, 0) for name, s in shapes.items()}
    return Checkpoint(Path("base"), MappingProxyType({}), MappingProxyType(tensors))


@pytest.mark.parametrize(
    ("settings", "rank", "scale"),
    [
        ({}, 4, 2.0),
        ({"use_rslora": True}, 4, 8 / math.sqrt(4)),
        ({"alpha_pattern": {"q_proj": 3}}, 4, 3 / 4),
        ({"rank_pattern": {"layers.0.self_attn.q_proj": 2}}, 2, 8 / 2),
        ({"rank_pattern": {"k_proj": 2}}, 4, 2.0),
        ({"rank_pattern": {r".*layers\.[0-3]\..*_proj": 2}, "use_rslora": True}, 2, 8 / math.sqrt(2)),
    ],
)
def test_delta_is_scale_times_b_times_a(tmp_path: Path, settings: dict[str, Any], rank: int, scale: float) -> None:
    folder = _adapter(tmp_path, rank=rank, **settings)
    adapter = Adapter.load(folder)
    pair = adapter.pairs[f"{MODULE}.weight"]
    expected = scale * pair.b.astype(np.float64) @ pair.a.astype(np.float64)
    np.testing.assert_allclose(adapter.delta(f"{MODULE}.weight"), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(adapter.delta(f"{MODULE}.weight", slice(3, 7)), expected[3:7], rtol=1e-5, atol=1e-6)
    assert adapter.delta("model.norm.weight") is None


def test_a_rank_that_the_config_does_not_name_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BrokenFileError, match="factors of rank 3 and 3, its config says 4"):
        Adapter.load(_adapter(tmp_path, rank=3))


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"peft_type": "IA3"}, "peft_type IA3"),
        ({"bias": "all"}, "bias 'all'"),
        ({"lora_bias": True}, "lora_bias"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"init_lora_weights": "pissa"}, "pissa"),
    ],
)
def test_other_kinds_are_refused_by_name(tmp_path: Path, settings: dict[str, Any], name: str) -> None:
    with pytest.raises(UnsupportedError, match=name) as caught:
        Adapter.load(_adapter(tmp_path, **settings))
    assert caught.value.exit_code == 2


def test_no_tensor_is_dropped_silently(tmp_path: Path) -> None:
    extra = {f"{KEY}.lora_magnitude_vector": np.ones(10, np.float32)}
    with pytest.raises(UnsupportedError, match="lora_magnitude_vector: not a tensor of a plain LoRA"):
        Adapter.load(_adapter(tmp_path, extra))
    lonely = {f"{KEY}.lora_A.weight": np.ones((4, 6), np.float32)}
    with pytest.raises(BrokenFileError, match=r"only \.lora_A\.weight is there"):
        Adapter.load(_adapter(tmp_path, lonely))


def test_adapter_of_another_base_names_tensor_and_shapes(tmp_path: Path) -> None:
    adapter = Adapter.load(_adapter(tmp_path))
    name = MODULE.replace(".", "__") + "__weight"
    adapter.check_fits(_checkpoint(**{name: (10, 6)}))
    with pytest.raises(UnsupportedError, match=r"q_proj\.weight: shape \[12, 6\] in base.*\[10, 6\].*acme/m"):
        adapter.check_fits(_checkpoint(**{name: (12, 6)}))
    with pytest.raises(UnsupportedError, match=r"adapter of another base model: .* no such tensor"):
        adapter.check_fits(_checkpoint(model__norm__weight=(6,)))


def test_truncated_adapter_is_broken(tmp_path: Path) -> None:
    path = _adapter(tmp_path) / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(BrokenFileError, match="truncated"):
        Adapter.load(tmp_path)


def test_missing_files_and_pickles(tmp_path: Path) -> None:
    with pytest.raises(BrokenFileError, match="no such folder"):
        Adapter.load(tmp_path / "nowhere")
    with pytest.raises(BrokenFileError, match=r"adapter_config\.json: no such file"):
        Adapter.load(tmp_path)
    (_adapter(tmp_path) / "adapter_model.safetensors").rename(tmp_path / "adapter_model.bin")
    with pytest.raises(ExportError, match="save the adapter again as safetensors"):
        Adapter.load(tmp_path)
