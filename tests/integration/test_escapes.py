"""Hostile test files, in every layer that this machine has: what is stopped, what is let through, what is left."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import os
import resource
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import textwrap
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from lowvram_ft.execution import Verdict, judge, run_tests, sandbox
from lowvram_ft.execution.pool import UnsandboxedWarning, close_default_pool
from tests.escape_attempts import (
    ATTEMPTS,
    CODE,
    KIT,
    PACKAGES,
    QUICK,
    Attempt,
    Outside,
    named_processes,
    shared_memory_segments,
)

pytestmark = pytest.mark.skipif(not Path("/proc/self/ns").exists(), reason="the layers need Linux")

INNOCENT = """
import importlib.util
import os
import sys
from solution import half

def test_half():
    assert half(4) == 2

def test_that_nothing_is_left():
    assert os.listdir() == ["test_solution.py"]
    assert os.listdir(os.environ["HOME"]) == os.listdir(os.environ["TMPDIR"]) == []
    assert importlib.util.find_spec("left_behind") is None
    assert not hasattr(os, "left_behind") and "LEFT_BEHIND" not in os.environ
    assert os.getcwd() not in sys.path[1:] and callable(half)
"""
ABSENT = "lowvram-ft-escape"


@pytest.fixture(scope="module", params=sandbox.LAYERS)
def layer(request: pytest.FixtureRequest, outside: Outside) -> Iterator[sandbox.Layer]:
    """One layer after the other, with a pool of its own, of which nothing is left in the end."""
    state = next(state for state in sandbox.states() if state.layer == request.param)
    if state.problem is not None:
        pytest.skip(f"{state.layer}: {state.problem}")
    close_default_pool()
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore", UnsandboxedWarning)
        patch.setenv(sandbox.FORCED, state.layer)
        patch.setenv(sandbox.ALLOW_UNSANDBOXED, "1")
        patch.setenv("LOWVRAM_FT_CANARY", outside.canary)
        private = outside.place / state.layer
        private.mkdir()
        patch.setattr(tempfile, "tempdir", str(private))
        yield state.layer
        close_default_pool()
    assert list(private.iterdir()) == []
    assert named_processes() == []
    assert servers() == []


@pytest.fixture(scope="module")
def innocent(layer: sandbox.Layer) -> Verdict:
    """What an innocent test file is told before anything hostile ran."""
    return run_tests(CODE, "solution", INNOCENT, QUICK)


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outside]:
    """Files, listeners, a process and a terminal of the user who runs these tests."""
    canary = secrets.token_hex(16)
    place = tmp_path_factory.mktemp("outside")
    home = Path(tempfile.mkdtemp(prefix=".lowvram-ft-escape-", dir=Path.home()))
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, home)
        descriptor = os.open(_canary_in(home, canary), os.O_RDONLY)
        stack.callback(os.close, descriptor)
        os.set_inheritable(descriptor, True)
        _canary_in(place, canary)
        short = Path(tempfile.mkdtemp(prefix="lvft-", dir="/tmp"))  # a Unix socket's address has room for no more
        stack.callback(shutil.rmtree, short)
        listeners = {kind: stack.enter_context(listener) for kind, listener in _listeners(short).items()}
        found = Outside(canary, home, place, listeners, _victim(canary), "")
        stack.callback(lambda: _end(found.victim))
        yield found


@pytest.fixture
def surroundings(outside: Outside) -> Iterator[Outside]:
    """What lies outside, as it was: an attempt that is let through leaves its traces."""
    (outside.home / "treasure").mkdir(exist_ok=True)
    for name in ("doomed", "modes", "treasure/gold"):
        (outside.home / name).write_text("")
    (outside.home / "modes").chmod(0o600)
    if outside.victim.poll() is not None:
        outside.victim = _victim(outside.canary)
    ours, theirs = os.openpty()
    outside.terminal = os.ttyname(theirs)
    yield outside
    for descriptor in (ours, theirs):
        os.close(descriptor)
    for file in (outside.home / "made", outside.place / "made", Path("/dev/shm", f"{ABSENT}.0")):
        file.unlink(missing_ok=True)
    for folder, name in ((Path.cwd(), ABSENT), (KIT, ABSENT), (PACKAGES, f"{ABSENT}.pth")):
        (folder / name).unlink(missing_ok=True)
    for segment in shared_memory_segments():
        ctypes.CDLL(None).shmctl(segment, 0, None)
    if outside.victim.poll() is None and _is_changed(outside.victim.pid):
        _end(outside.victim)
    for pid in named_processes():
        os.kill(pid, signal.SIGKILL)


def _canary_in(folder: Path, canary: str) -> Path:
    file = folder / "canary"
    file.write_text(canary)
    return file


def _listeners(folder: Path) -> dict[str, socket.socket]:
    """One of each kind, bound."""
    addresses: dict[str, tuple[int, int, object]] = {
        "tcp": (socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)),
        "udp": (socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0)),
        "unix": (socket.AF_UNIX, socket.SOCK_STREAM, str(folder / "unix")),
        "datagram": (socket.AF_UNIX, socket.SOCK_DGRAM, str(folder / "datagram")),
        "abstract": (socket.AF_UNIX, socket.SOCK_STREAM, f"\0lowvram-ft-{secrets.token_hex(8)}"),
    }
    listeners = {}
    for kind, (family, style, address) in addresses.items():
        listener = socket.socket(family, style)
        listener.bind(address)
        if style == socket.SOCK_STREAM:
            listener.listen(8)
        listeners[kind] = listener
    return listeners


def _victim(canary: str) -> subprocess.Popen[bytes]:
    environment = {"PATH": os.defpath, "LOWVRAM_FT_CANARY": canary}
    return subprocess.Popen(["sleep", "600"], env=environment, stdin=subprocess.DEVNULL, start_new_session=True)


def _end(victim: subprocess.Popen[bytes]) -> None:
    victim.kill()
    victim.wait()


def _is_changed(pid: int) -> bool:
    return resource.prlimit(pid, resource.RLIMIT_NOFILE)[0] == 3 or os.getpriority(os.PRIO_PROCESS, pid) == 19


def servers() -> list[str]:
    """Processes of the pool that this process still has."""
    found: list[str] = []
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has ended meanwhile
            children = (thread / "children").read_text().split()
            found += [pid for pid in children if pid not in found]
    commands = []
    for pid in found:
        with contextlib.suppress(OSError):
            commands.append(Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace"))
    return [command for command in commands if "lowvram_ft.execution.server" in command]


def timeless(verdict: Verdict) -> Verdict:
    """A verdict without what differs from run to run."""
    results = tuple(dataclasses.replace(result, duration_s=0.0) for result in verdict.results)
    return dataclasses.replace(verdict, duration_s=0.0, results=results)


def run(text: str) -> Verdict:
    return run_tests(CODE, "solution", textwrap.dedent(text), QUICK)


@pytest.mark.parametrize("attempt", ATTEMPTS, ids=[attempt.name for attempt in ATTEMPTS])
def test_attempt_is_stopped_where_it_is_said_to_be_and_harms_no_later_run(
    layer: sandbox.Layer, innocent: Verdict, surroundings: Outside, attempt: Attempt
) -> None:
    expected = attempt.is_let_through(layer)
    verdict = run_tests(CODE, "solution", surroundings.fill(attempt.test), attempt.limits)
    told = f"{layer}: {verdict}"
    if attempt.inside:
        assert ("test_escape" in verdict.passing) == expected, told
    if attempt.seen is not None:
        assert attempt.seen(surroundings, verdict) == expected, told
    if layer in attempt.stopped_by:
        assert attempt.seen is None or not verdict.all_passed
    assert timeless(run_tests(CODE, "solution", INNOCENT, QUICK)) == timeless(innocent), told


def test_innocent_file_passes_in_every_layer(innocent: Verdict) -> None:
    assert innocent.all_passed, innocent.log
    assert innocent.coverage is not None and innocent.coverage.line_rate == 0.75


def test_rlimits_alone_warn(monkeypatch: pytest.MonkeyPatch) -> None:
    close_default_pool()
    monkeypatch.setenv(sandbox.FORCED, "rlimits")
    monkeypatch.setenv(sandbox.ALLOW_UNSANDBOXED, "1")
    with pytest.warns(UnsandboxedWarning, match="WITHOUT A SANDBOX"):
        assert run(INNOCENT).all_passed
    close_default_pool()


def test_report_forged_inside_the_interpreter_that_reports_is_let_through(layer: sandbox.Layer) -> None:
    """No layer stops this one: tests and reporter share a process, and what sends the reports lies in its memory."""
    verdict = run(
        """
        import gc

        def test_escape():
            functions = [thing for thing in gc.get_objects() if type(thing) is type(test_escape)]
            senders = [function for function in functions if function.__qualname__ == "_sender.<locals>.send"]
            for send in senders:
                for holder in gc.get_referrers(send):
                    names = holder if isinstance(holder, dict) else getattr(holder, "__dict__", {})
                    for name, value in list(names.items()):
                        if value is send:
                            names[name] = lambda record, send=send: send(
                                {**record, "outcome": "passed", "text": ""} if "outcome" in record else record
                            )
            assert 1 == 2
        """
    )
    assert verdict.all_passed, layer


CHANGES = {
    "a property in place of a field": """
        import _pytest.runner
        _pytest.runner.CallInfo.excinfo = property(lambda self: None, lambda self, value: None)

        def test_escape():
            assert 1 == 2
        """,
    "items that run something else": """
        def test_first(request):
            for item in request.session.items:
                item.runtest = lambda: None

        def test_escape():
            assert 1 == 2
        """,
    "a function that is patched and put back": """
        from _pytest.python import Function
        real = Function.runtest

        def test_first():
            Function.runtest = lambda self: real(self) if self.name == "test_last" else None

        def test_escape():
            assert 1 == 2

        def test_last():
            Function.runtest = real
        """,
    "a plugin that comes and goes": """
        import pytest

        class Plugin:
            @pytest.hookimpl(wrapper=True)
            def pytest_runtest_makereport(self):
                report = yield
                report.outcome = "passed"
                return report

        plugin = Plugin()

        def test_first(request):
            request.config.pluginmanager.register(plugin)

        def test_escape():
            assert 1 == 2

        def test_last(request):
            request.config.pluginmanager.unregister(plugin)
        """,
    "a plugin under a false name": """
        import pytest

        class Plugin:
            @pytest.hookimpl(wrapper=True)
            def pytest_runtest_makereport(self):
                report = yield
                report.outcome = "passed"
                return report

        Plugin.pytest_runtest_makereport.__module__ = "_pytest.plugin"

        def test_first(request):
            request.config.pluginmanager.register(Plugin())

        def test_escape():
            assert 1 == 2
        """,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_pytest_that_was_changed_reports_no_passes(innocent: Verdict, change: str) -> None:
    assert "test_escape" not in run(change).passing


def test_mutants_of_a_hostile_file_are_judged_and_harm_no_later_run(layer: sandbox.Layer, innocent: Verdict) -> None:
    found = judge(
        CODE,
        "solution",
        textwrap.dedent(
            """
            import os, time
            from solution import half

            def test_half():
                if not os.fork():
                    os.setsid()
                    time.sleep(30)
                    os._exit(0)
                os.makedirs("left/behind")
                os.symlink("/", "left/link")
                os.chmod("left/behind", 0)
                assert half(4) == 2 and half(10) == 5
            """
        ),
        QUICK,
    )
    assert found.verdict.all_passed
    assert found.mutation is not None and found.mutation.total > 5
    assert found.mutation.killed > found.mutation.total / 2
    assert timeless(run_tests(CODE, "solution", INNOCENT, QUICK)) == timeless(innocent)
