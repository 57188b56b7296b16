"""Every attempt, counted before its outcome is known. Nothing here is code, or names any.

A line says that an attempt begins to be judged, on which tasks (by their digests); a later one how it ended. An attempt
that was killed in between counts all the same: else who does not like an outcome would only have to end the process.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lowvram_ft.improve.decide import METRIC, level
from lowvram_ft.run_dir import append_jsonl, read_jsonl


class Ledger:
    """The attempts in a JSONL file, to which lines are only ever added.

    Args:
        path: the file; made when there is something to write.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def lines(self) -> Iterator[dict[str, Any]]:
        """All of it, in order."""
        return (line for line in read_jsonl(self.path) if isinstance(line, dict))

    def count(self, attempt: str, held_out: Iterable[str]) -> int:
        """Which attempt on a held-out part this is, from 1: every earlier one with a task in common counts.

        Args:
            attempt: its id; the same however often it is taken up.
            held_out: digests of its tasks.
        """
        wanted = set(held_out)
        earlier: set[str] = set()
        for line in self.lines():
            if line["event"] == "begun" and line["attempt"] == attempt:
                return int(line["k"])
            if line["event"] == "begun" and not wanted.isdisjoint(line["held_out"]):
                earlier.add(line["attempt"])
        return len(earlier) + 1

    def begin(self, attempt: str, held_out: Iterable[str], facts: Mapping[str, Any]) -> int:
        """Count an attempt, unless that has happened; to be called before anything is judged.

        Args:
            attempt: its id.
            held_out: digests of its tasks.
            facts: more to note, without code.

        Returns:
            Which attempt it is, see `count`.
        """
        tasks = sorted(set(held_out))
        k = self.count(attempt, tasks)
        if not any(line["event"] == "begun" and line["attempt"] == attempt for line in self.lines()):
            self._add("begun", attempt=attempt, k=k, level=level(k), metric=METRIC, held_out=tasks, **facts)
        return k

    def end(self, attempt: str, facts: Mapping[str, Any]) -> None:
        """Note how an attempt ended, once."""
        if self.ended(attempt) is None:
            self._add("ended", attempt=attempt, **facts)

    def ended(self, attempt: str) -> dict[str, Any] | None:
        """How an attempt ended; None where it has not."""
        return next((one for one in self.lines() if one["event"] == "ended" and one["attempt"] == attempt), None)

    def note(self, event: str, **facts: Any) -> None:
        """Note that the model in use was changed by the user: ``registered``, ``rolled back``, ``forgotten``."""
        self._add(event, **facts)

    def _add(self, event: str, **facts: Any) -> None:
        append_jsonl(self.path, {"event": event, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **facts})
