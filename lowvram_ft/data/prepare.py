"""Rows to tokens: split by group, render, drop what is too long."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lowvram_ft.data.row import Row
from lowvram_ft.data.sources import Dropped, load_rows
from lowvram_ft.errors import DataError
from lowvram_ft.recipe import DataSection
from lowvram_ft.rendering import ChatFormat, Rendered

IGNORE_INDEX = -100
"""The label that carries no loss (PyTorch's ``cross_entropy``)."""


@dataclass(frozen=True)
class Example:
    """A row with its tokens."""

    row: Row
    rendered: Rendered

    @property
    def labels(self) -> list[int]:
        """Token ids where loss falls, `IGNORE_INDEX` elsewhere; shape [T]."""
        pairs = zip(self.rendered.input_ids, self.rendered.completion_mask, strict=True)
        return [token if mask else IGNORE_INDEX for token, mask in pairs]


@dataclass(frozen=True)
class Prepared:
    """What a stage trains on.

    Attributes:
        train: examples to train on.
        eval: examples for the validation loss; no group of theirs is in ``train``.
        test: examples kept out of both.
        dropped: rows that were left out, by reason.
        notes: what the user should know, such as broken lines that were passed over.
    """

    train: tuple[Example, ...]
    eval: tuple[Example, ...]
    test: tuple[Example, ...]
    dropped: dict[str, int]
    notes: tuple[str, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """Counts, tokens and reasons."""
        every = [*self.train, *self.eval, *self.test]
        lengths = sorted(len(example.rendered.input_ids) for example in every)
        return {
            "train": len(self.train),
            "eval": len(self.eval),
            "test": len(self.test),
            "dropped": self.dropped,
            "tokens": sum(lengths),
            "trained_tokens": sum(sum(example.rendered.completion_mask) for example in self.train),
            "longest": lengths[-1] if lengths else 0,
            "median": lengths[len(lengths) // 2] if lengths else 0,
            "notes": list(self.notes),
        }


def prepare(
    section: DataSection,
    chat: ChatFormat,
    max_length: int,
    on_row: Callable[[int], None] | None = None,
) -> Prepared:
    """Load, split and tokenize the rows of a stage. Nothing is ever cut: a row that is too long is dropped.

    Args:
        section: which rows.
        chat: the model's chat format.
        max_length: most tokens of prompt and completion together.
        on_row: called with the number of rows read so far.

    Raises:
        DataError: no row is left, or a row is too long and ``too_long = "fatal"``.
    """
    left_out = Dropped()
    examples: list[Example] = []
    for number, row in enumerate(load_rows(section, left_out), 1):
        rendered = chat.render(row.prompt, row.completion)
        if len(rendered.input_ids) > max_length:
            if section.too_long == "fatal":
                raise DataError(
                    f"{row.source} {row.id}: has {len(rendered.input_ids)} tokens (max_length is {max_length}); "
                    'raise train.max_length, or set data.too_long = "drop"'
                )
            left_out.reasons[f"longer than {max_length} tokens"] += 1
            continue
        examples.append(Example(row, rendered))
        if on_row is not None:
            on_row(number)
    train, validation, test = split(examples, section.eval_share, section.test_share, section.seed)
    if not train:
        why = ", ".join(f"{count} {reason}" for reason, count in left_out.reasons.items()) or "the source is empty"
        raise DataError(f"{section.source}: no row is left to train on ({why}); check the source and train.max_length")
    note = broken_note(section, left_out)
    return Prepared(train, validation, test, dict(left_out.reasons), (note,) if note else ())


def broken_note(section: DataSection, left_out: Dropped) -> str | None:
    """One line on the broken lines of a file that were passed over; None where there were none."""
    if not left_out.broken.found:
        return None
    return f"{left_out.broken.describe(Path(section.path or section.source))}; passed over"


def split(
    examples: Iterable[Example], eval_share: float, test_share: float, seed: int
) -> tuple[tuple[Example, ...], tuple[Example, ...], tuple[Example, ...]]:
    """Split by group: all rows of a group land on the same side, whatever the order and number of the others.

    Args:
        examples: the examples.
        eval_share: share of the groups for validation.
        test_share: share of the groups that is kept out.
        seed: changes which groups they are.

    Returns:
        Train, validation, test.
    """
    sides: tuple[list[Example], list[Example], list[Example]] = ([], [], [])
    for example in examples:
        digest = hashlib.sha256(f"{seed}\0{example.row.group}".encode()).digest()
        place = int.from_bytes(digest[:8], "big") / 2**64
        side = 2 if place < test_share else 1 if place < test_share + eval_share else 0
        sides[side].append(example)
    train, validation, test = sides
    if not train:  # a small set that fell on one side as a whole
        train, validation = validation, []
    if train and not validation:  # a small set: the group with the lowest hash is kept back
        validation, train = _keep_back_one(train)
    return tuple(train), tuple(validation), tuple(test)


def _keep_back_one(train: list[Example]) -> tuple[list[Example], list[Example]]:
    groups = sorted({example.row.group for example in train}, key=lambda g: hashlib.sha256(g.encode()).digest())
    if len(groups) < 2:
        return [], train
    first = groups[0]
    kept = [example for example in train if example.row.group == first]
    return kept, [example for example in train if example.row.group != first]
