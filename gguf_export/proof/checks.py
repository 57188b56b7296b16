"""The checks of a GGUF that need nothing but the file (and the folder that it was made from): no llama.cpp."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ..errors import UnsupportedError
from ..files import read_json, sha256_of
from ..reading import GgufFile
from ..vocabulary.templates import Message, render, text_after_answer
from ..vocabulary.tokenizer import CONTROL, USER_DEFINED
from .block_rules import corrupted_blocks
from .layout import is_known, layout_problems
from .reference import Reference
from .verification import Check

_MARKER: Final = re.compile(r"<\|[^|<>\s]+\|>|<｜[^｜<>\s]+｜>")
"""What models write as the frame of a message: ``<|im_start|>``, ``<｜begin▁of▁sentence｜>``."""

_SHOWN: Final = 3


def check_checksum(path: Path, expected: str) -> Check:
    """The file is, bit for bit, the one that was written."""
    found = sha256_of(path)
    if found == expected:
        return Check("checksum", True, f"sha256 {found}")
    return Check("checksum", False, f"sha256 {found}, the export wrote {expected}: the file changed after it")


def check_structure(file: GgufFile, type_name: str) -> Check:
    """Every tensor is there, has its shape, and lies where it should."""
    problems = layout_problems(file)
    if problems:
        return Check("structure", False, _some(problems))
    detail = f"{len(file.tensors)} tensors, {type_name}, none missing or out of place"
    if not is_known(file):
        detail += f"; which tensors a {file.get('general.architecture')} model has is not known here"
    return Check("structure", True, detail)


def check_values(file: GgufFile) -> Check:
    """Every value, and every block's scale, is finite."""
    broken = file.tensors_not_finite()
    if broken:
        return Check("values", False, f"{len(broken)} tensors hold values that are not finite: {_some(broken)}")
    return Check("values", True, "every value and every block's scale is finite")


def check_blocks(file: GgufFile) -> Check:
    """Every block is one that its quantizer can have written."""
    corrupted, n_blocks = [], 0
    for tensor in file.tensors:
        corrupted += corrupted_blocks(tensor, with_importances=file.has_importances)
        n_blocks += int(tensor.n_bytes) if tensor.tensor_type.name not in ("F32", "F16", "BF16") else 0
    if corrupted:
        noun = "one corrupted block" if len(corrupted) == 1 else f"{len(corrupted)} corrupted blocks"
        return Check("blocks", False, f"{noun}: {_some(list(map(str, corrupted)))}")
    detail = f"{n_blocks / 2**20:.1f} MiB of blocks are as a quantizer writes them"
    return Check("blocks", True, detail if n_blocks else "none, the type has no blocks")


def check_end_token(file: GgufFile, reference: Reference | None, trained: str | None = None) -> Check:
    """The file stops where training did.

    Args:
        file: the GGUF.
        reference: what base + adapter answer.
        trained: the end token that the file has to have; ``None`` where it is not known.
    """
    name = "end token"
    index = file.get("tokenizer.ggml.eos_token_id")
    if index is None or not 0 <= index < file.n_tokens:
        return Check(name, False, f"wrong end token: id {index} is not in the vocabulary")
    text = file.token(index)
    if trained is not None and text != trained:
        return Check(name, False, f"wrong end token: the file ends answers with {text}, training with {trained}")
    if reference is not None and reference.sequences:
        ends = {int(row.token_ids[-1]) for row in reference.sequences}
        if ends != {index}:
            trained = ", ".join(file.token(end) for end in sorted(ends) if end < file.n_tokens)
            return Check(name, False, f"wrong end token: the file ends answers with {text}, training with {trained}")
    template = file.get("tokenizer.chat_template")
    if template:
        try:
            after = text_after_answer(template, bos_token=file.special_text("bos"), eos_token=text)
        except UnsupportedError:
            after = text
        written = [special for special in special_texts(file) if special in after]
        if written and text not in written:
            first = min(written, key=lambda special: (after.index(special), -len(special)))
            return Check(name, False, f"wrong end token: the file ends answers with {text}, its template with {first}")
    return Check(name, True, f"{text} (id {index})")


