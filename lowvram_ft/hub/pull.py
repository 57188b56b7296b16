"""Fetch an adapter or a GGUF from the hub: into a folder, or, of an adapter to export, into the hub's own cache.

Only files of known names are fetched, none that can run code when read, and each is held against the checksum that the
hub has of it. The client resumes what was broken off.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import gguf_export
from lowvram_ft.errors import MachineError, ModelError, UsageError, cannot_write
from lowvram_ft.hub.artifacts import BESIDE_ADAPTER, CONFIG, WEIGHTS
from lowvram_ft.hub.client import errors_of, open_api
from lowvram_ft.hub.names import REPO_ID, require_repo_id
from lowvram_ft.hub.ollama_files import NAMES, modelfile_from
from lowvram_ft.inference.hub_gguf import pick
from lowvram_ft.progress import Progress
from lowvram_ft.run_dir import read_json, write_json, write_text

PULLED = "pulled.json"
"""Where a folder's files came from."""
_TEXTS = ("README.md", "LICENSE", "LICENSE.md", "LICENSE.txt")
_REVISION = re.compile(r"[\w./-]+")


@dataclass(frozen=True)
class Listing:
    """A repository at one commit.

    Attributes:
        repo_id: the repository.
        commit: which one.
        sums: file name to size and SHA-256; the latter None for small files, which the hub keeps otherwise.
    """

    repo_id: str
    commit: str
    sums: Mapping[str, tuple[int, str | None]]


def is_repository(text: str) -> bool:
    """Whether a text can be a repository with or without a revision, and is nothing on this disk."""
    return REPO_ID.fullmatch(text.partition("@")[0]) is not None and not Path(text).exists()


def pull(
    repository: str,
    folder: Path,
    want: Literal["adapter"] | None,
    quant: str | None,
    progress: Progress,
) -> dict[str, Any]:
    """Fetch an adapter or a GGUF into a folder.

    Args:
        repository: ``OWNER/NAME``, with ``@`` and a branch, a tag or a commit after it or without.
        folder: made where it is missing.
        want: the adapter, of a repository that has both.
        quant: the GGUF of this quantization.
        progress: where a person reads what is going on.

    Returns:
        ``repo_id``, ``commit``, ``folder``, ``kind`` (``adapter`` or ``gguf``), ``base`` (hub id, or None), ``files``
        (name, size, SHA-256), ``gguf`` and ``modelfile`` (paths) where it is one.

    Raises:
        UsageError: it is not clear what is meant, or the folder holds something else.
        ModelError: there is no such repository, or nothing of the kind in it, or a file is damaged.
        MachineError: the hub cannot be reached, or the disk is full.
    """
    listing = list_files(repository)
    kind, names = _chosen(listing, want, quant)
    _require_room_for(folder, listing, names)
    fetched = _fetch(listing, names, folder, progress)
    found: dict[str, Any] = {
        "repo_id": listing.repo_id,
        "commit": listing.commit,
        "kind": kind,
        "base": _base(folder, kind, names[0]),
        "files": fetched,
    }
    write_json(folder / PULLED, found)
    found["folder"] = str(folder)
    if kind == "gguf":
        texts = {name: (folder / name).read_text(encoding="utf-8") for name in NAMES if name in names}
        found["gguf"] = str(folder / names[0])
        if "template" in texts:
            modelfile = (folder / names[0]).with_suffix(".Modelfile")
            write_text(modelfile, _modelfile(listing, Path(names[0]).name, texts))
            found["modelfile"] = str(modelfile)
    return found


def cached_adapter(repository: str, progress: Progress) -> Path:
    """An adapter of the hub in the hub's own cache, to be exported from there.

    Args:
        repository: ``OWNER/NAME``, with a revision after ``@`` or without.
        progress: where a person reads what is going on.

    Raises:
        ModelError: there is no such repository, it has no adapter, or only one that can run code when read.
        MachineError: the hub cannot be reached, and the cache does not have it.
    """
    from huggingface_hub import constants, snapshot_download

    repo_id, revision = split(repository)
    patterns = [CONFIG, WEIGHTS, *BESIDE_ADAPTER]
    progress.say(f"adapter: {repository} on the hub")
    away = bool(constants.HF_HUB_OFFLINE)
    if not away:
        try:
            _require_adapter(list_files(repository))
        except MachineError:
            away = True
            if not _is_cached(repo_id, revision):
                raise
            progress.say(f"{repository}: the hub cannot be reached; taking what its cache has")
    with errors_of(repo_id, constants.HF_HUB_CACHE, writing=False):
        folder = Path(snapshot_download(repo_id, revision=revision, allow_patterns=patterns, local_files_only=away))
    if not (folder / CONFIG).is_file() or not (folder / WEIGHTS).is_file():
        raise ModelError(f"{repository}: the hub's cache has no adapter of it; unset HF_HUB_OFFLINE, and run it again")
    return folder


def _is_cached(repo_id: str, revision: str | None) -> bool:
    from huggingface_hub import try_to_load_from_cache

    found = [try_to_load_from_cache(repo_id, name, revision=revision) for name in (CONFIG, WEIGHTS)]
    return all(isinstance(path, str) for path in found)


def split(repository: str) -> tuple[str, str | None]:
    """``OWNER/NAME@REVISION`` in its two parts.

    Raises:
        UsageError: it is no such thing.
    """
    repo_id, at, revision = repository.partition("@")
    require_repo_id(repo_id)
    if at and not _REVISION.fullmatch(revision):
        raise UsageError(f"{repository}: no revision after @; give a branch, a tag or a commit")
    return repo_id, revision or None


