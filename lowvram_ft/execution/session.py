"""pytest inside a forked child: plugins that report on the tests, and on the mutants.

Nothing here is imported by the caller's process. What runs here shares its interpreter with code that a
model wrote, so it only reports: the verdict is made by the server that forked it.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import time
import types
from pathlib import Path
from typing import Any, NoReturn

import coverage
import pytest

from lowvram_ft.execution.beside import CONFTEST, admit_conftest, failure_of_conftest
from lowvram_ft.execution.finder import SourceFinder
from lowvram_ft.execution.fork import Send
from lowvram_ft.execution.limits import Limits
from lowvram_ft.execution.records import FAILURE_CHARS, MESSAGE_CHARS
from lowvram_ft.execution.seal import Hooks, Seal
from lowvram_ft.execution.variation import shuffled
from lowvram_ft.execution.workspace import TEST_FILE

_RUN_IN_EVERY_SESSION = (
    "_pytest",
    "pluggy",
    "lowvram_ft",
    "importlib",
    "contextlib",
    "functools",
    "inspect",
    "pathlib",
)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")
_COVERAGE = os.path.dirname(coverage.__file__)
_SOON_S = 0.0005


class TestTimeout(BaseException):
    """Raised in a test whose time is up. No Exception, so that ``except Exception`` lets it through."""

    __test__ = False


class Instruments:
    """What every session needs and is the same for all: made once in the server, warm in each fork.

    Args:
        code: folder of the modules under test.
        by_job: whether modules under test show files outside of ``code``, other ones in each job.
        manager: pytest's plugin manager, with all that takes part in a session.
    """

    def __init__(self, code: Path, manager: Any, *, by_job: bool) -> None:
        self.code = code
        self.by_job = by_job
        self.seal = Seal()
        self.hooks = Hooks.of(manager)
        self._measured = self._warm()

    def coverage_of(self, files: list[str]) -> coverage.Coverage:
        """Measures ``files``; not started."""
        return _coverage(files) if self.by_job else self._measured

    def _warm(self) -> coverage.Coverage:
        """Start and stop a measurement, and look at a file: most of the cost is in the first time."""
        file = self.code / "warm.py"
        file.write_text("def half(n):\n    if n:\n        return n / 2\n    return 0\n", encoding="utf-8")
        measured = _coverage([str(self.code / "*")])
        named = ((name, getattr(module, "__file__", None)) for name, module in list(sys.modules.items()))
        nothing = [
            compile("", place, "exec")
            for name, place in named
            if name.startswith(_RUN_IN_EVERY_SESSION) and isinstance(place, str)
        ]
        measured.start()
        for code in nothing:  # coverage.py decides once for each file name whether to measure it
            exec(code, {})
        measured.stop()
        measured.analysis2(str(file))
        measured.branch_stats(str(file))
        file.unlink()
        return measured


def _coverage(files: list[str]) -> coverage.Coverage:
    return coverage.Coverage(data_file=None, branch=True, include=files, config_file=False, messages=False)


class TestTask:
    """Run the tests in the current folder under coverage, and send what happens as it happens; each test is timed."""

    __test__ = False

    def __init__(
        self,
        finder: SourceFinder,
        limits: Limits,
        selected: frozenset[str] | None,
        order: int | None,
        instruments: Instruments,
        send: Send,
        conftest: bool = False,
    ) -> None:
        self.finder = finder
        self.conftest = conftest
        self.selected = selected
        self.order = order
        self.seal = instruments.seal
        self.send = send
        self.files = [str(finder.target_file), str(finder.shown_file(finder.target))]
        self.measured = instruments.coverage_of(self.files)
        self.alarm = Alarm(limits.test_s)
        self._import_alarm = Alarm(limits.test_s, repeat_s=0)
        self.hooks = instruments.hooks
        self.tampered = ""
        self._admitting = False

    def begin(self, session: pytest.Session) -> None:
        """The last moment at which pytest is sure to be itself; from here on, the import is timed and measured."""
        self.begun_s = self.collected_s = time.monotonic()
        self.finder.install()
        self.measured.start()
        self._import_alarm.__enter__()
        if self.conftest:
            self._admit_conftest(session)

    def _admit_conftest(self, session: pytest.Session) -> None:
        """What the user's own file adds counts as pytest's from here on; where it fails, the session ends."""
        self._admitting = True
        try:
            admit_conftest(session)
        except BaseException as error:  # SystemExit, a skip and the alarm are no Exception
            self._cannot_collect(failure_of_conftest(error), isinstance(error, TestTimeout))
            os._exit(0)
        self._admitting = False
        changed = self.seal.broken(wholly=True)
        if changed:
            self._cannot_collect(f"E   {CONFTEST} changes pytest itself: {changed}", timed_out=False)
            os._exit(0)
        self.hooks = Hooks.of(session.config.pluginmanager)

    def collected(self, items: list[pytest.Item]) -> None:
        """Drop what is not selected, bring the rest into the order that is asked for, and announce it."""
        names = [_name(item.nodeid) for item in items]
        if self.selected is not None:
            items[:] = [item for item in items if _name(item.nodeid) in self.selected]
        if self.order is not None:
            items[:] = shuffled(items, lambda item: getattr(item, "cls", None), self.order)
        kept = [_name(item.nodeid) for item in items]
        self.send({"kind": "collected", "names": kept, "dropped": sorted(set(names) - set(kept))})

    def collection_finished(self) -> None:
        """The test file is imported."""
        self._import_alarm.__exit__()
        self.collected_s = time.monotonic()

    def collect_report(self, report: pytest.CollectReport) -> None:
        """An import that failed."""
        if report.failed:
            self._cannot_collect(report.longreprtext, TestTimeout.__name__ in report.longreprtext)

    def internal_error(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """What pytest does not catch, such as SystemExit at import."""
        self._cannot_collect(f"E   {excinfo.exconly()}", timed_out=False)

    def _cannot_collect(self, text: str, timed_out: bool) -> None:
        self.send({"kind": "collection_error", "text": _plain(text)[-FAILURE_CHARS:], "timed_out": timed_out})

    def test_begins(self, nodeid: str) -> None:
        """A test begins."""
        self.send({"kind": "start", "name": _name(nodeid)})

    def raised(self, item: pytest.Item, call: pytest.CallInfo[None]) -> None:
        """What the report will tell counts only while pytest is itself."""
        if call.when == "call":
            self.tampered = self.tampered or self.seal.broken(wholly=False) or self.seal.hidden(item)

    def plugin_added(self) -> None:
        """Nothing but this kit, pytest and the user's own files has a say in a session."""
        if not self._admitting:
            self.tampered = self.tampered or "a plugin"

    def reported(self, report: pytest.TestReport, call: pytest.CallInfo[None] | None) -> None:
        """Outcome of one phase of one test."""
        outcome: str = report.outcome
        if outcome == "failed":
            timed_out = call is not None and call.excinfo is not None and call.excinfo.errisinstance(TestTimeout)
            outcome = "timeout" if timed_out else "failed" if report.when == "call" else "error"
        text = "" if outcome == "passed" else _plain(report.longreprtext)
        self.send(
            {
                "kind": "report",
                "name": _name(report.nodeid),
                "outcome": outcome,
                "when": report.when,
                "duration_s": report.duration,
                "message": _plain(_message(report, text))[:MESSAGE_CHARS],
                "text": text[-FAILURE_CHARS:],
            }
        )

    def finish(self, session: pytest.Session, exit_code: int) -> NoReturn:
        """Send what was measured, unless pytest is not itself any more, and end this process."""
        ran_s = time.monotonic()
        self.measured.stop()
        changed = self.seal.broken(wholly=True) or self.hooks.broken(session.config.pluginmanager)
        self.tampered = self.tampered or changed
        if self.tampered:
            self.send({"kind": "tampered", "what": _plain(self.tampered)[:MESSAGE_CHARS]})
            os._exit(0)
        self.send({"kind": "coverage", **_measure(self.measured, *self.files)})
        marks_s = (self.begun_s, self.collected_s, ran_s, time.monotonic())
        self.send({"kind": "done", "exit_code": exit_code, "marks_s": marks_s})
        os._exit(0)


