"""Reading the folder that PEFT saves an adapter to: which base tensor it changes, and how.

What is said here about the files was found by saving and loading every case with PEFT 0.21;
tests/integration/test_adapters.py repeats it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from ..checkpoints.weights import DTYPES, TensorInfo, read_header
from ..errors import BrokenFileError, UnsupportedError
from ..files import read_json
from .changes import Change, LowRank, Replaced, Shifted, TokenRows
from .experts import STACK, Pair, expert_changes, require_known_parameters

EMBEDDING: Final = "model.embed_tokens.weight"
HEAD: Final = "lm_head.weight"

_PREFIX = "base_model.model."
_LINEAR: Final = (".lora_A.weight", ".lora_B.weight")
_EMBEDDING: Final = (".lora_embedding_A", ".lora_embedding_B")
_MAGNITUDES: Final = (".lora_magnitude_vector.weight", ".lora_magnitude_vector")
_BIAS: Final = ".lora_B.bias"
_TOKENS: Final = ".token_adapter.trainable_tokens_delta"
_PARTS: Final = (*_LINEAR, *_EMBEDDING, *_MAGNITUDES, _BIAS, _TOKENS)
_PLAIN_INITS: Final = (True, False, None, "gaussian", "eva", "orthogonal")

_REFUSED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "fan_in_fan_out": "fan_in_fan_out",
        "layer_replication": "layer_replication",
        "alora_invocation_tokens": "activated LoRA",
        "use_qalora": "QALoRA",
        "arrow_config": "Arrow",
        "use_bdlora": "BD-LoRA",
        "kasa_config": "KaSA",
        "velora_config": "VeLoRA",
        "monteclora_config": "MonteCLoRA",
    }
)
"""Settings of ``adapter_config.json`` that change the arithmetic, and the name to refuse them by."""


@dataclass(frozen=True)
class AdapterFile:
    """One adapter folder.

    Attributes:
        folder: where it lies.
        base_model_name: the base that it names, for messages only.
        changes: by base tensor, what is done to it, in this order.
        saved_base: base weights that PEFT stored beside an adapter of an embedding, by base tensor.
    """

    folder: Path
    base_model_name: str
    changes: Mapping[str, tuple[Change, ...]]
    saved_base: Mapping[str, TensorInfo]

    @classmethod
    def read(cls, folder: Path) -> AdapterFile:
        """Read ``adapter_config.json`` and the header of ``adapter_model.safetensors``.

        Raises:
            BrokenFileError: a file is missing, truncated or damaged, or a factor lacks its partner.
            UnsupportedError: the adapter is of a kind that is not covered.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise BrokenFileError(f"{folder}: no such folder; give the folder that PEFT saved the adapter to")
        config_path = folder / "adapter_config.json"
        if not config_path.is_file():
            refuse_what_is_no_adapter(folder)
        config = read_json(config_path, "an adapter folder needs it")
        _require_covered(config_path, config)
        path = folder / "adapter_model.safetensors"
        if not path.is_file() and (folder / "adapter_model.bin").is_file():
            raise UnsupportedError(
                f"{folder}: only adapter_model.bin, which can run code when read; "
                "save the adapter again as safetensors (model.save_pretrained)"
            )
        modules: dict[str, dict[str, TensorInfo]] = {}
        whole: dict[str, TensorInfo] = {}
        saved_base: dict[str, TensorInfo] = {}
        for name, info in read_header(path).items():
            if info.dtype not in DTYPES:
                raise UnsupportedError(f"{path}: {name}: stored as {info.dtype}; save it in bf16, f16 or f32")
            _sort_tensor(path, config, name, info, (modules, whole, saved_base))
        changes: dict[str, tuple[Change, ...]] = {name: (Replaced(info),) for name, info in whole.items()}
        changes |= _expert_changes(path, config, modules)
        for module, parts in modules.items():
            for name, change in _module_changes(path, config, module, parts).items():
                changes[name] = (*changes.get(name, ()), change)
        base_name = str(config.get("base_model_name_or_path") or "")
        return cls(folder, base_name, MappingProxyType(changes), MappingProxyType(saved_base))


