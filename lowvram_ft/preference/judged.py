"""What an answer is worth: plain frozen data that goes to JSON and back."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

Fate = Literal["passes_and_kills", "passes", "useful", "fails", "no_test"]

FATES: dict[Fate, str] = {
    "passes_and_kills": "every test passes, and they kill a mutant",
    "passes": "every test passes, none kills a mutant",
    "useful": "some tests fail, those that pass kill a mutant",
    "fails": "a test fails, and none kills a mutant",
    "no_test": "it holds no test, or none that observes anything",
}
"""Every fate, from best to worst, and what it means."""


@dataclasses.dataclass(frozen=True)
class Judged:
    """A test file and what it is worth; the same text has it for every answer that holds it.

    Attributes:
        key: of the answer; of a made file, that of its text.
        task: id of the task.
        text: hash of the task and the test file.
        test: the test file.
        fate: see `FATES`.
        mutation_score: share of the mutants that its passing tests kill, 0 to 1.
        n_mutants: mutants that count; 0 where nothing can be mutated.
        coverage: share of the statements that it reaches, 0 to 1.
        n_tests: tests that were collected.
        passing: names of those that pass, as in `lowvram_ft.execution.TestResult`.
        failing: names of the others.
        killed: mutants that the passing tests kill together, by their places.
        mixed: parametrized tests of which some cases pass and others do not: name, places of those that do not (from
            0), number of cases.
        idle: of the passing tests, those that pass as well on code that always returns the same thing.
        hacks: test (empty for the whole file) and reason, for all that may not win; see `lowvram_ft.preference.hacks`.
        flaky: what happened in another order of the tests, or with another hash seed; empty where nothing did, None
            where that was not asked.
        reason: why it is worth that, in a line.
        duration_s: of its session.
        n_tokens: tokens of the test file: those of the answer, in proportion where the answer holds more; 0 where
            they are not known.
        made_of: keys of the answers whose tests a made file holds; empty for an answer.
    """

    key: str
    task: str
    text: str
    test: str
    fate: Fate
    mutation_score: float
    n_mutants: int
    coverage: float
    n_tests: int
    passing: tuple[str, ...]
    failing: tuple[str, ...]
    killed: tuple[int, ...]
    mixed: tuple[tuple[str, tuple[int, ...], int], ...]
    idle: tuple[str, ...]
    hacks: tuple[tuple[str, str], ...]
    flaky: str | None
    reason: str
    duration_s: float
    n_tokens: int = 0
    made_of: tuple[str, ...] = ()

    @property
    def whole_file_hacks(self) -> tuple[str, ...]:
        """Reasons that no leaving out of tests helps against."""
        return tuple(reason for test, reason in self.hacks if not test)

    @property
    def good_tests(self) -> tuple[str, ...]:
        """Tests, without their cases, of which every case passes, that observe something and are no trick."""
        bad = {function_of(name) for name in (*self.failing, *self.idle)} | {test for test, _ in self.hacks}
        return tuple(name for name in dict.fromkeys(map(function_of, self.passing)) if name not in bad)

    @property
    def may_win(self) -> bool:
        """Whether the file as it is passes steadily, and nothing in it is a trick, whatever it kills."""
        passes = self.fate in ("passes_and_kills", "passes")
        return passes and not self.hacks and not self.idle and self.flaky == ""

    @property
    def why_not(self) -> str:
        """Why the file may not win, in the same few words for all of a kind; empty where it may."""
        if self.fate not in ("passes_and_kills", "passes"):
            return self.reason.partition(":")[0]
        if self.hacks:
            return f"a trick: {self.hacks[0][1]}"
        if self.idle:
            return "holds a test that passes on code that always returns the same thing"
        return "flaky" if self.flaky else ""

    def to_json(self) -> dict[str, Any]:
        """Fields alone, as JSON types."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Judged:
        """What `to_json` turned into ``data``."""
        lists = {name: tuple(data[name]) for name in ("passing", "failing", "killed", "idle", "made_of")}
        hacks = tuple((test, reason) for test, reason in data["hacks"])
        mixed = tuple((name, tuple(places), count) for name, places, count in data["mixed"])
        return cls(**{**data, **lists, "hacks": hacks, "mixed": mixed})


def mixed_cases(outcomes: Sequence[tuple[str, str]]) -> tuple[tuple[str, tuple[int, ...], int], ...]:
    """`Judged.mixed`.

    Args:
        outcomes: name and outcome of each case, in the order of the file.
    """
    cases: dict[str, list[str]] = {}
    for name, outcome in outcomes:
        cases.setdefault(function_of(name), []).append(outcome)
    found = []
    for name, each in cases.items():
        bad = tuple(place for place, outcome in enumerate(each) if outcome != "passed")
        if 0 < len(bad) < len(each):
            found.append((name, bad, len(each)))
    return tuple(found)


def function_of(name: str) -> str:
    """A test's name without its case: ``TestX::test_y`` of ``TestX::test_y[1-a]``."""
    return re.sub(r"\[.*\]$", "", name, flags=re.DOTALL)
