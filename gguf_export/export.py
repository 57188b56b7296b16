"""From a base model and an adapter to one GGUF file, in one pass.

Here everything is decided: names, types, order, vocabulary, settings. ``writing`` then streams the weights. Nothing
stands under the final name before it is whole.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from .adapters.adapter import Adapter
from .checkpoints.weights import Checkpoint, Float32, Rounding
from .child import require_llama_cpp
from .errors import UnsupportedError
from .families.architectures import (
    Family,
    TensorPlan,
    add_family_settings,
    add_settings,
    family_of,
    plan_tensors,
    rope_factors,
)
from .files import (
    cleaned_temporaries,
    commit,
    disk_full_is_an_error,
    prepare_output,
    require_free_memory,
    require_free_space,
    temporary_path,
)
from .general_keys import add_general_keys, require_known_keys
from .merge import require_rounding
from .quantize import QuantType, quant_type
from .quantizers.ggml import BLOCK_TYPES
from .quantizers.imatrix import Imatrix
from .quantizers.mixture import ModelFacts, target_types
from .vocabulary.tokenizer import Vocabulary, load_vocabulary
from .vocabulary.trained import trained_chat
from .writing import Source, StoredTensor, write_gguf

Progress = Callable[[str, float], None]

_MEMORY_BYTES: Final = 384 << 20
_MARGIN_BYTES: Final = 32 << 20


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
        quantizers: for each block type in the file, which code wrote it: ``"lanes"`` (fast) or ``"ggml"``.
        eos_token: the end token that it stops at.
        bos_token: the token that begins a sequence, ``""`` for none.
        add_bos: whether llama.cpp adds it by itself.
        chat_template: the Jinja template that it holds.
        notes: where that comes from, and what else of the adapter's tokenizer a user should know.
    """

    path: Path
    quant: str
    sha256: str
    size_bytes: int
    n_tensors: int
    seconds: float
    quantizers: Mapping[str, str]
    eos_token: str
    bos_token: str
    add_bos: bool
    chat_template: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Plan:
    """Everything that is decided before the first byte is written."""

    source: Source
    family: Family
    vocabulary: Vocabulary
    tensors: tuple[StoredTensor, ...]
    rope: Float32 | None
    file_type: int
    ends_with_type: bool
    metadata: Mapping[str, str]
    imatrix: Imatrix | None
    notes: tuple[str, ...]

    @property
    def n_bytes(self) -> int:
        """The size of the tensors."""
        return sum(tensor.n_bytes for tensor in self.tensors)


