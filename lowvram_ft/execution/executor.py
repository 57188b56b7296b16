"""Run test files and their mutants, each in a fork of a sandboxed server.

What the sandbox does not cover stands in `lowvram_ft.execution.sandbox`.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from lowvram_ft.errors import MachineError
from lowvram_ft.execution.cache import VerdictCache
from lowvram_ft.execution.limits import Limits
from lowvram_ft.execution.modules import split_modules
from lowvram_ft.execution.mutants import Edit, find_mutants
from lowvram_ft.execution.place import Mutants, Told, elsewhere
from lowvram_ft.execution.pool import Question, Server, ServerLost, default_pool, patience_s
from lowvram_ft.execution.variation import USUAL, Variation
from lowvram_ft.execution.verdict import Judgement, Mutant, MutantOutcome, MutationReport, Verdict

_DEFAULT_LIMITS = Limits()


def run_tests(
    code: str,
    module: str,
    test: str,
    limits: Limits = _DEFAULT_LIMITS,
    root: Path | None = None,
    *,
    variation: Variation = USUAL,
    cache: VerdictCache | None = None,
    beside: Mapping[str, str] | None = None,
    tests: Sequence[str] | None = None,
) -> Verdict:
    """Run the pytest file ``test`` against ``code`` in a fork of a sandboxed server.

    Args:
        code: text of the module under test, or of several, each after a line ``# module: pkg.mod``; the
            first is the one under test then.
        module: name under which ``code`` is importable. It is importable as ``solution`` as well.
        test: text of the test file.
        limits: what the process may use.
        root: folder that holds the rest of the module's package, for relative imports. The text of
            ``module`` itself is always ``code``.
        variation: another order of the tests, another hash seed.
        cache: verdicts of earlier runs; not asked where there is a ``root``.
        beside: texts of files that lie beside the test file, by their paths relative to it, such as the
            ``conftest.py`` of a project; see `lowvram_ft.execution.beside`.
        tests: names of the tests to run, as in `TestResult.name`; None for all.

    Raises:
        MachineError: there is no sandbox here, or it could not be started.
        DataError: ``module`` is a path, or a path of ``beside`` leads elsewhere.
    """
    question = Question(
        code, module, test, limits, tests, False, None, variation.order, variation.hash_seed, beside=beside
    )
    return _cached(question, root, cache, "never")[0]


def mutation_analysis(
    code: str,
    module: str,
    test: str,
    limits: Limits = _DEFAULT_LIMITS,
    root: Path | None = None,
    *,
    tests: Sequence[str] | None = None,
    max_mutants: int | None = None,
    beside: Mapping[str, str] | None = None,
    only: Collection[int] | None = None,
) -> MutationReport:
    """Plant faults in the module under test, one at a time, and count those that the tests find.

    cosmic-ray's operators make the mutants. Those on lines that the tests do not reach count as survived
    without being run; those that compile to the original's bytecode, or to none, are left out. Tests that
    do not pass on the unmutated code are left out too; where none passes, nothing is killed.

    Args:
        code: as for `run_tests`; only the module under test is mutated.
        module: as for `run_tests`.
        test: as for `run_tests`.
        limits: what each process may use; a mutant gets ten times what the unmutated run took, and at
            least 0.3 s of CPU time or 2 s of wall-clock time.
        root: as for `run_tests`.
        tests: names of the tests to run, as in `TestResult.name`; None for all.
        max_mutants: how many to run at the most: a sample, stratified by operator, of those that would be run.
            The score is then an estimate, and `MutationReport.interval` says how good.
        beside: as for `run_tests`.
        only: places in `find_mutants` of the only mutants that are asked for, so that several test files are held
            against the same ones; None for all. The others do not count.

    Raises:
        MachineError: there is no sandbox here, or it could not be started.
        DataError: as for `run_tests`.
    """
    question = Question(code, module, test, limits, tests, True, max_mutants, beside=beside, only=only)
    report = _told(question, root, "always")[1]
    assert report is not None
    return report


def judge(
    code: str,
    module: str,
    test: str,
    limits: Limits = _DEFAULT_LIMITS,
    root: Path | None = None,
    *,
    max_mutants: int | None = None,
    cache: VerdictCache | None = None,
    beside: Mapping[str, str] | None = None,
    only: Collection[int] | None = None,
) -> Judgement:
    """`run_tests`, then `mutation_analysis` with the tests that passed.

    Raises:
        MachineError: there is no sandbox here, or it could not be started.
        DataError: as for `run_tests`.
    """
    question = Question(code, module, test, limits, None, True, max_mutants, beside=beside, only=only)
    return Judgement.from_parts(*_cached(question, root, cache, "if_passing"))


def _cached(
    question: Question, root: Path | None, cache: VerdictCache | None, mutants: Mutants
) -> tuple[Verdict, MutationReport | None]:
    if cache is None or root is not None:
        return _told(question, root, mutants)[:2]
    found = cache.get(question.to_json())
    if found is None:
        verdict, report, complete = _told(question, root, mutants)
        found = verdict, report
        if complete:  # what a lost server did not tell is no property of the test file
            cache.put(question.to_json(), verdict, report)
    return found


def _told(question: Question, root: Path | None, mutants: Mutants) -> Told:
    taker = elsewhere()
    return ask_here(question, root, mutants) if taker is None else taker.ask(question, root, mutants)


def ask_here(question: Question, root: Path | None, mutants: Mutants) -> Told:
    """Have a job done by a server of this process's own pool, whatever `judged_by` says.

    Raises:
        MachineError: there is no sandbox here, or it could not be started.
    """

    def wanted(verdict: Verdict) -> bool:
        return mutants == "always" or (mutants == "if_passing" and verdict.n_passed > 0)

    answers = _answers(question, root, wanted)
    return *_digest(question, answers, wanted), answers.complete


def _answers(question: Question, root: Path | None, wants_mutants: Callable[[Verdict], bool]) -> _Answers:
    """Ask a server of this process's pool."""
    seen = None if root is None else root.resolve()
    begin = time.monotonic()
    answers = _Answers()
    for _ in range(2):  # a server that ends before it takes the job up was lost to something else
        try:
            with default_pool().server(seen, question.hash_seed) as server:
                server.jobs += 1
                _ask(server, question, wants_mutants, answers)
            answers.complete = True
            break
        except ServerLost:
            if answers.taken_up:
                break
    answers.duration_s = time.monotonic() - begin
    return answers