def list_files(repository: str) -> Listing:
    """The files of a repository.

    Raises:
        UsageError: it is no name of one.
        ModelError: there is none of that name or revision, or it is not to be read with this token.
        MachineError: the hub cannot be reached.
    """
    repo_id, revision = split(repository)
    with errors_of(repository, repo_id, writing=False):
        found = open_api().model_info(repo_id, revision=revision, files_metadata=True)
    sums = {
        entry.rfilename: (entry.size or 0, entry.lfs.sha256 if entry.lfs is not None else None)
        for entry in found.siblings or ()
    }
    return Listing(repo_id, str(found.sha), sums)


def _chosen(
    listing: Listing, want: Literal["adapter"] | None, quant: str | None
) -> tuple[Literal["adapter", "gguf"], list[str]]:
    """What is meant, and its files, the main one first."""
    names = list(listing.sums)
    ggufs = [name for name in names if name.lower().endswith(".gguf")]
    has_adapter = CONFIG in names
    if want is None and quant is None and has_adapter and ggufs:
        raise UsageError(
            f"{listing.repo_id}: holds an adapter and {', '.join(ggufs[:12])}; say which: --adapter, or --gguf QUANT"
        )
    beside = [name for name in _TEXTS if name in names]
    if want == "adapter" or (quant is None and has_adapter):
        _require_adapter(listing)
        return "adapter", [CONFIG, WEIGHTS, *(name for name in BESIDE_ADAPTER if name in names), *beside]
    if not ggufs:
        what = ", ".join(names[:8]) or "no file"
        raise ModelError(
            f"{listing.repo_id}: holds neither an adapter ({CONFIG}) nor a GGUF at its top ({what}); a whole model is "
            f"fetched by what needs it: lowvram-ft export --base {listing.repo_id}"
        )
    chosen = pick(listing.repo_id, quant, names)
    return "gguf", [chosen, *(name for name in NAMES if name in names), *beside]


def _require_adapter(listing: Listing) -> None:
    if CONFIG not in listing.sums:
        inside = sorted({name.rpartition("/")[0] for name in listing.sums if name.endswith(f"/{CONFIG}")})
        if inside:
            raise ModelError(
                f"{listing.repo_id}: has adapters in subfolders alone ({', '.join(inside[:6])}); fetch one with: "
                f"hf download {listing.repo_id} --include '{inside[0]}/*' --local-dir FOLDER"
            )
        what = "whole model" if "config.json" in listing.sums else "adapter"
        if what == "adapter":
            raise ModelError(f"{listing.repo_id}: holds no adapter (no {CONFIG}); check the name")
        raise ModelError(
            f"{listing.repo_id}: is a whole model and no adapter (no {CONFIG}); if it is merged already, export it "
            f"without one: lowvram-ft export --base {listing.repo_id}"
        )
    if WEIGHTS not in listing.sums:
        if "adapter_model.bin" in listing.sums:
            raise ModelError(
                f"{listing.repo_id}: has only adapter_model.bin, which can run code when read; ask its author for "
                "safetensors, or save it again where you trust it: PeftModel.from_pretrained(…).save_pretrained(FOLDER)"
            )
        raise ModelError(f"{listing.repo_id}: has {CONFIG} and no {WEIGHTS}; its upload was not finished")


def _require_room_for(folder: Path, listing: Listing, names: Sequence[str]) -> None:
    """Refuse to put files over those of something else.

    Raises:
        UsageError: they are there, and did not come from this repository.
    """
    if (folder / PULLED).is_file():
        before = read_json(folder / PULLED)
        if before.get("repo_id") == listing.repo_id:
            return
        raise UsageError(f"{folder}: holds {before.get('repo_id')}; give another folder")
    if folder.is_file():
        raise UsageError(f"{folder}: is a file; give a folder")
    if (folder / ".cache" / "huggingface").is_dir():
        return  # a pull that was broken off, or the client's own download
    there = [name for name in names if (folder / name).exists()]
    if there:
        raise UsageError(
            f"{folder}: holds {', '.join(there[:4])} already, not from {listing.repo_id}; give another folder"
        )


def _fetch(listing: Listing, names: Sequence[str], folder: Path, progress: Progress) -> list[dict[str, Any]]:
    from huggingface_hub import hf_hub_download

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from error
    found = []
    for name in names:
        size, expected = listing.sums[name]
        progress.say(f"pull: {name}, {size / 2**20:.1f} MiB")
        with errors_of(listing.repo_id, str(folder), writing=False):
            path = Path(hf_hub_download(listing.repo_id, name, revision=listing.commit, local_dir=folder))
        digest = gguf_export.sha256_of(path)
        if path.stat().st_size != size or (expected is not None and digest != expected):
            path.unlink()
            raise ModelError(
                f"{path}: is not what the hub says that it holds (SHA-256 {digest[:16]} instead of "
                f"{(expected or '')[:16]}); it was removed, run the same command again"
            )
        found.append({"name": name, "size_bytes": size, "sha256": digest})
    return found


def _base(folder: Path, kind: str, name: str) -> str | None:
    """The base model as the files name it."""
    if kind == "adapter":
        try:
            config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        except ValueError as error:
            raise ModelError(f"{folder / CONFIG}: cannot be read ({error}); ask its author") from error
        return str(config.get("base_model_name_or_path") or "") or None
    url = str(gguf_export.GgufFile(folder / name).get("general.base_model.0.repo_url") or "")
    return url.removeprefix("https://huggingface.co/") or None


def _modelfile(listing: Listing, gguf: str, texts: Mapping[str, str]) -> str:
    """The Modelfile, from texts that somebody else has written.

    Raises:
        ModelError: they cannot be put into one.
    """
    try:
        return modelfile_from(gguf, texts)
    except (ValueError, AttributeError) as error:
        raise ModelError(f"{listing.repo_id}: params: is not JSON ({error}); ask its author") from error
