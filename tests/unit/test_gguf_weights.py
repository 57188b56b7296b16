"""Reading safetensors: types, shards, slabs, damage."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from gguf_export.checkpoints.weights import Checkpoint, TensorInfo, slabs
from gguf_export.errors import BrokenFileError, UnsupportedError


def _folder(tmp_path: Path, **tensors: np.ndarray) -> Path:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    save_file(tensors, tmp_path / "model.safetensors")
    return tmp_path


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_every_storage_type_widens_exactly(tmp_path: Path, dtype: type) -> None:
    values = np.linspace(-3, 3, 35).reshape(7, 5).astype(dtype)
    checkpoint = Checkpoint.open(_folder(tmp_path, w=values))
    assert checkpoint.read("w").dtype == np.float32
    np.testing.assert_array_equal(checkpoint.read("w"), values.astype(np.float32))
    np.testing.assert_array_equal(checkpoint.read("w", slice(2, 4)), values[2:4].astype(np.float32))


def test_shards_are_read_through_the_index(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    save_file({"a": np.ones(3, np.float32)}, tmp_path / "model-1.safetensors")
    save_file({"b": np.full(2, 2, np.float32)}, tmp_path / "model-2.safetensors")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    assert Checkpoint.open(tmp_path).read("b").tolist() == [2.0, 2.0]

    index["weight_map"]["c"] = "model-2.safetensors"
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(BrokenFileError, match="c: in no shard"):
        Checkpoint.open(tmp_path)


@pytest.mark.parametrize("keep", [0, 4, 40, -1])
def test_truncated_file_is_found_when_it_is_opened(tmp_path: Path, keep: int) -> None:
    path = _folder(tmp_path, w=np.ones((4, 4), np.float32)) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(BrokenFileError, match="truncated"):
        Checkpoint.open(tmp_path)


def test_garbage_is_not_a_safetensors_file(tmp_path: Path) -> None:
    path = _folder(tmp_path, w=np.ones(4, np.float32)) / "model.safetensors"
    path.write_bytes((5).to_bytes(8, "little") + b"hello" + b"x" * 64)
    with pytest.raises(BrokenFileError, match="damaged header"):
        Checkpoint.open(tmp_path)


def test_integer_weights_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"w: stored as U8"):
        Checkpoint.open(_folder(tmp_path, w=np.ones(4, np.uint8)))


def test_missing_weights_and_folders_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(BrokenFileError, match="no such folder"):
        Checkpoint.open(tmp_path / "nowhere")
    with pytest.raises(BrokenFileError, match=r"config\.json: no such file"):
        Checkpoint.open(tmp_path)
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(BrokenFileError, match=r"neither model\.safetensors nor its index"):
        Checkpoint.open(tmp_path)
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(UnsupportedError, match=r"only pytorch_model\.bin"):
        Checkpoint.open(tmp_path)


@pytest.mark.parametrize(("shape", "multiple"), [((100_003, 512), 1), ((8192, 4096), 128), ((7,), 1), ((), 1)])
def test_slabs_cover_every_row_once(shape: tuple[int, ...], multiple: int) -> None:
    info = TensorInfo(Path("x"), "F32", shape, 0)
    cuts = list(slabs(info, multiple))
    rows = [row for cut in cuts for row in range(cut.start, cut.stop)]
    assert rows == list(range(shape[0] if shape else 1))
    assert all((cut.stop - cut.start) % multiple == 0 for cut in cuts[:-1])


def _wide(tmp_path: Path) -> tuple[Checkpoint, np.ndarray]:
    values = np.random.default_rng(0).standard_normal((512, 64)).astype(ml_dtypes.bfloat16)
    return Checkpoint.open(_folder(tmp_path, w=values)), values.astype(np.float32)


def test_many_threads_read_the_same(tmp_path: Path) -> None:
    checkpoint, expected = _wide(tmp_path)
    cuts = [slice(start, start + 7) for start in range(0, 512, 7)] * 4
    with ThreadPoolExecutor(8) as pool:
        for rows, values in zip(cuts, pool.map(lambda rows: checkpoint.read("w", rows), cuts), strict=True):
            np.testing.assert_array_equal(values, expected[rows])


def test_what_was_read_belongs_to_the_caller(tmp_path: Path) -> None:
    checkpoint, expected = _wide(tmp_path)
    checkpoint.read("w")[:] = 0
    np.testing.assert_array_equal(checkpoint.read("w"), expected)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: os.truncate(path, path.stat().st_size - 100), r"w: the file became shorter while it was read"),
        (lambda path: path.unlink(), r"w: the file disappeared"),
        (lambda path: os.utime(path, (1, 1)), r"w: the file was written to"),
    ],
)
def test_a_shard_that_changes_while_it_is_read(tmp_path: Path, spoil: Callable[[Path], None], message: str) -> None:
    checkpoint, _ = _wide(tmp_path)
    spoil(tmp_path / "model.safetensors")
    with pytest.raises(BrokenFileError, match=rf"model\.safetensors: {message}"):
        checkpoint.read("w")


def test_a_read_error_names_the_shard_and_the_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint, _ = _wide(tmp_path)

    def fail(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "preadv", fail)
    with pytest.raises(BrokenFileError, match=r"model\.safetensors: w: cannot be read \(Input/output error\)"):
        checkpoint.read("w")


@pytest.mark.parametrize("most", [1, 7, 4096])
def test_reads_that_are_cut_short_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    checkpoint, expected = _wide(tmp_path)
    whole = os.preadv

    def short(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        return whole(descriptor, [buffers[0][:most]], offset)

    monkeypatch.setattr(os, "preadv", short)
    np.testing.assert_array_equal(checkpoint.read("w", slice(3, 9)), expected[3:9])
