"""pytest inside a forked child: plugins that report on the tests, and on the mutants.

Nothing here is imported by the caller's process. What runs here shares its interpreter with code that a
model wrote, so it only reports: the verdict is made by the server that forked it.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import types
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import coverage
import pytest

from lowvram_ft.execution.finder import SourceFinder
from lowvram_ft.execution.limits import Limits
from lowvram_ft.execution.workspace import TEST_FILE

_PYTEST_ARGS = (
    f"--config-file={os.devnull} --rootdir=. --confcutdir=. --noconftest --capture=sys -q "
    "--no-header --no-summary -p no:cacheprovider -p no:junitxml -p no:pastebin -p no:stepwise "
    "-p no:faulthandler -p no:unraisableexception -p no:threadexception"
).split()
_MESSAGE_CHARS = 300
_FAILURE_CHARS = 6000

Send = Callable[[dict[str, Any]], None]


class TestTimeout(BaseException):
    """Raised in a test whose time is up. No Exception, so that ``except Exception`` lets it through."""

    __test__ = False


def run_session(finder: SourceFinder, limits: Limits, selected: frozenset[str] | None, send: Send) -> None:
    """Run the tests in the current folder under coverage, and send what happens as it happens."""
    files = [str(finder.target_file), str(finder.shown_file(finder.target))]
    measured = coverage.Coverage(data_file=None, branch=True, include=files, config_file=False, messages=False)
    reporter = Reporter(send, limits.test_s, selected, measured)
    finder.install()
    code = pytest.main([*_PYTEST_ARGS, "--tb=short", TEST_FILE], plugins=[reporter])
    measured.stop()
    if reporter.tampered:
        send({"kind": "tampered"})
        return
    send({"kind": "coverage", **_measure(measured, *files)})
    send({"kind": "done", "exit_code": int(code)})


def _measure(measured: coverage.Coverage, file: str, shown: str) -> dict[str, Any]:
    """Numbers as coverage.py's own report has them, and the raw lines with an event.

    What it recorded under the user's own file, which the module shows as ``__file__``, belongs to ``file``,
    which holds the text that ran.
    """
    data = measured.get_data()
    data.add_arcs({file: data.arcs(shown) or []})
    raw = data.lines(file) or []
    report = Path(file).with_name("coverage.json")
    try:
        measured.json_report(morfs=[file], outfile=str(report))
        (entry,) = json.loads(report.read_text())["files"].values()
    except (coverage.exceptions.CoverageException, OSError, ValueError):
        return {"numbers": None, "raw_lines": sorted(raw)}
    summary = entry["summary"]
    numbers = {
        "statements": summary["num_statements"],
        "covered_statements": summary["covered_lines"],
        "branches": summary["num_branches"],
        "covered_branches": summary["covered_branches"],
        "covered_lines": entry["executed_lines"],
        "missing_lines": entry["missing_lines"],
    }
    return {"numbers": numbers, "raw_lines": sorted(raw)}


class Reporter:
    """pytest plugin: sends collection, outcomes and failures to the server, and times each test."""

    def __init__(self, send: Send, test_s: float, selected: frozenset[str] | None, measured: coverage.Coverage) -> None:
        self.measured = measured
        self.send = send
        self.test_s = test_s
        self.selected = selected
        self.tampered = False
        self._before: dict[str, int] = {}
        self._plugins: set[int] = set()

    @pytest.hookimpl(wrapper=True)
    def pytest_collection(self, session: pytest.Session) -> Generator[None, object, object]:
        """Import of the test file: timed, and the last moment at which pytest is sure to be itself."""
        self._before = _fingerprint()
        self._plugins = {id(plugin) for plugin in session.config.pluginmanager.get_plugins()}
        self.measured.start()
        with _Alarm(self.test_s, repeat_s=0):
            return (yield)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Drop what is not selected, and announce the rest."""
        names = [_name(item.nodeid) for item in items]
        if self.selected is not None:
            items[:] = [item for item in items if _name(item.nodeid) in self.selected]
        kept = [_name(item.nodeid) for item in items]
        self.send({"kind": "collected", "names": kept, "dropped": sorted(set(names) - set(kept))})

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """An import that failed."""
        if report.failed:
            timed_out = TestTimeout.__name__ in report.longreprtext
            text = report.longreprtext[-_FAILURE_CHARS:]
            self.send({"kind": "collection_error", "text": text, "timed_out": timed_out})

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """A test begins."""
        self.send({"kind": "start", "name": _name(nodeid)})

    def pytest_internalerror(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """What pytest does not catch, such as SystemExit at import."""
        text = f"E   {excinfo.exconly()}"
        self.send({"kind": "collection_error", "text": text[-_FAILURE_CHARS:], "timed_out": False})

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self) -> Generator[None, None, None]:
        """Fixtures of one test, timed."""
        with _Alarm(self.test_s):
            yield

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self) -> Generator[None, None, None]:
        """One test, timed."""
        with _Alarm(self.test_s):
            yield

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self) -> Generator[None, None, None]:
        """What the fixtures do afterwards, timed."""
        with _Alarm(self.test_s):
            yield

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Mark the reports of tests whose time was up."""
        report = yield
        timed_out = call.excinfo is not None and call.excinfo.errisinstance(TestTimeout)
        report.user_properties.append(("timed_out", timed_out))
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Outcome of one phase of one test."""
        timed_out = ("timed_out", True) in report.user_properties
        outcome: str = report.outcome
        if outcome == "failed":
            outcome = "timeout" if timed_out else "failed" if report.when == "call" else "error"
        text = "" if outcome == "passed" else report.longreprtext
        self.send(
            {
                "kind": "report",
                "name": _name(report.nodeid),
                "outcome": outcome,
                "when": report.when,
                "duration_s": report.duration,
                "message": _message(report, text),
                "text": text[-_FAILURE_CHARS:],
            }
        )

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Compare pytest with what it was before the test file was imported."""
        added = [
            plugin
            for plugin in session.config.pluginmanager.get_plugins()
            if id(plugin) not in self._plugins and not _is_pytests_own(plugin)
        ]
        after = _fingerprint()
        self.tampered = bool(added) or any(after.get(key) != self._before[key] for key in self._before)


class MutantSession:
    """pytest plugin: forks at the point of collection, once for each mutant, and ends the fork.

    A fork's exit code is 0 when no test failed, and something else as soon as one did.

    Args:
        loop: called in the original process with a function that forks; it returns True in a fork.
        left_out: names of tests that are not run.
    """

    def __init__(self, loop: Callable[[], bool], left_out: frozenset[str]) -> None:
        self.loop = loop
        self.left_out = left_out
        self.in_fork = False

    def run(self) -> None:
        """Configure pytest, then hand over to the loop."""
        pytest.main([*_PYTEST_ARGS, "--assert=plain", "--tb=no", TEST_FILE], plugins=[self])

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self) -> None:
        """Go through the mutants; the forks go on from here, the original process stops."""
        gc.freeze()
        self.in_fork = self.loop()
        if not self.in_fork:
            pytest.exit("all mutants are done", returncode=0)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Drop what is left out."""
        items[:] = [item for item in items if _name(item.nodeid) not in self.left_out]

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A mutant that breaks the import is found."""
        if report.failed:
            os._exit(1)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> None:
        """Stop at the first failure, before its traceback is rendered."""
        if call.excinfo is None or item.get_closest_marker("xfail"):
            return
        if not call.excinfo.errisinstance((pytest.skip.Exception, pytest.xfail.Exception)):
            os._exit(1)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Failures that only a report shows, such as a strict xfail that passes."""
        if report.failed:
            os._exit(1)

    def pytest_internalerror(self) -> None:
        """SystemExit at import, for one."""
        if self.in_fork:
            os._exit(1)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, exitstatus: int) -> None:
        """No test failed."""
        if self.in_fork:
            os._exit(0 if exitstatus in (0, 5) else 1)


