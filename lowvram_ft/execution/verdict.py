"""What running a test file, or its mutants, tells: plain frozen data that goes to JSON and back."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal

from lowvram_ft.execution.sampling import estimate

Outcome = Literal["passed", "failed", "error", "skipped", "timeout", "killed"]
Status = Literal["ran", "syntax_error", "no_tests", "collection_error", "timeout", "killed"]
MutantOutcome = Literal[
    "killed", "timeout", "survived", "not_covered", "equivalent", "incompetent", "not_run", "not_asked"
]


@dataclasses.dataclass(frozen=True)
class TestResult:
    """What became of one test.

    Attributes:
        name: pytest's node id without the file, for example ``TestParse::test_empty[a-1]``.
        outcome: ``error`` is a failing fixture or a test that never got its turn; ``timeout`` a test that
            was stopped; ``killed`` the test in which the process ended without a report.
        duration_s: set-up, call and tear-down together.
        message: the first lines of the reason, empty for a pass.
    """

    __test__ = False

    name: str
    outcome: Outcome
    duration_s: float
    message: str


@dataclasses.dataclass(frozen=True)
class Coverage:
    """Statement and branch coverage of the module under test, as coverage.py counts them.

    Attributes:
        statements: how many statements the module has.
        covered_statements: how many of them ran.
        branches: how many branch destinations there are.
        covered_branches: how many of them were taken.
        covered_lines: first lines of the statements that ran.
        missing_lines: first lines of those that did not.
    """

    statements: int
    covered_statements: int
    branches: int
    covered_branches: int
    covered_lines: tuple[int, ...]
    missing_lines: tuple[int, ...]

    @property
    def line_rate(self) -> float | None:
        """Share of statements that ran; None for a module without statements."""
        return self.covered_statements / self.statements if self.statements else None

    @property
    def branch_rate(self) -> float | None:
        """Share of branch destinations that were taken; None for a module without branches."""
        return self.covered_branches / self.branches if self.branches else None

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Coverage:
        """The coverage that ``dataclasses.asdict`` turned into ``data``."""
        lines = {key: tuple(data[key]) for key in ("covered_lines", "missing_lines")}
        return cls(**{**data, **lines})


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What running one test file against one module told.

    Attributes:
        status: how far it came; ``ran`` means that the session ended by itself with at least one test.
        results: every test that was collected, in order.
        assertions: static count of the checks inside test functions: ``assert`` on something that is no
            constant, ``pytest.raises`` and its kin, ``self.assert…``.
        log: failures as pytest prints them with short tracebacks, trimmed, without paths of this machine.
        coverage: None unless the session ended by itself.
        duration_s: wall-clock time of the test session, without the interpreter's start.
    """

    status: Status
    results: tuple[TestResult, ...]
    assertions: int
    log: str
    coverage: Coverage | None
    duration_s: float

    @property
    def parses(self) -> bool:
        """Whether the test file is Python."""
        return self.status != "syntax_error"

    @property
    def collects(self) -> bool:
        """Whether pytest imported the test file and found tests in it."""
        return bool(self.results)

    @property
    def n_tests(self) -> int:
        """How many tests were collected."""
        return len(self.results)

    @property
    def n_passed(self) -> int:
        """How many tests passed."""
        return len(self.passing)

    @property
    def passing(self) -> tuple[str, ...]:
        """Names of the tests that passed."""
        return tuple(result.name for result in self.results if result.outcome == "passed")

    @property
    def all_passed(self) -> bool:
        """Whether there is at least one test and every one passed; a skipped test is no pass."""
        return self.status == "ran" and 0 < self.n_tests == self.n_passed

    @property
    def writes_tests(self) -> bool:
        """Whether the file parses and holds at least one test function with an assertion in it."""
        return self.parses and self.assertions > 0

    def to_json(self) -> dict[str, Any]:
        """Fields alone, as JSON types."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Verdict:
        """The verdict that `to_json` turned into ``data``."""
        coverage = data["coverage"]
        return cls(
            status=data["status"],
            results=tuple(TestResult(**result) for result in data["results"]),
            assertions=data["assertions"],
            log=data["log"],
            coverage=None if coverage is None else Coverage.from_json(coverage),
            duration_s=data["duration_s"],
        )


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One small change to the module under test, and what the tests made of it.

    Attributes:
        operator: cosmic-ray's name for it, for example ``core/NumberReplacer``.
        line: where the change is, counted from 1 in the module's own text.
        outcome: ``not_covered`` was not run, because no test reaches its line; ``equivalent`` compiles to
            the original's bytecode and ``incompetent`` to none at all: neither counts. ``not_run`` is not in
            the sample. ``not_asked`` is none of those that were asked for, and does not count either.
        diff: the changed lines, ``-`` before and ``+`` after.
    """

    operator: str
    line: int
    outcome: MutantOutcome
    diff: str


