"""What is known of a chain of answers: what passed, what the code contradicts, what was asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from lowvram_ft.testgen.attempts.assertions import Check, FileFacts, TestFacts
from lowvram_ft.testgen.attempts.traces import Trace

Fate = Literal["passes", "some pass", "fails", "no test", "contradicts"]
"""What becomes of an answer: every test of it passes and is kept; some are; none is; it holds none that runs; or the
code contradicts one, which may be a bug of the code."""


@dataclass(frozen=True)
class Dropped:
    """A test that is not kept, though it may be no bug of the code either.

    Attributes:
        test: its name; empty for a whole answer, or for the whole unit.
        reason: in a few words.
    """

    test: str
    reason: str


@dataclass(frozen=True)
class Contradiction:
    """A test that the code contradicts: one of the two is wrong.

    Attributes:
        test: its name.
        assertion: the assertion as the model wrote it; the statement that raised, where it did not come to one.
        message: pytest's words.
        text: a test file with this test alone, which fails.
        disputed: whether another answer of the model expects what the code does.
    """

    test: str
    assertion: str
    message: str
    text: str
    disputed: bool = False


@dataclass(frozen=True)
class Claim:
    """A contradiction, with what it is told from others by.

    Attributes:
        key: the same for the same assertion.
        subject: normal form of the call that the assertion is about; empty where there is no assertion.
    """

    contradiction: Contradiction
    key: str
    subject: str


@dataclass(frozen=True)
class FailedFile:
    """A file that the model was asked to mend.

    Attributes:
        text: the file.
        log: what it was told of it.
        facts: what the file asserts.
        contradicted: names of its tests that the code contradicts.
    """

    text: str
    log: str
    facts: FileFacts
    contradicted: frozenset[str]


@dataclass(frozen=True)
class Memory:
    """What came before, from the first answer of a chain of refinements on.

    Attributes:
        passed: tests that are kept already.
        contradicted: tests that the code contradicts, as they first were.
        broken: tests that failed by themselves, as they first were, with pytest's words.
        replaced: names of the code that the first file put something else in the place of.
        failed: the file that the model was asked about last.
    """

    passed: Mapping[str, TestFacts] = field(default_factory=dict)
    contradicted: Mapping[str, TestFacts] = field(default_factory=dict)
    broken: Mapping[str, tuple[TestFacts, str]] = field(default_factory=dict)
    replaced: frozenset[str] | None = None
    failed: FailedFile | None = None


@dataclass(frozen=True)
class Examined:
    """What one answer came to.

    Attributes:
        text: the tests that are kept, in a file that imports the real module; empty for none.
        checks: what they assert.
        claims: new contradictions.
        mended: names of tests whose contradiction is none any longer: all that they assert holds now.
        dropped: tests that go.
        memory: for the next answer.
        prompt: the question for it; None where there is nothing to mend.
        fate: in a word.
        trace: where this answer mended the file before, in its own place; see `holds_alone` in
            `lowvram_ft.testgen.attempts.examine`.
    """

    text: str
    checks: tuple[Check, ...]
    claims: tuple[Claim, ...]
    mended: frozenset[str]
    dropped: tuple[Dropped, ...]
    memory: Memory
    prompt: str | None
    fate: Fate
    trace: Trace | None = None
