"""Bounds on a process that runs code which a model wrote, and what they do not cover.

Held here:
    wall-clock time, CPU time, address space, size of a written file, open files, captured output, core
    dumps; the environment is rebuilt from nothing, stdin is empty, home and temporary folder are private
    and thrown away; every process that the code leaves behind is found (the server that forked it adopts
    its orphans) and killed. What root alone may do is not to be had, for root neither.

Not held here, but by a sandbox (`lowvram_ft.execution.sandbox`):
    the network; reading and writing of any file that the user may read and write; signals to the user's
    other processes; the total size of what is written.

Held by nothing: the memory of all processes of a run together (each has its own bound), and what code does
to the memory of its own process, in which pytest runs as well.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import time
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_CAPABILITY_VERSION_3 = 0x20080522


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one run of a test file may use.

    Attributes:
        wall_s: wall-clock time of the whole file.
        cpu_s: CPU time of each of its processes.
        memory_bytes: address space of each of its processes.
        file_bytes: size of the largest file that it may write.
        output_bytes: how much of what it prints is kept; the rest is read and thrown away.
        processes: how many more processes it may have. The kernel refuses to make more; for root, who is not
            counted, the whole run is killed as soon as there are more.
        test_s: wall-clock time of a single test, so that one endless test leaves the others their turn.
    """

    wall_s: float = 20.0
    cpu_s: float = 20.0
    memory_bytes: int = 1 << 30
    file_bytes: int = 16 << 20
    output_bytes: int = 64 << 10
    processes: int = 64
    test_s: float = 5.0


def limit_this_process(limits: Limits, tasks: int, cpu_s: float | None = None) -> None:
    """Put the calling process under ``limits`` for good, and let it die with its parent.

    Args:
        limits: what it may use.
        tasks: what `tasks_of_this_user` said before any sandbox was entered.
        cpu_s: a finer bound on CPU time; SIGPROF ends the process when it is used up.
    """
    import resource

    seconds = max(1, round(limits.cpu_s + 0.5))
    bounds = {
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_AS: limits.memory_bytes,
        resource.RLIMIT_FSIZE: limits.file_bytes,
        resource.RLIMIT_NOFILE: 256,
        resource.RLIMIT_CORE: 0,
    }
    if os.getuid() != 0:
        bounds[resource.RLIMIT_NPROC] = tasks + limits.processes
    for kind, bound in bounds.items():
        hard = resource.getrlimit(kind)[1]
        least = bound if hard == resource.RLIM_INFINITY else min(bound, hard)
        resource.setrlimit(kind, (least, least))
    if cpu_s is not None:
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_PROF, cpu_s)
    _give_up_privileges()
    _prctl(_PR_SET_DUMPABLE, 1)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def adopt_orphans(parent: int | None) -> None:
    """Make the calling process the parent of whatever its descendants leave behind.

    It also ends when its own parent does, and hides its memory and descriptors from other processes
    without privileges. Without Linux, nothing of this holds.

    Args:
        parent: pid of the process that started it; None inside a namespace that ends by itself.
    """
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    _prctl(_PR_SET_DUMPABLE, 0)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if parent is not None and os.getppid() != parent:
        raise SystemExit("the process that asked is gone")


def kill_children(patience_s: float = 5.0) -> bool:
    """Kill and reap all children of the calling process, adopted ones too; whether none is left."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        try:
            if os.waitpid(-1, os.WNOHANG)[0]:
                continue
        except ChildProcessError:
            return True
        for child in _descendants(1 << 20):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(child, signal.SIGKILL)
        time.sleep(0.002)
    return False


def count_descendants(most: int) -> int:
    """How many processes descend from the calling one; counts no further than ``most``."""
    return len(_descendants(most))


def child_environment(home: Path, temporary: Path, hash_seed: int) -> dict[str, str]:
    """The whole environment of a server and of its tests: nothing of the caller's own."""
    return {
        "PATH": os.defpath,
        "HOME": str(home),
        "TMPDIR": str(temporary),
        "LANG": "C.UTF-8",
        "PYTHONHASHSEED": str(hash_seed),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }


def _give_up_privileges() -> None:
    """Nothing that root could lift the bounds with, and nothing to be had from setuid programs. For good."""
    import ctypes
    import struct

    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).capset(struct.pack("=Ii", _CAPABILITY_VERSION_3, 0), bytes(24))


def _prctl(option: int, value: int) -> None:
    import ctypes

    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def _descendants(most: int) -> list[int]:
    """Children before their own children."""
    me = os.getpid()
    if not Path(f"/proc/self/task/{me}/children").exists():
        return [pid for pid in _processes() if _stat_field(pid, 1) == me]
    found = _children(me)
    for pid in found:  # grows on the way
        if len(found) >= most:
            break
        found.extend(_children(pid))
    return found


def _children(pid: int) -> list[int]:
    listings: list[str] = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            listings.extend(Path(f"/proc/{pid}/task/{thread}/children").read_text().split())
    return [int(child) for child in listings]


def tasks_of_this_user() -> int:
    """Threads of all processes of this user: what the kernel holds against RLIMIT_NPROC."""
    me, tasks = os.getuid(), 0
    for pid in _processes():
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}").stat().st_uid == me:
                tasks += max(1, _stat_field(pid, 17))
    return tasks


def _processes() -> list[int]:
    proc = Path("/proc")
    return [int(entry.name) for entry in proc.iterdir() if entry.name.isdigit()] if proc.is_dir() else []


def _stat_field(pid: int, field: int) -> int:
    """A number of ``/proc/PID/stat``, counted from the state that follows the name; -1 when it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return -1
    return int(text.rpartition(")")[2].split()[field])
