"""Reading PEFT adapters: scale, patterns, chains, and everything that is refused. PEFT itself is the oracle in
tests/integration/test_adapters.py.
"""

from __future__ import annotations

import json
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from gguf_export.adapters.adapter import Adapter
from gguf_export.adapters.files import EMBEDDING
from gguf_export.checkpoints.weights import Checkpoint, TensorInfo
from gguf_export.errors import BrokenFileError, ExportError, UnsupportedError

MODULE = "model.layers.0.self_attn.q_proj"
KEY = f"base_model.model.{MODULE}"
NAME = f"{MODULE}.weight"


def _adapter(path: Path, tensors: dict[str, np.ndarray] | None = None, rank: int = 4, **settings: Any) -> Path:
    path.mkdir(exist_ok=True, parents=True)
    config = {
        "peft_type": "LORA",
        "r": 4,
        "lora_alpha": 8,
        "bias": "none",
        "base_model_name_or_path": "acme/m",
    }
    (path / "adapter_config.json").write_text(json.dumps(config | settings), encoding="utf-8")
    save_file(_factors(rank) if tensors is None else tensors, path / "adapter_model.safetensors")
    return path


def _factors(rank: int = 4) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {
        f"{KEY}.lora_A.weight": random.normal(size=(rank, 6)).astype(np.float32),
        f"{KEY}.lora_B.weight": random.normal(size=(10, rank)).astype(np.float32),
    }


def _tensors(folder: Path) -> dict[str, np.ndarray]:
    return dict(load_file(folder / "adapter_model.safetensors"))


