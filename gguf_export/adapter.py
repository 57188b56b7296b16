"""Reading a LoRA adapter as PEFT saves it, and the change that it makes to each weight.

LoRA (Hu et al. 2021, https://arxiv.org/abs/2106.09685, equation 3): ``W' = W + scale * B @ A`` with
``scale = alpha / r``, or ``alpha / sqrt(r)`` for rsLoRA (Kalajdzievski 2023, https://arxiv.org/abs/2312.03732).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from .errors import BrokenFileError, UnsupportedError
from .files import read_json
from .weights import DTYPES, Checkpoint, Float32, TensorInfo, read_header, read_rows, slabs

_PREFIX = "base_model.model."
_KINDS: Final = (".lora_A.weight", ".lora_B.weight", ".lora_embedding_A", ".lora_embedding_B")
_PLAIN_INITS: Final = (True, False, None, "gaussian", "eva", "orthogonal")

_REFUSED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "use_dora": "DoRA",
        "fan_in_fan_out": "fan_in_fan_out",
        "modules_to_save": "modules_to_save",
        "lora_bias": "lora_bias",
        "layer_replication": "layer_replication",
        "target_parameters": "target_parameters",
        "trainable_token_indices": "trainable_token_indices",
        "alora_invocation_tokens": "activated LoRA",
        "use_qalora": "QALoRA",
        "arrow_config": "Arrow",
        "use_bdlora": "BD-LoRA",
    }
)
"""Settings of ``adapter_config.json`` that change the arithmetic, and the name to refuse them by."""


@dataclass(frozen=True)
class _Pair:
    """The two factors for one base tensor: ``A`` is ``[r, in]`` and ``B`` ``[out, r]``, both float32."""

    a: Float32
    b: Float32
    scale: float


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter, its factors in memory as float32.

    Attributes:
        folder: where it was read from.
        base_model_name: the base that it names, for messages only.
        pairs: the factors by the name of the base tensor.
        saved_base: base embeddings that PEFT stored beside an embedding LoRA, by base tensor.
    """

    folder: Path
    base_model_name: str
    pairs: Mapping[str, _Pair]
    saved_base: Mapping[str, TensorInfo]

    @classmethod
    def load(cls, folder: Path) -> Adapter:
        """Read ``adapter_config.json`` and ``adapter_model.safetensors``.

        Raises:
            BrokenFileError: a file is missing, truncated or damaged, or a factor lacks its partner.
            UnsupportedError: the adapter is of another kind than plain LoRA or rsLoRA.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise BrokenFileError(f"{folder}: no such folder; give the folder that PEFT saved the adapter to")
        config_path = folder / "adapter_config.json"
        config = read_json(config_path, "an adapter folder needs it")
        _require_plain_lora(config_path, config)
        path = folder / "adapter_model.safetensors"
        if not path.is_file() and (folder / "adapter_model.bin").is_file():
            raise UnsupportedError(
                f"{folder}: only adapter_model.bin, which can run code when read; "
                "save the adapter again as safetensors (model.save_pretrained)"
            )
        factors: dict[str, dict[str, TensorInfo]] = {}
        saved_base: dict[str, TensorInfo] = {}
        for name, info in read_header(path).items():
            if info.dtype not in DTYPES:
                raise UnsupportedError(f"{path}: {name}: stored as {info.dtype}; save it in bf16, f16 or f32")
            _sort_tensor(path, name, info, factors, saved_base)
        pairs = {f"{module}.weight": _pair(path, config, module, f) for module, f in factors.items()}
        name = str(config.get("base_model_name_or_path") or "")
        return cls(folder, name, MappingProxyType(pairs), MappingProxyType(saved_base))

    def check_fits(self, checkpoint: Checkpoint) -> None:
        """Check that every tensor of the adapter has its place in the base.

        Raises:
            UnsupportedError: the adapter was trained on another model, or on a head that is tied to the
                embedding.
        """
        tied = "lm_head.weight" not in checkpoint.tensors or bool(checkpoint.config.get("tie_word_embeddings"))
        hint = f"it names {self.base_model_name} as its base" if self.base_model_name else "it names no base"
        for name, pair in self.pairs.items():
            if tied and name in ("lm_head.weight", "model.embed_tokens.weight"):
                raise UnsupportedError(
                    f"{self.folder}: {name}: LoRA on an embedding that is tied to the output head is not "
                    "covered, since training changed one of the two and a merge would change both; "
                    "train without embed_tokens and lm_head"
                )
            shape = (pair.b.shape[0], pair.a.shape[1])
            info = checkpoint.tensors.get(name)
            if info is None or info.shape != shape:
                got = "no such tensor" if info is None else f"shape {list(info.shape)}"
                raise UnsupportedError(
                    f"{self.folder}: adapter of another base model: {name}: {got} in {checkpoint.folder}, "
                    f"the adapter changes {list(shape)} ({hint}); give the base that it was trained on"
                )
        for name, info in self.saved_base.items():
            self._check_saved_base(checkpoint, name, info)

    def delta(self, name: str, rows: slice | None = None) -> Float32 | None:
        """The change to a base tensor.

        Args:
            name: the base tensor's name.
            rows: a slice of its rows; all of them when ``None``.

        Returns:
            float32 ``[rows, in]``: ``scale * B[rows] @ A``; ``None`` where the adapter changes nothing.
        """
        pair = self.pairs.get(name)
        if pair is None:
            return None
        product: Float32 = (pair.b[rows or slice(None)] @ pair.a) * np.float32(pair.scale)
        return product

    def _check_saved_base(self, checkpoint: Checkpoint, name: str, info: TensorInfo) -> None:
        base = checkpoint.tensors.get(name)
        if base is None and name == "lm_head.weight":
            base = checkpoint.tensors.get("model.embed_tokens.weight")
        same = base is not None and base.shape == info.shape
        if same and base is not None:
            same = all(np.array_equal(read_rows(base, rows), read_rows(info, rows)) for rows in slabs(info))
        if not same:
            raise UnsupportedError(
                f"{self.folder}: {name}: the adapter carries its own copy of a base weight, and it differs "
                "from the base; replaced embeddings are not covered: train without modules_to_save and "
                "without resizing the vocabulary"
            )


def _require_plain_lora(path: Path, config: dict[str, Any]) -> None:
    kind = str(config.get("peft_type"))
    if kind.upper() != "LORA":
        raise UnsupportedError(f"{path}: peft_type {kind} is not covered; train a LoRA adapter")
    for setting, name in _REFUSED.items():
        if config.get(setting):
            raise UnsupportedError(
                f"{path}: {name} is not covered ({setting} is set); train plain LoRA, or merge with PEFT's "
                "merge_and_unload and export the merged folder without an adapter"
            )
    if config.get("bias", "none") != "none":
        raise UnsupportedError(f'{path}: bias {config["bias"]!r} is not covered; train with bias = "none"')
    if config.get("init_lora_weights") not in _PLAIN_INITS:
        raise UnsupportedError(
            f"{path}: init_lora_weights {config['init_lora_weights']!r} is not covered, since it changes the "
            "base weights too; convert the adapter with PEFT (path_initial_model_for_weight_conversion)"
        )
    if not isinstance(config.get("r"), int) or not isinstance(config.get("lora_alpha"), int | float):
        raise BrokenFileError(f"{path}: r or lora_alpha is missing; save the adapter again")


def _sort_tensor(
    path: Path,
    name: str,
    info: TensorInfo,
    factors: dict[str, dict[str, TensorInfo]],
    saved_base: dict[str, TensorInfo],
) -> None:
    """Put one tensor of the adapter where it belongs; refuse what is not known: nothing is dropped."""
    if name.startswith(_PREFIX):
        inner = name.removeprefix(_PREFIX)
        for kind in _KINDS:
            if inner.endswith(kind) and len(info.shape) == 2:
                factors.setdefault(inner.removesuffix(kind), {})[kind] = info
                return
        plain = inner.replace(".base_layer.weight", ".weight")
        if plain in ("model.embed_tokens.weight", "lm_head.weight"):
            saved_base[plain] = info
            return
    raise UnsupportedError(
        f"{path}: {name}: not a tensor of a plain LoRA adapter (shape {list(info.shape)}); "
        "merge with PEFT's merge_and_unload and export the merged folder without an adapter"
    )


def _pair(path: Path, config: dict[str, Any], module: str, factors: dict[str, TensorInfo]) -> _Pair:
    if set(factors) == set(_KINDS[:2]):
        a, b = (read_rows(factors[kind]) for kind in _KINDS[:2])
    elif set(factors) == set(_KINDS[2:]):
        # An embedding is looked up by row, so PEFT keeps its factors transposed: delta = (B @ A).T.
        b, a = (np.ascontiguousarray(read_rows(factors[kind]).T) for kind in _KINDS[2:])
    else:
        raise BrokenFileError(f"{path}: {module}: only {', '.join(factors)} is there; save the adapter again")
    r = _by_pattern(config.get("rank_pattern"), module, config["r"])
    alpha = _by_pattern(config.get("alpha_pattern"), module, config["lora_alpha"])
    if a.shape[0] != r or b.shape[1] != r:
        raise BrokenFileError(
            f"{path}: {module}: factors of rank {a.shape[0]} and {b.shape[1]}, its config says {r}; "
            "save the adapter again"
        )
    return _Pair(a, b, alpha / math.sqrt(r) if config.get("use_rslora") else alpha / r)


def _by_pattern(patterns: dict[str, Any] | None, module: str, default: Any) -> Any:
    """The value of the first pattern that matches the end of a module's name, as PEFT's get_pattern_key."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default