def special_texts(file: GgufFile) -> list[str]:
    """The texts of all tokens that a tokenizer takes as a whole."""
    types = file.get("tokenizer.ggml.token_type", [])
    return [file.token(index) for index, kind in enumerate(types) if kind in (CONTROL, USER_DEFINED)]


def check_template(file: GgufFile, messages: Sequence[Message], trained: str | None) -> tuple[str, list[Check]]:
    """Render a conversation through the file's template; its markers are single tokens of this vocabulary.

    Args:
        file: the GGUF.
        messages: the conversation.
        trained: the template that the file has to hold; ``None`` where it is not known.

    Returns:
        The prompt, ``""`` where there is none, and the checks.
    """
    template = file.get("tokenizer.chat_template")
    if not template:
        detail = "wrong template: there is none; export with the template that was trained"
        return "", [Check("chat template", False, detail)]
    if trained is not None and template != trained:
        place = next((i for i, pair in enumerate(zip(template, trained, strict=False)) if pair[0] != pair[1]), -1)
        near = f"from {template[place : place + 40]!r} on" if place >= 0 else "in its length"
        checks = [Check("chat template", False, f"wrong template: it differs from the trained one {near}")]
        return "", checks
    bos, eos = file.special_text("bos"), file.special_text("eos")
    try:
        prompt = render(template, messages, bos_token=bos, eos_token=eos)
        answered = [*messages, {"role": "assistant", "content": "x"}]
        whole = render(template, answered, bos_token=bos, eos_token=eos, add_generation_prompt=False)
    except UnsupportedError as error:
        return "", [Check("chat template", False, f"wrong template: {error}")]
    contents = [message["content"] for message in messages]
    if not all(content.strip() in prompt for content in contents):
        return "", [Check("chat template", False, "wrong template: it drops a message")]
    frame = whole + prompt
    for content in contents:
        frame = frame.replace(content, "")
    known = set(special_texts(file))
    markers = list(dict.fromkeys(_MARKER.findall(frame)))
    foreign = [marker for marker in markers if marker not in known]
    if foreign:
        detail = f"wrong template: writes {_some(foreign)}, which are no single tokens of this vocabulary"
        return prompt, [Check("chat template", False, detail)]
    said = f", its markers are single tokens ({_some(markers)})" if markers else ""
    return prompt, [Check("chat template", True, f"renders a prompt of {len(prompt)} characters{said}")]


def check_vocabulary(file: GgufFile, folder: Path) -> Check:
    """Every token and merge of a ``tokenizer.json`` is in the file, under the same id.

    Raises:
        BrokenFileError: there is no such file, or it is corrupted.
    """
    data = read_json(Path(folder) / "tokenizer.json", "the vocabulary is held against it")
    model = data.get("model", {})
    texts = {int(index): text for text, index in model.get("vocab", {}).items()}
    texts |= {int(added["id"]): added["content"] for added in data.get("added_tokens") or ()}
    wrong = [
        f"id {index} is {file.token(index) if index < file.n_tokens else 'missing'!r}, not {text!r}"
        for index, text in texts.items()
        if index >= file.n_tokens or (file.token(index) != text and file.token(index) != text.replace("\u2581", " "))
    ]
    merges = [
        entry if isinstance(entry, str) else " ".join(part.replace(" ", chr(0x120)) for part in entry)
        for entry in model.get("merges", ())
    ]
    found = file.get("tokenizer.ggml.merges")
    if not wrong and found is not None and list(found) != merges:
        wrong = [f"{len(found)} merges, not the {len(merges)} of tokenizer.json, or in another order"]
    if wrong:
        return Check("vocabulary", False, f"{len(wrong)} differ from tokenizer.json: {_some(wrong)}")
    return Check("vocabulary", True, f"{len(texts)} tokens and {len(merges)} merges of tokenizer.json")


def _some(items: Sequence[str]) -> str:
    shown = "; ".join(str(item) for item in items[:_SHOWN])
    return shown if len(items) <= _SHOWN else f"{shown}; and {len(items) - _SHOWN} more"
