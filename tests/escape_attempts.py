"""What a hostile test file may try, and which layer stops it: the catalogue that test_escapes.py goes through.

The test ``test_escape`` of an attempt passes if, and only if, the attempt worked as far as can be told from
inside; ``seen`` tells it from outside. A layer that is not in ``stopped_by`` lets the attempt through.
"""

from __future__ import annotations

import ctypes
import dataclasses
import hashlib
import os
import re
import socket
import stat
import sysconfig
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lowvram_ft
from lowvram_ft.execution import Limits, Verdict
from lowvram_ft.execution.sandbox import Layer, bubblewrap, landlock

CODE = '''\
def half(n):
    """Half of an even number."""
    if n % 2:
        raise ValueError("odd")
    return n // 2
'''
PROCESS_NAME = "lvft-escape"
"""Name that attempts give to their processes, so that those that are left behind are found."""
SHARED_MEMORY_KEY = 0x4C56_4654
KIT = Path(lowvram_ft.__file__).parent
PACKAGES = Path(sysconfig.get_path("purelib"))

QUICK = Limits(wall_s=4.0, cpu_s=4.0, test_s=2.0)
SHORT = Limits(wall_s=1.0, cpu_s=4.0, test_s=0.3)
FEW_PROCESSES = Limits(wall_s=4.0, cpu_s=4.0, test_s=2.0, processes=16)

_PRELUDE = """\
import ctypes, errno, hashlib, os, resource, signal, socket, stat, subprocess, sys, threading, time
from pathlib import Path
libc = ctypes.CDLL(None, use_errno=True)
told = []

def tell(text):
    told.append(text)
    return hashlib.sha256(text.encode()).hexdigest() == @CANARY_HASH@

def call(number, *arguments):
    ctypes.set_errno(0)
    return libc.syscall(number, *arguments), ctypes.get_errno()

def named():
    libc.prctl(1, 0, 0, 0, 0)
    libc.prctl(15, @PROCESS_NAME@.encode(), 0, 0, 0)

"""
_TOLD = """

def test_told():
    assert not told, told
"""


@dataclasses.dataclass
class Outside:
    """What lies outside of the sandbox, for attempts to reach.

    Attributes:
        canary: text that no attempt may get to know.
        home: folder in the user's home.
        place: folder among the temporary ones.
        victim: pid of a process of the same user, with the canary in its environment.
        listeners: sockets of this process by kind, none of which has taken anything yet.
        terminal: name of a terminal of this process.
    """

    canary: str
    home: Path
    place: Path
    victim: int
    listeners: dict[str, socket.socket]
    terminal: str
    handle: int

    def fill(self, test: str) -> str:
        """An attempt's test file, with the names of what is outside."""
        values: dict[str, object] = {
            "CANARY_HASH": hashlib.sha256(self.canary.encode()).hexdigest(),
            "PROCESS_NAME": PROCESS_NAME,
            "SHARED_MEMORY_KEY": SHARED_MEMORY_KEY,
            "HOME": str(self.home),
            "PLACE": str(self.place),
            "KIT": str(KIT),
            "PACKAGES": str(PACKAGES),
            "VICTIM": self.victim,
            "HOST": os.getpid(),
            "TERMINAL": self.terminal,
            **{kind: listener.getsockname() for kind, listener in self.listeners.items()},
        }

        def value(match: re.Match[str]) -> str:
            name = match[1]
            return repr(_number_of(name.removeprefix("SYS_")) if name.startswith("SYS_") else values[name])

        return re.sub(r"@(\w+)@", value, _PRELUDE + textwrap.dedent(test) + _TOLD)


Seen = Callable[[Outside, Verdict], bool]


@dataclasses.dataclass(frozen=True)
class Attempt:
    """One attempt.

    Attributes:
        name: a few words.
        test: the test file, see `Outside.fill`.
        stopped_by: what stops it in each layer that does.
        seen: whether it worked, as seen from outside.
        inside: whether ``test_escape`` tells that it worked, too.
        limits: of the run.
        possible: whether this user may do it without any sandbox.
        landlock: version of Landlock without which bubblewrap alone does not stop it.
    """

    name: str
    test: str
    stopped_by: Mapping[Layer, str]
    seen: Seen | None = None
    inside: bool = True
    limits: Limits = QUICK
    possible: Callable[[], bool] = lambda: True
    landlock: int = 0

    def is_let_through(self, layer: Layer) -> bool:
        """Whether this machine's ``layer`` is known not to stop it."""
        weak = layer == "bubblewrap" and landlock.version() < self.landlock
        return (weak or layer not in self.stopped_by) and self.possible()


