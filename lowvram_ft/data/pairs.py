"""Pairs of a winner and a loser, and winners alone: what preference training reads.

A folder holds ``pairs.jsonl`` (for ``dpo``), ``winners.jsonl`` (for ``rft``), ``pairs.json`` (counts) and ``README.md``
(the data card).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

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