def refuse_what_is_no_adapter(folder: Path) -> None:
    """Say what a folder without ``adapter_config.json`` is, where that can be told.

    Raises:
        UnsupportedError: it is a run, holds adapters in folders of its own, or is a whole model.
    """
    lacks = "no adapter_config.json"
    stages = sorted(folder.glob("stages/*/adapter/adapter_config.json"))
    if stages:
        raise UnsupportedError(f"{folder}: is a run; give the adapter of a stage: {stages[-1].parent}")
    inside = sorted((path.parent for path in folder.glob("*/adapter_config.json")), key=_by_number)
    if inside:
        shown = ", ".join(map(str, inside[-4:]))
        raise UnsupportedError(f"{folder}: has no adapter itself ({lacks}); give one of: {shown}")
    if (folder / "config.json").is_file():
        raise UnsupportedError(
            f"{folder}: is a whole model and no adapter ({lacks}); if it is merged already, give it as the base, "
            "without --adapter"
        )


def _by_number(folder: Path) -> tuple[int, str]:
    """Checkpoints in the order in which they were written: 100 after 50."""
    digits = re.findall(r"\d+", folder.name)
    return int(digits[-1]) if digits else 0, folder.name


def _expert_changes(
    path: Path, config: dict[str, Any], modules: dict[str, dict[str, TensorInfo]]
) -> dict[str, tuple[Change, ...]]:
    """What is done to stacked experts; their wrappers are taken out of ``modules``."""

    def scale_of(name: str) -> tuple[int, float]:
        rank = _by_pattern(config.get("rank_pattern"), name, config["r"])
        alpha = _by_pattern(config.get("alpha_pattern"), name, config["lora_alpha"])
        return rank, alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank

    stacks: dict[str, dict[str, Pair]] = {}
    for module in [name for name in modules if name.removesuffix(".base_layer").endswith(STACK)]:
        parts = modules.pop(module)
        if set(parts) != set(_LINEAR):
            raise BrokenFileError(f"{path}: {module}: only {', '.join(parts)} is there; save the adapter again")
        stacks.setdefault(module.removesuffix(".base_layer"), {})[module] = (parts[_LINEAR[0]], parts[_LINEAR[1]])
    changes: dict[str, tuple[Change, ...]] = {}
    for module, pairs in stacks.items():
        found = expert_changes(path, config, module, pairs, scale_of)
        changes |= {name: (change,) for name, change in found.items()}
    return changes


def _require_covered(path: Path, config: dict[str, Any]) -> None:
    kind = str(config.get("peft_type"))
    if kind.upper() != "LORA":
        raise UnsupportedError(f"{path}: peft_type {kind} is not covered; train a LoRA adapter")
    for setting, name in _REFUSED.items():
        if config.get(setting):
            raise UnsupportedError(
                f"{path}: {name} is not covered ({setting} is set); train plain LoRA, or merge with PEFT's "
                "merge_and_unload and export the merged folder without an adapter"
            )
    require_known_parameters(path, config.get("target_parameters"))
    if config.get("init_lora_weights") not in _PLAIN_INITS:
        raise UnsupportedError(
            f"{path}: init_lora_weights {config['init_lora_weights']!r} is not covered, since it changes the "
            "base weights too; convert the adapter with PEFT (path_initial_model_for_weight_conversion)"
        )
    if not isinstance(config.get("r"), int) or not isinstance(config.get("lora_alpha"), int | float):
        raise BrokenFileError(f"{path}: r or lora_alpha is missing; save the adapter again")


