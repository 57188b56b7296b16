"""A GGUF from a repository on the hub."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from lowvram_ft.errors import MachineError, ModelError, cannot_write, is_disk_full

HUB_ID = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)(?::(?P<quant>[\w.-]+))?")
"""``owner/name`` or ``owner/name:Q4_K_M``, as llama.cpp's ``-hf`` and Ollama take it."""
DEFAULT_QUANT = "Q4_K_M"
_PART = re.compile(r"-\d{5}-of-\d{5}$")


def download(hub_id: str) -> Path:
    """Get a GGUF into the hub's own cache; where the hub cannot be reached, one that is there already is taken.

    Args:
        hub_id: see `HUB_ID`; of several files the one in Q4_K_M where none is named.

    Raises:
        ModelError: there is no such repository, or no such file in it.
        MachineError: the hub cannot be reached, or the disk is full.
    """
    import httpx
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    match = HUB_ID.fullmatch(hub_id)
    if match is None:
        raise ModelError(f"{hub_id}: is no hub id; give owner/name, or owner/name:Q4_K_M")
    repository = match["repository"]
    try:
        names, offline = _names(repository)
        return Path(hf_hub_download(repository, pick(hub_id, match["quant"], names), local_files_only=offline))
    except GatedRepoError as error:
        raise ModelError(f"{repository}: needs its licence accepted on the hub; then run: hf auth login") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise ModelError(
            f"{repository}: no such model on the hub, nor file here; check the name or the path"
        ) from error
    except (HfHubHTTPError, httpx.HTTPError, OSError) as error:
        if is_disk_full(error):
            raise cannot_write(constants.HF_HUB_CACHE, error) from error
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise MachineError(
            f"{repository}: cannot be downloaded ({reason}); check the network, or give a file"
        ) from error


def pick(hub_id: str, quant: str | None, names: Sequence[str]) -> str:
    """The file that is meant.

    Args:
        hub_id: for errors.
        quant: the quantization that its name ends with; None for the only file, else Q4_K_M.
        names: of all files of the repository.

    Raises:
        ModelError: none fits, or several do, or it is in parts.
    """
    found = [name for name in sorted(names) if name.lower().endswith(".gguf") and "mmproj" not in name.lower()]
    if not found:
        raise ModelError(f"{hub_id}: holds no GGUF; give a repository of GGUFs, or export one: lowvram-ft export")
    wanted = (quant or DEFAULT_QUANT).lower()
    fitting = [name for name in found if re.search(rf"(^|[-_.]){re.escape(wanted)}$", _stem(name))]
    chosen = found if quant is None and len(found) == 1 else fitting
    if len(chosen) == 1 and not _PART.search(chosen[0][: -len(".gguf")]):
        return chosen[0]
    if chosen and all(_PART.search(name[: -len(".gguf")]) for name in chosen):
        raise ModelError(f"{hub_id}: is in {len(chosen)} parts; join them with llama-gguf-split, and give the file")
    known = ", ".join(found[:12]) + (" …" if len(found) > 12 else "")
    raise ModelError(f"{hub_id}: which file? (it has: {known}); name its quantization: owner/name:{DEFAULT_QUANT}")


def _stem(name: str) -> str:
    """``folder/Model-Q8_0-00001-of-00002.gguf`` to ``model-q8_0``."""
    return _PART.sub("", Path(name).name[: -len(".gguf")]).lower()


def _names(repository: str) -> tuple[list[str], bool]:
    """The files of a repository, and whether they are those of the hub's cache because the hub cannot be reached."""
    import httpx
    from huggingface_hub import HfApi, constants

    cached = _cached(repository)
    if constants.HF_HUB_OFFLINE:
        return cached, True
    try:
        return HfApi().list_repo_files(repository), False
    except httpx.TransportError:
        if not cached:
            raise
        return cached, True


def _cached(repository: str) -> list[str]:
    """The files of a repository that are in the hub's cache."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(repository, allow_patterns="*.gguf", local_files_only=True))
    except LocalEntryNotFoundError:
        return []
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*.gguf")]
