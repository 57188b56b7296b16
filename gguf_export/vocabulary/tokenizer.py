"""The vocabulary of a GGUF, from ``tokenizer.json``: byte-level BPE only.

Keys and their order are those of llama.cpp's converter (``conversion/base.py`` and ``gguf.SpecialVocab``). In two
things this goes its own way, where the converter believes files that may not be what was trained: the token that ends
an answer, and whether a sequence begins with BOS.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ..errors import BrokenFileError, UnsupportedError
from ..files import read_json
from .pretokenizers import ADDS_BOS, SPM_HINT, pre_tokenizer_name
from .templates import render, template_of, text_after_answer

NORMAL: Final = 1
CONTROL: Final = 3
USER_DEFINED: Final = 4
UNUSED: Final = 5

_ROLES: Final = {
    "bos": "bos",
    "eos": "eos",
    "unk": "unknown",
    "sep": "seperator",
    "pad": "padding",
    "mask": "mask",
}
"""The roles of special tokens as the hub's files call them, in the converter's order, and as a GGUF does."""
_GRANITE_VOCABULARY = 49152


@dataclass(frozen=True)
class Vocabulary:
    """What a GGUF holds about its tokenizer.

    Attributes:
        tokens: the text of each id, byte-level encoded; as many as the embedding has rows.
        types: llama.cpp's kind of each token.
        merges: ``"left right"``, best first.
        pre: llama.cpp's name of the pre-tokenizer.
        special_ids: ids by role: ``bos``, ``eos``, ``unk``, ``pad``, …, in the order of the file.
        add_special: whether llama.cpp adds a token by itself, by role; what is not named is up to llama.cpp.
        add_space_prefix: what the tokenizer's settings say about it; only Llama's converter stores it.
        chat_template: the Jinja template.
    """

    tokens: tuple[str, ...]
    types: tuple[int, ...]
    merges: tuple[str, ...]
    pre: str
    special_ids: Mapping[str, int]
    add_special: Mapping[str, bool]
    add_space_prefix: bool | None
    chat_template: str

    @property
    def add_bos(self) -> bool:
        """Whether llama.cpp begins every sequence with ``bos``."""
        return self.add_special.get("bos", self.pre in ADDS_BOS)

    def add_to(self, writer: Any) -> None:
        """Write it to a ``gguf.GGUFWriter``."""
        add_special = dict(self.add_special)
        if writer.arch == "llama":
            if self.add_space_prefix is not None:
                writer.add_add_space_prefix(self.add_space_prefix)
            if len(self.tokens) == _GRANITE_VOCABULARY:
                # The converter knows Granite's small models by this size, and so SmolLM2, too.
                add_special.setdefault("bos", False)
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(list(self.tokens))
        writer.add_token_types(list(self.types))
        writer.add_token_merges(list(self.merges))
        for role, index in self.special_ids.items():
            writer.add_uint32(f"tokenizer.ggml.{_ROLES[role]}_token_id", index)
        for role, adds in self.add_special.items():
            writer.add_bool(f"tokenizer.ggml.add_{role}_token", adds)
        writer.add_chat_template(self.chat_template)
        for role in add_special.keys() - self.add_special.keys():
            writer.add_bool(f"tokenizer.ggml.add_{role}_token", add_special[role])

    def text_of(self, role: str) -> str:
        """The text of a special token, or ``""`` where the tokenizer has none for this role."""
        return self.tokens[self.special_ids[role]] if role in self.special_ids else ""


def load_vocabulary(
    folder: Path,
    config: Mapping[str, Any],
    n_rows: int,
    *,
    eos_token: str | None = None,
    chat_template: str | None = None,
) -> Vocabulary:
    """Read the tokenizer of a model folder.

    Args:
        folder: holds ``tokenizer.json`` and mostly ``tokenizer_config.json``.
        config: the model's ``config.json``.
        n_rows: rows of the embedding; the vocabulary is padded to it with unused tokens.
        eos_token: the token that ends an answer; by default the one that the chat template writes after an
            answer, else the tokenizer's.
        chat_template: the template that was trained; by default the folder's.

    Raises:
        UnsupportedError: not byte-level BPE, an unknown pre-tokenizer, or no chat template.
        BrokenFileError: ``tokenizer.json`` is missing or damaged, or does not fit the model.
    """
    path = Path(folder) / "tokenizer.json"
    if not path.is_file() and (Path(folder) / "tokenizer.model").is_file():
        raise UnsupportedError(f"{folder}: a SentencePiece tokenizer (tokenizer.model) {SPM_HINT}")
    data = read_json(path, "a model folder needs its tokenizer")
    try:
        pre = pre_tokenizer_name(path, data)
        tokens, types = _tokens(path, data, n_rows)
        merges = tuple(_merge(entry) for entry in data["model"]["merges"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise BrokenFileError(f"{path}: not a tokenizer ({error!r}); fetch it again") from error
    config_path = Path(folder) / "tokenizer_config.json"
    settings = read_json(config_path, "a tokenizer needs it") if config_path.is_file() else {}
    template = chat_template if chat_template is not None else template_of(folder)
    if not template:
        raise UnsupportedError(
            f"{folder}: no chat template; use an instruct model, or give the one that was trained: --chat-template FILE"
        )
    ids = {token: index for index, token in enumerate(tokens) if types[index] != UNUSED}
    special = _special_ids(settings, config, ids)
    special["eos"] = _end_token(path, template, types, ids, special, eos_token)
    bos = tokens[special["bos"]] if "bos" in special else ""
    adds = _add_special(data, settings)
    # A model that was trained through a template without the token never saw it: then none is added.
    explicit = settings.get("add_bos_token")
    wanted = explicit if isinstance(explicit, bool) else adds.get("bos", False)
    add_bos = bool(bos) and wanted and _opens_with(template, bos)
    if "bos" in adds or add_bos != (pre in ADDS_BOS):
        adds["bos"] = add_bos
    space = settings.get("add_prefix_space")
    return Vocabulary(tokens, types, merges, pre, special, adds, space if isinstance(space, bool) else None, template)


def _tokens(path: Path, data: Mapping[str, Any], n_rows: int) -> tuple[tuple[str, ...], tuple[int, ...]]:
    by_id = {int(index): token for token, index in data["model"]["vocab"].items()}
    types = dict.fromkeys(by_id, NORMAL)
    for added in data.get("added_tokens") or ():
        index, text = int(added["id"]), added["content"]
        control = added.get("special") or _looks_special(text)
        types[index] = CONTROL if control else USER_DEFINED
        by_id[index] = text if control else text.replace("\u2581", " ")
    if max(by_id) >= n_rows:
        raise BrokenFileError(
            f"{path}: {max(by_id) + 1} tokens, but the model's embedding has {n_rows} rows; "
            "use the tokenizer that belongs to the model"
        )
    tokens = tuple(by_id.get(index, f"[PAD{index}]") for index in range(n_rows))
    return tokens, tuple(types.get(index, UNUSED) for index in range(n_rows))


def _looks_special(text: str) -> bool:
    """Markers that some models do not flag as special (DeepSeek-Coder's, for one)."""
    return text == "<pad>" or (text.startswith(("<|", "<｜")) and text.endswith(("|>", "｜>")))


def _merge(entry: str | list[str]) -> str:
    """``"left right"``; spaces inside a part become U+0120, as byte-level BPE writes them."""
    if isinstance(entry, str):
        return entry
    left, right = entry
    return f"{left.replace(' ', chr(0x120))} {right.replace(' ', chr(0x120))}"


def _special_ids(settings: Mapping[str, Any], config: Mapping[str, Any], ids: Mapping[str, int]) -> dict[str, int]:
    """Ids by role: those that the tokenizer's settings name come first, then those of the model's config."""
    found = {}
    for role in _ROLES:
        text = _text(settings.get(f"{role}_token"))
        if isinstance(text, str) and text in ids:
            found[role] = ids[text]
    for role in _ROLES:
        configured = config.get(f"{role}_token_id")
        index = configured[0] if isinstance(configured, list) and configured else configured
        if isinstance(index, int) and 0 <= index <= max(ids.values()):
            found.setdefault(role, index)
    return found


def _end_token(
    path: Path,
    template: str,
    types: tuple[int, ...],
    ids: Mapping[str, int],
    special: Mapping[str, int],
    eos_token: str | None,
) -> int:
    """The id of the token that ends an answer."""
    if eos_token is not None:
        if eos_token not in ids:
            raise UnsupportedError(f"{path}: end token {eos_token!r} is not in the vocabulary; give one that is")
        return ids[eos_token]
    texts = {index: text for text, index in ids.items()}
    bos, eos = (texts.get(special.get(role, -1), "") for role in ("bos", "eos"))
    after = text_after_answer(template, bos_token=bos, eos_token=eos)
    written = [
        (after.index(text), -len(text), index)
        for text, index in ids.items()
        if types[index] in (CONTROL, USER_DEFINED) and text in after
    ]
    if written:
        return min(written)[2]
    if "eos" not in special:
        raise UnsupportedError(f"{path}: no end token in the chat template or the settings; give eos_token")
    return special["eos"]


def _add_special(data: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, bool]:
    """Which special tokens the tokenizer adds, by role: its post-processor, else ``add_bos_token`` and its kin."""
    adds: dict[str, bool] = {}
    processor = data.get("post_processor") or {}
    texts = {role: _text(settings.get(f"{role}_token")) for role in ("bos", "eos")}
    for entry in processor.get("processors", [processor]):
        if entry.get("type") == "ByteLevel":
            adds = {"bos": False, "eos": False} | adds
        single = entry.get("single") or []
        if entry.get("type") == "TemplateProcessing" and len(single) > 1:
            for role, part in (("bos", single[0]), ("eos", single[-1])):
                if text := part.get("SpecialToken", {}).get("id"):
                    adds[role] = text == texts[role]
    for role in ("bos", "eos", "sep"):
        explicit = settings.get(f"add_{role}_token")
        if isinstance(explicit, bool):
            adds.setdefault(role, explicit)
    return adds


def _text(token: object) -> object:
    return token.get("content") if isinstance(token, dict) else token


def _opens_with(template: str, bos: str) -> bool:
    return render(template, [{"role": "user", "content": "hello"}], bos_token=bos).startswith(bos)
