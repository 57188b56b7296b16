"""Exports with an importance matrix, held against llama.cpp's own quantizer with the same one."""

from __future__ import annotations

import ctypes
import struct
from pathlib import Path

import numpy as np
import pytest

from gguf_export import BrokenFileError, GgufFile, UnsupportedError, export
from gguf_export.quantizers.imatrix import Imatrix
from tests.gguf_models import make_adapter, make_tiny_model, write_imatrix


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("model")
    # 192 columns after the attention: a fallback type that is weighted too
    base = make_tiny_model(folder / "base", "qwen3", tie=False, num_hidden_layers=8, intermediate_size=192)
    return base, make_adapter(base, folder / "adapter")


@pytest.fixture(scope="module")
def measured(model: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[np.ndarray, int]]:
    """Sums and counts of most tensors of the model; nothing was measured for the first value projection."""
    exact = GgufFile(export(*model, tmp_path_factory.mktemp("exact") / "m.gguf", quant="F32").path)
    rng = np.random.default_rng(0)
    return {
        tensor.name: ((rng.random(int(tensor.shape[0]), np.float32) ** 8 * 100), 10 + index % 3)
        for index, tensor in enumerate(exact.tensors)
        if len(tensor.shape) == 2 and tensor.name != "blk.0.attn_v.weight"
    }


def write_legacy(path: Path, measured: dict[str, tuple[np.ndarray, int]]) -> Path:
    parts = [struct.pack("<i", len(measured))]
    for name, (sums, count) in measured.items():
        parts.append(struct.pack("<i", len(name)) + name.encode() + struct.pack("<ii", count, sums.size))
        parts.append(sums.tobytes())
    parts.append(struct.pack("<ii", 7, 15) + b"calibration.txt")
    path.write_bytes(b"".join(parts))
    return path


def llama_cpp_quantize(source: Path, out: Path, ftype: int, matrix: Imatrix) -> None:
    import llama_cpp

    entries = (llama_cpp.llama_model_imatrix_data * (len(matrix.importance) + 1))()
    kept = [np.ascontiguousarray(values) for values in matrix.importance.values()]
    for entry, name, values in zip(entries, matrix.importance, kept, strict=False):
        entry.name = name.encode()
        entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        entry.size = values.size
    overrides = (llama_cpp.llama_model_kv_override * 5)()
    texts = (("quantize.imatrix.file", str(matrix.path)), ("quantize.imatrix.dataset", matrix.datasets[0]))
    numbers = (
        ("quantize.imatrix.entries_count", len(matrix.importance)),
        ("quantize.imatrix.chunks_count", matrix.n_chunks),
    )
    for override, (key, text) in zip(overrides, texts, strict=False):
        override.tag, override.key = llama_cpp.LLAMA_KV_OVERRIDE_TYPE_STR, key.encode()
        override.value.val_str = text.encode()[:127]
    for override, (key, number) in zip(overrides[2:4], numbers, strict=True):
        override.tag, override.key = llama_cpp.LLAMA_KV_OVERRIDE_TYPE_INT, key.encode()
        override.value.val_i64 = number
    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype, settings.nthread = ftype, 1
    settings.imatrix = ctypes.cast(entries, type(settings.imatrix))
    settings.kv_overrides = ctypes.cast(overrides, type(settings.kv_overrides))
    assert llama_cpp.llama_model_quantize(str(source).encode(), str(out).encode(), ctypes.byref(settings)) == 0


@pytest.mark.parametrize(("quant", "ftype"), [("Q4_K_M", 15), ("Q5_K_M", 17), ("Q6_K", 18), ("Q8_0", 7)])
def test_the_file_is_the_one_that_llama_cpp_writes(
    model: tuple[Path, Path],
    measured: dict[str, tuple[np.ndarray, int]],
    quant: str,
    ftype: int,
    tmp_path: Path,
) -> None:
    path = write_imatrix(tmp_path / "imatrix.gguf", measured)
    exact = export(*model, tmp_path / "exact.gguf", quant="BF16")
    ours = export(*model, tmp_path / "ours.gguf", quant=quant, imatrix=path)
    llama_cpp_quantize(exact.path, tmp_path / "theirs.gguf", ftype, Imatrix.load(path))
    assert ours.path.read_bytes() == (tmp_path / "theirs.gguf").read_bytes()
    plain = export(*model, tmp_path / "plain.gguf", quant=quant)
    blocks = [[tensor.data.tobytes() for tensor in GgufFile(r.path).tensors] for r in (ours, plain)]
    assert (blocks[0] != blocks[1]) == (quant != "Q8_0")
    assert ("ggml" in ours.quantizers.values()) == (quant != "Q8_0")


def test_both_formats_say_the_same(measured: dict[str, tuple[np.ndarray, int]], tmp_path: Path) -> None:
    new = Imatrix.load(write_imatrix(tmp_path / "imatrix.gguf", measured))
    old = Imatrix.load(write_legacy(tmp_path / "imatrix.dat", measured))
    assert (new.datasets, new.n_chunks) == (old.datasets, old.n_chunks) == (("calibration.txt",), 7)
    assert list(new.importance) == list(old.importance) == list(measured)
    for name, (sums, count) in measured.items():
        np.testing.assert_array_equal(new.importance[name], sums / np.float32(count))
        np.testing.assert_array_equal(old.importance[name], new.importance[name])


def test_what_was_never_reached_counts_the_same_everywhere(tmp_path: Path) -> None:
    path = write_imatrix(tmp_path / "imatrix.gguf", {"blk.0.attn_v.weight": (np.zeros(4, np.float32), 0)})
    np.testing.assert_array_equal(Imatrix.load(path).importance["blk.0.attn_v.weight"], np.ones(4))


@pytest.mark.parametrize("write", [write_imatrix, write_legacy])
@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9])
def test_a_truncated_matrix_is_broken(
    write: object, keep: float, measured: dict[str, tuple[np.ndarray, int]], tmp_path: Path
) -> None:
    path = write(tmp_path / "imatrix", measured)  # type: ignore[operator]
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    with pytest.raises(BrokenFileError, match="truncated"):
        Imatrix.load(path)


def test_what_does_not_fit_is_refused(model: tuple[Path, Path], tmp_path: Path) -> None:
    other = write_imatrix(tmp_path / "other.gguf", {"blk.1.ffn_up.weight": (np.ones(512, np.float32), 1)})
    with pytest.raises(UnsupportedError, match=r"blk\.1\.ffn_up\.weight: measured for 512 columns, the model has 256"):
        export(*model, tmp_path / "m.gguf", imatrix=other)
    with pytest.raises(UnsupportedError, match="imatrix: F16 stores weights as they are"):
        export(*model, tmp_path / "m.gguf", quant="F16", imatrix=other)
    with pytest.raises(BrokenFileError, match="no such file"):
        export(*model, tmp_path / "m.gguf", imatrix=tmp_path / "nowhere")
    model_file = export(*model, tmp_path / "m.gguf").path
    with pytest.raises(BrokenFileError, match="a GGUF, but no importance matrix"):
        Imatrix.load(model_file)
    wild = write_imatrix(tmp_path / "wild.gguf", {"blk.1.ffn_up.weight": (np.array([1, np.inf], np.float32), 1)})
    with pytest.raises(BrokenFileError, match="not finite"):
        Imatrix.load(wild)
