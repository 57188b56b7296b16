"""What each test of a file asserts, in a form in which two files can be held against each other.

This is what keeps a test from being bent to the code. A test whose assertion the code contradicts may come back from
the model only with all that it said before, in the same order, under the same conditions: see `weakened`. One that is
merely broken (a missing import, a wrong fixture) may come back in another form, as long as it asserts as much, and as
long as a call that it expected a value of is not given another one: see `loosened` and `changed_expectation`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One thing that a test asserts.

    Attributes:
        key: its normal form with all that decides what it means: two checks are the same where this is.
        subject: for a comparison, the normal form of the side that calls the code; else of the whole.
        expected: the value that a comparison for equality expects, as ``repr`` of a literal; None for other checks.
        exact: whether it names the one value, or the exception, that it holds for, as ``==`` does and ``>=`` does not.
        certain: whether it holds whatever the code does, like ``assert x == x``.
        first: first line of its text, from 1.
        last: last line of it.
    """

    key: str
    subject: str
    expected: str | None
    exact: bool
    certain: bool
    first: int
    last: int


@dataclass(frozen=True)
class Case:
    """One set of arguments of a parametrized test.

    Attributes:
        arguments: names and values, without the last, which is what most tests expect.
        last: the last value.
    """

    arguments: str
    last: str


@dataclass(frozen=True)
class TestFacts:
    """What a test asserts.

    Attributes:
        name: as pytest has it: ``test_x``, ``TestX::test_x``.
        checks: in the order of the text.
        count: of checks that can fail, as `lowvram_ft.execution.check_counts` has it.
        cases: of its ``parametrize`` marks.
        marks: other marks and decorators.
        leaves: where it may leave before its end: ``return``, ``pytest.skip``.
        calls: calls of the code under test.
        about: names of the code under test that it mentions, as ``solution.area``.
        first: its first line, decorators included.
        last: its last line.
    """

    __test__ = False

    name: str
    checks: tuple[Check, ...]
    count: int
    cases: frozenset[Case]
    marks: frozenset[str]
    leaves: frozenset[str]
    calls: frozenset[str]
    about: frozenset[str]
    first: int
    last: int

    @property
    def certain(self) -> bool:
        """Whether nothing that it asserts depends on the code."""
        return bool(self.checks) and all(check.certain for check in self.checks)


@dataclass(frozen=True)
class FileFacts:
    """What a test file asserts.

    Attributes:
        tests: by name.
        replaced: names of the code under test that the file puts something else in the place of.
    """

    tests: Mapping[str, TestFacts]
    replaced: frozenset[str]

    @property
    def count(self) -> int:
        """Checks of all tests."""
        return sum(test.count for test in self.tests.values())


NO_FACTS = FileFacts({}, frozenset())


def weakened(old: TestFacts, new: TestFacts, replaced: Collection[str] = ()) -> str | None:
    """Why a test does not say all that it said; None where it does.

    Args:
        old: the test that the code contradicts.
        new: what the model made of it.
        replaced: names of the code under test that the new file replaces, and the old one did not.
    """
    if replaced:
        return f"it replaces {', '.join(sorted(replaced))} of the code under test"
    if new.marks - old.marks:
        return "it is marked or decorated in another way"
    if new.leaves - old.leaves:
        return "it may leave before it has asserted anything"
    if not old.cases <= new.cases:
        return "a case of parametrize is gone, or expects something else"
    remaining = iter(check.key for check in new.checks)
    for check in old.checks:
        if not any(check.key == key for key in remaining):
            same = [other for other in new.checks if other.subject == check.subject]
            if any(other.expected is not None and other.expected != check.expected for other in same):
                return "it expects something else of the same call"
            return "an assertion is gone, or is another one, or stands under another condition"
    return None


def loosened(old: TestFacts, new: TestFacts) -> str | None:
    """Why a test asserts less than it did before it was mended; None where it does not."""
    if new.count < old.count:
        return f"it has {new.count} checks, and had {old.count}"
    if sum(check.exact for check in new.checks) < sum(check.exact for check in old.checks):
        return "where it named a value, it does so no longer"
    if new.marks - old.marks and any(word in mark for mark in new.marks for word in ("skip", "xfail")):
        return "it is marked to be skipped, or to fail"
    return None


@dataclass(frozen=True)
class Changed:
    """A call of which a test expected one value, and its repair expects another, or less.

    Attributes:
        check: the old check; None where a case of parametrize changed.
        expected: what the repair expects of the same call, as text; empty where it no longer says.
    """

    check: Check | None
    expected: str


def changed_expectation(old: TestFacts, new: TestFacts) -> Changed | None:
    """The first call of the code that both tests make, and of which only the old one expects the old value.

    Args:
        old: a test that never came as far as its assertion.
        new: a test of the repaired file, of that name or another.
    """
    kept = {check.key for check in new.checks}
    for check in old.checks:
        if check.expected is None or check.key in kept:
            continue
        same = [other for other in new.checks if other.subject == check.subject]
        if any(other.expected == check.expected for other in same):
            continue
        if known := next((other.expected for other in same if other.expected is not None), None):
            return Changed(check, known)
        if same or check.subject in new.calls:
            return Changed(check, "")
    for case in old.cases - new.cases:
        other_case = next((other for other in new.cases if other.arguments == case.arguments), None)
        if other_case is not None:
            return Changed(None, "")
    return None
