"""One session of pytest, set up once and entered again and again: each time by a fork of its own.

The server stands in the hook that is called when everything is ready and nothing is collected yet. There it takes
jobs; a child of its leaves the hook and goes on to collect and run, as if the session were its own. So a test
file costs a fork, its own import, its tests and the report, and not the start of pytest.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator

import pytest

from lowvram_ft.execution.fork import Forked, Task
from lowvram_ft.execution.workspace import TEST_FILE

_PYTEST_ARGS = (
    f"--config-file={os.devnull} --rootdir=. --confcutdir=. --noconftest --capture=sys -q --tb=short "
    "--no-header --no-summary -p no:cacheprovider -p no:junitxml -p no:pastebin -p no:stepwise "
    "-p no:faulthandler -p no:unraisableexception -p no:threadexception"
).split()


class Gate:
    """pytest plugin: calls ``serve`` in the server, and passes on to the task of each child what pytest tells.

    Args:
        serve: takes jobs until there are none left, given the plugin manager; raises `Forked` in each child.
    """

    def __init__(self, serve: Callable[[pytest.PytestPluginManager], None]) -> None:
        self.serve = serve
        self.task: Task | None = None
        self._call: pytest.CallInfo[None] | None = None

    def run(self) -> None:
        """Set pytest up in the current folder, which holds the test file, and serve. A child ends in here."""
        try:
            pytest.main([*_PYTEST_ARGS, TEST_FILE], plugins=[self])
        finally:
            if self.task is not None:
                os._exit(70)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection(self, session: pytest.Session) -> Generator[None, object, object]:
        """Serve; what comes out is a child, or the end."""
        try:
            self.serve(session.config.pluginmanager)
        except Forked as child:
            self.task = child.task
            child.__traceback__ = None  # or the server's frames live on, and in them the code as it was before a fault
        else:
            pytest.exit("no more jobs", returncode=0)
        self.task.begin(session)
        return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> Generator[None, object, object]:
        """All tests are known, once everybody else has had a say."""
        result = yield
        self._child.collected(items)
        return result

    def pytest_collection_finish(self) -> None:
        """The test file is imported."""
        self._child.collection_finished()

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A file or class is collected."""
        self._child.collect_report(report)

    def pytest_internalerror(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """Something that pytest does not catch."""
        if self.task is not None:
            self.task.internal_error(excinfo)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """A test begins."""
        self._child.test_begins(nodeid)

    def pytest_plugin_registered(self) -> None:
        """Registered by a file of the user's or the model's: pytest has its own before the session is handed over."""
        if self.task is not None:
            self.task.plugin_added()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self) -> Generator[None, None, None]:
        """Fixtures of one test."""
        with self._child.alarm:
            yield

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self) -> Generator[None, None, None]:
        """One test."""
        with self._child.alarm:
            yield

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self) -> Generator[None, None, None]:
        """What the fixtures do afterwards."""
        with self._child.alarm:
            yield

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> None:
        """A phase of a test has ended."""
        self._call = call
        self._child.raised(item, call)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A phase of a test has its report."""
        call, self._call = self._call, None
        self._child.reported(report, call)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """The end; what pytest would do after it tells nothing more."""
        if self.task is not None:
            self.task.finish(session, int(exitstatus))

    @property
    def _child(self) -> Task:
        assert self.task is not None
        return self.task


def warm_up() -> None:
    """Import what a session needs, so that no fork has to."""
    import importlib

    import _pytest.config

    importlib.import_module("lowvram_ft.execution.runs")
    for plugin in _pytest.config.default_plugins:
        importlib.import_module(f"_pytest.{plugin}")
    # what pytest imports on its way, when a test fails, and what tests import most
    for name in ("_pytest._io.pprint", "_pytest.assertion.util", "coverage.parser", "coverage.results", "dataclasses"):
        importlib.import_module(name)
