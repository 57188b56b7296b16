"""Pairs of a winner and a loser, and winners alone: what preference training reads.

A folder holds ``pairs.jsonl`` (for ``dpo``), ``winners.jsonl`` (for ``rft``), ``pairs.json`` (counts) and ``README.md``
(the data card). A file that somebody has written by hand needs no more than ``prompt``, ``chosen`` and ``rejected`` in
each line, or ``code`` in place of ``prompt``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from lowvram_ft.data.jsonl import SHOWN, BrokenLines, read_rows
from lowvram_ft.data.row import SOLUTION, build_prompt
from lowvram_ft.data.syntax import parse
from lowvram_ft.errors import DataError

PAIRS = "pairs.jsonl"
WINNERS = "winners.jsonl"
FACTS = "pairs.json"


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two test files for one task, one of them better.

    Attributes:
        id: unique in its set.
        group: its task; all pairs of a task stay on one side of a split.
        code: the code under test.
        module: name that the code is imported by.
        prompt: the user message.
        chosen: the winner: the raw test file, stripped.
        rejected: the loser.
        meta: what each is worth, and where the task is from.
    """

    id: str
    group: str
    code: str
    module: str
    prompt: str
    chosen: str
    rejected: str
    meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Winner:
    """One of the best test files for a task.

    Attributes:
        id: unique in its set.
        group: its task.
        code: the code under test.
        module: name that the code is imported by.
        prompt: the user message.
        completion: the raw test file, stripped.
        meta: what it is worth, and where the task is from.
    """

    id: str
    group: str
    code: str
    module: str
    prompt: str
    completion: str
    meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)


Record = TypeVar("Record", Pair, Winner)
_SECTION = re.compile(r"^### Code Under Test:\n(.*?)(?=^### |\Z)", re.DOTALL | re.MULTILINE)
_FENCE = re.compile(r"^```[\w+-]*[ \t]*\n(.*?)^```", re.DOTALL | re.MULTILINE)


def read_pairs(path: Path) -> list[Pair]:
    """The pairs of a pair set, or of a file that somebody has written.

    Args:
        path: the folder of a pair set, or a JSONL file with ``chosen``, ``rejected``, and ``prompt`` or ``code``.

    Raises:
        DataError: the file is missing, holds none, or has lines that are none; names them.
    """
    return _read(path / PAIRS if path.is_dir() else path, _pair)


def read_winners(path: Path) -> list[Winner]:
    """The winners of a pair set; those of a file of pairs are their ``chosen``, each once.

    Args:
        path: the folder of a pair set, or a JSONL file with ``code`` (or a ``prompt`` that holds it), and
            ``completion`` or ``chosen``.

    Raises:
        DataError: the file is missing, holds none, or has lines that are none; names them.
    """
    found = _read(path / WINNERS if path.is_dir() else path, _winner)
    return list({(winner.prompt, winner.completion): winner for winner in reversed(found)}.values())[::-1]


def code_in(prompt: str) -> str:
    """The code that a user message asks tests for: its own section, else its fenced blocks, else its definitions.

    Returns:
        The code; empty where there is none.
    """
    if (section := _SECTION.search(prompt)) is not None:
        return section[1].strip() + "\n"
    if fenced := "\n".join(_FENCE.findall(prompt)).strip():
        return fenced + "\n"
    if parse(prompt) is not None and re.search(r"^\s*(def|class|async def) ", prompt, re.MULTILINE):
        return prompt.strip() + "\n"
    blocks = re.split(r"\n(?=\S)", prompt)
    wanted = [block for block in blocks if re.match(r"(def|class|async def|@|import|from) ?\S", block)]
    joined = "\n".join(wanted).strip()
    return joined + "\n" if joined and parse(joined) is not None else ""


def _read(path: Path, make: Callable[[Mapping[str, Any]], Record]) -> list[Record]:
    """Every line of a file; all that is wrong with it is told in one go."""
    broken = BrokenLines()
    found = []
    for number, value in read_rows(path, "skip", broken):
        try:
            found.append(make(value))
        except DataError as problem:
            broken.add(number, str(problem))
    if broken.count:
        shown = "; ".join(f"line {number} {reason}" for number, reason in sorted(broken.found)[:SHOWN])
        more = f"; and {broken.count - SHOWN} more" if broken.count > SHOWN else ""
        raise DataError(f"{path}: {shown}{more}; mend or remove them")
    if not found:
        raise DataError(f"{path}: is empty; let more be sampled, or write one JSON object a line")
    return found


def _pair(value: Mapping[str, Any]) -> Pair:
    chosen, rejected = _text(value, "chosen"), _text(value, "rejected")
    if chosen == rejected:
        raise DataError("has the same text as chosen and rejected")
    prompt, code = _prompt_and_code(value)
    return Pair(
        id=str(value.get("id") or _digest(prompt, chosen, rejected)),
        group=str(value.get("group") or _digest(code or prompt)),
        code=code,
        module=str(value.get("module") or SOLUTION),
        prompt=prompt,
        chosen=chosen,
        rejected=rejected,
        meta=_meta(value),
    )


def _winner(value: Mapping[str, Any]) -> Winner:
    completion = _text(value, "completion" if "completion" in value else "chosen")
    prompt, code = _prompt_and_code(value)
    if not code:
        raise DataError("has no code, and none is found in its prompt")
    return Winner(
        id=str(value.get("id") or _digest(prompt, completion)),
        group=str(value.get("group") or _digest(code)),
        code=code,
        module=str(value.get("module") or SOLUTION),
        prompt=prompt,
        completion=completion,
        meta=_meta(value),
    )


def _prompt_and_code(value: Mapping[str, Any]) -> tuple[str, str]:
    code = _text(value, "code") + "\n" if value.get("code") else ""
    if "prompt" not in value:
        if not code:
            raise DataError(f"has neither prompt nor code (keys: {', '.join(map(str, value)) or 'none'})")
        return build_prompt(code), code
    prompt = _text(value, "prompt")
    return prompt, code or code_in(prompt)


def _text(value: Mapping[str, Any], key: str) -> str:
    if key not in value:
        raise DataError(f"has no {key} (keys: {', '.join(map(str, value)) or 'none'})")
    found = value[key]
    if not isinstance(found, str):
        raise DataError(f"has a {type(found).__name__} as {key}, where a text belongs")
    stripped = found.replace("\r\n", "\n").replace("\r", "\n").strip()
    if not stripped:
        raise DataError(f"has no text in {key}")
    return stripped


def _meta(value: Mapping[str, Any]) -> Mapping[str, Any]:
    meta = value.get("meta") or {}
    if not isinstance(meta, Mapping):
        raise DataError(f"has a {type(meta).__name__} as meta, where an object belongs")
    return meta


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).hexdigest()[:12]
