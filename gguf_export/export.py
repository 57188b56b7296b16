"""From a base model and an adapter to one GGUF file.

The merged model is streamed into an intermediate GGUF of a 16-bit (or 32-bit) type, which llama.cpp's own
library quantizes. Nothing stands under the final name before it is whole.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from .adapter import Adapter
from .architectures import (
    Family,
    TensorPlan,
    add_llama_settings,
    add_settings,
    family_of,
    plan_tensors,
    rope_factors,
)
from .child import require_llama_cpp
from .errors import UnsupportedError
from .files import (
    cleaned_temporaries,
    commit,
    disk_full_is_an_error,
    prepare_output,
    require_free_space,
    sha256_of,
    sync,
    temporary_path,
)
from .merge import merged_slabs, require_rounding
from .quantize import QuantType, quant_type, quantize
from .tokenizer import Vocabulary, load_vocabulary
from .weights import ROUNDED, Checkpoint, Float32, Rounding

Progress = Callable[[str, float], None]

_FTYPES: Final = {"f32": 0, "f16": 1, "bf16": 32}
_MARGIN_BYTES: Final = 32 << 20
_METADATA_KEYS: Final = (
    "name",
    "author",
    "version",
    "organization",
    "finetune",
    "basename",
    "description",
    "quantized_by",
    "size_label",
    "license",
    "license.name",
    "license.link",
    "url",
    "repo_url",
    "source.url",
    "source.repo_url",
)


@dataclass(frozen=True)
class ExportResult:
    """What was written.

    Attributes:
        path: the GGUF.
        quant: its type.
        sha256: its checksum.
        size_bytes: its size.
        n_tensors: how many tensors it holds.
        seconds: how long the export took.
        eos_token: the end token that it stops at.
        bos_token: the token that begins a sequence, ``""`` for none.
        add_bos: whether llama.cpp adds it by itself.
        chat_template: the Jinja template that it holds.
    """

    path: Path
    quant: str
    sha256: str
    size_bytes: int
    n_tensors: int
    seconds: float
    eos_token: str
    bos_token: str
    add_bos: bool
    chat_template: str


@dataclass(frozen=True)
class _Plan:
    """Everything that is decided before the first byte is written."""

    checkpoint: Checkpoint
    adapter: Adapter | None
    family: Family
    vocabulary: Vocabulary
    tensors: tuple[TensorPlan, ...]
    rope: Float32 | None
    rounding: Rounding
    metadata: Mapping[str, str]

    def stored_as(self, tensor: TensorPlan) -> np.dtype[Any]:
        """The type of a tensor in the intermediate file."""
        return np.dtype(np.float32) if tensor.keep_f32 else ROUNDED[self.rounding]

    @property
    def n_elements(self) -> int:
        """How many weights the model has."""
        return sum(self.checkpoint.tensors[tensor.source].n_elements for tensor in self.tensors)

    @property
    def intermediate_bytes(self) -> int:
        """The size of the intermediate file's tensors."""
        return sum(
            self.checkpoint.tensors[tensor.source].n_elements * self.stored_as(tensor).itemsize
            for tensor in self.tensors
        )


