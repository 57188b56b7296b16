"""Why a test file scores what it scores, in a line for the sample log.

A reason is ``KIND: detail``; the kinds are those of `KINDS`, so that they can be counted.
"""

from __future__ import annotations

import ast
from collections import Counter

from lowvram_ft.evaluation.control import IDLE
from lowvram_ft.execution import Judgement, Verdict, read_shape
from lowvram_ft.execution.shape import is_check, reads_source, test_functions

KINDS = {
    "empty": "nothing is left of the answer",
    "no Python": "it does not parse",
    "not collected": "pytest cannot import it",
    "stopped": "importing it takes too long, or ends the process",
    "no test": "pytest collects nothing in it",
    "no check": "its tests assert nothing that depends on what the code does",
    "skipped": "its tests skip themselves",
    "fails": "no test passes",
    "kills nothing": "tests pass, and tell no mutant from the code",
    "some tests fail": "those that pass kill a mutant, others fail",
    "passes and kills": "every test passes, and a mutant is killed",
}
"""Every kind of reason, from worst to best, and what it means."""

NOTHING = ("empty", "no Python", "not collected", "stopped", "no test", "no check", "skipped")
"""Kinds of files that count zero everywhere."""

_DETAIL_CHARS = 200


def explain(test: str, judgement: Judgement) -> str:
    """Why a file is worth what `lowvram_ft.evaluation.evaluate.score` says.

    Args:
        test: text of the test file.
        judgement: of that file.
    """
    kind, detail = _why_nothing(test, judgement.verdict) or _why(judgement)
    return f"{kind}: {_shown(detail)}"


def only_skips(verdict: Verdict) -> bool:
    """Whether there are tests, and every one skipped itself."""
    return bool(verdict.results) and all(result.outcome == "skipped" for result in verdict.results)


def _why_nothing(test: str, verdict: Verdict) -> tuple[str, str] | None:
    """Kind and detail for a file that counts zero everywhere; None for another one."""
    if not test.strip().strip("\ufeff"):
        return "empty", "there is no test file in the answer"
    if (problem := read_shape(test).problem) is not None:
        return "no Python", problem
    if not verdict.results:
        if verdict.status in ("timeout", "killed"):
            return "stopped", _last_error(verdict) or verdict.status
        if verdict.status == "collection_error":
            return "not collected", _last_error(verdict) or "pytest cannot import it"
        return "no test", _what_it_is(test)
    if not verdict.writes_tests:
        idle = any(result.message == IDLE for result in verdict.results)
        return "no check", IDLE if idle else _why_no_check(test)
    if only_skips(verdict):
        return "skipped", f"all of {_tests(verdict.n_tests)}: {verdict.results[0].message}"
    return None


def _why(judgement: Judgement) -> tuple[str, str]:
    verdict, mutation = judgement.verdict, judgement.mutation
    failing = [result for result in verdict.results if result.outcome != "passed"]
    others = ", ".join(f"{count} {outcome}" for outcome, count in Counter(r.outcome for r in failing).items())
    passed = f"{verdict.n_passed} of {_tests(verdict.n_tests)} pass"
    if verdict.n_passed == 0:
        return "fails", f"{others} of {_tests(verdict.n_tests)}; the first: {failing[0].message or failing[0].outcome}"
    found = "there is nothing to mutate"
    if mutation is not None and mutation.total:
        found = f"{mutation.killed + mutation.timed_out} of {_count(mutation.total, 'mutant')} killed"
    if not judgement.useful:
        return "kills nothing", f"{passed}; {found}"
    if failing or not verdict.all_passed:
        return "some tests fail", f"{passed}, {others or verdict.status}; {found}"
    return "passes and kills", f"{passed}; {found}"


def _what_it_is(test: str) -> str:
    body = ast.parse(test).body
    if not body:
        return "only comments"
    if any(True for _ in test_functions(body)):
        return "it is skipped as a whole, or hides its tests from pytest"
    if body and all(isinstance(node, ast.Import | ast.ImportFrom) for node in body):
        return "only imports"
    if body and all(isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in body):
        return "only text"
    return "no function that pytest would collect"


def _why_no_check(test: str) -> str:
    functions = list(test_functions(ast.parse(test).body))
    if any(map(reads_source, functions)):
        return "reads the source of the code under test"
    nodes = [node for function in functions for node in ast.walk(function)]
    if any(map(is_check, nodes)):
        catches = any(isinstance(node, ast.Try | ast.TryStar | ast.With | ast.AsyncWith) for node in nodes)
        return "catches every failure of its own assertions" if catches else "asserts what is never reached"
    if any(isinstance(node, ast.Assert) for node in nodes):
        return "asserts what holds whatever the code does"
    return "asserts nothing"


def _last_error(verdict: Verdict) -> str:
    errors = [line[1:].strip() for line in verdict.log.splitlines() if line.startswith("E ")]
    return errors[-1] if errors else ""


def _tests(count: int) -> str:
    return _count(count, "test")


def _count(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _shown(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _DETAIL_CHARS else line[: _DETAIL_CHARS - 1] + "…"
