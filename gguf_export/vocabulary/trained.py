"""The chat template that an adapter was trained with: its own, where one lies beside it, else the base's.

Unsloth, axolotl and LLaMA-Factory save a tokenizer beside PEFT's files. Its chat template may be another one than the
base's, and its vocabulary may have grown; the file gets the base's vocabulary, so what needs the grown one is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..adapters.adapter import MERGE_THERE
from ..errors import BrokenFileError, UnsupportedError
from ..files import read_json
from .templates import template_of, text_after_answer


@dataclass(frozen=True)
class TrainedChat:
    """How conversations were written in training.

    Attributes:
        template: the Jinja template.
        end_token: the end token that the settings beside the adapter name; ``None`` where the template or the base
            says it.
        settings: the adapter folder whose chat template and special tokens count; ``None`` for the base's.
        taken: which template was taken, in one line.
        is_the_bases: whether it is the base's own.
        notes: what else a user should know, a line each.
    """

    template: str
    end_token: str | None
    settings: Path | None
    taken: str
    is_the_bases: bool
    notes: tuple[str, ...]


def trained_chat(
    base: Path,
    adapters: Sequence[Path],
    template: str | None = None,
    *,
    shown: Callable[[Path], str] = str,
) -> TrainedChat:
    """Find the chat template that was trained, and check that the base's vocabulary serves it.

    Args:
        base: folder of the base model.
        adapters: PEFT folders, first trained first.
        template: a Jinja template that holds instead of all that lie there.
        shown: what to call a folder in a message.

    Raises:
        UnsupportedError: there is no chat template, or an adapter was trained with a vocabulary that the base does not
            have.
        BrokenFileError: a tokenizer's file is damaged.
    """
    own = next((folder for folder in reversed(adapters) if template_of(folder) is not None), None)
    of_base = template_of(base)
    text = template if template is not None else template_of(own) if own is not None else of_base
    if not text:
        if not adapters:
            raise UnsupportedError(
                f"{shown(base)}: has no chat template; use an instruct model, or give the template that was trained: "
                "--chat-template FILE (Jinja)"
            )
        raise UnsupportedError(
            f"{shown(base)}: has no chat template, and no adapter brings one; give the one that was trained: "
            "--chat-template FILE (a Jinja template)"
        )
    if template is not None:
        taken = "the one that was given"
    elif own is not None and text != of_base:
        taken = f"the adapter's own ({shown(own)}), not the base's"
    else:
        taken = "the base's"
    end_token = _end_token(text, base, own) if own is not None else None
    notes = [note for folder in adapters for note in _vocabulary(base, folder, text, end_token, shown)]
    return TrainedChat(text, end_token, own, f"chat template: {taken}", text == of_base, tuple(notes))


def end_token_of(base: Path, chat: TrainedChat) -> str | None:
    """The end token that was trained, where the settings say it; ``None`` where the template does."""
    if chat.end_token is not None:
        return chat.end_token
    return _end_token(chat.template, base, base)


def _end_token(template: str, base: Path, own: Path) -> str | None:
    """The end token of the settings beside an adapter, where the template writes it or leaves the end to them."""
    if not (own / "tokenizer_config.json").is_file():
        return None
    settings = {**_settings(base), **_settings(own)}
    eos = _text(settings.get("eos_token"))
    after = text_after_answer(template, bos_token=_text(settings.get("bos_token")), eos_token=eos).strip()
    return eos if eos and (not after or after.startswith(eos)) else None


def _settings(folder: Path) -> dict[str, Any]:
    path = folder / "tokenizer_config.json"
    return read_json(path, "a tokenizer needs it") if path.is_file() else {}


def _text(token: object) -> str:
    """A token in a tokenizer_config.json: a string, or an object that holds one."""
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else ""


def _vocabulary(
    base: Path, folder: Path, template: str, end_token: str | None, shown: Callable[[Path], str]
) -> list[str]:
    """Compare the tokenizer beside an adapter with the base's, whose vocabulary the file gets.

    Raises:
        UnsupportedError: they differ in a way that matters.
        BrokenFileError: one cannot be read.
    """
    path, of_base = folder / "tokenizer.json", base / "tokenizer.json"
    if not path.is_file() or not of_base.is_file() or path.read_bytes() == of_base.read_bytes():
        return []
    theirs, ours = _tokens(path), _tokens(of_base)
    moved = [token for token, index in theirs.items() if ours.get(token, index) != index]
    new = sorted(theirs.keys() - ours.keys(), key=theirs.__getitem__)
    used = [token for token in new if token in template or token == end_token]
    if moved or used:
        what = f"{len(moved)} tokens have other numbers" if moved else f"{', '.join(used[:4])} in its chat template"
        raise UnsupportedError(
            f"{shown(folder)}: was trained with a vocabulary that {shown(base)} does not have ({what}); {MERGE_THERE}"
        )
    return [f"vocabulary: the base's, without {', '.join(new[:4])} of the adapter's tokenizer"] if new else []


def _tokens(path: Path) -> dict[str, int]:
    """The number of each token, added ones included."""
    from tokenizers import Tokenizer

    try:
        found: dict[str, int] = Tokenizer.from_file(str(path)).get_vocab(with_added_tokens=True)
    except Exception as error:  # the tokenizers library raises bare Exception
        raise BrokenFileError(f"{path}: cannot be read ({error}); fetch it again") from error
    return found
