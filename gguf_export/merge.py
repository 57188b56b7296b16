"""Merging an adapter into its base, tensor by tensor and slab by slab.

``merged_slabs`` is the one place where weights are added and rounded: the GGUF export and the safetensors
export both read from it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np
from numpy.typing import NDArray

from .adapter import Adapter
from .errors import ExportError, UnsupportedError
from .files import cleaned_temporaries, commit, require_free_space, sync, temporary_path
from .weights import ROUNDED, Checkpoint, Rounding, slabs

_SAFETENSORS_NAMES: Final = {"bf16": "BF16", "f16": "F16", "f32": "F32"}
_TORCH_NAMES: Final = {"bf16": "bfloat16", "f16": "float16", "f32": "float32"}
_COPIED: Final = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)


def merged_slabs(
    checkpoint: Checkpoint, adapter: Adapter | None, name: str, rounding: Rounding, multiple: int = 1
) -> Iterator[NDArray[Any]]:
    """The rows of one merged tensor, rounded, about 16 MiB at a time.

    Args:
        checkpoint: the base.
        adapter: what is added; ``None`` for the base alone.
        name: the tensor's name in the checkpoint.
        rounding: the type of the values that come out.
        multiple: every slab but the last holds a multiple of this many rows.

    Yields:
        ``[rows, ...]`` in the rounding's type.

    Raises:
        ExportError: a value is not finite, or becomes so by rounding.
    """
    for rows in slabs(checkpoint.tensors[name], multiple):
        values = checkpoint.read(name, rows)
        delta = adapter.delta(name, rows) if adapter is not None else None
        if delta is not None:
            values += delta
        with np.errstate(over="ignore"):
            rounded = values.astype(ROUNDED[rounding])
        if not np.isfinite(rounded.astype(np.float32, copy=False)).all():
            whose = "the base or its adapter holds" if not np.isfinite(values).all() else "rounding produced"
            raise ExportError(
                f"{checkpoint.folder}: {name}: {whose} values that are not finite (rounding {rounding}); "
                "use rounding bf16, or look at the training run: it may have diverged"
            )
        yield rounded


def require_rounding(rounding: str) -> None:
    """Check the name of a rounding.

    Raises:
        UnsupportedError: it is not known.
    """
    if rounding not in ROUNDED:
        known = ", ".join(get_args(Rounding))
        raise UnsupportedError(f"rounding: unknown type {rounding!r}; use one of {known}")


def merge_to_safetensors(base: Path, adapter: Path | None, out: Path, dtype: Rounding = "bf16") -> Path:
    """Write base + adapter as a model folder that transformers and vLLM load.

    Args:
        base: the model folder that the adapter was trained on.
        adapter: the adapter's folder; ``None`` to convert the base alone.
        out: the folder to write; it must not exist, or be empty.
        dtype: the type that weights are rounded to.

    Returns:
        ``out``.

    Raises:
        ExportError: ``out`` holds files, or a value is not finite.
        BrokenFileError: an input is missing, truncated or damaged.
        UnsupportedError: the adapter is of a kind that is not covered, or belongs to another base.
        DiskSpaceError: not enough room.
    """
    require_rounding(dtype)
    checkpoint = Checkpoint.open(base)
    loaded = Adapter.load(adapter) if adapter is not None else None
    if loaded is not None:
        loaded.check_fits(checkpoint)
    out = Path(out).absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ExportError(f"{out}: already there; remove it, or choose another folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    header, size = _header(checkpoint, dtype)
    require_free_space(out.parent, size + len(header) + (32 << 20))
    with cleaned_temporaries(out):
        folder = temporary_path(out, "merged")
        folder.mkdir()
        with (folder / "model.safetensors").open("wb") as file:
            file.write(header)
            for name in checkpoint.tensors:
                for slab in merged_slabs(checkpoint, loaded, name, dtype):
                    file.write(slab.tobytes())
        sync(folder / "model.safetensors")
        for copied in _COPIED:
            if (checkpoint.folder / copied).is_file():
                shutil.copyfile(checkpoint.folder / copied, folder / copied)
        config = dict(checkpoint.config)
        config.pop("torch_dtype", None)
        config["dtype"] = _TORCH_NAMES[dtype]
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        commit(folder, out)
    return out


def _header(checkpoint: Checkpoint, dtype: Rounding) -> tuple[bytes, int]:
    """The length and the JSON header of one safetensors file, and how many bytes follow."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, info in checkpoint.tensors.items():
        end = offset + info.n_elements * ROUNDED[dtype].itemsize
        entries[name] = {
            "dtype": _SAFETENSORS_NAMES[dtype],
            "shape": list(info.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, offset
