"""What became of a module: plain frozen data that goes to JSON and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from lowvram_ft.testgen.attempts.findings import Contradiction, Dropped

Status = Literal["written", "unchanged", "nothing passes", "nothing to add", "nothing to test", "failed"]


@dataclasses.dataclass(frozen=True)
class Reach:
    """How much of something tests reach.

    Attributes:
        before: by the tests that were there.
        after: with the new ones.
        of: how many there are.
    """

    before: int
    after: int
    of: int

    @property
    def share(self) -> float:
        """After, 0 to 1; 0 where there is nothing to reach."""
        return self.after / self.of if self.of else 0.0


@dataclasses.dataclass(frozen=True)
class Kept:
    """A new test.

    Attributes:
        name: such as ``TestParse::test_empty``.
        lines: statements that it reaches.
        mutants: planted faults that it finds.
    """

    name: str
    lines: int
    mutants: int


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a module.

    Attributes:
        source: the module's file, as it is shown.
        module: the name that its tests import.
        status: ``written`` also where nothing is to be written, as in a dry run; ``unchanged`` where the file that is
            there has it all; ``failed`` where the module cannot be tested here, as a note says.
        test_file: where the tests are, or would be; None where there are none.
        kept: the new tests.
        dropped: the other generated ones.
        contradictions: possible bugs.
        existing: tests that were there, and how many of them pass here.
        not_run: files of existing tests that could not be run here, and why.
        lines: statements that are reached; of the lines of interest alone, where there are some.
        mutants: planted faults that are found; the same.
        answers: that were asked for.
        refined: failing files that were mended.
        text: the whole test file; empty where there is none.
        diff: what changes in the tree.
        notes: what a user should know besides.
    """

    source: str
    module: str
    status: Status
    test_file: str | None
    kept: tuple[Kept, ...] = ()
    dropped: tuple[Dropped, ...] = ()
    contradictions: tuple[Contradiction, ...] = ()
    existing: tuple[int, int] = (0, 0)
    not_run: Mapping[str, str] = dataclasses.field(default_factory=dict)
    lines: Reach = Reach(0, 0, 0)
    mutants: Reach = Reach(0, 0, 0)
    answers: int = 0
    refined: int = 0
    text: str = ""
    diff: str = ""
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Fields alone, as JSON types."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Outcome:
        """The outcome that `to_json` turned into ``data``."""
        parts: dict[str, Any] = {field.name: data[field.name] for field in dataclasses.fields(cls)}
        return cls(
            **parts
            | {
                "kept": tuple(Kept(**one) for one in data["kept"]),
                "dropped": tuple(Dropped(**one) for one in data["dropped"]),
                "contradictions": tuple(Contradiction(**one) for one in data["contradictions"]),
                "existing": tuple(data["existing"]),
                "lines": Reach(**data["lines"]),
                "mutants": Reach(**data["mutants"]),
                "notes": tuple(data["notes"]),
            }
        )