def _digest(
    question: Question, answers: _Answers, wants_mutants: Callable[[Verdict], bool]
) -> tuple[Verdict, MutationReport | None]:
    """What a job cannot tell, because it spoilt its server, reads as killed; a mutant without an answer survived."""
    verdict = answers.verdict
    if verdict is None:
        log = "E   the test process was brought down by the test file"
        verdict = Verdict("killed", (), answers.assertions, log, None, answers.duration_s)
    if not question.mutants or not (answers.asked or wants_mutants(verdict)):
        return verdict, None
    edits = answers.edits or find_mutants(_target_text(question))
    text = _target_text(question)
    asked = None if question.only is None else frozenset(question.only)

    def unanswered(number: int) -> MutantOutcome:
        return "survived" if asked is None or number in asked else "not_asked"

    return verdict, MutationReport.from_mutants(
        tuple(
            Mutant(edit.operator, edit.line, answers.outcomes.get(number, unanswered(number)), edit.diff(text))
            for number, edit in enumerate(edits)
        )
    )


@dataclasses.dataclass
class _Answers:
    """What a server has said of a job so far."""

    taken_up: bool = False
    complete: bool = False
    duration_s: float = 0.0
    assertions: int = 0
    verdict: Verdict | None = None
    asked: bool = False
    edits: tuple[Edit, ...] = ()
    outcomes: dict[int, Any] = dataclasses.field(default_factory=dict)


def _ask(server: Server, question: Question, wants_mutants: Callable[[Verdict], bool], answers: _Answers) -> None:
    """Have a job done, and note what is said of it.

    Raises:
        ServerLost: before it was said that the job is done.
        MachineError: the job's files could not be written.
    """
    server.write(question.to_json())
    while True:
        answer = server.read(patience_s(question.limits))
        kind = answer["kind"]
        if kind == "ready":
            answers.taken_up = True
        elif kind == "alive":
            answers.assertions = answer.get("assertions", answers.assertions)
        elif kind == "verdict":
            answers.verdict = Verdict.from_json(answer["verdict"])
            if question.mutants and answers.verdict.status != "syntax_error":
                answers.asked = wants_mutants(answers.verdict)
                answers.edits = find_mutants(_target_text(question)) if answers.asked else ()
                server.write([(edit.operator, edit.line, edit.start, edit.end, edit.text) for edit in answers.edits])
        elif kind == "failed":
            raise MachineError(f"execution: {answer['problem']}; free some space where temporary files are kept")
        elif kind == "mutant":
            answers.outcomes[answer["number"]] = answer["outcome"]
        elif answer["poisoned"] is not None:
            raise ServerLost(answer["poisoned"])
        else:
            return


def _target_text(question: Question) -> str:
    return next(iter(split_modules(question.code, question.module).values()))
