"""What tests reach in a module and which planted faults they find: of files that are there, and of new ones.

All measurements of a module with the same ``lines`` and ``max_mutants`` hold tests against the same mutants, whatever
these tests reach, so that their `Worth` can be added up and compared.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lowvram_ft.execution import Limits, Mutant, TestResult, Verdict, judge, run_many, run_tests
from lowvram_ft.execution.mutants import find_mutants
from lowvram_ft.execution.reach import statement_spans
from lowvram_ft.execution.sampling import stratified
from lowvram_ft.testgen.subject import Subject, Worth
from lowvram_ft.testgen.texts.drop import drop_tests
from lowvram_ft.testgen.worth.reasons import why_not_run

MAX_MUTANTS = 200
_LIMITS = Limits()
_MOST_RUNS = 3
"""Runs of the passing tests alone until those that pass only beside the others are out."""
_IMPORT_ALONE = "import solution\n\n\ndef test_import():\n    assert solution\n"


@dataclass(frozen=True)
class Baseline:
    """What the tests that a project has already reach and find.

    Attributes:
        worth: of those that pass here, together.
        by_import: what importing the module alone reaches and finds: a new test is worth what it adds to both.
        n_tests: how many tests there are.
        n_passed: how many of them pass here.
        failing: results of those that do not, by file.
        not_run: files without a test that passes here, and why.
        statements: first lines of the statements of interest.
        missing_lines: those that neither a test nor the import alone reaches.
        survivors: mutants that neither finds, by their places.
        problem: why the module cannot be imported here; empty where it can.
    """

    worth: Worth
    by_import: Worth
    n_tests: int = 0
    n_passed: int = 0
    failing: dict[Path, tuple[TestResult, ...]] = field(default_factory=dict)
    not_run: dict[Path, str] = field(default_factory=dict)
    statements: tuple[int, ...] = ()
    missing_lines: tuple[int, ...] = ()
    survivors: dict[int, Mutant] = field(default_factory=dict)
    problem: str = ""


def measure(
    subject: Subject, text: str, *, max_mutants: int = MAX_MUTANTS, lines: frozenset[int] | None = None
) -> tuple[Worth, Verdict]:
    """Run a test file and find out what its passing tests are worth.

    Args:
        subject: the module.
        text: the test file.
        max_mutants: how many mutants to try at the most, see `mutants_of`.
        lines: lines of the module that are of interest, see `whole_statements`; None for all.

    Returns:
        (worth of the passing tests alone, verdict of the whole file).

    Raises:
        MachineError: there is no sandbox here.
    """
    asked = mutants_of(subject.code, max_mutants=max_mutants, lines=lines)
    found = _measured(subject, text, asked, _of_interest(subject, lines))
    return found.worth, found.verdict


def measure_each(
    subject: Subject,
    text: str,
    *,
    max_mutants: int = MAX_MUTANTS,
    lines: frozenset[int] | None = None,
    workers: int | None = None,
) -> dict[str, Worth]:
    """Find out what each test of a file is worth by itself, in a file without the others.

    A mutant that the whole file does not find is not tried again: what a test finds only alone does not count. Nor is
    one that breaks the import of the module, which every passing test finds that imports it: in annotated code, such
    as ``int | None`` made ``int / None``, these may be most.

    Args:
        subject: as for `measure`.
        text: as for `measure`.
        max_mutants: as for `measure`.
        lines: as for `measure`.
        workers: how many to run at a time; None for one a CPU.

    Returns:
        Worth by the test's name, as `drop_tests` takes it, in the order of the file. The cases of a parametrized test
        are one, as are those of a method that classes inherit. A test that does not run without the others, or does
        not pass, is worth nothing.

    Raises:
        MachineError: there is no sandbox here.
    """
    asked = mutants_of(subject.code, max_mutants=max_mutants, lines=lines)
    interest = _of_interest(subject, lines)
    whole = _measured(subject, text, asked, interest)
    names = _tests_of(text, whole.verdict)
    if len(names) < 2:
        return dict.fromkeys(names, whole.worth)
    importing = _measured(subject, _IMPORT_ALONE, whole.worth.killed, interest)
    by_import = importing.worth.killed

    def alone(name: str) -> Worth:
        rest = drop_tests(text, [other for other in names if other != name])
        found = _measured(subject, rest, whole.worth.killed - by_import, interest)
        imports = bool(found.reached) and importing.reached <= found.reached
        killed = found.worth.killed | by_import if imports else found.worth.killed
        return Worth(found.worth.lines, killed, whole.worth.mutants)

    return dict(zip(names, run_many(alone, names, workers=workers), strict=True))


def baseline(
    subject: Subject,
    files: Sequence[Path],
    *,
    max_mutants: int = MAX_MUTANTS,
    lines: frozenset[int] | None = None,
    workers: int | None = None,
) -> Baseline:
    """Run the test files that a project has already, each by itself in the sandbox.

    Args:
        subject: as for `measure`.
        files: the test files.
        max_mutants: as for `measure`.
        lines: as for `measure`.
        workers: how many to run at a time; None for one a CPU.

    Raises:
        MachineError: there is no sandbox here.
    """
    asked = mutants_of(subject.code, max_mutants=max_mutants, lines=lines)
    interest = _of_interest(subject, lines)
    texts = {file: _read(file) for file in dict.fromkeys(files)}
    readable = [(file, text) for file, text in texts.items() if text is not None]
    jobs = [_IMPORT_ALONE, *(text for _, text in readable)]
    importing, *others = run_many(lambda text: _measured(subject, text, asked, interest), jobs, workers=workers)
    worth = Worth(mutants=importing.worth.mutants)
    not_run = {file: "is no text in UTF-8" for file, text in texts.items() if text is None}
    failing: dict[Path, tuple[TestResult, ...]] = {}
    for (file, _), found in zip(readable, others, strict=True):
        worth |= found.worth
        if not found.verdict.n_passed:
            not_run[file] = why_not_run(found.verdict)
        if wrong := tuple(result for result in found.verdict.results if result.outcome not in ("passed", "skipped")):
            failing[file] = wrong
    known = worth | importing.worth
    coverage = importing.verdict.coverage
    every = sorted({*coverage.covered_lines, *coverage.missing_lines}) if coverage is not None else []
    statements = tuple(line for line in every if interest is None or line in interest)
    return Baseline(
        worth=worth,
        by_import=importing.worth,
        n_tests=sum(found.verdict.n_tests for found in others),
        n_passed=sum(found.verdict.n_passed for found in others),
        failing=failing,
        not_run=not_run,
        statements=statements,
        missing_lines=tuple(line for line in statements if line not in known.lines),
        survivors={place: mutant for place, mutant in importing.planted.items() if place not in known.killed},
        problem="" if importing.verdict.all_passed else why_not_run(importing.verdict),
    )


def mutants_of(
    code: str, *, max_mutants: int | None = MAX_MUTANTS, lines: frozenset[int] | None = None
) -> frozenset[int]:
    """Places of the mutants of a module that its tests are held against.

    They hang on the module alone. Of more than ``max_mutants``, a sample is taken, stratified by operator, and always
    the same one. It has at least two of each operator, and may get larger than was asked for by that (309 of 1,085
    instead of 200, in packaging.version); those that turn out to be equivalent or not to compile have places in it.

    Args:
        code: the module.
        max_mutants: how many at the most; None for all.
        lines: lines that are of interest, see `whole_statements`; None for all.
    """
    interest = None if lines is None else whole_statements(code, lines)
    places = {
        place: edit.operator
        for place, edit in enumerate(find_mutants(code))
        if interest is None or edit.line in interest
    }
    return stratified(places, max_mutants)


def whole_statements(code: str, lines: frozenset[int]) -> frozenset[int]:
    """The lines, and all others of the statements that they belong to.

    A fault and a statement are counted at the first line of what they are in, so one changed line in the middle of a
    call stands for all of it. The header of a compound statement is a statement of its own.

    Raises:
        SyntaxError: ``code`` is no Python.
    """
    spans = statement_spans(code)
    return lines.union(*(spans.get(line, ()) for line in lines))


def _of_interest(subject: Subject, lines: frozenset[int] | None) -> frozenset[int] | None:
    return None if lines is None else whole_statements(subject.code, lines)


@dataclass(frozen=True)
class _Measured:
    """One run of a test file.

    Attributes:
        worth: of its passing tests, in what is of interest.
        verdict: of all of its tests.
        reached: statements that the passing tests run, of interest or not.
        planted: mutants that count, by their places.
    """

    worth: Worth
    verdict: Verdict
    reached: frozenset[int] = frozenset()
    planted: dict[int, Mutant] = field(default_factory=dict)


def _measured(subject: Subject, text: str, asked: frozenset[int], interest: frozenset[int] | None) -> _Measured:
    found = judge(subject.code, subject.module, text, _LIMITS, subject.root, beside=subject.beside, only=asked)
    if found.mutation is None:
        return _Measured(Worth(), found.verdict)
    planted = {
        place: mutant
        for place, mutant in enumerate(found.mutation.mutants)
        if place in asked and mutant.outcome not in ("equivalent", "incompetent")
    }
    reached = _reached(subject, text, found.verdict)
    worth = Worth(
        lines=reached if interest is None else reached & interest,
        killed=frozenset(place for place, mutant in planted.items() if mutant.outcome in ("killed", "timeout")),
        mutants=len(planted),
    )
    return _Measured(worth, found.verdict, reached, planted)


def _reached(subject: Subject, text: str, verdict: Verdict) -> frozenset[int]:
    """First lines of the statements that the passing tests run without the others."""
    for _ in range(_MOST_RUNS):
        if verdict.all_passed or not verdict.n_passed:
            break
        passing = verdict.passing
        verdict = run_tests(
            subject.code, subject.module, text, _LIMITS, subject.root, beside=subject.beside, tests=passing
        )
    if not verdict.all_passed or verdict.coverage is None:
        return frozenset()
    return frozenset(verdict.coverage.covered_lines)


def _tests_of(text: str, verdict: Verdict) -> list[str]:
    """Names of the tests in a file that can be left out one by one, in its order."""
    try:
        defined = list(_functions(ast.parse(text).body))
    except (SyntaxError, ValueError, RecursionError):
        return []
    ran = {re.sub(r"\[.*\]$", "", result.name, flags=re.DOTALL) for result in verdict.results}
    inherited = {name.rpartition("::")[2] for name in ran.difference(defined)}
    return [name for name in defined if name in ran or ("::" in name and name.rpartition("::")[2] in inherited)]


def _functions(body: Sequence[ast.stmt], prefix: str = "") -> Iterator[str]:
    """Every function and method, once."""
    seen: set[str] = set()
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name not in seen:
            seen.add(node.name)
            yield prefix + node.name
        elif isinstance(node, ast.ClassDef):
            yield from _functions(node.body, f"{prefix}{node.name}::")


def _read(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        return None
