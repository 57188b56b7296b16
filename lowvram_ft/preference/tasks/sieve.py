"""What every task has to stand up to, wherever it is from: no evaluation code, no other task again, importable."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lowvram_ft.data.duplicates import DuplicateIndex, fingerprint
from lowvram_ft.data.duplicates.inside import Inside
from lowvram_ft.execution import Limits, run_many, run_tests
from lowvram_ft.execution.place import root_problem
from lowvram_ft.preference.records import PreferenceTask

EVALUATION = "holds an evaluation task, or is a part of one"
_IMPORTS = "import solution\n\n\ndef test_import():\n    assert solution.__name__\n"


@dataclass
class Drawn:
    """What came of one source.

    Attributes:
        name: as the recipe has it.
        found: how many of its tasks were worth looking at.
        refused: tasks that were not taken, and code that was none to begin with, by reason.
        taken: to learn from.
        held_out: kept back.
    """

    name: str
    found: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    taken: int = 0
    held_out: int = 0
    late: int = 0
    """Of those that were found, how many were refused."""

    def refuse(self, problem: str) -> None:
        """Count a task that was found and is not taken."""
        self.refused[problem] += 1
        self.late += 1

    def to_json(self) -> dict[str, Any]:
        """Counts, as a funnel."""
        return {
            "tasks": self.taken,
            "held_out": self.held_out,
            "not_drawn": self.found - self.late - self.taken - self.held_out,
            "refused": dict(self.refused.most_common()),
        }


Pairs = Sequence[tuple[PreferenceTask, Drawn]]


class Groups:
    """Which groups are one, because tasks of theirs are nearly the same."""

    def __init__(self) -> None:
        self._of: dict[str, str] = {}

    def name(self, group: str) -> str:
        """What a group is called now."""
        while self._of.get(group, group) != group:
            group = self._of[group]
        return group

    def join(self, group: str, other: str) -> None:
        """Make two one, by the second one's name."""
        self._of[self.name(group)] = self.name(other)


class Sieve:
    """What a task has to stand up to, beside its source's own conditions.

    Args:
        inside: finds evaluation code.
        leave_out: ids or digests.
    """

    def __init__(self, inside: Inside, leave_out: Collection[str]) -> None:
        self.groups = Groups()
        self.evaluation: list[str] = []
        self._inside = inside
        self._leave_out = leave_out
        self._index = DuplicateIndex(keep_near=True)
        self._seen: list[str] = []
        self._ids: set[str] = set()

    def alone(self, batch: Pairs) -> list[tuple[PreferenceTask, Drawn]]:
        """The tasks of a batch that are wanted, are no evaluation code and repeat no earlier one."""
        kept = []
        for task, source in batch:
            problem = self._problem(task)
            if problem is None:
                kept.append((task, source))
            else:
                source.refuse(problem)
        return kept

    def _problem(self, task: PreferenceTask) -> str | None:
        if task.id in self._ids:
            return "has the id of another task"
        if task.id in self._leave_out or task.digest in self._leave_out:
            return "was to be left out"
        name = self._inside.found(task.code)
        if name is not None:
            self.evaluation.append(f"{task.id}: {name}")
            return EVALUATION
        print_ = fingerprint(task.code)
        if print_ is None:
            return "holds no code"
        match = self._index.add(replace(print_, parts=()))
        self._seen.append(task.group)
        if match is not None:
            if match.exact:
                return "repeats another task"
            self.groups.join(task.group, self._seen[match.row])
        self._ids.add(task.id)
        return None

    def importable(self, batch: Pairs) -> list[tuple[PreferenceTask, Drawn]]:
        """The tasks of a batch whose code can be imported in the sandbox."""
        problems = run_many(lambda place: _import_problem(batch[place][0]), range(len(batch)))
        for (_, source), problem in zip(batch, problems, strict=True):
            if problem is not None:
                source.refuse(problem)
        return [one for one, problem in zip(batch, problems, strict=True) if problem is None]


def _import_problem(task: PreferenceTask) -> str | None:
    if task.root is not None and root_problem(task.root) is not None:
        return "lies in a folder that the sandbox does not show"
    verdict = run_tests(task.code, task.module, _IMPORTS, Limits(), task.root)
    return None if verdict.all_passed else "cannot be imported"
