"""Weights that exist only in 4 bits, against bitsandbytes' own dequantization."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from gguf_export.checkpoints.nf4 import FourBitTensor
from gguf_export.checkpoints.weights import Checkpoint
from gguf_export.errors import BrokenFileError, UnsupportedError

torch = pytest.importorskip("torch")
functional = pytest.importorskip("bitsandbytes").functional


def _folder(path: Path, parts: dict[str, Any]) -> Path:
    from safetensors.torch import save_file as save_torch

    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(
        json.dumps({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}), encoding="utf-8"
    )
    save_torch(parts, path / "model.safetensors")
    return path


def _quantized(shape: tuple[int, ...], kind: str, dtype: Any, double: bool, blocksize: int = 64) -> tuple[Any, Any]:
    """The parts as a state dict has them, and what bitsandbytes makes of them."""
    torch.manual_seed(0)
    weight = (torch.randn(shape) * torch.rand(shape[0], 1)).to(dtype)
    weight[0] = 0
    packed, state = functional.quantize_4bit(weight, quant_type=kind, compress_statistics=double, blocksize=blocksize)
    parts = {"w": packed} | {f"w.{key}": value for key, value in state.as_dict(packed=True).items()}
    return parts, functional.dequantize_4bit(packed, state).float().numpy()


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
# blocks that end with rows, that run over them, that the last of them cut short, and more than one chunk
@pytest.mark.parametrize("shape", [(96, 128), (37, 200), (5, 26), (700, 576)])
def test_the_same_bits_as_bitsandbytes(
    tmp_path: Path, kind: str, double: bool, dtype: Any, shape: tuple[int, ...]
) -> None:
    parts, expected = _quantized(shape, kind, dtype, double)
    checkpoint = Checkpoint.open(_folder(tmp_path, parts))
    assert list(checkpoint.tensors) == ["w"]
    info = checkpoint.tensors["w"]
    assert (info.dtype, info.shape, info.n_elements) == (kind.upper(), shape, expected.size)
    # FP4 has two zeros, whose sign bitsandbytes' own kernels do not agree on: equal as numbers.
    np.testing.assert_array_equal(checkpoint.read("w"), expected)
    for rows in (slice(0, 1), slice(1, 4), slice(3, None), slice(2, 2)):
        np.testing.assert_array_equal(checkpoint.read("w", rows), expected[rows])


@pytest.mark.parametrize("blocksize", [128, 4096])
def test_other_block_sizes(tmp_path: Path, blocksize: int) -> None:
    parts, expected = _quantized((70, 200), "nf4", torch.bfloat16, True, blocksize)
    np.testing.assert_array_equal(Checkpoint.open(_folder(tmp_path, parts)).read("w"), expected)


def test_rounding_is_that_of_the_type_it_was_trained_in(tmp_path: Path) -> None:
    """The check above can fail: the float32 products differ from what bitsandbytes gives in bf16."""
    parts, expected = _quantized((96, 128), "nf4", torch.bfloat16, True)
    info = Checkpoint.open(_folder(tmp_path, parts)).tensors["w"]
    assert isinstance(info, FourBitTensor)
    unrounded = FourBitTensor(**{**vars(info), "rounded": np.dtype(np.float32)})
    assert not np.array_equal(unrounded.read(), expected)


def test_bytes_kept_under_another_type_are_the_same_bytes(tmp_path: Path) -> None:
    parts, expected = _quantized((96, 128), "nf4", torch.bfloat16, True)
    parts["w"] = parts["w"].flatten().view(torch.bfloat16)[:, None]
    np.testing.assert_array_equal(Checkpoint.open(_folder(tmp_path, parts)).read("w"), expected)


def test_many_threads_read_the_same(tmp_path: Path) -> None:
    parts, expected = _quantized((512, 200), "nf4", torch.bfloat16, True)
    checkpoint = Checkpoint.open(_folder(tmp_path, parts))
    cuts = [slice(start, start + 7) for start in range(0, 512, 7)] * 4
    with ThreadPoolExecutor(8) as pool:
        for rows, values in zip(cuts, pool.map(lambda rows: checkpoint.read("w", rows), cuts), strict=True):
            np.testing.assert_array_equal(values, expected[rows])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"w.absmax": None}, BrokenFileError, r"w\.absmax: missing"),
        ({"w.nested_absmax": np.ones(1, np.float32)}, BrokenFileError, r"w\.nested_absmax: 1 values"),
        ({"w.quant_map": np.linspace(-1, 1, 16, dtype=np.float32)}, UnsupportedError, "quant_map is not that of nf4"),
        ({"w": np.zeros((5, 1), np.uint8)}, BrokenFileError, "its shape and its bytes disagree"),
        ({"w.quant_state.bitsandbytes__nf4": np.frombuffer(b"{", np.uint8)}, BrokenFileError, "is not JSON"),
        ({"w.quant_state.bitsandbytes__nf4": np.frombuffer(b"{}", np.uint8)}, UnsupportedError, "nf4 of None"),
    ],
)
def test_parts_that_do_not_fit_are_found_when_opened(
    tmp_path: Path, change: dict[str, Any], error: type[Exception], message: str
) -> None:
    parts, _ = _quantized((96, 256), "nf4", torch.bfloat16, True)
    path = _folder(tmp_path, parts) / "model.safetensors"
    save_file({name: v for name, v in (load_file(path) | change).items() if v is not None}, path)
    with pytest.raises(error, match=message):
        Checkpoint.open(tmp_path)


@pytest.mark.parametrize(
    ("quantization", "name"),
    [
        ({"quant_method": "gptq", "bits": 4}, "quantized by gptq"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, r"LLM\.int8"),
    ],
)
def test_other_quantizations_are_refused_by_name(tmp_path: Path, quantization: dict[str, Any], name: str) -> None:
    parts, _ = _quantized((96, 128), "nf4", torch.bfloat16, True)
    config = _folder(tmp_path, parts) / "config.json"
    config.write_text(json.dumps({"quantization_config": quantization}), encoding="utf-8")
    with pytest.raises(UnsupportedError, match=name):
        Checkpoint.open(tmp_path)
