"""Why a test file that a project has cannot be run in the sandbox, in a few words."""

from __future__ import annotations

import re
from collections import Counter

from lowvram_ft.execution import TestResult, Verdict

_MOST_CHARS = 200
_RULES = (
    (r"fixture '([^']+)' not found", "needs a fixture {0!r} that no conftest.py here has: of a plugin, perhaps"),
    (r"async def functions are not natively supported", "needs a plugin that runs async tests"),
    (r"attempted relative import", "imports from its own package, and runs outside of it here"),
    (r"No module named '([^']+)'", "needs the module {0}, which is not installed beside this kit"),
    (r"(?:FileNotFoundError|NotADirectoryError)[^'\"]*['\"]([^'\"]+)['\"]", "reads {0}, which is not there here"),
    (r"PermissionError|Read-only file system|Operation not permitted", "does what the sandbox forbids"),
    (r"(?:Network is unreachable|Name or service not known|name resolution|ConnectionRefused)", "uses the network"),
)
"""Patterns in pytest's words, and what to say of each."""


def why_not_run(verdict: Verdict) -> str:
    """Why no test of a file passes.

    Args:
        verdict: of the file.
    """
    if verdict.status == "no_tests":
        return "holds no tests"
    if verdict.status == "timeout":
        return f"takes too long: stopped after {verdict.duration_s:.0f} s"
    if verdict.results:
        return _of_results(verdict.results)
    last = next((line[1:].strip() for line in reversed(verdict.log.splitlines()) if line.startswith("E ")), "")
    if verdict.status == "syntax_error":
        return f"does not parse: {last}"[:_MOST_CHARS]
    if "while loading conftest.py" in verdict.log or "conftest.py changes pytest" in verdict.log:
        return f"the project's conftest.py cannot be loaded here: {_said(last)}"[:_MOST_CHARS]
    if verdict.status == "killed":
        return "ends its process"
    return f"cannot be imported here: {_said(last)}"[:_MOST_CHARS]


def _of_results(results: tuple[TestResult, ...]) -> str:
    """The reason that most of them give."""
    wrong = [result for result in results if result.outcome != "skipped"]
    if not wrong:
        return "every test skips itself" if len(results) > 1 else "its only test skips itself"
    said, count = Counter(_said(result.message) for result in wrong).most_common(1)[0]
    whose = "every test" if count == len(results) else f"{count} of {len(results)} tests"
    return f"no test passes here; {whose}: {said}"[:_MOST_CHARS]


def _said(message: str) -> str:
    for pattern, told in _RULES:
        if found := re.search(pattern, message):
            return told.format(*found.groups())
    return message.partition("\n")[0].strip() or "no message"
