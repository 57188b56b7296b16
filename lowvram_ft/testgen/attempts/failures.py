"""Why a test fails: because it is broken, or because it and the code do not agree.

pytest's output does not tell the two apart once it is cut to the length of a prompt, so the file is run once more with
an end that catches what each test raises, and says in which file it was raised.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lowvram_ft.data.row import SOLUTION
from lowvram_ft.execution import TestResult, Verdict

Kind = Literal["contradicts", "broken", "skipped", "ended"]

_SAID = re.compile(r"lowvram-ft raised (?P<where>code|test) (?P<kind>\w+) (?P<own>\d+)")
_ASSERTIONS = frozenset({"AssertionError", "Failed"})
_CODE_FRAME = re.compile(r"^(?!test_)[^\s:]+\.py:\d+: in ", re.MULTILINE)

_PROBE = """

def _lowvram_probe():
    import functools, types
    here, ours = globals(), {names!r}

    def frames(problem):
        step = problem.__traceback__.tb_next
        while step is not None:
            name = str(step.tb_frame.f_globals.get("__name__", ""))
            if step.tb_frame.f_globals is here:
                yield "test", step.tb_lineno
            elif name.partition(".")[0] in ours:
                yield "code", step.tb_lineno
            step = step.tb_next

    def probed(function):
        @functools.wraps(function)
        def run(*arguments, **named):
            try:
                return function(*arguments, **named)
            except BaseException as problem:
                kind = type(problem).__name__
                if kind in ("Skipped", "XFailed", "KeyboardInterrupt", "SystemExit"):
                    raise
                found = list(frames(problem)) or [("test", 0)]
                said = f"lowvram-ft raised {{found[-1][0]}} {{kind}} {{found[0][1]}}"
            raise AssertionError(said)
        return run

    def wrap(owner, names, put):
        for name, value in list(names.items()):
            if name.startswith("test") and isinstance(value, types.FunctionType):
                put(owner, name, probed(value))

    wrap(here, here, dict.__setitem__)
    for owner in [value for value in here.values() if isinstance(value, type)]:
        if owner.__module__ == here["__name__"]:
            wrap(owner, vars(owner), setattr)


_lowvram_probe()
del _lowvram_probe
"""


@dataclass(frozen=True)
class Failure:
    """Why one test does not pass.

    Attributes:
        name: of the result, with the case of a parametrized test.
        kind: ``contradicts`` where a value, or an exception, of the code is not what the test expects; ``broken`` where
            the test fails by itself; ``skipped`` where it skips itself; ``ended`` where it ended the process.
        message: pytest's words.
        line: line of the test function that failed, from 1; 0 where that is not known.
    """

    name: str
    kind: Kind
    message: str
    line: int = 0


def probing(test: str, module: str) -> str:
    """The test file, with an end that tells where each test's exception was raised.

    Args:
        test: the file.
        module: name of the code under test.
    """
    return test.rstrip("\n") + "\n" + _PROBE.format(names=sorted({SOLUTION, module.partition(".")[0]}))


def explain_failures(verdict: Verdict, probed: Verdict | None, about_code: Sequence[str]) -> list[Failure]:
    """Why each test of a file that does not pass fails.

    Args:
        verdict: of the file.
        probed: of what `probing` made of it.
        about_code: names of the tests, without cases, that use the code under test at all.
    """
    said = {result.name: _SAID.search(result.message) for result in (probed.results if probed is not None else ())}
    found = []
    for result in verdict.results:
        if result.outcome != "passed" and not did_not_run(result):
            kind, line = _kind(result, said.get(result.name), verdict.log, function_of(result.name) in about_code)
            found.append(Failure(result.name, kind, result.message or result.outcome, line))
    return found


def did_not_run(result: TestResult) -> bool:
    """Whether a test never got its turn, because one before it ended the session."""
    return result.outcome == "error" and result.message.startswith("did not run")


def function_of(name: str) -> str:
    """``TestX::test_y[a-1]`` to ``TestX::test_y``."""
    return re.sub(r"\[.*\]$", "", name, flags=re.DOTALL)


def _kind(result: TestResult, said: re.Match[str] | None, log: str, about_code: bool) -> tuple[Kind, int]:
    line = int(said["own"]) if said is not None else 0
    if result.outcome == "skipped":
        return "skipped", line
    if result.outcome == "killed":
        return "ended", line
    if result.outcome == "timeout":
        return ("contradicts" if about_code else "broken"), line
    if result.outcome == "error":  # a fixture's exception: the probe sees none of these
        return ("contradicts" if _CODE_FRAME.search(_section(log, result.name)) else "broken"), 0
    if not about_code or "async def functions are not natively supported" in result.message:
        return "broken", line
    if result.message.startswith("SystemExit"):
        return "ended", line
    if said is None:  # it went another way the second time: nothing shows that the test is broken
        return "contradicts", line
    if said["kind"] in _ASSERTIONS or said["where"] == "code":
        return "contradicts", line
    return "broken", line


def _section(log: str, name: str) -> str:
    """What pytest printed of one test."""
    lines = log.splitlines()
    start = next(
        (at for at, line in enumerate(lines) if re.fullmatch(rf"_{{3,}}.* {re.escape(name)} _{{3,}}", line)), None
    )
    if start is None:
        return ""
    end = next((at for at in range(start + 1, len(lines)) if re.match(r"_{3,} |FAILED|ERROR", lines[at])), len(lines))
    return "\n".join(lines[start:end])
