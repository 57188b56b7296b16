"""One object to its training rows, or to the reason why it has none. Pure, so that it runs in processes of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lowvram_ft.data.duplicates import Contamination, Fingerprint, fingerprint
from lowvram_ft.data.filters import broken_constraint, too_few_assertions
from lowvram_ft.data.objects import Raw
from lowvram_ft.data.pick import stratum
from lowvram_ft.data.prepared import Example
from lowvram_ft.data.row import Row, build_prompt
from lowvram_ft.data.sources import SOURCES
from lowvram_ft.data.sources.source import LeftOut, parse
from lowvram_ft.data.trimming import pieces
from lowvram_ft.errors import DataError
from lowvram_ft.recipe import DataSection
from lowvram_ft.rendering import ChatFormat, Rendered


@dataclass(frozen=True)
class Dropped:
    """A row that is left out.

    Attributes:
        where: the file and line, or the data set and row.
        id: of the row, where it got that far.
        step: the filter.
        reason: in a few words, the same for all rows of a kind.
        detail: what else a person wants to know, such as the row that it repeats.
    """

    where: str
    id: str
    step: str
    reason: str
    detail: str = ""


@dataclass(frozen=True)
class Candidate:
    """A row that passed every filter that looks at it alone.

    Attributes:
        where: as for `Dropped`.
        number: of the line or row that it stands in.
        example: the row with its tokens.
        fingerprint: what it is held against other rows by; None where duplicates stay.
        stratum: its kinds of construct and its length, as a number.
    """

    where: str
    number: int
    example: Example
    fingerprint: Fingerprint | None
    stratum: int


@dataclass
class Examined:
    """What a chunk of objects gave, in order.

    Attributes:
        read: how many objects there were.
        kept: rows that go on.
        dropped: rows that do not.
        broken: line numbers that hold no object, with the reason.
        lengths: tokens of each row that came as far as being measured, those that are too long among them.
    """

    read: int = 0
    kept: list[Candidate] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    broken: list[tuple[int, str]] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)


class Examiner:
    """Turns objects into candidates.

    Args:
        section: which filters.
        chat: the model's chat format; None leaves rows without tokens, and no length is looked at.
        max_length: most tokens of a row.
        contamination: evaluation tasks; None where rows are not held against them.
    """

    def __init__(
        self, section: DataSection, chat: ChatFormat | None, max_length: int, contamination: Contamination | None
    ) -> None:
        self.section = section
        self.chat = chat
        self.max_length = max_length
        self.contamination = contamination
        self.read = SOURCES[section.source].rows

    def chunk(self, raws: Sequence[Raw]) -> Examined:
        """All of a chunk.

        Raises:
            DataError: an object has another shape than its source, or a row is too long and that is fatal.
        """
        found = Examined(len(raws))
        waiting: list[tuple[Row, Raw, Fingerprint | None]] = []
        for raw in raws:
            value, reason = raw.value()
            if value is None:
                found.broken.append((raw.number, reason))
                continue
            try:
                rows = self.read(value, raw.where)
            except LeftOut as problem:
                name = next((str(value[key]) for key in ("id", "question_id", "task_id") if value.get(key)), "")
                found.dropped.append(Dropped(raw.where, name, "source", problem.reason))
                continue
            for row in rows:
                dropped, print_ = self._alone(row, raw.where)
                if dropped is None:
                    waiting.append((row, raw, print_))
                else:
                    found.dropped.append(dropped)
        for (row, raw, print_), rendered in zip(waiting, self._render(waiting), strict=True):
            for example in self._that_fit(row, rendered, raw.where, found):
                own = print_ if example.row is row or not self._compares else fingerprint(example.row.code)
                alone = replace(own, parts=()) if self._compares and own is not None else None
                found.kept.append(Candidate(raw.where, raw.number, example, alone, stratum(example.row.code)))
        return found

    def _alone(self, row: Row, where: str) -> tuple[Dropped | None, Fingerprint | None]:
        """What the filters say that look at a row alone, and its fingerprint where it passes."""
        for step, problem in self._problems(row):
            if problem is not None:
                return Dropped(where, row.id, step, problem), None
        whole = fingerprint(parse(row.code)) if self.contamination is not None or self._compares else None
        task = self.contamination.found(whole) if self.contamination is not None and whole is not None else None
        if task is not None:
            return Dropped(where, row.id, "contamination", "holds an evaluation task", task), None
        control = self.chat.control_token_in(f"{row.prompt}\n{row.completion}") if self.chat is not None else None
        if control is not None:
            return Dropped(where, row.id, "control tokens", "spells out a control token of the model", control), None
        return None, whole

    def _render(self, rows: Sequence[tuple[Row, Raw, Fingerprint | None]]) -> Sequence[Rendered | None]:
        if self.chat is None:
            return [None] * len(rows)
        return self.chat.render_many([(row.prompt, row.completion) for row, _, _ in rows])

    @property
    def _compares(self) -> bool:
        return self.section.duplicates_policy != "keep"

    def _problems(self, row: Row) -> Iterator[tuple[str, str | None]]:
        filters = self.section.active_filters
        if "constraints" in filters:
            yield "constraints", broken_constraint(row)
        if "assertions" in filters:
            yield "assertions", too_few_assertions(row, self.section.min_assertions)

    def _that_fit(self, row: Row, whole: Rendered | None, where: str, found: Examined) -> Iterator[Example]:
        """The row, or its parts, or nothing."""
        if whole is None:
            yield Example(row, (), ())
            return
        found.lengths.append(len(whole.input_ids))
        if len(whole.input_ids) <= self.max_length:
            yield _example(row, whole)
            return
        if self.section.too_long == "fatal":
            raise DataError(
                f"{row.source} {row.id}: has {len(whole.input_ids)} tokens (max_length is {self.max_length}); "
                'raise train.max_length, or set data.too_long = "drop"'
            )
        parts = list(self._trimmed(row)) if self.section.too_long == "trim" and row.source != "failure_traces" else []
        if not parts:
            found.dropped.append(Dropped(where, row.id, "length", f"longer than {self.max_length} tokens"))
        yield from parts

    def _trimmed(self, row: Row) -> Iterator[Example]:
        """The parts of a whole file that fit: tested definitions with what they call, and the tests that reach them."""
        assert self.chat is not None
        render = _measure(self.chat)

        def fits(code: str, test: str) -> bool:
            return len(render(code, test).input_ids) <= self.max_length

        for number, piece in enumerate(pieces(row.code, row.test, fits), 1):
            code, test = piece.code.strip() + "\n", piece.test.strip() + "\n"
            meta = {**row.meta, "trimmed_from": row.id, "names": list(piece.names)}
            part = replace(
                row,
                id=f"{row.id}#{number}",
                code=code,
                test=test,
                prompt=build_prompt(code),
                completion=test.strip(),
                meta=meta,
            )
            yield _example(part, render(code, test))


def _measure(chat: ChatFormat) -> Callable[[str, str], Rendered]:
    def render(code: str, test: str) -> Rendered:
        return chat.render(build_prompt(code), test.strip())

    return render


def _example(row: Row, rendered: Rendered) -> Example:
    return Example(row, rendered.input_ids, rendered.completion_mask)


def make_examiner(section: DataSection, folder: Any, max_length: int, tasks: Sequence[tuple[str, str]]) -> Examiner:
    """An examiner in a process of its own: reads the tokenizer, and makes the index of the evaluation tasks.

    Args:
        section: which filters.
        folder: of the model, for its chat format; None for no tokens.
        max_length: most tokens of a row.
        tasks: name and code of each evaluation task.
    """
    from lowvram_ft.rendering import from_folder

    chat = from_folder(folder) if folder is not None else None
    return Examiner(section, chat, max_length, Contamination(tasks) if tasks else None)