def export(
    base: Path,
    adapter: Path | Sequence[Path] | None,
    out: Path,
    *,
    quant: str = "Q4_K_M",
    rounding: Rounding = "bf16",
    imatrix: Path | None = None,
    chat_template: str | None = None,
    eos_token: str | None = None,
    metadata: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> ExportResult:
    """Write base + adapter as a GGUF that llama.cpp and Ollama load, in one pass.

    The file is byte for byte what PEFT's merge, llama.cpp's converter and its quantizer make one after the other,
    when merged weights are rounded as that route rounds them. Nothing but the file itself is written, and memory
    does not grow with the model.

    Args:
        base: the model folder that the adapter was trained on, in the hub's layout.
        adapter: a PEFT adapter folder, or several that were trained one on top of the other; ``None`` to export
            the base alone.
        out: the file to write; replaced if it is there, once the new one is whole.
        quant: one of ``QUANT_TYPES``.
        rounding: what merged weights are rounded to before they are quantized. The types F32, F16 and BF16
            store their own rounding whatever is given here.
        imatrix: an importance matrix that llama.cpp's ``llama-imatrix`` measured on this model. Only ggml's
            quantizers know how to use one, about ten times slower than those of this package.
        chat_template: the Jinja template that was trained; by default the one that lies beside the adapter, else
            the base's. Where it is left out, a vocabulary that lies beside the adapter is held against the base's.
        eos_token: the end token that was trained; by default the one that the template writes after an
            answer.
        metadata: ``general.*`` keys of the file: ``name``, ``license``, ``description``, ….
        progress: called with the step (``"write"``) and its share, 0 to 1.

    Returns:
        What was written.

    Raises:
        UnsupportedError: the model, the adapter, the tokenizer or the type is not covered.
        BrokenFileError: an input is missing, truncated or damaged.
        DiskSpaceError: not enough room; nothing was written.
        HostMemoryError: not enough memory; nothing was written.
        MissingLibraryError: llama-cpp-python is not installed, and the type needs it.
        ExportError: the export failed; nothing is left of it.
    """
    started = time.monotonic()
    target = quant_type(quant)
    require_rounding(rounding)
    if target.rounding is None:
        require_llama_cpp(f"export to {quant}")
    plan = _plan(base, adapter, target, rounding, imatrix, chat_template, eos_token, metadata)
    out = Path(out).absolute()
    prepare_output(out)
    require_free_memory(_MEMORY_BYTES)
    report: Progress = progress if progress is not None else lambda _step, _share: None
    needed = plan.n_bytes + _MARGIN_BYTES
    with cleaned_temporaries(out), disk_full_is_an_error(out.parent, needed):
        require_free_space(out.parent, needed)
        temporary = temporary_path(out, "export")
        checksum, size = write_gguf(
            _writer(plan),
            temporary,
            plan.rope,
            plan.tensors,
            plan.source,
            lambda share: report("write", share),
            rope_position=_rope_position(plan),
        )
        commit(temporary, out)
    vocabulary = plan.vocabulary
    return ExportResult(
        path=out,
        quant=target.name,
        sha256=checksum,
        size_bytes=size,
        n_tensors=len(plan.tensors) + (plan.rope is not None),
        seconds=time.monotonic() - started,
        quantizers=_quantizers(plan.tensors),
        eos_token=vocabulary.text_of("eos"),
        bos_token=vocabulary.text_of("bos"),
        add_bos=vocabulary.add_bos,
        chat_template=vocabulary.chat_template,
        notes=plan.notes,
    )


def _plan(
    base: Path,
    adapter: Path | Sequence[Path] | None,
    target: QuantType,
    rounding: Rounding,
    imatrix: Path | None,
    chat_template: str | None,
    eos_token: str | None,
    metadata: Mapping[str, str] | None,
) -> _Plan:
    """Read every header and check every input, so that what can fail fails before anything is written."""
    checkpoint = Checkpoint.open(base)
    family = family_of(checkpoint)
    loaded = Adapter.load(adapter) if adapter is not None else None
    if loaded is not None:
        loaded.check_fits(checkpoint)
        checkpoint = loaded.fitted(checkpoint)
    tensors = plan_tensors(checkpoint, family)
    notes: tuple[str, ...] = ()
    if loaded is not None and chat_template is None:
        chat = trained_chat(checkpoint.folder, [file.folder for file in loaded.files])
        chat_template, eos_token, notes = chat.template, eos_token or chat.end_token, (chat.taken, *chat.notes)
    n_rows = next(tensor.shape[0] for tensor in tensors if tensor.name == "token_embd.weight")
    vocabulary = load_vocabulary(
        checkpoint.folder, checkpoint.config, n_rows, eos_token=eos_token, chat_template=chat_template
    )
    require_known_keys(metadata or {})
    matrix = _imatrix(imatrix, target, checkpoint)
    exact: Any = target.rounding or rounding
    return _Plan(
        Source(checkpoint, loaded, exact),
        family,
        vocabulary,
        _stored(tensors, target, _facts(checkpoint), matrix),
        rope_factors(checkpoint),
        target.ftype,
        target.rounding is None,
        dict(metadata or {}),
        matrix,
        notes,
    )


def _imatrix(path: Path | None, target: QuantType, checkpoint: Checkpoint) -> Imatrix | None:
    if path is None:
        return None
    if target.rounding is not None:
        raise UnsupportedError(
            f"imatrix: {target.name} stores weights as they are; use a quantized type, or leave it out"
        )
    if _facts(checkpoint).n_experts:
        raise UnsupportedError("imatrix: not covered for a mixture of experts; leave it out, or use llama-quantize")
    return Imatrix.load(path)


def _stored(
    tensors: Sequence[TensorPlan], target: QuantType, facts: ModelFacts, imatrix: Imatrix | None
) -> tuple[StoredTensor, ...]:
    """Every tensor with its type, in the order in which llama.cpp writes a file of this type."""
    if target.rounding is not None:
        exact = target.rounding.upper()
        return tuple(StoredTensor(tensor, "F32" if tensor.keep_f32 else exact) for tensor in tensors)
    by_name = {tensor.name: tensor for tensor in tensors}
    types = target_types({tensor.name: tensor.shape for tensor in tensors}, target.name, facts)
    return tuple(
        StoredTensor(
            by_name[name],
            type_name,
            imatrix.of(name, by_name[name].shape[-1]) if imatrix and type_name in BLOCK_TYPES else None,
        )
        for name, type_name in types.items()
    )


def _facts(checkpoint: Checkpoint) -> ModelFacts:
    config = checkpoint.config
    heads = config.get("num_attention_heads")
    grouped = config.get("num_key_value_heads", heads) != heads
    return ModelFacts(
        n_layers=int(config["num_hidden_layers"]),
        n_experts=int(config.get("num_experts") or config.get("num_local_experts") or 0),
        # llama.cpp goes by the number of layers (llama_model::load_arch_hparams)
        is_70b=config["num_hidden_layers"] == 80 and (grouped or config.get("model_type") == "qwen2"),
    )


def _quantizers(tensors: Sequence[StoredTensor]) -> dict[str, str]:
    found: dict[str, str] = {}
    for tensor in sorted(tensors, key=lambda tensor: tensor.type_name):
        if tensor.quantizer is not None and found.get(tensor.type_name) != "ggml":
            found[tensor.type_name] = tensor.quantizer.quantizer
    return found


def _writer(plan: _Plan) -> Any:
    """A ``gguf.GGUFWriter`` with every setting and no tensor.

    llama.cpp's quantizer puts version and type of a file behind all other keys, its converter before the tokenizer.
    """
    import gguf

    writer = gguf.GGUFWriter(path=None, arch=plan.family.gguf_arch)
    _add_metadata(writer, plan)
    if plan.ends_with_type:
        for key in ("general.quantization_version", "general.file_type"):
            writer.kv_data[0][key] = writer.kv_data[0].pop(key)
    if plan.imatrix is not None:
        plan.imatrix.add_settings(writer)
    return writer


def _rope_position(plan: _Plan) -> int:
    """How many tensors lie before the rope factors: none in the converter's file, those by name in the quantizer's."""
    if not plan.ends_with_type:
        return 0
    outside = [tensor.plan.name for tensor in plan.tensors if not tensor.plan.name.startswith("blk.")]
    return sum(name < "rope_freqs.weight" for name in outside)


def _size_label(plan: _Plan) -> str:
    """As ``gguf.GGUFWriter`` counts: all weights, or experts times what one of them has with what they share."""
    import gguf

    stacks = [tensor for tensor in plan.tensors if tensor.plan.stacked]
    total = sum(tensor.n_values for tensor in plan.tensors) + (plan.rope.size if plan.rope is not None else 0)
    one = sum(tensor.n_values // len(tensor.plan.stacked) for tensor in stacks)
    shared = total - sum(tensor.n_values for tensor in stacks)
    label: str = gguf.size_label(total, shared, one, len(stacks[0].plan.stacked) if stacks else 0)
    return label


def _add_metadata(writer: Any, plan: _Plan) -> None:
    import gguf

    add_general_keys(writer, plan.source.checkpoint.folder, _size_label(plan), plan.metadata)
    add_settings(writer, plan.source.checkpoint)
    writer.add_file_type(plan.file_type)
    add_family_settings(writer, plan.source.checkpoint)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    plan.vocabulary.add_to(writer)