def export(
    base: Path,
    adapter: Path | None,
    out: Path,
    *,
    quant: str = "Q4_K_M",
    rounding: Rounding = "bf16",
    chat_template: str | None = None,
    eos_token: str | None = None,
    metadata: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> ExportResult:
    """Write base + adapter as a GGUF that llama.cpp and Ollama load.

    Args:
        base: the model folder that the adapter was trained on, in the hub's layout.
        adapter: a PEFT adapter folder; ``None`` to export the base alone.
        out: the file to write; replaced if it is there, once the new one is whole.
        quant: one of ``QUANT_TYPES``.
        rounding: what merged weights are rounded to before they are quantized. The types F32, F16 and BF16
            store their own rounding whatever is given here.
        chat_template: the Jinja template that was trained; the base's by default.
        eos_token: the end token that was trained; by default the one that the template writes after an
            answer.
        metadata: ``general.*`` keys of the file: ``name``, ``license``, ``description``, ….
        progress: called with the step (``"merge"``, ``"quantize"``, ``"checksum"``) and its share, 0 to 1.

    Returns:
        What was written.

    Raises:
        UnsupportedError: the model, the adapter, the tokenizer or the type is not covered.
        BrokenFileError: an input is missing, truncated or damaged.
        DiskSpaceError: not enough room; nothing was written.
        MissingLibraryError: llama-cpp-python is not installed, and the type needs it.
        ExportError: the export failed; nothing is left of it.
    """
    started = time.monotonic()
    target = quant_type(quant)
    require_rounding(rounding)
    if target.rounding is None:
        require_llama_cpp(f"export to {quant}")
    plan = _plan(base, adapter, target, rounding, chat_template, eos_token, metadata)
    out = Path(out).absolute()
    prepare_output(out)
    report: Progress = progress if progress is not None else lambda _step, _share: None
    needed = _needed_bytes(plan, target)
    with cleaned_temporaries(out), disk_full_is_an_error(out.parent, needed):
        require_free_space(out.parent, needed)
        finished = temporary_path(out, "merged")
        _write_merged(plan, finished, report)
        if target.rounding is None:
            merged, finished = finished, temporary_path(out, "quantized")
            report("quantize", 0.0)
            quantize(merged, finished, quant)
            report("quantize", 1.0)
        report("checksum", 0.0)
        checksum, size = sha256_of(finished), finished.stat().st_size
        commit(finished, out)
        report("checksum", 1.0)
    vocabulary = plan.vocabulary
    return ExportResult(
        path=out,
        quant=quant,
        sha256=checksum,
        size_bytes=size,
        n_tensors=len(plan.tensors) + (plan.rope is not None),
        seconds=time.monotonic() - started,
        eos_token=vocabulary.text_of("eos"),
        bos_token=vocabulary.text_of("bos"),
        add_bos=vocabulary.add_bos,
        chat_template=vocabulary.chat_template,
    )


def _plan(
    base: Path,
    adapter: Path | None,
    target: QuantType,
    rounding: Rounding,
    chat_template: str | None,
    eos_token: str | None,
    metadata: Mapping[str, str] | None,
) -> _Plan:
    """Read every header and check every input, so that what can fail fails before anything is written."""
    checkpoint = Checkpoint.open(base)
    family = family_of(checkpoint)
    tensors = plan_tensors(checkpoint, family)
    loaded = Adapter.load(adapter) if adapter is not None else None
    if loaded is not None:
        loaded.check_fits(checkpoint)
    n_rows = next(tensor.shape[0] for tensor in tensors if tensor.name == "token_embd.weight")
    vocabulary = load_vocabulary(
        checkpoint.folder, checkpoint.config, n_rows, eos_token=eos_token, chat_template=chat_template
    )
    for key in metadata or {}:
        if key not in _METADATA_KEYS:
            raise UnsupportedError(f"metadata: unknown key {key!r}; use one of {', '.join(_METADATA_KEYS)}")
    exact: Any = target.rounding or rounding
    return _Plan(checkpoint, loaded, family, vocabulary, tensors, rope_factors(checkpoint), exact, dict(metadata or {}))


def _needed_bytes(plan: _Plan, target: QuantType) -> int:
    """The most that lies on the disk at one time: the intermediate file and the finished one."""
    finished = 0 if target.rounding else int(plan.n_elements * target.bits_per_weight / 8)
    return plan.intermediate_bytes + finished + _MARGIN_BYTES


def _write_merged(plan: _Plan, path: Path, report: Progress) -> None:
    """Stream the merged model into a GGUF of the rounding's type."""
    import gguf

    writer = gguf.GGUFWriter(path=None, arch=plan.family.gguf_arch)
    types = {
        np.dtype(np.float32): gguf.GGMLQuantizationType.F32,
        ROUNDED["f16"]: gguf.GGMLQuantizationType.F16,
    }
    types[ROUNDED["bf16"]] = gguf.GGMLQuantizationType.BF16
    if plan.rope is not None:
        writer.add_tensor_info("rope_freqs.weight", plan.rope.shape, plan.rope.dtype, plan.rope.nbytes)
    for tensor in plan.tensors:
        stored = plan.stored_as(tensor)
        n_bytes = plan.checkpoint.tensors[tensor.source].n_elements * stored.itemsize
        writer.add_tensor_info(tensor.name, tensor.shape, stored, n_bytes, raw_dtype=types[stored])
    _add_metadata(writer, plan)
    try:
        writer.write_header_to_file(path)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        file = writer.fout[0]
        writer.write_padding(file, file.tell())
        if plan.rope is not None:
            plan.rope.tofile(file)
            writer.write_padding(file, plan.rope.nbytes)
        _write_tensors(plan, writer, file, report)
    finally:
        writer.close()
    sync(path)


def _write_tensors(plan: _Plan, writer: Any, file: Any, report: Progress) -> None:
    done = 0
    report("merge", 0.0)
    for tensor in plan.tensors:
        stored, n_bytes = plan.stored_as(tensor), 0
        for slab in merged_slabs(plan.checkpoint, plan.adapter, tensor.source, plan.rounding, tensor.rows_per_unit):
            slab = tensor.reorder(slab.astype(stored, copy=False))  # noqa: PLW2901
            file.write(slab.tobytes())
            n_bytes += slab.nbytes
            done += slab.size
            report("merge", done / plan.n_elements)
        writer.write_padding(file, n_bytes)


def _add_metadata(writer: Any, plan: _Plan) -> None:
    import gguf

    vocabulary = plan.vocabulary
    writer.add_type(gguf.GGUFType.MODEL)
    metadata = {"name": plan.checkpoint.folder.absolute().name, **plan.metadata}
    for key, value in metadata.items():
        writer.add_string(f"general.{key}", value)
    add_settings(writer, plan.checkpoint)
    writer.add_file_type(_FTYPES[plan.rounding])
    if plan.family.gguf_arch == "llama":
        add_llama_settings(writer, plan.checkpoint)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(list(vocabulary.tokens))
    writer.add_token_types(list(vocabulary.types))
    writer.add_token_merges(list(vocabulary.merges))
    for role, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        if role in vocabulary.special_ids:
            writer.add_uint32(f"tokenizer.ggml.{key}_token_id", vocabulary.special_ids[role])
    writer.add_add_bos_token(vocabulary.add_bos)
    writer.add_chat_template(vocabulary.chat_template)
