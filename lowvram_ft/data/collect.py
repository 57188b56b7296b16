"""The rows of a section that stand up to every filter, on the disk; and the choice among them.

What passes the filters that look at a row alone goes to a file at once; in memory stay a few numbers for each row.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from lowvram_ft.data.candidates import examine_all
from lowvram_ft.data.duplicates import DuplicateIndex
from lowvram_ft.data.evaluation_code import evaluation_tasks
from lowvram_ft.data.examine import Candidate, Dropped, Examined
from lowvram_ft.data.funnel import Funnel
from lowvram_ft.data.jsonl import BrokenLines
from lowvram_ft.data.pick import draw, order_of_choice
from lowvram_ft.data.prepared import Example, Examples, to_batch, write_side
from lowvram_ft.data.sources import raw_rows
from lowvram_ft.data.split import group_hash
from lowvram_ft.recipe import DataSection
from lowvram_ft.rendering import ChatFormat

BATCH = 256
"""Rows that are run or written in one go."""

Verify = Callable[[Sequence[Example]], list[tuple[str | None, dict[str, object]]]]
"""Runs examples; for each, why it does not hold (None where it does), and what to note in its ``meta``."""


@dataclass(frozen=True)
class Chosen:
    """The rows that are used.

    Attributes:
        places: among the survivors, in the order of the source; shape [rows].
        noted: what running a row showed, by its place.
    """

    places: NDArray[np.int64]
    noted: dict[int, dict[str, object]]


@dataclass
class Collected:
    """The survivors of a pass over a source. In memory are 8 bytes of each, or 20 where a choice is to be made.

    Attributes:
        section: the recipe's section.
        spool: the rows, with their tokens where a chat format was given: an Arrow file, absent where there are none.
        funnel: what was counted.
        notes: what the user should know.
        strata: `pick.stratum` of each, where a choice is to be made; shape [rows].
        draws: `pick.draw` of each, where a choice is to be made; shape [rows].
        groups: `split.group_hash` of each; shape [rows].
        log: where dropped rows are noted.
    """

    section: DataSection
    spool: Path
    funnel: Funnel
    notes: list[str]
    strata: NDArray[np.int32]
    draws: NDArray[np.int64]
    groups: NDArray[np.uint64]
    log: TextIO

    @property
    def examples(self) -> Examples:
        """The rows, mapped."""
        return Examples(self.spool if self.spool.is_file() else None)

    def choose(self, verify: Verify | None) -> Chosen:
        """Choose ``max_rows`` of them, of many kinds of code; all where there are no more.

        Args:
            verify: runs rows, in the order of choice and until enough hold; those that do not are not chosen.
        """
        count, most = len(self.groups), self.section.max_rows
        order = np.arange(count) if most is None else order_of_choice(self.strata, self.draws)
        chosen = Chosen(order[:most], {}) if verify is None else self._run(order, most, verify)
        failed = sum(self.funnel.reasons.get("execution", {}).values())
        if left := count - len(chosen.places) - failed:
            self.funnel.drop("choice", f"not drawn: {most} rows are wanted", left)
        return Chosen(np.sort(chosen.places), chosen.noted)

    def _run(self, order: NDArray[np.int64], most: int | None, verify: Verify) -> Chosen:
        examples = self.examples
        taken: list[int] = []
        noted: dict[int, dict[str, object]] = {}
        for start in range(0, len(order), BATCH):
            wanted = BATCH if most is None else min(BATCH, most - len(taken))
            if wanted <= 0:
                break
            places = [int(place) for place in order[start : start + BATCH]]
            for place, (problem, facts) in zip(places, verify([examples[place] for place in places]), strict=True):
                if problem is not None:
                    note(self.funnel, self.log, Dropped("", examples[place].row.id, "execution", problem))
                elif most is None or len(taken) < most:
                    taken.append(place)
                    noted[place] = facts
        return Chosen(np.asarray(taken, np.int64), noted)


def collect(
    section: DataSection,
    chat: ChatFormat | None,
    max_length: int,
    folder: Path,
    log: TextIO,
    *,
    suites: Sequence[str] = (),
    on_row: Callable[[int], None] | None = None,
    workers: int | None = None,
) -> Collected:
    """Read a source to its end, and write what stands up to its filters.

    Args:
        section: which rows, and what has to hold of them.
        chat: the model's chat format; None leaves rows without tokens, and no length is looked at.
        max_length: most tokens of a row.
        folder: gets ``spool.arrow``.
        log: gets a JSON line for each row that is dropped.
        suites: evaluation suites of the recipe.
        on_row: called with the number of objects read so far.
        workers: processes that examine rows; None for one a CPU.

    Raises:
        DataError: a line is broken or a row too long and that is fatal, or a column is missing.
        MachineError: the hub cannot be reached.
    """
    tasks, notes = evaluation_tasks(section, suites) if "contamination" in section.active_filters else ([], [])
    run = _Pass(section, Funnel(), BrokenLines(), log)
    spool = folder / "spool.arrow"
    examined = examine_all(raw_rows(section), section, chat, max_length, tasks, workers)
    write_side(spool, (to_batch(batch) for batch in run.survivors(examined, on_row)))
    path = Path(section.path or section.source)
    if section.broken_lines == "fatal":
        run.broken.refuse(path)
    if run.broken.count:
        notes.append(f"{run.broken.describe(path)}; passed over")
    return Collected(
        section,
        spool,
        run.funnel,
        notes,
        np.frombuffer(run.strata, np.int32),
        np.frombuffer(run.draws, np.int64),
        np.frombuffer(run.groups, np.uint64),
        log,
    )


def note(funnel: Funnel, log: TextIO, dropped: Dropped) -> None:
    """Count a row that is dropped, and write down why."""
    funnel.drop(dropped.step, dropped.reason)
    log.write(json.dumps(dropped.__dict__) + "\n")


@dataclass
class _Pass:
    """One pass over a source: what is counted, and what stays in memory."""

    section: DataSection
    funnel: Funnel
    broken: BrokenLines
    log: TextIO
    strata: array[int] = field(default_factory=lambda: array("i"))
    draws: array[int] = field(default_factory=lambda: array("q"))
    groups: array[int] = field(default_factory=lambda: array("Q"))
    numbers: array[int] = field(default_factory=lambda: array("I"))

    def survivors(self, examined: Iterator[Examined], on_row: Callable[[int], None] | None) -> Iterator[list[Example]]:
        """The rows that no filter drops, a batch at a time."""
        policy, seed = self.section.duplicates_policy, self.section.seed
        index = None if policy == "keep" else DuplicateIndex(keep_near=policy == "group")
        names: list[str] = []
        for part in examined:
            self.funnel.read += part.read
            self.funnel.extra += len(part.kept) + len(part.dropped) + len(part.broken) - part.read
            self.funnel.measure(part.lengths)
            for number, reason in part.broken:
                self.broken.add(number, reason)
                where = f"{self.section.path}:{number}"
                note(self.funnel, self.log, Dropped(where, "", "read", f"broken line: {reason.partition(':')[0]}"))
            for dropped in part.dropped:
                note(self.funnel, self.log, dropped)
            kept = [one for candidate in part.kept if (one := self._unique(candidate, index, names)) is not None]
            if kept:
                self.groups.extend(group_hash(one.example.row.group, seed) for one in kept)
                if self.section.max_rows is not None:
                    self.strata.extend(one.stratum for one in kept)
                    self.draws.extend(draw(seed, one.example.row.id) for one in kept)
                yield [one.example for one in kept]
            if on_row is not None:
                on_row(self.funnel.read)

    def _unique(self, candidate: Candidate, index: DuplicateIndex | None, names: list[str]) -> Candidate | None:
        """The candidate, in the group of an earlier row that it repeats; None where it is dropped for that.

        Args:
            candidate: the row.
            index: of the rows before; None where duplicates stay.
            names: groups of the rows that went into the index, where rows are grouped.
        """
        if index is None or candidate.fingerprint is None:
            return candidate
        row = candidate.example.row
        match = index.add(candidate.fingerprint)
        self.numbers.append(candidate.number)
        if self.section.duplicates_policy == "group":
            names.append(row.group if match is None else names[match.row])
            return replace(candidate, example=replace(candidate.example, row=replace(row, group=names[-1])))
        if match is None:
            return candidate
        kind = "exact duplicate" if match.exact else "near duplicate"
        other = f"{100 * match.similarity:.0f} % like that of number {self.numbers[match.row]}"
        note(self.funnel, self.log, Dropped(candidate.where, row.id, "duplicates", kind, other))
        return None
