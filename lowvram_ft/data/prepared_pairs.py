"""Pairs as a stage trains on them: held against the evaluation tasks, rendered, split by group. No text is cut."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

import numpy as np

from lowvram_ft.data.evaluation_code import evaluation_inside
from lowvram_ft.data.jsonl import SHOWN
from lowvram_ft.data.pairs import Pair, Winner, code_in
from lowvram_ft.data.split import SIDES, group_hash, sides
from lowvram_ft.errors import DataError
from lowvram_ft.recipe import DataSection
from lowvram_ft.rendering import ChatFormat

LogProbs = tuple[float, float]
"""Of the chosen and of the rejected completion, each summed over its tokens."""


@dataclass(frozen=True)
class PairExample:
    """A pair with its tokens, rendered as a row of supervised fine-tuning is.

    Attributes:
        pair: the pair.
        prompt_ids: tokens of the prompt, shape [P]; no loss falls on them.
        chosen_ids: tokens of the winner and the end token, shape [C].
        rejected_ids: the same of the loser, shape [R].
    """

    pair: Pair
    prompt_ids: tuple[int, ...]
    chosen_ids: tuple[int, ...]
    rejected_ids: tuple[int, ...]

    @property
    def length(self) -> int:
        """Tokens of the longer of its two sequences."""
        return len(self.prompt_ids) + max(len(self.chosen_ids), len(self.rejected_ids))

    @cached_property
    def digest(self) -> str:
        """Changes with any of its tokens."""
        parts = (self.prompt_ids, self.chosen_ids, self.rejected_ids)
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class PreparedPairs:
    """What a stage of preference training trains on.

    Attributes:
        train: pairs to train on.
        eval: pairs for the validation loss; no group of theirs is in ``train``.
        dropped: pairs that were left out, by reason.
        facts: counts, tokens, reasons.
    """

    train: tuple[PairExample, ...]
    eval: tuple[PairExample, ...]
    dropped: dict[str, int]
    facts: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Counts, tokens and reasons, under the names that a set of rows has them."""
        return self.facts


def prepare_pairs(
    pairs: Sequence[Pair], section: DataSection, chat: ChatFormat, max_length: int, suites: Sequence[str] = ()
) -> PreparedPairs:
    """Make the set of a stage.

    Args:
        pairs: as they were read.
        section: says what share of the groups is kept back, and by which seed.
        chat: the model's chat format.
        max_length: most tokens of a prompt and one completion.
        suites: evaluation suites of the recipe, which no pair may come from.

    Raises:
        DataError: a pair holds the code of an evaluation task, or none is left.
    """
    refuse_evaluation_tasks(pairs, section, suites)
    inside = evaluation_inside(suites, section)
    dropped: Counter[str] = Counter()
    kept = []
    for pair in pairs:
        if chat.control_token_in(f"{pair.prompt}\n{pair.chosen}\n{pair.rejected}") is not None:
            dropped["spells out a control token of the model"] += 1
            continue
        if inside.found(pair.chosen) is not None or inside.found(pair.rejected) is not None:
            dropped["an answer holds the code of an evaluation task"] += 1
            continue
        example = _render(pair, chat)
        if example.length > max_length:
            dropped[f"more than {max_length} tokens"] += 1
            continue
        kept.append(example)
    if not kept:
        why = ", ".join(f"{count} {reason}" for reason, count in dropped.items())
        raise DataError(f"pairs: none is left to train on ({why or 'there are none'}); raise train.max_length")
    hashes = np.array([group_hash(example.pair.group, section.seed) for example in kept], np.uint64)
    side_of = sides(hashes, section.eval_share, section.test_share)
    parts = [tuple(one for one, side in zip(kept, side_of, strict=True) if side == number) for number in range(3)]
    rows = dict(zip(SIDES, map(len, parts), strict=True))
    facts = rows | _facts(kept, parts[0]) | {"dropped": dict(dropped), "max_length": max_length}
    return PreparedPairs(parts[0], parts[1], dict(dropped), facts)


def refuse_evaluation_tasks(found: Sequence[Pair | Winner], section: DataSection, suites: Sequence[str]) -> None:
    """End here if a pair or a winner is about the code of an evaluation task.

    Args:
        found: as they were read.
        section: what is trained on beside them; see `lowvram_ft.data.evaluation_code.evaluation_tasks`.
        suites: evaluation suites of the recipe.

    Raises:
        DataError: one is; names it.
    """
    inside = evaluation_inside(suites, section)
    bad = []
    for number, one in enumerate(found, 1):
        task = inside.found(one.code) or inside.found(code_in(one.prompt))
        if task is not None:
            bad.append(f"number {number} ({one.id}) holds {task}")
    if bad:
        more = f" and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
        raise DataError(
            f"pairs: evaluation tasks must never be trained on: {', '.join(bad[:SHOWN])}{more}; remove them"
        )


def for_trainer(examples: Sequence[PairExample], references: Mapping[str, LogProbs]) -> Any:
    """A ``datasets.Dataset`` of tokens and reference log-probabilities, in the columns of TRL's collator.

    Args:
        examples: the pairs.
        references: log-probabilities under the model that training begins from, by `PairExample.digest`.
    """
    from datasets import Dataset

    found = [references[example.digest] for example in examples]
    return Dataset.from_dict(
        {
            "prompt_ids": [list(example.prompt_ids) for example in examples],
            "chosen_ids": [list(example.chosen_ids) for example in examples],
            "rejected_ids": [list(example.rejected_ids) for example in examples],
            "ref_chosen_logps": [chosen for chosen, _ in found],
            "ref_rejected_logps": [rejected for _, rejected in found],
        }
    )


def _render(pair: Pair, chat: ChatFormat) -> PairExample:
    chosen, rejected = chat.render_many([(pair.prompt, pair.chosen), (pair.prompt, pair.rejected)])
    start = chosen.completion_mask.index(1)
    return PairExample(
        pair,
        chosen.input_ids[:start],
        chosen.input_ids[start:],
        rejected.input_ids[rejected.completion_mask.index(1) :],
    )


def _facts(kept: Sequence[PairExample], train: Sequence[PairExample]) -> dict[str, Any]:
    lengths = sorted(example.length for example in kept)
    completions = [len(example.chosen_ids) + len(example.rejected_ids) for example in kept]
    trained = sum(len(example.chosen_ids) + len(example.rejected_ids) for example in train)
    digest = hashlib.sha256("".join(example.digest for example in kept).encode()).hexdigest()
    return {
        "kind": "pairs",
        "groups": len({example.pair.group for example in kept}),
        "tokens": sum(2 * len(example.prompt_ids) for example in kept) + sum(completions),
        "trained_tokens": trained,
        "longest": lengths[-1],
        "median": lengths[len(lengths) // 2],
        "mean_chosen_tokens": round(fmean(len(example.chosen_ids) for example in kept), 1),
        "mean_rejected_tokens": round(fmean(len(example.rejected_ids) for example in kept), 1),
        "sha256": digest,
    }
