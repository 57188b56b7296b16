"""What is written beside a prepared set: what it was made of, what was dropped and why, and how to name it again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowvram_ft import __version__
from lowvram_ft.data.evaluation_code import evaluation_digest
from lowvram_ft.data.funnel import Funnel
from lowvram_ft.data.objects import fingerprint_of_source
from lowvram_ft.data.sources import SOURCES, files_of
from lowvram_ft.data.split import SIDES
from lowvram_ft.recipe import DataSection
from lowvram_ft.rendering import ChatFormat
from lowvram_ft.run_dir import write_json, write_text

FORMAT = 2
"""Of a prepared set; a set of another format is made anew."""
_SHAPERS = ("tokenizers", "jinja2", "datasketch")
"""Packages whose version may change what a set holds."""


@dataclass
class Written:
    """What was written of a prepared set.

    Attributes:
        rows: of each side.
        lengths: tokens of the rows, in pieces.
        trained_tokens: tokens of the training side that carry loss.
    """

    rows: dict[str, int]
    lengths: list[NDArray[np.int64]]
    trained_tokens: int


def key_of(section: DataSection, chat: ChatFormat, max_length: int, suites: Sequence[str]) -> str:
    """A name that changes when anything changes that shapes a prepared set.

    Raises:
        DataError: a file is missing.
        MachineError: the hub cannot be reached.
    """
    shapes = {
        "format": FORMAT,
        "versions": {name: version(name) for name in _SHAPERS} | {"lowvram-ft": __version__},
        "section": section.model_dump(mode="json"),
        "source": fingerprint_of_source(section, files_of(section), SOURCES[section.source].hub_id),
        "evaluation": evaluation_digest(suites) if "contamination" in section.active_filters else "",
        "chat": chat.digest,
        "max_length": max_length,
    }
    return hashlib.sha256(json.dumps(shapes, sort_keys=True).encode()).hexdigest()[:32]


def write_card(
    folder: Path,
    section: DataSection,
    chat: ChatFormat,
    max_length: int,
    funnel: Funnel,
    notes: Sequence[str],
    written: Written,
) -> None:
    """Write ``prepared.json`` and the data card, ``README.md``.

    Args:
        folder: of the prepared set, whose Arrow files are there.
        section: the recipe's section.
        chat: the model's chat format.
        max_length: most tokens of a row.
        funnel: what was counted.
        notes: what the user should know.
        written: what was written.
    """
    lengths = np.sort(np.concatenate(written.lengths))
    facts: dict[str, Any] = {
        **written.rows,
        "dropped": funnel.dropped,
        "tokens": int(lengths.sum()),
        "trained_tokens": written.trained_tokens,
        "longest": int(lengths[-1]),
        "median": int(lengths[len(lengths) // 2]),
        "notes": list(notes),
        "funnel": funnel.to_json(),
        "max_length": max_length,
        "source": {
            "name": section.source,
            "from": section.path or section.hub_id or SOURCES[section.source].hub_id or "the package lowvram-ft",
            "licence": SOURCES[section.source].licence,
            "fingerprint": fingerprint_of_source(section, files_of(section), SOURCES[section.source].hub_id),
        },
        "section": section.model_dump(mode="json"),
        "chat_format": chat.digest,
        "sha256": {file.name: _sha256(file) for file in sorted(folder.glob("*.arrow")) if file.stem in SIDES},
    }
    write_json(folder / "prepared.json", facts)
    write_text(folder / "README.md", card(facts))


def card(facts: dict[str, Any]) -> str:
    """The data card, as Markdown, in the sections of Hugging Face's template."""
    source, funnel, section = facts["source"], facts["funnel"], facts["section"]
    lines = [
        f"# Prepared rows of {source['name']}",
        "",
        f"- **Source**: {source['from']} (`{source['fingerprint'][:16]}`)",
        f"- **Licence of the source**: {source['licence']}",
        f"- **Made by**: lowvram-ft {__version__}",
        f"- **Rows**: {facts['train']} to train on, {facts['eval']} to validate, {facts['test']} kept out",
        f"- **Tokens**: {facts['tokens']} in all, {facts['trained_tokens']} carry loss; the median row has "
        f"{facts['median']}, the longest {facts['longest']}, at most {facts['max_length']} are allowed",
        f"- **Split**: by group, {section['eval_share']:g} to validate, {section['test_share']:g} kept out, "
        f"seed {section['seed']}",
        "- **What a row is**: the user message is the code under test, the assistant message its pytest file; "
        "loss falls on the completion and the end token only",
        "",
        "## What was left out",
        "",
        "| step | rows in | rows out | why |",
        "| --- | ---: | ---: | --- |",
    ]
    for step in funnel["steps"]:
        why = "; ".join(f"{count} {reason}" for reason, count in step["reasons"].items()) or "everything is read"
        lines.append(f"| {step['step']} | {step['in']} | {step['out']} | {why} |")
    lines += ["", "Each of them stands in `dropped.jsonl`, with the reason.", ""]
    lines += ["| tokens allowed | rows that fit |", "| ---: | ---: |"]
    lines += [f"| {length} | {count} |" for length, count in funnel["rows_within_tokens"].items()]
    lines += ["", *(f"- {note}" for note in facts["notes"])]
    lines += ["", "## Hashes", "", *(f"- `{name}`: {value}" for name, value in facts["sha256"].items())]
    return "\n".join(lines).rstrip() + "\n"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
