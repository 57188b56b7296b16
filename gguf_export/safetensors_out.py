"""Base + adapter as a 16-bit model folder, for vLLM, transformers and whatever else reads the hub's layout.

The same slabs as in a GGUF export are read, merged and rounded; they go into safetensors files of limited size with
an index, as ``save_pretrained`` writes them.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .adapters.adapter import Adapter
from .checkpoints.weights import ROUNDED, Checkpoint, Rounding, slabs
from .errors import ExportError
from .files import (
    cleaned_temporaries,
    commit,
    disk_full_is_an_error,
    require_free_space,
    temporary_path,
)
from .merge import merged_rows, require_rounding
from .workers import in_order

_SAFETENSORS_NAMES: Final = {"bf16": "BF16", "f16": "F16", "f32": "F32"}
_TORCH_NAMES: Final = {"bf16": "bfloat16", "f16": "float16", "f32": "float32"}
_COPIED: Final = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "LICENSE",
)
_MARGIN_BYTES: Final = 32 << 20


@dataclass(frozen=True)
class _Shard:
    """One file to write: its name, and the tensors in it."""

    name: str
    tensors: tuple[str, ...]


def merge_to_safetensors(
    base: Path,
    adapter: Path | Sequence[Path] | None,
    out: Path,
    dtype: Rounding = "bf16",
    *,
    max_shard_bytes: int = 4 << 30,
    progress: Callable[[str, float], None] | None = None,
) -> Path:
    """Write base + adapter as a model folder that transformers and vLLM load.

    What is in memory does not depend on the model: a few slabs of rows. A base in 4 bits comes out in 16.

    Args:
        base: the model folder that the adapter was trained on.
        adapter: the adapter's folder, or a chain of them, first trained first; ``None`` to convert the base alone.
        out: the folder to write; it must not exist, or be empty.
        dtype: the type that weights are rounded to.
        max_shard_bytes: most bytes of weights in one file; a tensor that is larger has a file of its own.
        progress: called with ``"merge"`` and its share, 0 to 1.

    Returns:
        ``out``.

    Raises:
        ExportError: ``out`` holds files, or a value is not finite.
        BrokenFileError: an input is missing, truncated or damaged.
        UnsupportedError: the adapter is of a kind that is not covered, or belongs to another base.
        DiskSpaceError: not enough room; nothing was written.
    """
    require_rounding(dtype)
    checkpoint = Checkpoint.open(base)
    loaded = None if adapter is None else Adapter.load(adapter)
    if loaded is not None:
        loaded.check_fits(checkpoint)
        # A tied base comes out untied where training changed only the embedding or only the head.
        checkpoint = loaded.fitted(checkpoint)
    out = Path(out).absolute()
    _prepare_folder(out)
    item_bytes = ROUNDED[dtype].itemsize
    shards = _shards(checkpoint, item_bytes, max_shard_bytes)
    total_bytes = sum(info.n_elements for info in checkpoint.tensors.values()) * item_bytes
    needed = total_bytes + _copied_bytes(checkpoint.folder) + _MARGIN_BYTES
    report = progress if progress is not None else lambda _step, _share: None
    with cleaned_temporaries(out), disk_full_is_an_error(out.parent, needed):
        require_free_space(out.parent, needed)
        folder = temporary_path(out, "merged")
        folder.mkdir()
        done = 0
        report("merge", 0.0)
        for shard in shards:
            for n_bytes in _write_shard(folder / shard.name, checkpoint, loaded, shard, dtype):
                done += n_bytes
                report("merge", done / total_bytes)
        if len(shards) > 1:
            _write_index(folder, shards, total_bytes)
        for name in _COPIED:
            if (checkpoint.folder / name).is_file():
                shutil.copyfile(checkpoint.folder / name, folder / name)
        _write_json(folder / "config.json", _config(checkpoint, dtype))
        commit(folder, out)
    return out


def _prepare_folder(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ExportError(f"{out}: already there; remove it, or choose another folder")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExportError(f"{out.parent}: cannot be made ({error.strerror}); choose another output") from error


def _shards(checkpoint: Checkpoint, item_bytes: int, max_shard_bytes: int) -> list[_Shard]:
    """Fill one file after the other, in the order of the base."""
    groups: list[list[str]] = [[]]
    filled = 0
    for name, info in checkpoint.tensors.items():
        n_bytes = info.n_elements * item_bytes
        if groups[-1] and filled + n_bytes > max_shard_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += n_bytes
    if len(groups) == 1:
        return [_Shard("model.safetensors", tuple(groups[0]))]
    total = len(groups)
    return [
        _Shard(f"model-{index:05d}-of-{total:05d}.safetensors", tuple(names)) for index, names in enumerate(groups, 1)
    ]


def _write_shard(
    path: Path, checkpoint: Checkpoint, adapter: Adapter | None, shard: _Shard, dtype: Rounding
) -> Iterator[int]:
    """Write one file, and say after each slab how many bytes of weights it had."""
    with path.open("wb", buffering=0) as file:
        _write_all(file, _header(checkpoint, shard, dtype))
        with closing(_merged(checkpoint, adapter, shard.tensors, dtype)) as merged:
            for slab in merged:
                _write_all(file, slab.view(np.uint8).data)
                yield slab.nbytes
        os.fsync(file.fileno())


def _write_all(file: Any, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def _merged(
    checkpoint: Checkpoint, adapter: Adapter | None, names: Sequence[str], dtype: Rounding
) -> Generator[NDArray[Any], None, None]:
    """The merged slabs of several tensors, in order; the next ones are made while one is written."""

    def merged(name: str, rows: slice) -> NDArray[Any]:
        values = merged_rows(checkpoint, adapter, name, rows, dtype)
        return np.ascontiguousarray(values.astype(ROUNDED[dtype], copy=False)).reshape(-1)

    return in_order(partial(merged, name, rows) for name in names for rows in slabs(checkpoint.tensors[name]))


def _header(checkpoint: Checkpoint, shard: _Shard, dtype: Rounding) -> bytes:
    """The length of the header, and the header as JSON, padded so that the data begin at a multiple of 8."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name in shard.tensors:
        info = checkpoint.tensors[name]
        end = offset + info.n_elements * ROUNDED[dtype].itemsize
        entries[name] = {
            "dtype": _SAFETENSORS_NAMES[dtype],
            "shape": list(info.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _write_index(folder: Path, shards: Sequence[_Shard], total_bytes: int) -> None:
    weight_map = {name: shard.name for shard in shards for name in shard.tensors}
    _write_json(
        folder / "model.safetensors.index.json", {"metadata": {"total_size": total_bytes}, "weight_map": weight_map}
    )


def _config(checkpoint: Checkpoint, dtype: Rounding) -> dict[str, Any]:
    config = dict(checkpoint.config)
    config.pop("quantization_config", None)
    # transformers 4 and programs of its time read torch_dtype, transformers 5 writes dtype and reads both.
    key = "torch_dtype" if "torch_dtype" in config else "dtype"
    config[key] = _TORCH_NAMES[dtype]
    return config


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(json.dumps(content, indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _copied_bytes(folder: Path) -> int:
    return sum((folder / name).stat().st_size for name in _COPIED if (folder / name).is_file())