def _number_of(name: str) -> int:
    import pyseccomp

    return int(pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name))


def _strong(by_bubblewrap: str, by_landlock: str | None = None) -> dict[Layer, str]:
    return {"bubblewrap": by_bubblewrap, "landlock": by_landlock or by_bubblewrap}


def _all(by: str) -> dict[Layer, str]:
    return {"bubblewrap": by, "landlock": by, "rlimits": by}


def _capabilities() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapPrm"):
            return int(line.split()[1], 16)
    return 0


def _is_plain_user() -> bool:
    """A process that gave up its capabilities may not look into one that has some, of the same user or not."""
    return _capabilities() == 0


def _may_trace() -> bool:
    yama = Path("/proc/sys/kernel/yama/ptrace_scope")
    return _is_plain_user() and (not yama.exists() or yama.read_text().strip() == "0")


def _answers(name: str, *arguments: object) -> bool:
    """Whether the kernel knows a system call and does not refuse it."""
    ctypes.set_errno(0)
    ctypes.CDLL(None, use_errno=True).syscall(_number_of(name), *arguments)
    return ctypes.get_errno() not in (1, 13, 38)


def _connects() -> bool:
    with socket.socket() as outward:
        outward.setblocking(False)
        return outward.connect_ex(("192.0.2.1", 80)) in (0, 115)


def _sends() -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outward:
        try:
            return outward.sendto(b"?", ("192.0.2.1", 53)) == 1
        except OSError:
            return False


def _canary_is_told(outside: Outside, verdict: Verdict) -> bool:
    return outside.canary in repr(verdict)


def _is_there(name: str) -> Seen:
    return lambda outside, _: (outside.home / name).exists()


def _takes(kind: str) -> Seen:
    """Whether a listener has been reached."""

    def taken(outside: Outside, verdict: Verdict) -> bool:
        listener = outside.listeners[kind]
        listener.settimeout(0.05)
        try:
            return bool(listener.accept() if listener.type == socket.SOCK_STREAM else listener.recv(99))
        except TimeoutError:
            return False

    return taken


