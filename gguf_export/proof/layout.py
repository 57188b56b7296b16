"""Whether a GGUF's tensors are all there, have the shapes that its settings say, and lie where its header says."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from ..reading import GgufFile

Shape = tuple[int | None, ...]
"""Rows first; ``None`` for any length."""

_DEFAULT_ALIGNMENT: Final = 32

_BIASES: Final = {f"{part}.bias" for part in ("attn_q", "attn_k", "attn_v")}
_NORMS: Final = {"attn_q_norm.weight", "attn_k_norm.weight"}
_NEEDED: Final[Mapping[str, set[str]]] = MappingProxyType(
    {"llama": set(), "qwen2": _BIASES, "qwen3": _NORMS, "qwen3moe": _NORMS}
)
"""What a layer holds beyond norms, attention and feed-forward, by architecture (llama.cpp ``src/models``)."""

_ALLOWED: Final[Mapping[str, set[str]]] = MappingProxyType(
    {
        "llama": {*_BIASES, "attn_output.bias", "ffn_gate.bias", "ffn_up.bias", "ffn_down.bias"},
        "qwen2": {"attn_output.bias"},
        "qwen3": _BIASES,
        "qwen3moe": _BIASES,
    }
)
"""What it may hold beside."""


def layout_problems(file: GgufFile) -> list[str]:
    """What is wrong with the tensors of a file, a line each; nothing where all is well."""
    return [*_place_problems(file), *_tensor_problems(file)]


def is_known(file: GgufFile) -> bool:
    """Whether the tensors of its architecture are known here."""
    return str(file.get("general.architecture")) in _NEEDED


def _place_problems(file: GgufFile) -> list[str]:
    """Tensors lie one behind the other, each at a multiple of the alignment, and the last one ends the file."""
    problems = []
    alignment = int(file.get("general.alignment", _DEFAULT_ALIGNMENT))
    expected = file.data_offset
    for tensor in sorted(file.tensors, key=lambda tensor: int(tensor.data_offset)):
        offset, size = int(tensor.data_offset), int(tensor.n_bytes)
        if (offset - file.data_offset) % alignment:
            problems.append(f"{tensor.name}: lies at byte {offset}, no multiple of {alignment}")
        if offset < expected:
            problems.append(f"{tensor.name}: overlaps the tensor before it by {expected - offset} bytes")
        elif offset - expected >= alignment:
            problems.append(f"{tensor.name}: {offset - expected} bytes before it belong to nothing")
        expected = offset + size
    padded = expected + (file.data_offset - expected) % alignment
    size = file.path.stat().st_size
    if size not in (expected, padded):
        problems.append(f"{size} bytes, its header says {padded}")
    return problems


def _tensor_problems(file: GgufFile) -> list[str]:
    found = {tensor.name: tuple(int(n) for n in reversed(tensor.shape)) for tensor in file.tensors}
    if not is_known(file):
        return []
    try:
        frame, layer, optional = _expected(file)
        n_layers = int(_setting(file, "block_count"))
    except KeyError as error:
        return [f"{error.args[0]}: missing"]
    shapes = dict(frame)
    for index in range(n_layers):
        shapes |= {f"blk.{index}.{part}": shape for part, shape in layer.items()}
    problems = [f"{name}: missing" for name in shapes if name not in found]
    for name, shape in found.items():
        wanted = shapes.get(name, optional.get(re.sub(r"^blk\.\d+\.", "blk.", name)))
        if wanted is None or not _is_in_range(name, n_layers):
            problems.append(f"{name}: no tensor of this architecture")
        elif len(shape) != len(wanted) or any(w not in (None, n) for w, n in zip(wanted, shape, strict=True)):
            said = " x ".join("any" if n is None else str(n) for n in wanted)
            problems.append(f"{name}: {' x '.join(map(str, shape))}, the settings say {said}")
    return problems


def _expected(file: GgufFile) -> tuple[dict[str, Shape], dict[str, Shape], dict[str, Shape]]:
    """Shapes outside the layers, of one layer, and of what may be there (``blk.`` for any layer)."""
    arch = str(file.get("general.architecture"))
    width, heads = int(_setting(file, "embedding_length")), int(_setting(file, "attention.head_count"))
    kv_heads = int(file.get(f"{arch}.attention.head_count_kv", heads))
    head = int(file.get(f"{arch}.attention.key_length", width // heads))
    frame: dict[str, Shape] = {"token_embd.weight": (file.n_tokens, width), "output_norm.weight": (width,)}
    layer: dict[str, Shape] = {
        "attn_norm.weight": (width,),
        "ffn_norm.weight": (width,),
        "attn_q.weight": (heads * head, width),
        "attn_k.weight": (kv_heads * head, width),
        "attn_v.weight": (kv_heads * head, width),
        "attn_output.weight": (width, heads * head),
    }
    experts = int(file.get(f"{arch}.expert_count", 0))
    if experts:
        inner = int(_setting(file, "expert_feed_forward_length"))
        layer["ffn_gate_inp.weight"] = (experts, width)
        layer["ffn_gate_exps.weight"] = layer["ffn_up_exps.weight"] = (experts, inner, width)
        layer["ffn_down_exps.weight"] = (experts, width, inner)
    else:
        inner = int(_setting(file, "feed_forward_length"))
        layer["ffn_gate.weight"] = layer["ffn_up.weight"] = (inner, width)
        layer["ffn_down.weight"] = (width, inner)
    vectors: dict[str, Shape] = {
        "attn_q.bias": (heads * head,),
        "attn_k.bias": (kv_heads * head,),
        "attn_v.bias": (kv_heads * head,),
        "attn_output.bias": (width,),
        "ffn_gate.bias": (inner,),
        "ffn_up.bias": (inner,),
        "ffn_down.bias": (width,),
        "attn_q_norm.weight": (head,),
        "attn_k_norm.weight": (head,),
    }
    layer |= {part: vectors[part] for part in _NEEDED[arch]}
    optional: dict[str, Shape] = {f"blk.{part}": vectors[part] for part in _ALLOWED[arch]}
    optional["output.weight"] = (file.n_tokens, width)
    optional["rope_freqs.weight"] = (None,)
    return frame, layer, optional


def _setting(file: GgufFile, name: str) -> Any:
    key = f"{file.get('general.architecture')}.{name}"
    value = file.get(key)
    if value is None:
        raise KeyError(key)
    return value


def _is_in_range(name: str, n_layers: int) -> bool:
    match = re.match(r"blk\.(\d+)\.", name)
    return match is None or int(match.group(1)) < n_layers