@dataclasses.dataclass(frozen=True)
class MutationReport:
    """How many planted faults a test file finds.

    Attributes:
        total: the denominator: every mutant that compiles, to other bytecode than the original's.
        killed: a test failed on them.
        survived: no test failed on them; those that no test reaches are among them.
        not_covered: that part of ``survived`` that was not run.
        timed_out: stopped by the time budget; they count as killed in `score`, but stand apart here.
        equivalent_bytecode: left out, same bytecode as the original.
        incompetent: left out, do not compile.
        not_run: that part of ``total`` that is not in the sample; 0 where every mutant was run.
        score: share of mutants found, time-outs among them; an estimate where there is a sample. None when
            there is nothing to mutate.
        interval: of 95 % around an estimated score; None where every mutant was run.
        mutants: all of them, in the order of their lines.
    """

    total: int
    killed: int
    survived: int
    not_covered: int
    timed_out: int
    equivalent_bytecode: int
    incompetent: int
    not_run: int
    score: float | None
    interval: tuple[float, float] | None
    mutants: tuple[Mutant, ...]

    def to_json(self) -> dict[str, Any]:
        """Fields alone, as JSON types."""
        return dataclasses.asdict(self)

    @classmethod
    def from_mutants(cls, mutants: tuple[Mutant, ...]) -> MutationReport:
        """Count the outcomes of ``mutants``."""
        count = Counter(mutant.outcome for mutant in mutants)
        survived = count["survived"] + count["not_covered"]
        total = survived + count["killed"] + count["timeout"] + count["not_run"]
        score = (count["killed"] + count["timeout"]) / total if total else None
        interval = None
        if count["not_run"]:
            score, *ends = estimate(_strata(mutants), total)
            interval = (ends[0], ends[1])
        return cls(
            total=total,
            killed=count["killed"],
            survived=survived,
            not_covered=count["not_covered"],
            timed_out=count["timeout"],
            equivalent_bytecode=count["equivalent"],
            incompetent=count["incompetent"],
            not_run=count["not_run"],
            score=score,
            interval=interval,
            mutants=mutants,
        )

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> MutationReport:
        """The report that `to_json` turned into ``data``."""
        interval = None if data["interval"] is None else tuple(data["interval"])
        mutants = tuple(Mutant(**mutant) for mutant in data["mutants"])
        return cls(**{**data, "interval": interval, "mutants": mutants})


def _strata(mutants: tuple[Mutant, ...]) -> list[tuple[int, int, int]]:
    """Size, number run and number found of each operator's mutants that would be run."""
    counts: dict[str, list[int]] = {}
    for mutant in mutants:
        if mutant.outcome in ("killed", "timeout", "survived", "not_run"):
            sizes = counts.setdefault(mutant.operator, [0, 0, 0])
            sizes[0] += 1
            sizes[1] += mutant.outcome != "not_run"
            sizes[2] += mutant.outcome in ("killed", "timeout")
    return [(size, taken, found) for size, taken, found in counts.values()]


@dataclasses.dataclass(frozen=True)
class Judgement:
    """A test file's verdict and what its passing tests are worth.

    Attributes:
        verdict: of the whole file on the code as it is.
        mutation: of the passing tests alone; None where no test passes.
        useful: whether the passing tests alone kill at least one mutant.
        mutation_score: score of the passing tests; 0.0 where nothing passes or nothing can be mutated.
    """

    verdict: Verdict
    mutation: MutationReport | None
    useful: bool
    mutation_score: float

    def to_json(self) -> dict[str, Any]:
        """Fields alone, as JSON types."""
        return dataclasses.asdict(self)

    @classmethod
    def from_parts(cls, verdict: Verdict, mutation: MutationReport | None) -> Judgement:
        """Judge by what was measured."""
        score = mutation.score if mutation is not None else None
        return cls(verdict, mutation, useful=bool(score), mutation_score=score or 0.0)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Judgement:
        """The judgement that `to_json` turned into ``data``."""
        mutation = None if data["mutation"] is None else MutationReport.from_json(data["mutation"])
        return cls.from_parts(Verdict.from_json(data["verdict"]), mutation)