def named_processes() -> list[int]:
    """Processes that attempts have left behind."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "comm").read_text().strip() == PROCESS_NAME:
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def shared_memory_segments() -> list[int]:
    """Identifiers of shared memory that attempts have left behind."""
    table = Path("/proc/sysvipc/shm")
    rows = [line.split() for line in table.read_text().splitlines()[1:]] if table.exists() else []
    return [int(row[1]) for row in rows if int(row[0]) == SHARED_MEMORY_KEY]


def _lasts(outside: Outside, verdict: Verdict) -> bool:
    return bool(named_processes())


def _mode_of(name: str) -> Callable[[Outside], int]:
    return lambda outside: stat.S_IMODE((outside.home / name).stat().st_mode)


_NOT_MOUNTED = "is not mounted"
_NO_RIGHT = "Landlock gives no right to it"
_NO_SOCKETS = "seccomp refuses sockets"
_OWN_ENVIRONMENT = "the environment is made from nothing"
_NO_SIGNALS = "other process namespace; Landlock or seccomp keeps signals inside"
_HIDDEN = "the server hides its memory, and tests have no capabilities"
_NO_CAPABILITIES = "tests have no capabilities"
_REAPED = "the server adopts orphans and kills them"
_TIME = "SIGKILL when the time of the file is up"
_SEALED = "pytest is compared with what it was"
_FORKED = "each run is a fork of its own"
_EMPTIED = "the folder is emptied before each run; links are not followed"
_REPORTED_ONLY = "what was not reported did not happen"

FILES = (
    Attempt(
        "read a file in the home folder",
        """
        def test_escape():
            assert tell(Path(@HOME@, "canary").read_text())
        """,
        _strong(_NOT_MOUNTED, _NO_RIGHT),
        _canary_is_told,
    ),
    Attempt(
        "read a file among the temporary ones",
        """
        def test_escape():
            assert tell(Path(@PLACE@, "canary").read_text())
        """,
        _strong(_NOT_MOUNTED, _NO_RIGHT),
        _canary_is_told,
    ),
    Attempt(
        "read it through a symbolic link",
        """
        def test_escape():
            os.symlink(@HOME@, "link")
            assert tell(Path("link/canary").read_text())
        """,
        _strong(_NOT_MOUNTED, _NO_RIGHT),
        _canary_is_told,
    ),
    Attempt(
        "read it through a hard link",
        """
        def test_escape():
            os.link(Path(@PLACE@, "canary"), "link")
            assert tell(Path("link").read_text())
        """,
        _strong(_NOT_MOUNTED, "Landlock lets no file come under a folder with more rights"),
        _canary_is_told,
    ),
    Attempt(
        "read other users' names",
        """
        def test_escape():
            told.append(Path("/etc/passwd").read_text().splitlines()[0])
            assert told
        """,
        _strong(_NOT_MOUNTED, _NO_RIGHT),
        lambda _, verdict: Path("/etc/passwd").read_text().splitlines()[0] in repr(verdict),
    ),
    Attempt(
        "read other users' secrets",
        """
        def test_escape():
            assert Path("/etc/shadow").read_text()
        """,
        {**_strong(_NOT_MOUNTED, _NO_RIGHT), "rlimits": "file modes, which bind root too without capabilities"},
        possible=lambda: os.access("/etc/shadow", os.R_OK),
    ),
    Attempt(
        "find the canary in the environment",
        """
        def test_escape():
            assert [text for text in os.environ.values() if tell(text)]
        """,
        _all(_OWN_ENVIRONMENT),
        _canary_is_told,
    ),
    Attempt(
        "find the canary in the environment that the process and its parent began with",
        """
        def test_escape():
            values = []
            for pid in ("self", os.getppid()):
                try:
                    values += Path(f"/proc/{pid}/environ").read_text().split(chr(0))
                except OSError:
                    pass
            assert [value for value in values if tell(value.partition("=")[2])]
        """,
        _all(_OWN_ENVIRONMENT),
        _canary_is_told,
    ),
    Attempt(
        "find the canary in the environment of processes outside",
        """
        def test_escape():
            values = []
            for pid in (@HOST@, @VICTIM@):
                values += Path(f"/proc/{pid}/environ").read_text().split(chr(0))
            assert [value for value in values if tell(value.partition("=")[2])]
        """,
        _strong("other process namespace", _NO_RIGHT),
        _canary_is_told,
        possible=_is_plain_user,
    ),
    Attempt(
        "find the canary in an inherited descriptor",
        """
        def test_escape():
            found = []
            for descriptor in range(3, 1024):
                try:
                    found.append(os.pread(descriptor, 99, 0).decode(errors="replace"))
                except OSError:
                    pass
            assert [text for text in found if tell(text)]
        """,
        _all("descriptors are closed on the way"),
        _canary_is_told,
    ),
    Attempt(
        "find a descriptor that can be read, or is no pipe",
        """
        import fcntl

        def test_escape():
            found = []
            for descriptor in range(1024):
                try:
                    status = os.fstat(descriptor)
                except OSError:
                    continue
                null = os.stat("/dev/null").st_rdev
                pipe = stat.S_ISFIFO(status.st_mode)
                reads = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE != os.O_WRONLY
                if status.st_rdev != null and (reads or not pipe):
                    found.append(descriptor)
            assert found
        """,
        _all("forks close what the server holds"),
    ),
    Attempt(
        "make a file in the home folder",
        """
        def test_escape():
            Path(@HOME@, "made").write_text("x")
        """,
        _strong(_NOT_MOUNTED, _NO_RIGHT),
        _is_there("made"),
    ),
    Attempt(
        "make a file among the temporary ones",
        """
        def test_escape():
            Path(@PLACE@, "made").write_text("x")
        """,
        _strong(_NOT_MOUNTED, _NO_RIGHT),
        lambda outside, _: (outside.place / "made").exists(),
    ),
    Attempt(
        "make a file where the caller stands",
        f"""
        def test_escape():
            Path({os.getcwd()!r}, "lowvram-ft-escape").write_text("x")
        """,
        _strong(_NOT_MOUNTED, _NO_RIGHT),
        lambda *_: Path("lowvram-ft-escape").exists(),
        possible=lambda: os.access(".", os.W_OK),
    ),
    Attempt(
        "make a file in this kit",
        """
        def test_escape():
            Path(@KIT@, "lowvram-ft-escape").write_text("x")
        """,
        _strong("is mounted to be read", _NO_RIGHT),
        lambda *_: (KIT / "lowvram-ft-escape").exists(),
        possible=lambda: os.access(KIT, os.W_OK),
    ),
    Attempt(
        "make a file that every Python process reads at its start",
        """
        def test_escape():
            Path(@PACKAGES@, "lowvram-ft-escape.pth").write_text("# nothing")
        """,
        _strong("is mounted to be read", _NO_RIGHT),
        lambda *_: (PACKAGES / "lowvram-ft-escape.pth").exists(),
        possible=lambda: os.access(PACKAGES, os.W_OK),
    ),
    Attempt(
        "open this kit's files for writing",
        """
        def test_escape():
            open(Path(@KIT@, "__init__.py"), "a").close()
        """,
        _strong("is mounted to be read", _NO_RIGHT),
        possible=lambda: os.access(KIT / "__init__.py", os.W_OK),
    ),
    Attempt(
        "open the module under test for writing",
        """
        import solution

        def test_escape():
            with open(solution.__file__, "a") as file:
                file.write("half = None")
        """,
        _strong(_NO_RIGHT),
        landlock=1,
    ),
    Attempt(
        "delete a file",
        """
        def test_escape():
            os.remove(Path(@HOME@, "doomed"))
        """,
        _strong(_NOT_MOUNTED, _NO_RIGHT),
        lambda outside, _: not (outside.home / "doomed").exists(),
    ),
    Attempt(
        "change the mode of a file",
        """
        def test_escape():
            os.chmod(Path(@HOME@, "modes"), 0o604)
            assert stat.S_IMODE(os.stat(Path(@HOME@, "modes")).st_mode) == 0o604
        """,
        _strong(_NOT_MOUNTED, "seccomp takes the call away"),
        lambda outside, _: _mode_of("modes")(outside) == 0o604,
    ),
    Attempt(
        "change the times and attributes of a file",
        """
        def test_escape():
            os.utime(Path(@HOME@, "modes"), (1, 1))
            assert os.stat(Path(@HOME@, "modes")).st_mtime == 1
        """,
        _strong(_NOT_MOUNTED, "seccomp takes the call away"),
        lambda outside, _: (outside.home / "modes").stat().st_mtime == 1,
    ),
    Attempt(
        "watch what happens in a folder",
        """
        def test_escape():
            queue = libc.inotify_init1(0)
            assert libc.inotify_add_watch(queue, @HOME@.encode(), 0xFFF) >= 0
        """,
        _strong(_NOT_MOUNTED, "seccomp refuses to watch"),
    ),
    Attempt(
        "have files outside deleted by way of links",
        """
        def test_escape():
            for folder in (Path.cwd(), Path.home(), Path(os.environ["TMPDIR"])):
                os.symlink(Path(@HOME@, "treasure"), folder / "treasure")
                os.symlink(Path(@HOME@, "treasure", "gold"), folder / "gold")
                (folder / "deep").mkdir()
                os.symlink("..", folder / "deep" / "up")
                os.symlink("/", folder / "deep" / "all")
            assert False
        """,
        _all(_EMPTIED),
        lambda outside, _: not (outside.home / "treasure" / "gold").exists(),
    ),
    Attempt(
        "have files outside deleted by way of a link in place of the working folder",
        """
        def test_escape():
            work = Path.cwd()
            for folder in (work, Path.home(), Path(os.environ["TMPDIR"])):
                os.rename(folder, f"{folder}-moved")
                os.symlink(Path(@HOME@, "treasure"), folder)
            assert False
        """,
        _all(_EMPTIED),
        lambda outside, _: not (outside.home / "treasure" / "gold").exists(),
    ),
    Attempt(
        "have files outside deleted by way of a link in place of the private folder",
        """
        def test_escape():
            box = Path.cwd().parent
            os.rename(box, f"{box}-moved")
            os.symlink(Path(@HOME@, "treasure"), box)
            assert False
        """,
        _all(_EMPTIED),
        lambda outside, _: not (outside.home / "treasure" / "gold").exists(),
    ),
)
"""Files and what is in them."""

NETWORK = (
    Attempt(
        "connect to this machine",
        """
        def test_escape():
            socket.create_connection(@tcp@, timeout=1).sendall(b"hello")
        """,
        _strong("other network namespace; " + _NO_SOCKETS, _NO_SOCKETS),
        _takes("tcp"),
    ),
    Attempt(
        "connect to another machine",
        """
        def test_escape():
            outward = socket.socket()
            outward.setblocking(False)
            assert outward.connect_ex(("192.0.2.1", 80)) in (0, errno.EINPROGRESS)
        """,
        _strong("other network namespace; " + _NO_SOCKETS, _NO_SOCKETS),
        possible=_connects,
    ),
    Attempt(
        "ask a name server",
        """
        def test_escape():
            outward = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            assert outward.sendto(b"?", ("192.0.2.1", 53)) == 1
        """,
        _strong("other network namespace; " + _NO_SOCKETS, _NO_SOCKETS),
        possible=_sends,
    ),
    Attempt(
        "send a datagram to this machine",
        """
        def test_escape():
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"hello", @udp@)
        """,
        _strong("other network namespace; " + _NO_SOCKETS, _NO_SOCKETS),
        _takes("udp"),
    ),
    Attempt(
        "connect to a Unix socket",
        """
        def test_escape():
            socket.socket(socket.AF_UNIX).connect(@unix@)
        """,
        _strong(_NOT_MOUNTED, _NO_SOCKETS),
        _takes("unix"),
    ),
    Attempt(
        "connect to an abstract Unix socket",
        """
        def test_escape():
            socket.socket(socket.AF_UNIX).connect(@abstract@)
        """,
        _strong("other network namespace; " + _NO_SOCKETS, _NO_SOCKETS),
        _takes("abstract"),
    ),
    Attempt(
        "send to a Unix socket from one of a connected pair",
        """
        def test_escape():
            socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0].sendto(b"hello", @datagram@)
        """,
        _strong(_NOT_MOUNTED, "seccomp refuses pairs of datagram sockets"),
        _takes("datagram"),
    ),
    Attempt(
        "open a raw socket",
        """
        def test_escape():
            socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        """,
        {**_strong(_NO_SOCKETS), "rlimits": _NO_CAPABILITIES},
    ),
    Attempt(
        "open a netlink socket",
        """
        def test_escape():
            socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
        """,
        _strong(_NO_SOCKETS),
    ),
)
"""Sockets, all of which lead nowhere in the two strong layers."""

PROCESSES = (
    Attempt(
        "make processes without end",
        """
        def test_escape():
            children = []
            for _ in range(200):
                child = os.fork()
                if not child:
                    named()
                    time.sleep(30)
                    os._exit(0)
                children.append(child)
                time.sleep(0.002)
            time.sleep(1)
            assert len(children) == 200
        """,
        _all("RLIMIT_NPROC, or the whole run is killed; " + _REAPED),
        _lasts,
        limits=FEW_PROCESSES,
    ),
    Attempt(
        "leave a daemon behind",
        """
        def test_escape():
            if not os.fork():
                os.setsid()
                named()
                for number in range(1, 32):
                    if number not in (signal.SIGKILL, signal.SIGSTOP):
                        signal.signal(number, signal.SIG_IGN)
                if not os.fork():
                    named()
                    time.sleep(30)
                os._exit(0)
            time.sleep(0.1)
            assert False
        """,
        _all(_REAPED),
        _lasts,
    ),
    Attempt(
        "leave a daemon behind that is a child of the server",
        """
        def test_escape():
            clone_parent = 0x8000
            child, _ = call(@SYS_clone@, clone_parent | signal.SIGCHLD, 0, 0, 0, 0)
            if not child:
                os.setsid()
                named()
                time.sleep(30)
                os._exit(0)
            time.sleep(0.1)
            assert child < 0
        """,
        _all(_REAPED),
        _lasts,
    ),
    Attempt(
        "run for ever",
        """
        def test_escape():
            while True:
                pass
        """,
        _all("an alarm for each test, and " + _TIME),
        lambda _, verdict: verdict.duration_s > SHORT.wall_s + 5,
        limits=SHORT,
    ),
    Attempt(
        "run for ever and heed no signal",
        """
        for number in range(1, 65):
            try:
                signal.signal(number, signal.SIG_IGN)
            except (OSError, ValueError):
                pass

        def test_escape():
            signal.signal(signal.SIGALRM, signal.SIG_IGN)
            while True:
                pass
        """,
        _all(_TIME),
        lambda _, verdict: verdict.duration_s > SHORT.wall_s + 5,
        limits=SHORT,
    ),
    Attempt(
        "run for ever in a thread that outlives the interpreter's end",
        """
        os._exit = lambda code: None
        threading.Thread(target=time.sleep, args=(60,)).start()

        def test_escape():
            assert False
        """,
        _all(_TIME),
        lambda _, verdict: verdict.duration_s > SHORT.wall_s + 5,
        limits=SHORT,
    ),
    Attempt(
        "stop itself",
        """
        def test_escape():
            os.kill(os.getpid(), signal.SIGSTOP)
            assert False
        """,
        _all(_TIME),
        lambda _, verdict: verdict.duration_s > SHORT.wall_s + 5,
        limits=SHORT,
    ),
    Attempt(
        "kill a process",
        """
        def test_escape():
            os.kill(@VICTIM@, signal.SIGKILL)
        """,
        _strong(_NO_SIGNALS),
        lambda outside, _: not is_alive(outside.victim),
    ),
    Attempt(
        "kill the server",
        """
        def test_escape():
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(1)
            assert False
        """,
        _strong(_NO_SIGNALS),
        lambda _, verdict: "brought down" in verdict.log,
        inside=False,
        landlock=landlock.SIGNALS_SINCE,
    ),
    Attempt(
        "stop the server",
        """
        def test_escape():
            os.kill(os.getppid(), signal.SIGSTOP)
            os.kill(os.getppid(), signal.SIGCONT)
        """,
        _strong(_NO_SIGNALS),
        landlock=landlock.SIGNALS_SINCE,
    ),
    Attempt(
        "have the kernel signal a process",
        """
        import fcntl

        def test_escape():
            reader, writer = os.pipe()
            fcntl.fcntl(reader, fcntl.F_SETOWN, @VICTIM@)
            fcntl.fcntl(reader, 10, signal.SIGKILL)  # F_SETSIG
            fcntl.fcntl(reader, fcntl.F_SETFL, os.O_ASYNC)
            os.write(writer, b"x")
            time.sleep(0.1)
            os.kill(@VICTIM@, 0)
        """,
        _strong(_NO_SIGNALS),
        lambda outside, _: not is_alive(outside.victim),
        inside=False,
        possible=_is_plain_user,
    ),
    Attempt(
        "trace the server",
        """
        def test_escape():
            assert call(@SYS_ptrace@, 0x4206, os.getppid(), 0, 0)[0] == 0  # PTRACE_SEIZE
        """,
        _all(_HIDDEN),
    ),
    Attempt(
        "open the server's memory",
        """
        def test_escape():
            open(f"/proc/{os.getppid()}/mem", "r+b").close()
        """,
        _all(_HIDDEN),
    ),
    Attempt(
        "read the server's memory",
        """
        class Vector(ctypes.Structure):
            _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]

        def test_escape():
            target = ctypes.create_string_buffer(8)
            here = Vector(ctypes.addressof(target), 8)
            there = Vector(id(None), 8)
            vectors = ctypes.byref(here), 1, ctypes.byref(there), 1
            assert call(@SYS_process_vm_readv@, os.getppid(), *vectors, 0)[0] == 8
        """,
        _all(_HIDDEN),
    ),
    Attempt(
        "trace a process",
        """
        def test_escape():
            assert call(@SYS_ptrace@, 0x4206, @VICTIM@, 0, 0)[0] == 0  # PTRACE_SEIZE
        """,
        _strong("other process namespace; seccomp refuses to trace", "Landlock and seccomp refuse to trace"),
        possible=_may_trace,
    ),
    Attempt(
        "change the limits of the server",
        """
        def test_escape():
            resource.prlimit(os.getppid(), resource.RLIMIT_CORE, (0, 0))
        """,
        _strong("seccomp refuses calls that name a process"),
        possible=_is_plain_user_or_uid_matches,
    )
    if False
    else Attempt(
        "change the limits of the server",
        """
        def test_escape():
            resource.prlimit(os.getppid(), resource.RLIMIT_CORE, (0, 0))
        """,
        _strong("seccomp refuses calls that name a process"),
    ),
    Attempt(
        "change the limits of a process",
        """
        def test_escape():
            resource.prlimit(@VICTIM@, resource.RLIMIT_NOFILE, (3, 3))
        """,
        _strong("other process namespace; seccomp refuses calls that name a process"),
        lambda outside, _: _open_files_of(outside.victim) == 3,
    ),
    Attempt(
        "change the priority of a process",
        """
        def test_escape():
            os.setpriority(os.PRIO_PROCESS, @VICTIM@, 19)
        """,
        _strong("other process namespace; seccomp refuses calls that name a process"),
        lambda outside, _: os.getpriority(os.PRIO_PROCESS, outside.victim) == 19,
        possible=_is_plain_user,
    ),
)
"""Processes, the test's own and others."""
