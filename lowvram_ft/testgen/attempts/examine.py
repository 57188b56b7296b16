"""What is kept of one answer of the model, what it contradicts, and what to ask next."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection

from lowvram_ft.data.refinement import pytest_output, refinement_prompt
from lowvram_ft.data.row import SOLUTION
from lowvram_ft.execution import Limits, Verdict, read_shape, run_tests
from lowvram_ft.testgen.attempts.assertions import (
    NO_FACTS,
    Check,
    TestFacts,
    changed_expectation,
    loosened,
    weakened,
)
from lowvram_ft.testgen.attempts.failures import Failure, did_not_run, explain_failures, function_of, probing
from lowvram_ft.testgen.attempts.findings import (
    Claim,
    Contradiction,
    Dropped,
    Examined,
    FailedFile,
    Fate,
    Memory,
)
from lowvram_ft.testgen.attempts.reading import read_tests
from lowvram_ft.testgen.attempts.traces import Trace
from lowvram_ft.testgen.subject import Subject, Unit
from lowvram_ft.testgen.texts.drop import drop_cases, drop_tests, import_real_module

_MOST_RERUNS = 4
"""Runs of what is left until everything in it passes."""


def run_in_place(subject: Subject, test: str) -> Verdict:
    """Run a test file where the module has its own name, package and fixtures."""
    beside = dict(subject.beside) or None
    return run_tests(subject.code, subject.module, test, Limits(), subject.root, beside=beside)


def examine(subject: Subject, unit: Unit, test: str, memory: Memory) -> Examined:
    """Run a test file that the model wrote, and tell what becomes of each test in it.

    Args:
        subject: the module under test.
        unit: what the model was shown.
        test: its file, which imports ``solution``.
        memory: of the answers that this one mends.

    Raises:
        MachineError: the processes that run tests cannot be started.
    """
    verdict = run_in_place(subject, test)
    enders = [result for result in verdict.results if result.outcome in ("killed", "timeout")]
    if enders and any(map(did_not_run, verdict.results)):  # the others get their turn without what ended the process
        found = examine(subject, unit, drop_tests(test, [function_of(result.name) for result in enders]), memory)
        ended = tuple(Dropped(function_of(result.name), _line(result.message)) for result in enders)
        fate: Fate = "some pass" if found.fate == "passes" else found.fate
        return dataclasses.replace(found, dropped=(*ended, *found.dropped), fate=fate)
    return _Examination(subject, unit, test, memory, verdict).result()


class _Examination:
    """One file: who stays, who goes and why."""

    def __init__(self, subject: Subject, unit: Unit, test: str, memory: Memory, verdict: Verdict) -> None:
        self.subject = subject
        self.unit = unit
        self.test = test
        self.memory = memory
        self.verdict = verdict
        self.facts = read_tests(test, subject.code)
        self.dropped: dict[str, str] = {}
        self.bent: dict[str, str] = {}
        self.mended: set[str] = set()
        self.claims: list[Claim] = []
        # they cost their whole time whenever they run: once is enough
        self.endless = {function_of(one.name) for one in verdict.results if one.outcome in ("timeout", "killed")}
        self.failures = self._failures()
        self.failing = {function_of(failure.name) for failure in self.failures}

    def result(self) -> Examined:
        for name, test in self.facts.tests.items():
            self._hold_against_before(name, test)
        kept = self._kept()
        memory = self._remember(kept)
        prompt, failed = self._next(memory, bool(kept))
        dropped = {**self.dropped, **self.bent}
        if not self.verdict.results:
            dropped[""] = self._why_no_tests()
        checks = tuple(check for name in _names(kept) for check in self.facts.tests[name].checks)
        return Examined(
            kept,
            checks,
            tuple(self.claims),
            frozenset(self.mended),
            tuple(Dropped(name, reason) for name, reason in dropped.items()),
            dataclasses.replace(memory, failed=failed),
            prompt,
            self._fate(kept),
            self._trace(),
        )

    def _fate(self, kept: str) -> Fate:
        if self.claims or self.bent or any(failure.kind == "contradicts" for failure in self.failures):
            return "contradicts"
        if not self.verdict.results:
            return "no test"
        if self.verdict.all_passed and self.verdict.writes_tests and not self.dropped:
            return "passes"
        return "some pass" if kept else "fails"

    def _failures(self) -> list[Failure]:
        """Why tests fail; run once more to tell, where one does."""
        probed = None
        if any(result.outcome == "failed" for result in self.verdict.results):
            text = drop_tests(self.test, sorted(self.endless))
            probed = run_in_place(self.subject, probing(text, self.subject.module))
        about = [name for name, test in self.facts.tests.items() if test.about]
        return explain_failures(self.verdict, probed, about)

    def _hold_against_before(self, name: str, test: TestFacts) -> None:
        """Whether a test of a repaired file is bent: it says less than before, or something else."""
        before = self.memory
        replaced = self.facts.replaced - (before.replaced if before.replaced is not None else self.facts.replaced)
        carries = [old for old, facts in before.contradicted.items() if weakened(facts, test, replaced) is None]
        if name in before.contradicted:
            reason = weakened(before.contradicted[name], test, replaced)
            if reason is not None:
                self.bent[name] = f"bent to the code: {reason}"
            elif name not in self.failing:
                self.mended.add(name)
            return
        if carries:
            self.mended |= set(carries) if name not in self.failing else set()
            return
        if name in before.passed:
            return
        contradicted_about = {one for facts in before.contradicted.values() for one in facts.about}
        if name not in before.broken and (shared := test.about & contradicted_about):
            self.bent[name] = f"bent to the code: it is new, beside a contradiction about {_plain(shared)}"
            return
        if name in before.broken and (reason := loosened(before.broken[name][0], test)) is not None:
            self.bent[name] = f"mended by asserting less: {reason}"
            return
        for old, (facts, message) in before.broken.items():
            changed = changed_expectation(facts, test)
            if changed is not None:
                self.bent[name] = "bent to the code: it expects something else than before of the same call"
                if changed.check is not None and changed.expected and name not in self.failing:
                    said = f"never came as far ({_line(message)}); mended, it passes with {changed.expected}"
                    self._claim(old, changed.check, said, before.failed.text if before.failed is not None else "")
                return

    def _kept(self) -> str:
        """The file with the tests that pass by themselves, of those that say something new."""
        text = self.test
        gone = set(self.bent) | (self.memory.passed.keys() - self.mended)
        for name, test in self.facts.tests.items():
            if test.count == 0 or test.certain:
                self.dropped[name] = "asserts nothing" if not test.certain else "asserts what always holds"
        for name in self.failing:
            mine = [failure for failure in self.failures if function_of(failure.name) == name]
            reduced = self._without_cases(text, name, mine) if name not in gone else None
            if reduced is not None:
                text = reduced
            else:
                gone.add(name)
            self._tell(name, mine, reduced is not None)
        text = drop_tests(text, sorted(gone | self.dropped.keys()))
        return self._rerun(import_real_module(text, self.subject.module))

    def _without_cases(self, text: str, name: str, failures: list[Failure]) -> str | None:
        """The file without the failing cases of a parametrized test; None where that cannot be had."""
        results = [result.name for result in self.verdict.results if function_of(result.name) == name]
        if len(results) == 1 and results[0] == name:
            return None
        return drop_cases(text, name, {results.index(failure.name) for failure in failures}, len(results))

    def _tell(self, name: str, failures: list[Failure], some_cases_pass: bool) -> None:
        """Report why a test, or cases of it, go."""
        if name in self.bent or name in self.memory.passed.keys() - self.memory.contradicted.keys():
            return
        for failure in failures:
            if failure.kind == "contradicts" and name in self.facts.tests:
                if name not in self.memory.contradicted:
                    test = self.facts.tests[name]
                    self._claim(name, _failing_check(test, failure.line), _said(failure), self.test, failure)
            else:
                words = {"skipped": "skips itself", "ended": "ends the process", "broken": "fails by itself"}
                kind = words.get(failure.kind, "fails")
                self.dropped_case(failure.name if some_cases_pass else name, f"{kind}: {_line(failure.message)}")

    def dropped_case(self, name: str, reason: str) -> None:
        self.dropped.setdefault(name, reason)

    def _claim(self, name: str, check: Check | None, message: str, text: str, failure: Failure | None = None) -> None:
        """Note a contradiction."""
        facts = read_tests(text, self.subject.code)
        alone = drop_tests(text, sorted(facts.tests.keys() - {name}))
        cases = ""
        if failure is not None and failure.name != name:
            results = [result.name for result in self.verdict.results if function_of(result.name) == name]
            others = {place for place, result in enumerate(results) if result != failure.name}
            alone = drop_cases(alone, name, others, len(results)) or alone
            own = read_tests(alone, self.subject.code).tests.get(name)
            cases = repr(sorted(map(repr, own.cases))) if own is not None else failure.name
        lines = text.splitlines()
        if check is not None:
            assertion = "\n".join(lines[check.first - 1 : check.last])
        else:
            assertion = lines[failure.line - 1] if failure is not None and 0 < failure.line <= len(lines) else ""
        shown = Contradiction(
            failure.name if failure is not None else name,
            _dedent(assertion),
            message,
            import_real_module(alone, self.subject.module),
        )
        key = f"{check.key if check is not None else assertion.strip()}{cases}"
        self.claims.append(Claim(shown, key, check.subject if check is not None and not cases else ""))

    def _rerun(self, text: str) -> str:
        """What of the file passes when it is run as a whole; empty for nothing."""
        for _ in range(_MOST_RERUNS):
            if not _names(text):
                return ""
            verdict = run_in_place(self.subject, text)
            if verdict.all_passed and verdict.writes_tests:
                return text
            bad = {function_of(one.name) for one in verdict.results if one.outcome != "passed" and not did_not_run(one)}
            if not bad:
                bad = set(_names(text))
            for name in bad:
                self.dropped[name] = "passes only beside other tests"
                self.mended.discard(name)
            text = drop_tests(text, sorted(bad))
        for name in _names(text):
            self.dropped[name] = "does not pass every time"
        return ""

    def _remember(self, kept: str) -> Memory:
        before = self.memory
        contradicted = {name: facts for name, facts in before.contradicted.items() if name not in self.mended}
        broken = {name: one for name, one in before.broken.items() if name not in self.facts.tests}
        claimed = {function_of(claim.contradiction.test) for claim in self.claims}
        for name, facts in self.facts.tests.items():
            if name in self.bent or name in contradicted:
                continue
            if name in claimed:
                contradicted[name] = facts
            elif name in self.failing or not self.verdict.results:
                message = next((one.message for one in self.failures if function_of(one.name) == name), "")
                broken[name] = before.broken.get(name, (facts, message or self._why_no_tests()))
        passed = {**before.passed, **{name: self.facts.tests[name] for name in _names(kept)}}
        replaced = before.replaced if before.replaced is not None else self.facts.replaced
        return Memory(passed, contradicted, broken, replaced, None)

    def _next(self, memory: Memory, anything_kept: bool) -> tuple[str | None, FailedFile | None]:
        """The question that has the model mend what is left to mend."""
        gone = self.bent.keys() | self.endless
        asked = {function_of(one.name) for one in self.failures if one.kind != "skipped"} - gone
        if not asked and (anything_kept or self.memory.passed or gone):
            return None, None
        text = drop_tests(self.test, sorted(gone)) if gone else self.test
        verdict = self.verdict if text == self.test else run_in_place(self.subject, text)
        # what the model was shown, under the name that it knows: this is what a trace has in training
        shown = run_tests(self.unit.code, SOLUTION, text, Limits(), self.subject.root)
        if _outcomes(shown) != _outcomes(verdict):
            shown = dataclasses.replace(verdict, log=as_solution(verdict.log, self.subject.module))
        contradicted = frozenset(asked & memory.contradicted.keys())
        failed = FailedFile(text, pytest_output(shown), read_tests(text, self.subject.code), contradicted)
        return refinement_prompt(self.unit.code, text, shown), failed

    def _trace(self) -> Trace | None:
        """This answer as the mended form of the file before it; None where it is none."""
        failed = self.memory.failed
        if failed is None or self.bent or self.dropped or self.claims:
            return None
        if not self.verdict.all_passed or not self.verdict.writes_tests or self.facts.count < failed.facts.count:
            return None
        if not failed.contradicted <= self.mended:
            return None
        for name, old in failed.facts.tests.items():
            new = self.facts.tests.get(name)
            passes = name not in self.memory.broken and name not in self.memory.contradicted
            if passes and (new is None or weakened(old, new, self.facts.replaced - failed.facts.replaced) is not None):
                return None
        return Trace(self.unit.code, failed.text, failed.log, self.test)

    def _why_no_tests(self) -> str:
        shape = read_shape(self.test)
        if shape.problem is not None:
            return f"no Python: {shape.problem}"
        errors = [line[1:].strip() for line in self.verdict.log.splitlines() if line.startswith("E ")]
        return f"no test ran: {errors[-1] if errors else self.verdict.status}"


def holds_alone(trace: Trace) -> bool:
    """Whether a trace can teach: stage C runs it with neither the project nor its fixtures."""
    runs = (run_tests(trace.code, SOLUTION, text, Limits()) for text in (trace.fixed_test, trace.failed_test))
    return [verdict.all_passed for verdict in runs] == [True, False]


def as_solution(log: str, module: str) -> str:
    """What pytest would have said if the module were called ``solution``, the name that the model knows it by."""
    path = re.escape(module.replace(".", "/"))
    log = re.sub(rf"(?m)(?<![\w/.])(?:[\w.-]+/)*{path}(?:/__init__)?\.py\b", f"{SOLUTION}.py", log)
    return re.sub(rf"(?<![\w.]){re.escape(module)}(?=['\".])", SOLUTION, log)


def _names(text: str) -> list[str]:
    return list(read_tests(text, "").tests) if text else list(NO_FACTS.tests)


def _outcomes(verdict: Verdict) -> tuple[object, ...]:
    return verdict.status, [(result.name, result.outcome) for result in verdict.results]


def _failing_check(test: TestFacts, line: int) -> Check | None:
    """The check that stands at a line; the first, where the line is not known."""
    if not line:
        return test.checks[0] if test.checks else None
    there = [check for check in test.checks if check.first <= line <= check.last]
    return min(there, key=lambda check: check.last - check.first, default=None)


def _said(failure: Failure) -> str:
    return failure.message.strip()


def _line(message: str) -> str:
    return message.strip().partition("\n")[0]


def _dedent(text: str) -> str:
    indent = len(text) - len(text.lstrip(" "))
    return "\n".join(line[indent:] if not line[:indent].strip() else line for line in text.split("\n")).strip()


def _plain(names: Collection[str]) -> str:
    return ", ".join(sorted(name.partition(".")[2] for name in names))
