"""What testgen kept on this machine, as it lies there."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from typing import Any

from lowvram_ft.data.split import group_hash
from lowvram_ft.improve.home import Home
from lowvram_ft.testgen.attempts.log import read_log

UNKNOWN = "unknown"
"""What the repository of a trace is called that was kept before repositories were noted."""
HELD_OUT_SHARE = 0.3
"""Of the modules."""
_SEED = 0
_TEXTS = ("code", "prompt", "text", "module")


@dataclass(frozen=True)
class Memory:
    """The logs.

    Attributes:
        answers: records of ``answers.jsonl`` (see `lowvram_ft.testgen.attempts.answers.LoggedAnswer`).
        traces: records of ``traces.jsonl``.
    """

    answers: tuple[dict[str, Any], ...]
    traces: tuple[dict[str, Any], ...]

    def by_repository(self) -> dict[str, dict[str, Any]]:
        """What is there of each repository: counts, and the first and last day."""
        found: dict[str, dict[str, Any]] = {}
        for kind, records in (("answers", self.answers), ("traces", self.traces)):
            counts = Counter(map(repository_of, records))
            for name, count in counts.items():
                found.setdefault(name, {"answers": 0, "kept": 0, "traces": 0})[kind] = count
        for name, facts in found.items():
            mine = [one for one in self.answers if repository_of(one) == name]
            times = [str(one["time"]) for one in (*mine, *self.traces) if repository_of(one) == name and "time" in one]
            facts["kept"] = sum(bool(one.get("kept")) for one in mine)
            facts["first"], facts["last"] = (min(times)[:10], max(times)[:10]) if times else (None, None)
        return dict(sorted(found.items()))


def read_memory(home: Home) -> Memory:
    """Read both logs; records of another shape are passed over."""
    answers = [
        one for one in read_log(home.answers) if all(isinstance(one.get(n), str) for n in _TEXTS) and "fate" in one
    ]
    traces = [one for one in read_log(home.traces) if all(isinstance(one.get(n), str) for n in ("code", "fixed_test"))]
    return Memory(tuple(answers), tuple(traces))


def repository_of(record: dict[str, Any]) -> str:
    """Name of the repository that a record is from."""
    return str(record.get("repository") or UNKNOWN)


def group_of(record: dict[str, Any]) -> str:
    """What stays on one side: the module, of whatever version, with all that is in it."""
    module = record.get("module") or code_digest(str(record["code"]))
    return f"{repository_of(record)}/{module}"


def is_held_out(group: str) -> bool:
    """On which side of the split a module is: decided by its name alone, so for good."""
    return group_hash(group, _SEED) / 2.0**64 < HELD_OUT_SHARE


def code_digest(code: str) -> str:
    """A name for a piece of code, without the code."""
    return hashlib.sha256(code.encode("utf-8", "surrogatepass")).hexdigest()[:16]