def _measure(measured: coverage.Coverage, file: str, shown: str) -> dict[str, Any]:
    """Numbers as coverage.py's own report has them, and the raw lines with an event.

    What it recorded under the user's own file, which the module shows as ``__file__``, belongs to ``file``,
    which holds the text that ran.
    """
    data = measured.get_data()
    data.add_arcs({file: data.arcs(shown) or []})
    raw = data.lines(file) or []
    try:
        _, statements, _, missing, _ = measured.analysis2(file)
        branches = measured.branch_stats(file).values()
    except (coverage.exceptions.CoverageException, OSError, ValueError):
        return {"numbers": None, "raw_lines": sorted(raw)}
    numbers = {
        "statements": len(statements),
        "covered_statements": len(statements) - len(missing),
        "branches": sum(total for total, _ in branches),
        "covered_branches": sum(taken for _, taken in branches),
        "covered_lines": sorted(set(statements) - set(missing)),
        "missing_lines": missing,
    }
    return {"numbers": numbers, "raw_lines": sorted(raw)}


class MutantTask:
    """Run the tests against one mutant; the exit code is 0 when none failed, and 1 as soon as one did.

    Args:
        finder: serves the mutant.
        left_out: names of tests that are not run.
        conftest: whether one lies beside the test file.
    """

    def __init__(self, finder: SourceFinder, left_out: frozenset[str], conftest: bool = False) -> None:
        self.finder = finder
        self.left_out = left_out
        self.conftest = conftest
        self.alarm = contextlib.nullcontext()

    def begin(self, session: pytest.Session) -> None:
        """Take part in the session: plain assertions, no tracebacks."""
        sys.meta_path[:] = [hook for hook in sys.meta_path if type(hook).__name__ != "AssertionRewritingHook"]
        session.config.option.tbstyle = "no"
        self.finder.install()
        if self.conftest:
            try:
                admit_conftest(session)
            except BaseException:  # a mutant that breaks the import is found
                os._exit(1)

    def collected(self, items: list[pytest.Item]) -> None:
        """Drop what is left out."""
        items[:] = [item for item in items if _name(item.nodeid) not in self.left_out]

    def collection_finished(self) -> None:
        """Nothing."""

    def collect_report(self, report: pytest.CollectReport) -> None:
        """A mutant that breaks the import is found."""
        if report.failed:
            os._exit(1)

    def internal_error(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """SystemExit at import, for one."""
        del excinfo
        os._exit(1)

    def test_begins(self, nodeid: str) -> None:
        """Nothing."""

    def plugin_added(self) -> None:
        """Nothing."""

    def raised(self, item: pytest.Item, call: pytest.CallInfo[None]) -> None:
        """Stop at the first failure, before its traceback is rendered; a conftest's hooks may make it none."""
        if self.conftest or call.excinfo is None or item.get_closest_marker("xfail"):
            return
        if not call.excinfo.errisinstance((pytest.skip.Exception, pytest.xfail.Exception)):
            os._exit(1)

    def reported(self, report: pytest.TestReport, call: pytest.CallInfo[None] | None) -> None:
        """Failures that only a report shows, such as a strict xfail that passes."""
        del call
        if report.failed:
            os._exit(1)

    def finish(self, session: pytest.Session, exit_code: int) -> NoReturn:
        """No test failed, or the session never came to them."""
        del session
        os._exit(0 if exit_code in (0, 5) else 1)


class Alarm:
    """Raise `TestTimeout` in the main thread after ``seconds``, and again for code that swallows it."""

    def __init__(self, seconds: float, repeat_s: float = 0.2) -> None:
        self.seconds = seconds
        self.repeat_s = repeat_s

    def __enter__(self) -> None:
        signal.signal(signal.SIGALRM, self._ring)
        signal.setitimer(signal.ITIMER_REAL, self.seconds, self.repeat_s)

    def __exit__(self, *exc: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _ring(self, number: int, frame: types.FrameType | None) -> None:
        del number
        __tracebackhide__ = True
        if _in_coverage(frame):
            # an exception there would leave its lock taken, and every later call would wait for it
            signal.setitimer(signal.ITIMER_REAL, _SOON_S, self.repeat_s)
            return
        raise TestTimeout(f"stopped after {self.seconds:g} s")


def _in_coverage(frame: types.FrameType | None) -> bool:
    """Whether a frame is coverage.py's, or was called by it."""
    while frame is not None:
        if frame.f_code.co_filename.startswith(_COVERAGE):
            return True
        frame = frame.f_back
    return False


def _name(nodeid: str) -> str:
    return _plain(nodeid.removeprefix(f"{TEST_FILE}::")).replace("\n", "\\n")


def _plain(text: str) -> str:
    """``text`` that can be encoded and printed: control characters and lone surrogates are spelled out."""
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if text.isprintable() else _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def _message(report: pytest.TestReport, text: str) -> str:
    if not text:
        return ""
    crash = getattr(report.longrepr, "reprcrash", None)
    if crash is not None:
        return str(crash.message)[:MESSAGE_CHARS]
    missing = getattr(report.longrepr, "errorstring", None)  # of a fixture that is not there
    if isinstance(missing, str):
        return missing.partition("\n")[0][:MESSAGE_CHARS]
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2])[:MESSAGE_CHARS]
    return text.strip().rpartition("\n")[2][:MESSAGE_CHARS]
