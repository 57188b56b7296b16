"""A LoRA adapter as a GGUF of its own, for Ollama's ``ADAPTER`` and llama.cpp's ``--lora``.

llama.cpp adds ``alpha / rank * B @ (A @ x)`` to what a matrix gives, with one ``adapter.lora.alpha`` for the whole
file and the rank of each pair (``llama_adapter_lora_weight::get_scale``). Whatever else scales a pair (rsLoRA, a
pattern of alphas) is multiplied into its B here. A chain of adapters becomes one of the sum of their ranks.

The layout is that of llama.cpp's ``convert_lora_to_gguf.py``: ``NAME.lora_a`` is ``[r, in]`` and ``NAME.lora_b``
``[out, r]``; of ``token_embd.weight``, which is looked up by row, ``lora_a`` is ``[rows, r]``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from .adapters.adapter import Adapter
from .adapters.changes import Change, LowRank
from .adapters.experts import ExpertLowRank
from .adapters.files import EMBEDDING, HEAD
from .checkpoints.weights import ROUNDED, Checkpoint, Float32, Rounding
from .errors import BrokenFileError, ExportError, UnsupportedError
from .families.architectures import Family, TensorPlan, expected_shape, family_of, reordered_heads, tensor_name
from .files import (
    cleaned_temporaries,
    commit,
    disk_full_is_an_error,
    prepare_output,
    read_json,
    require_free_space,
    temporary_path,
)
from .merge import require_rounding

_MARGIN_BYTES: Final = 4 << 20
_FILE_TYPES: Final = {"f32": 0, "f16": 1, "bf16": 32}
_MERGE_HINT: Final = "merge the adapter into its base instead (gguf_export.export)"


@dataclass(frozen=True)
class LoraResult:
    """What was written.

    Attributes:
        path: the GGUF.
        n_pairs: how many matrices it changes.
        alpha: ``adapter.lora.alpha``.
        size_bytes: its size.
    """

    path: Path
    n_pairs: int
    alpha: float
    size_bytes: int


@dataclass(frozen=True)
class _Pair:
    """The two factors of one matrix, before they are read.

    Attributes:
        plan: the matrix in the GGUF.
        changes: what each adapter of the chain adds to it.
    """

    plan: TensorPlan
    changes: tuple[LowRank, ...]

    @property
    def rank(self) -> int:
        """The rank of all of them together."""
        return sum(change.rank for change in self.changes)

    @property
    def alpha(self) -> float:
        """The alpha with which nothing has to be multiplied into the first B."""
        return self.changes[0].scale * self.rank

    @property
    def shapes(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """The shapes of A and B as they are stored."""
        n_out, n_in = self.plan.shape
        if self.plan.source == EMBEDDING:
            return (n_out, self.rank), (n_in, self.rank)
        return (self.rank, n_in), (n_out, self.rank)

    def factors(self, alpha: float) -> tuple[Float32, Float32]:
        """A and B as they are stored, float32."""
        all_a, all_b = [], []
        for change in self.changes:
            b, a = change.factors()
            share = np.float32(change.scale * self.rank / alpha)
            if self.plan.source == EMBEDDING:
                # For an embedding "b" are the rows of the table, and what is scaled is the other factor.
                all_a.append(b)
                all_b.append(a.T * share if share != 1 else a.T)
            else:
                all_a.append(a)
                all_b.append(self.plan.reorder(b * share if share != 1 else b))
        rows = 1 if self.plan.source == EMBEDDING else 0
        return np.concatenate(all_a, axis=rows), np.concatenate(all_b, axis=1)


def export_lora(
    adapter: Path | Sequence[Path],
    base: Path,
    out: Path,
    *,
    dtype: Rounding = "f16",
    metadata: Mapping[str, str] | None = None,
) -> LoraResult:
    """Write an adapter as a GGUF that is loaded beside a GGUF of its base.

    The base GGUF must be of the very model that the adapter was trained on; it may be quantized.

    Args:
        adapter: a PEFT adapter folder, or a chain of them, first trained first.
        base: the base's folder, or its ``config.json`` alone (shapes are then checked against the settings).
        out: the file to write; replaced if it is there, once the new one is whole.
        dtype: the type that factors are stored in.
        metadata: ``general.*`` keys of the file: ``name``, ``license``, ….

    Returns:
        What was written.

    Raises:
        UnsupportedError: the adapter does what such a file cannot say (DoRA, biases, whole modules, embeddings of
            a tied model), or belongs to another base.
        BrokenFileError: an input is missing, truncated or damaged.
        DiskSpaceError: not enough room; nothing was written.
        ExportError: a value is not finite in ``dtype``.
    """
    require_rounding(dtype)
    checkpoint = _open_base(Path(base))
    family = family_of(checkpoint)
    loaded = Adapter.load(adapter)
    if checkpoint.tensors:
        loaded.check_fits(checkpoint)
    pairs = _pairs(loaded, checkpoint, family)
    # float32, as it lies in the file: what is multiplied into B makes up for its rounding.
    alpha = float(np.float32(Counter(pair.alpha for pair in pairs).most_common(1)[0][0]))
    out = Path(out).absolute()
    prepare_output(out)
    item_bytes = ROUNDED[dtype].itemsize
    needed = sum(item_bytes * (a[0] * a[1] + b[0] * b[1]) for a, b in (pair.shapes for pair in pairs)) + _MARGIN_BYTES
    with cleaned_temporaries(out), disk_full_is_an_error(out.parent, needed):
        require_free_space(out.parent, needed)
        temporary = temporary_path(out, "lora")
        _write(_writer(family, loaded, dtype, alpha, out.stem, metadata), temporary, pairs, alpha, dtype)
        commit(temporary, out)
    return LoraResult(out, len(pairs), alpha, out.stat().st_size)


def _open_base(base: Path) -> Checkpoint:
    """The base; without tensors where only its settings are there."""
    if base.is_dir() and any(base.glob("*.safetensors*")):
        return Checkpoint.open(base)
    path = base / "config.json" if base.is_dir() else base
    config = read_json(path, "give the base's folder, or its config.json")
    return Checkpoint(path.parent, MappingProxyType(config), MappingProxyType({}))


def _pairs(adapter: Adapter, checkpoint: Checkpoint, family: Family) -> list[_Pair]:
    tied = bool(checkpoint.config.get("tie_word_embeddings"))
    changes: dict[str, list[LowRank]] = {}
    for file in adapter.files:
        for source, several in file.changes.items():
            for change in several:
                changes.setdefault(source, []).append(_low_rank(file.folder, source, change))
    pairs = []
    for source, parts in changes.items():
        folder = adapter.files[0].folder
        if ".mlp.experts." in source:
            raise UnsupportedError(f"{folder}: {source}: LoRA on experts is not covered in a LoRA GGUF; {_MERGE_HINT}")
        if tied and source in (EMBEDDING, HEAD):
            raise UnsupportedError(
                f"{folder}: {source}: the base ties its embedding to its head, and llama.cpp keeps one tensor for "
                f"both; {_MERGE_HINT}"
            )
        name = tensor_name(checkpoint, family, source)
        expected = expected_shape(checkpoint, family, name) if name else None
        if name is None or expected != parts[0].shape:
            raise UnsupportedError(
                f"{folder}: adapter of another base model: {source}: shape {list(parts[0].shape)}, the settings in "
                f"{checkpoint.folder} say {list(expected) if expected else 'that there is none'}; give the base that "
                "it was trained on"
            )
        n_heads = reordered_heads(checkpoint, family, source)
        plan = TensorPlan(name, source, parts[0].shape, n_heads, keep_f32=False)
        pairs.append(_Pair(plan, tuple(parts)))
    if not pairs:
        raise BrokenFileError(f"{adapter.files[0].folder}: changes nothing; save the adapter again")
    return pairs


def _low_rank(folder: Path, source: str, change: Change) -> LowRank:
    if not isinstance(change, LowRank) or change.magnitude is not None:
        if isinstance(change, ExpertLowRank):
            raise UnsupportedError(f"{folder}: {source}: LoRA on experts is not covered in a LoRA GGUF; {_MERGE_HINT}")
        kind = "DoRA" if isinstance(change, LowRank) else f"a change that is not low-rank ({type(change).__name__})"
        raise UnsupportedError(f"{folder}: {source}: {kind} has no place in a LoRA GGUF; {_MERGE_HINT}")
    return change


def _writer(
    family: Family, adapter: Adapter, dtype: Rounding, alpha: float, name: str, metadata: Mapping[str, str] | None
) -> Any:
    """A ``gguf.GGUFWriter`` with every setting and no tensor."""
    import gguf

    writer = gguf.GGUFWriter(path=None, arch=family.gguf_arch)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    for key, value in {"name": name, **(metadata or {})}.items():
        writer.add_string(f"general.{key}", value)
    base = adapter.files[0].base_model_name
    if base.count("/") == 1 and not base.startswith((".", "/")):  # a hub id
        organization, model = base.split("/")
        writer.add_base_model_count(1)
        writer.add_base_model_name(0, model)
        writer.add_base_model_organization(0, organization)
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_file_type(_FILE_TYPES[dtype])
    return writer


def _write(writer: Any, path: Path, pairs: Sequence[_Pair], alpha: float, dtype: Rounding) -> None:
    import gguf

    stored, raw = ROUNDED[dtype], gguf.GGMLQuantizationType[dtype.upper()]
    for pair in pairs:
        for shape, suffix in zip(pair.shapes, ("lora_a", "lora_b"), strict=True):
            n_bytes = shape[0] * shape[1] * stored.itemsize
            writer.add_tensor_info(f"{pair.plan.name}.{suffix}", shape, stored, n_bytes, raw_dtype=raw)
    try:
        writer.write_header_to_file(path)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for pair in pairs:
            for factor in pair.factors(alpha):
                with np.errstate(over="ignore"):
                    rounded = np.ascontiguousarray(factor.astype(stored))
                if not np.isfinite(rounded.astype(np.float32)).all():
                    raise ExportError(
                        f"{pair.plan.source}: the adapter holds values that are not finite in {dtype}; "
                        "use dtype f32, or look at the training run: it may have diverged"
                    )
                writer.write_tensor_data(rounded)
    finally:
        writer.close()