def _sort_tensor(
    path: Path,
    config: dict[str, Any],
    name: str,
    info: TensorInfo,
    into: tuple[dict[str, dict[str, TensorInfo]], dict[str, TensorInfo], dict[str, TensorInfo]],
) -> None:
    """Put one tensor of the adapter where it belongs; refuse what is not known: nothing is dropped."""
    modules, whole, saved_base = into
    if name.startswith(_PREFIX):
        inner = name.removeprefix(_PREFIX)
        for part in _PARTS:
            if inner.endswith(part):
                kind = _MAGNITUDES[0] if part in _MAGNITUDES else part
                modules.setdefault(inner.removesuffix(part), {})[kind] = info
                return
        # PEFT matches an entry of modules_to_save against the end of a module's name.
        parents = [inner[: dot.start()] for dot in re.finditer(r"\.", inner)]
        entries = tuple(config.get("modules_to_save") or ())
        if entries and any(parent.endswith(entries) for parent in parents):
            whole[inner] = info
            return
        plain = inner.replace(".base_layer.", ".")
        if plain in (EMBEDDING, HEAD):
            # With ensure_weight_tying, PEFT trains one table and saves it under both names.
            trained = inner == plain and bool(config.get("ensure_weight_tying"))
            (whole if trained else saved_base)[plain] = info
            return
        if plain.endswith(".bias") and config.get("bias", "none") in ("all", "lora_only"):
            whole[plain] = info
            return
    raise UnsupportedError(
        f"{path}: {name}: not a tensor of a LoRA adapter (shape {list(info.shape)}); "
        "merge with PEFT's merge_and_unload and export the merged folder without an adapter"
    )


def _module_changes(path: Path, config: dict[str, Any], module: str, parts: dict[str, TensorInfo]) -> dict[str, Change]:
    """What the tensors of one adapted module do, by base tensor."""
    changes: dict[str, Change] = {}
    left = dict(parts)
    if tokens := left.pop(_TOKENS, None):
        changes[f"{module}.weight"] = TokenRows(tokens, _token_indices(path, config, module, tokens))
    magnitude, bias = left.pop(_MAGNITUDES[0], None), left.pop(_BIAS, None)
    if not left and not (magnitude or bias):
        return changes
    if set(left) not in (set(_LINEAR), set(_EMBEDDING)):
        raise BrokenFileError(f"{path}: {module}: only {', '.join(parts)} is there; save the adapter again")
    transposed = set(left) == set(_EMBEDDING)
    if transposed and magnitude:
        raise UnsupportedError(
            f"{path}: {module}: DoRA on an embedding is not covered; train it with modules_to_save, or merge with "
            "PEFT's merge_and_unload and export the merged folder without an adapter"
        )
    if config.get("use_dora") and not magnitude:
        raise BrokenFileError(f"{path}: {module}: DoRA without its magnitude vector; save the adapter again")
    r = _by_pattern(config.get("rank_pattern"), module, config["r"])
    alpha = _by_pattern(config.get("alpha_pattern"), module, config["lora_alpha"])
    a, b = (left[kind] for kind in (_EMBEDDING if transposed else _LINEAR))
    if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != r or b.shape[1] != r:
        raise BrokenFileError(
            f"{path}: {module}: factors of shape {list(a.shape)} and {list(b.shape)}, its config says rank {r}; "
            "save the adapter again"
        )
    scale = alpha / math.sqrt(r) if config.get("use_rslora") else alpha / r
    changes[f"{module}.weight"] = change = LowRank(a, b, scale, transposed, magnitude)
    for vector in filter(None, (magnitude, bias)):
        if vector.shape != change.shape[:1]:
            raise BrokenFileError(
                f"{path}: {module}: a vector of shape {list(vector.shape)} beside {change.shape[0]} rows; "
                "save the adapter again"
            )
    if bias:
        changes[f"{module}.bias"] = Shifted(bias, scale)
    return changes


def _token_indices(path: Path, config: dict[str, Any], module: str, info: TensorInfo) -> tuple[int, ...]:
    """The rows that ``trainable_token_indices`` names: a list for the embedding, or a table by module."""
    indices = config.get("trainable_token_indices")
    if isinstance(indices, dict):
        indices = next((value for key, value in indices.items() if module.endswith(key)), None)
    if not isinstance(indices, list) or len(info.shape) != 2 or len(indices) != info.shape[0]:
        raise BrokenFileError(
            f"{path}: {module}: {info.shape[0]} trained rows, but trainable_token_indices names "
            f"{len(indices) if isinstance(indices, list) else 'none'}; save the adapter again"
        )
    return tuple(int(index) for index in indices)


def _by_pattern(patterns: dict[str, Any] | None, module: str, default: Any) -> Any:
    """The value of the first pattern that matches the end of a module's name, as PEFT's get_pattern_key."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default