def _ones(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


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
def test_lora_adds_scale_times_b_times_a(tmp_path: Path, settings: dict[str, Any], rank: int, scale: float) -> None:
    folder = _adapter(tmp_path, rank=rank, **settings)
    adapter = Adapter.load(folder)
    a, b = (_tensors(folder)[f"{KEY}.lora_{x}.weight"].astype(np.float64) for x in "AB")
    expected = 1 + scale * b @ a
    np.testing.assert_allclose(adapter.apply(NAME, _ones(10, 6)), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(adapter.apply(NAME, _ones(4, 6), slice(3, 7)), expected[3:7], rtol=1e-5, atol=1e-6)
    assert adapter.changes(NAME) and not adapter.changes("model.norm.weight")


def test_embedding_factors_are_stored_transposed(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    a, b = random.normal(size=(4, 50)).astype(np.float32), random.normal(size=(6, 4)).astype(np.float32)
    key = "base_model.model.model.embed_tokens"
    folder = _adapter(tmp_path, {f"{key}.lora_embedding_A": a, f"{key}.lora_embedding_B": b})
    adapter = Adapter.load(folder)
    expected = 1 + 2.0 * (b.astype(np.float64) @ a).T
    np.testing.assert_allclose(adapter.apply(EMBEDDING, _ones(50, 6)), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(adapter.apply(EMBEDDING, _ones(5, 6), slice(40, 45)), expected[40:45], rtol=1e-5)


def test_dora_gives_each_row_the_length_that_was_trained(tmp_path: Path) -> None:
    tensors = _factors() | {f"{KEY}.lora_magnitude_vector": np.arange(1, 11, dtype=np.float32)}
    adapter = Adapter.load(_adapter(tmp_path, tensors, use_dora=True))
    plain = Adapter.load(_adapter(tmp_path / "plain"))
    merged = adapter.apply(NAME, _ones(10, 6))
    np.testing.assert_allclose(np.linalg.norm(merged, axis=1), np.arange(1, 11), rtol=1e-6)
    direction = plain.apply(NAME, _ones(10, 6))
    np.testing.assert_allclose(merged / direction, (merged / direction)[:, :1] * np.ones(6), rtol=1e-5)
    assert np.array_equal(adapter.apply(NAME, _ones(3, 6), slice(2, 5)), merged[2:5])
    with pytest.raises(BrokenFileError, match="DoRA without its magnitude vector"):
        Adapter.load(_adapter(tmp_path / "lost", use_dora=True))
    tensors[f"{KEY}.lora_magnitude_vector"] = np.ones(9, np.float32)
    with pytest.raises(BrokenFileError, match=r"a vector of shape \[9\] beside 10 rows"):
        Adapter.load(_adapter(tmp_path / "short", tensors, use_dora=True))


def test_modules_to_save_replace_and_biases_move(tmp_path: Path) -> None:
    tensors = _factors() | {
        f"{KEY}.lora_B.bias": np.arange(10, dtype=np.float32),
        "base_model.model.model.norm.weight": np.full(6, 7, np.float32),
        "base_model.model.model.layers.0.self_attn.k_proj.bias": np.full(2, 5, np.float32),
    }
    folder = _adapter(tmp_path, tensors, lora_bias=True, bias="all", modules_to_save=["norm"])
    adapter = Adapter.load(folder)
    assert adapter.apply("model.norm.weight", _ones(6)).tolist() == [7] * 6
    assert adapter.apply("model.layers.0.self_attn.k_proj.bias", _ones(2)).tolist() == [5, 5]
    assert adapter.apply(f"{MODULE}.bias", _ones(10)).tolist() == [1 + 2 * i for i in range(10)]
    (folder / "adapter_config.json").write_text((folder / "adapter_config.json").read_text().replace("norm", "nothing"))
    with pytest.raises(UnsupportedError, match=r"model\.norm\.weight: not a tensor of a LoRA adapter"):
        Adapter.load(folder)


def test_trained_token_rows_replace_rows(tmp_path: Path) -> None:
    rows = np.arange(12, dtype=np.float32).reshape(2, 6)
    tensors = {"base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta": rows}
    adapter = Adapter.load(_adapter(tmp_path, tensors, trainable_token_indices=[7, 3]))
    merged = adapter.apply(EMBEDDING, _ones(9, 6))
    assert np.array_equal(merged[[7, 3]], rows) and merged[[0, 1, 2, 4, 5, 6, 8]].min() == merged[8].max() == 1
    assert np.array_equal(adapter.apply(EMBEDDING, _ones(3, 6), slice(2, 5)), merged[2:5])
    adapter.check_fits(_checkpoint(model__embed_tokens__weight=(8, 6)))
    with pytest.raises(UnsupportedError, match="has 8 rows there, 7 in base"):
        adapter.check_fits(_checkpoint(model__embed_tokens__weight=(7, 6)))
    with pytest.raises(BrokenFileError, match="2 trained rows, but trainable_token_indices names none"):
        Adapter.load(_adapter(tmp_path, tensors, trainable_token_indices={"lm_head": [7, 3]}))


def test_a_chain_is_applied_in_order(tmp_path: Path) -> None:
    first, second = _adapter(tmp_path / "a"), _adapter(tmp_path / "b", lora_alpha=1)
    a, b = (_tensors(first)[f"{KEY}.lora_{x}.weight"].astype(np.float64) for x in "AB")
    chain = Adapter.load([first, second])
    np.testing.assert_allclose(chain.apply(NAME, _ones(10, 6)), 1 + (8 / 4 + 1 / 4) * b @ a, rtol=1e-5, atol=1e-6)
    whole = _adapter(tmp_path / "c", {f"{KEY}.weight": np.full((10, 6), 3, np.float32)}, modules_to_save=["q_proj"])
    assert np.array_equal(Adapter.load([first, whole]).apply(NAME, _ones(10, 6)), _ones(10, 6) * 3)
    np.testing.assert_allclose(
        Adapter.load([whole, first]).apply(NAME, _ones(10, 6)), 3 + 2 * b @ a, rtol=1e-5, atol=1e-6
    )
    with pytest.raises(UnsupportedError, match="an empty list"):
        Adapter.load([])


@pytest.mark.parametrize("kind", ["lora", "dora", "embedding"])
def test_threads_and_slabs_give_the_bits_of_the_whole(tmp_path: Path, kind: str) -> None:
    random = np.random.default_rng(1)
    shape, r = (1000, 96), 16
    if kind == "embedding":
        names, name = (".lora_embedding_A", ".lora_embedding_B"), EMBEDDING
        sizes, module = ((r, shape[0]), (shape[1], r)), "model.embed_tokens"
    else:
        names, name, module = (".lora_A.weight", ".lora_B.weight"), NAME, MODULE
        sizes = ((r, shape[1]), (shape[0], r))
    tensors = {
        f"base_model.model.{module}{n}": random.normal(size=s).astype(np.float32)
        for n, s in zip(names, sizes, strict=True)
    }
    if kind == "dora":
        tensors[f"{KEY}.lora_magnitude_vector"] = random.uniform(1, 2, shape[0]).astype(np.float32)
    adapter = Adapter.load(_adapter(tmp_path, tensors, r=r, use_dora=kind == "dora"))
    base = random.normal(size=shape).astype(np.float32)
    whole = adapter.apply(name, base.copy())
    cuts = [slice(start, start + 40) for start in range(0, shape[0], 40)] * 3
    with ThreadPoolExecutor(4) as pool:
        for rows, part in zip(
            cuts, pool.map(lambda rows: adapter.apply(name, base[rows].copy(), rows), cuts), strict=True
        ):
            assert np.array_equal(part, whole[rows])
    frozen = base.copy()
    frozen.setflags(write=False)
    assert np.array_equal(adapter.apply(name, frozen), whole) and np.array_equal(frozen, base)


def test_a_rank_that_the_config_does_not_name_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BrokenFileError, match=r"factors of shape \[3, 6\] and \[10, 3\], its config says rank 4"):
        Adapter.load(_adapter(tmp_path, rank=3))


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"peft_type": "IA3"}, "peft_type IA3"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"alora_invocation_tokens": [1]}, "activated LoRA"),
        ({"use_qalora": True}, "QALoRA"),
        ({"kasa_config": {"beta": 1}}, "KaSA"),
        ({"init_lora_weights": "pissa"}, "pissa"),
    ],
)
def test_other_kinds_are_refused_by_name(tmp_path: Path, settings: dict[str, Any], name: str) -> None:
    with pytest.raises(UnsupportedError, match=name) as caught:
        Adapter.load(_adapter(tmp_path, **settings))
    assert caught.value.exit_code == 2


def test_no_tensor_is_dropped_silently(tmp_path: Path) -> None:
    extra = _factors() | {f"{KEY}.lora_something": np.ones(10, np.float32)}
    with pytest.raises(UnsupportedError, match="lora_something: not a tensor of a LoRA"):
        Adapter.load(_adapter(tmp_path, extra))
    lonely = {f"{KEY}.lora_A.weight": np.ones((4, 6), np.float32)}
    with pytest.raises(BrokenFileError, match=r"only \.lora_A\.weight is there"):
        Adapter.load(_adapter(tmp_path, lonely))


def test_dora_on_an_embedding_is_refused(tmp_path: Path) -> None:
    key = "base_model.model.model.embed_tokens"
    tensors = {
        f"{key}.lora_embedding_A": np.ones((4, 50), np.float32),
        f"{key}.lora_embedding_B": np.ones((6, 4), np.float32),
        f"{key}.lora_magnitude_vector": np.ones(6, np.float32),
    }
    with pytest.raises(UnsupportedError, match="DoRA on an embedding is not covered"):
        Adapter.load(_adapter(tmp_path, tensors, use_dora=True))


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
