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
        ModelError: there is no such folder or repository, or no adapter in it.
        MachineError: the hub cannot be reached.
    """
    found = []
    for text in given:
        path = Path(text).expanduser()
        if path.is_dir():
            folder = adapter_folder(path)
            if folder is None:
                _refuse(path)
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


def _refuse(folder: Path) -> None:
    """Say what a folder without an adapter is, where that can be told."""
    inside = sorted(path.parent for path in folder.glob("*/adapter_config.json"))
    stages = sorted(folder.glob("stages/*/adapter/adapter_config.json"))
    if stages:
        raise ModelError(f"{folder}: is a run; give the adapter of a stage: {stages[-1].parent}")
    if inside:
        shown = ", ".join(map(str, inside[:4]))
        raise ModelError(f"{folder}: has no adapter itself (no {CONFIG}); give one of: {shown}")
    if (folder / "config.json").is_file():
        raise ModelError(
            f"{folder}: is a whole model and no adapter (no {CONFIG}); if it is merged already, give it as --base, "
            "without --adapter"
        )


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
        ModelError: neither has a chat template, or the adapter was trained with another vocabulary than the base's.
    """
    own = next((folder for folder in reversed(adapters) if _has_template(folder)), None)
    text = None
    if template is not None:
        try:
            text = template.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ModelError(f"{template}: cannot be read ({error}); give a file with a Jinja chat template") from error
    try:
        chat = from_folder(base, settings=own, template=text)
    except ModelError as error:
        if "has no chat template" not in str(error) or not adapters:
            raise
        raise ModelError(
            f"{shown(base)}: has no chat template, and no adapter brings one; give the one that was trained: "
            "--chat-template FILE (a Jinja template)"
        ) from error
    notes = []
    if text is None and own is not None and chat.template != _template_of(base):
        notes.append(f"chat template: the adapter's own ({shown(own)}), not the base's")
    for folder in adapters:
        notes += _vocabulary(base, folder, chat)
    return chat, notes


def _has_template(folder: Path) -> bool:
    return _template_of(folder) is not None


def _template_of(folder: Path) -> str | None:
    jinja = folder / "chat_template.jinja"
    if jinja.is_file():
        return jinja.read_text(encoding="utf-8")
    try:
        found = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8")).get("chat_template")
    except (OSError, ValueError, AttributeError):
        return None
    if isinstance(found, list):
        found = next((item.get("template") for item in found if item.get("name") == "default"), None)
    return found if isinstance(found, str) else None


def _vocabulary(base: Path, folder: Path, chat: ChatFormat) -> list[str]:
    """Compare the tokenizer beside an adapter with the base's, whose vocabulary the export gets.

    Raises:
        ModelError: they differ in a way that matters.
    """
    from tokenizers import Tokenizer

    if not (folder / "tokenizer.json").is_file():
        return []
    try:
        theirs = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab(with_added_tokens=True)
    except Exception as error:  # the tokenizers library raises bare Exception
        raise ModelError(f"{folder / 'tokenizer.json'}: cannot be read ({error}); fetch it again") from error
    ours = Tokenizer.from_file(str(base / "tokenizer.json")).get_vocab(with_added_tokens=True)
    moved = [token for token, index in theirs.items() if ours.get(token, index) != index]
    new = sorted(theirs.keys() - ours.keys(), key=theirs.__getitem__)
    used = [token for token in new if token in chat.template or token == chat.end_token]
    if moved or used:
        what = f"{len(moved)} tokens have other numbers" if moved else f"{', '.join(used[:4])} in its chat template"
        raise ModelError(
            f"{shown(folder)}: was trained with a vocabulary that {shown(base)} does not have ({what}); merge it where "
            "it was trained (model.merge_and_unload, save model and tokenizer), then export that folder: --base FOLDER"
        )
    return [f"vocabulary: the base's, without {', '.join(new[:4])} of the adapter's tokenizer"] if new else []
