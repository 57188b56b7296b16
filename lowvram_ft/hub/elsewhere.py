"""Adapters that another program has trained: where they lie, on which base, and with which chat template.

Unsloth, axolotl and LLaMA-Factory save PEFT's files, with a tokenizer beside them. What they leave differs in three
ways from what this kit leaves: the base may be named in its 4-bit form, the chat template may be one of their own, and
the vocabulary may have grown.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import gguf_export
from lowvram_ft.errors import ModelError, UsageError
from lowvram_ft.hub.artifacts import CONFIG
from lowvram_ft.hub.pull import cached_adapter, is_repository
from lowvram_ft.inference.adapter import adapter_folder
from lowvram_ft.models import BaseModel, named_by_path, resolve
from lowvram_ft.progress import Progress
from lowvram_ft.rendering import ChatFormat, from_folder

_IN_4_BITS = re.compile(r"(?:-unsloth)?-bnb-4bit$", re.IGNORECASE)


def find_adapters(given: Sequence[str], progress: Progress) -> list[Path]:
    """The folders of adapters; those on the hub are fetched into its cache.

    Args:
        given: folders, stages of a run, or repositories on the hub with a revision after ``@`` or without.
        progress: where a person reads what is going on.

    Raises:
        ModelError: there is no such folder or repository.
        gguf_export.UnsupportedError: there is no adapter in the folder, and what it is can be told.
        MachineError: the hub cannot be reached.
    """
    found = []
    for text in given:
        path = Path(text).expanduser()
        if path.is_dir():
            folder = adapter_folder(path)
            if folder is None:
                gguf_export.refuse_what_is_no_adapter(path)
            found.append(folder or path)
        elif is_repository(text):
            found.append(_of_the_hub(text, progress))
        else:
            raise ModelError(f"{text}: no such folder; give the folder that PEFT saved the adapter to, or OWNER/NAME")
    return found


def _of_the_hub(text: str, progress: Progress) -> Path:
    try:
        return cached_adapter(text, progress)
    except ModelError as error:
        if "no such repository" in str(error):
            raise ModelError(f"{str(error).replace('no such', 'no such folder here, and no such', 1)}") from error
        raise


def shown(folder: Path) -> str:
    """What to call a folder: its repository's name, where it lies in the hub's cache."""
    return named_by_path(str(folder)) or str(folder)


def base_for(given: str | None, adapters: Sequence[Path]) -> BaseModel:
    """The base model to export onto: the one that is given, else the one that the first adapter names.

    Of a base that is on the hub in 4 bits for training only, the 16-bit one is taken, as everybody does it.

    Args:
        given: hub id, folder, or ``smollm2-135m``; None to go by the adapter.
        adapters: PEFT folders, first trained first.

    Raises:
        UsageError: none is given, and there is no adapter.
        ModelError: the adapter names none, or one that is not here.
    """
    named = _named_by(adapters[0]) if adapters else None
    if given is not None:
        model = resolve(given)
        if named and model.note is None and not _same_model(given, named):
            return replace(
                model, note=f"{shown(adapters[0])}: names {named} as its base; exporting onto {given}, as asked"
            )
        return model
    if not adapters:
        raise UsageError("--base: is needed where no --adapter says which it is; give a hub id, or a folder")
    if not named:
        raise ModelError(f"{shown(adapters[0])}: names no base model in its {CONFIG}; give it: --base OWNER/NAME")
    full = _IN_4_BITS.sub("", named)
    try:
        model = resolve(full)
    except ModelError as error:
        raise ModelError(
            f"{shown(adapters[0])}: its base model is not here ({named}); say what it is: --base OWNER/NAME, or a "
            "folder"
        ) from error
    note = model.note or f"base model: {full}, as the adapter says"
    if full != named:
        note = (
            f"base model: {full}, the 16-bit form of {named}, which was trained on (for the latter as it is: --base "
            f"{named})"
        )
    return replace(model, note=note)


def _named_by(folder: Path) -> str:
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""  # the exporter says what is wrong with it
    named = str(config.get("base_model_name_or_path") or "") if isinstance(config, dict) else ""
    return named if Path(named).is_dir() else named_by_path(named) or named


def _same_model(given: str, named: str) -> bool:
    """Whether two names may well be of one model: hub copies of others keep its last part."""

    def last(text: str) -> str:
        return _IN_4_BITS.sub("", re.split(r"[/\\]", text.rstrip("/\\"))[-1]).lower()

    return last(given) == last(named) or Path(given).is_dir() or Path(named).is_dir()


def trained_chat(base: Path, adapters: Sequence[Path], template: Path | None) -> tuple[ChatFormat, list[str]]:
    """The chat format that was trained: the base's, unless an adapter brings its own, or one is given.

    Args:
        base: folder of the base model.
        adapters: PEFT folders, first trained first.
        template: a file with a Jinja template that holds instead.

    Returns:
        The format, and what the user should know.

    Raises:
        ModelError: the base has no tokenizer, or there is no adapter, and the base has no chat template.
        gguf_export.UnsupportedError: neither has a chat template, or the adapter was trained with another vocabulary
            than the base's.
        gguf_export.BrokenFileError: a file of either, or ``template``, cannot be read.
    """
    if template is None and not adapters:
        return from_folder(base), []
    text = None if template is None else gguf_export.read_template(template)
    found = gguf_export.trained_chat(base, adapters, text, shown=shown)
    notes = [found.taken] if text is None and not found.is_the_bases else []
    return from_folder(base, settings=found.settings, template=found.template), [*notes, *found.notes]