class _Alarm:
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
        del number, frame
        raise TestTimeout(f"stopped after {self.seconds:g} s")


def _name(nodeid: str) -> str:
    return nodeid.removeprefix(f"{TEST_FILE}::")


def _message(report: pytest.TestReport, text: str) -> str:
    if not text:
        return ""
    crash = getattr(report.longrepr, "reprcrash", None)
    if crash is not None:
        return str(crash.message)[:_MESSAGE_CHARS]
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2])[:_MESSAGE_CHARS]
    return text.strip().rpartition("\n")[2][:_MESSAGE_CHARS]


def _is_pytests_own(plugin: object) -> bool:
    name = getattr(plugin, "__name__", None) or type(plugin).__module__
    return str(name).startswith(("_pytest.", "pluggy."))


def _fingerprint() -> dict[str, int]:
    """Identity of each function of pytest and its plugin system, and of its code."""
    prints: dict[str, int] = {}
    for module_name, module in list(sys.modules.items()):
        if not module_name.startswith(("_pytest", "pluggy", __name__)):
            continue
        for owner in [module, *(value for value in vars(module).values() if isinstance(value, type))]:
            if getattr(owner, "__module__", module_name) != module_name:
                continue
            for name, value in vars(owner).items():
                function = getattr(value, "__func__", value)
                if isinstance(function, types.FunctionType):
                    key = f"{module_name}:{getattr(owner, '__qualname__', '')}.{name}"
                    prints[key] = hash((id(function), id(function.__code__)))
    return prints
