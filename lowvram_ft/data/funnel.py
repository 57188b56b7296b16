"""How many rows each step let through, and why it dropped the others."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

STEPS = (
    "read",
    "source",
    "constraints",
    "assertions",
    "contamination",
    "control tokens",
    "length",
    "duplicates",
    "execution",
    "choice",
)
"""In the order in which a row meets them."""
LENGTHS = (256, 512, 1024, 2048, 4096, 8192, 16384)
"""Token counts at which the funnel says how many rows would be kept."""


@dataclass
class Funnel:
    """Counts of one pass over a source.

    Attributes:
        read: objects that were read, broken lines among them.
        reasons: rows that were dropped, by step and reason.
        extra: rows that one object gave beyond its first, such as the parts of a trimmed file.
        within: rows that were measured and have at most so many tokens, for each of `LENGTHS`.
        measured: rows that were measured.
    """

    read: int = 0
    extra: int = 0
    reasons: dict[str, Counter[str]] = field(default_factory=dict)
    within: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(LENGTHS), np.int64))
    measured: int = 0

    def drop(self, step: str, reason: str, count: int = 1) -> None:
        """Count rows that a step dropped."""
        self.reasons.setdefault(step, Counter())[reason] += count

    def measure(self, lengths: list[int]) -> None:
        """Count the lengths of rows, in tokens."""
        found = np.asarray(lengths, np.int64)
        self.within += (found[None, :] <= np.asarray(LENGTHS)[:, None]).sum(axis=1)
        self.measured += len(lengths)

    @property
    def dropped(self) -> dict[str, int]:
        """Rows that were dropped, by reason."""
        found: Counter[str] = Counter()
        for step in STEPS:
            found += self.reasons.get(step, Counter())
        return dict(found)

    def to_json(self) -> dict[str, Any]:
        """Each step with the rows that came to it, those that it let through, and its reasons."""
        steps, left = [], self.read + self.extra
        for step in STEPS:
            reasons = self.reasons.get(step, Counter())
            came, left = left, left - sum(reasons.values())
            if step == "read" or reasons:
                steps.append({"step": step, "in": came, "out": left, "reasons": dict(reasons.most_common())})
        lengths = {str(length): int(count) for length, count in zip(LENGTHS, self.within, strict=True)}
        return {"read": self.read, "kept": left, "steps": steps, "rows_within_tokens": lengths}
