"""What a hostile test file may try, and which layer stops it: the catalogue that test_escapes.py goes through.

The test ``test_escape`` of an attempt passes if, and only if, the attempt worked as far as can be told from
inside; ``seen`` tells it from outside. A layer that is not in ``stopped_by`` lets the attempt through.
"""

from __future__ import annotations

import ctypes
import dataclasses
import errno
import hashlib
import json
import os
import re
import resource
import socket
import stat
import subprocess
import sysconfig
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path

import lowvram_ft
from lowvram_ft.execution import Limits, Verdict
from lowvram_ft.execution.limits import limit_this_process, tasks_of_this_user
from lowvram_ft.execution.sandbox import Layer, landlock

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
_NEW_USER = 0x10000000
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
    found = hashlib.sha256(text.encode()).hexdigest() == @CANARY_HASH@
    told.extend([text] * found)
    return found

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
        listeners: sockets of this process by kind, none of which has taken anything yet.
        victim: a process of the same user, with the canary in its environment.
        terminal: name of a terminal of this process.
    """

    canary: str
    home: Path
    place: Path
    listeners: dict[str, socket.socket]
    victim: subprocess.Popen[bytes]
    terminal: str

    def fill(self, test: str) -> str:
        """An attempt's test file, with the names of what is outside."""
        values: dict[str, object] = {
            "CANARY_HASH": hashlib.sha256(self.canary.encode()).hexdigest(),
            "PROCESS_NAME": PROCESS_NAME,
            "SHARED_MEMORY_KEY": SHARED_MEMORY_KEY,
            "HOME": str(self.home),
            "PLACE": str(self.place),
            "HERE": os.getcwd(),
            "KIT": str(KIT),
            "PACKAGES": str(PACKAGES),
            "HOST": os.getpid(),
            "VICTIM": self.victim.pid,
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


def _is_plain_user() -> bool:
    """A process that gave up its capabilities may not look into one that has some, of the same user or not."""
    rows = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return all(int(row[1], 16) == 0 for row in rows if row[0] == "CapPrm:")


def _may_trace() -> bool:
    yama = Path("/proc/sys/kernel/yama/ptrace_scope")
    return _is_plain_user() and (not yama.exists() or yama.read_text().strip() == "0")


def _may_type() -> bool:
    switch = Path("/proc/sys/dev/tty/legacy_tiocsti")
    return not switch.exists() or switch.read_text().strip() == "1"


def _works_unsandboxed(trial: Callable[[], bool]) -> bool:
    """Whether this user, with no more than the limits, may do it: tried in a fork."""
    tasks = tasks_of_this_user()
    child = os.fork()
    if not child:
        try:
            limit_this_process(QUICK, tasks)
            os._exit(0 if trial() else 1)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _call(number: int, *arguments: object) -> tuple[int, int]:
    libc = ctypes.CDLL(None, use_errno=True)
    ctypes.set_errno(0)
    return libc.syscall(number, *arguments), ctypes.get_errno()


def _makes_namespaces() -> bool:
    return _works_unsandboxed(lambda: _call(_number_of("unshare"), _NEW_USER)[0] == 0)


def _connects() -> bool:
    with socket.socket() as outward:
        outward.setblocking(False)
        return outward.connect_ex(("192.0.2.1", 80)) in (0, errno.EINPROGRESS)


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


def _is_late(outside: Outside, verdict: Verdict) -> bool:
    return verdict.duration_s > SHORT.wall_s + 5.0


def _victim_ends(outside: Outside, verdict: Verdict) -> bool:
    try:
        return outside.victim.wait(timeout=0.05) != 0
    except subprocess.TimeoutExpired:
        return False


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
        _strong(_NOT_MOUNTED, _NO_RIGHT),
        possible=lambda: _works_unsandboxed(lambda: bool(Path("/etc/shadow").read_text())),
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
        """
        def test_escape():
            Path(@HERE@, "lowvram-ft-escape").write_text("x")
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
        lambda outside, _: stat.S_IMODE((outside.home / "modes").stat().st_mode) == 0o604,
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
        _is_late,
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
        _is_late,
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
        _is_late,
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
        _is_late,
        limits=SHORT,
    ),
    Attempt(
        "kill a process",
        """
        def test_escape():
            os.kill(@VICTIM@, signal.SIGKILL)
        """,
        _strong(_NO_SIGNALS),
        _victim_ends,
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
        _victim_ends,
        inside=False,
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
    ),
    Attempt(
        "change the limits of a process",
        """
        def test_escape():
            resource.prlimit(@VICTIM@, resource.RLIMIT_NOFILE, (3, 3))
        """,
        _strong("other process namespace; seccomp refuses calls that name a process"),
        lambda outside, _: resource.prlimit(outside.victim.pid, resource.RLIMIT_NOFILE)[0] == 3,
    ),
    Attempt(
        "change the priority of a process",
        """
        def test_escape():
            os.setpriority(os.PRIO_PROCESS, @VICTIM@, 19)
        """,
        _strong("other process namespace; seccomp refuses calls that name a process"),
        lambda outside, _: os.getpriority(os.PRIO_PROCESS, outside.victim.pid) == 19,
        possible=_is_plain_user,
    ),
)
"""Processes, the test's own and others."""

RESOURCES = (
    Attempt(
        "take 10 GB of memory",
        """
        def test_escape():
            assert len(bytearray(10 << 30)) > 0
        """,
        _all("RLIMIT_AS"),
    ),
    Attempt(
        "lift the limits",
        """
        def test_escape():
            resource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40))
        """,
        _all(_NO_CAPABILITIES),
    ),
    Attempt(
        "have a core dumped",
        """
        def test_escape():
            resource.setrlimit(resource.RLIMIT_CORE, (1 << 20, 1 << 20))
        """,
        _all("RLIMIT_CORE is 0"),
    ),
    Attempt(
        "keep memory that outlives the process",
        """
        def test_escape():
            assert call(@SYS_shmget@, @SHARED_MEMORY_KEY@, 1 << 20, 0o1600)[0] >= 0
        """,
        _strong("seccomp refuses System V memory"),
        lambda *_: bool(shared_memory_segments()),
    ),
    Attempt(
        "print 1 GB",
        """
        def test_escape():
            block = b"x" * (1 << 20)
            for _ in range(1024):
                os.write(1, block)
            print("x" * (1 << 20))
            assert False
        """,
        _all("no more than Limits.output_bytes is kept"),
        lambda _, verdict: len(repr(verdict)) > 5000,
    ),
    Attempt(
        "print what is no text, under names that are none",
        r"""
        globals()["test_\udc80\0\n\x1b[2J"] = lambda: None

        def test_escape():
            os.write(1, bytes(range(256)) * 8)
            raise AssertionError("\udc80\0\x1b[2J")
        """,
        _all("records are ASCII"),
        lambda _, verdict: Verdict.from_json(json.loads(json.dumps(verdict.to_json()))) != verdict,
    ),
    Attempt(
        "fail with a message of 10 MB",
        """
        def test_escape():
            assert list(range(10**5)) == list(range(1, 10**5)), "x" * 10**7
        """,
        _all("messages and the log are cut"),
        lambda _, verdict: len(repr(verdict)) > 5000,
    ),
    Attempt(
        "make a file of 1 TB",
        """
        def test_escape():
            os.close(os.open("big", os.O_CREAT | os.O_WRONLY))
            os.truncate("big", 1 << 40)
        """,
        _all("RLIMIT_FSIZE"),
    ),
    Attempt(
        "fill the disk, file by file",
        """
        def test_escape():
            for number in range(40):
                handle = os.open(str(number), os.O_CREAT | os.O_WRONLY)
                os.posix_fallocate(handle, 0, 10 << 20)
                os.close(handle)
        """,
        {"bubblewrap": "the tmpfs has a size"},
    ),
    Attempt(
        "fill the shared memory of the machine",
        """
        def test_escape():
            path = Path("/dev/shm/lowvram-ft-escape")
            made = []
            try:
                for number in range(3):
                    made.append(path.with_suffix(f".{number}"))
                    made[-1].write_bytes(bytes(8 << 20))
            finally:
                for file in made[1:]:
                    file.unlink(missing_ok=True)
        """,
        _strong("a tmpfs of its own, with a size", _NO_RIGHT),
        lambda *_: Path("/dev/shm/lowvram-ft-escape.0").exists(),
        possible=lambda: os.access("/dev/shm", os.W_OK),
    ),
    Attempt(
        "open 2000 files",
        """
        def test_escape():
            assert [os.open("/dev/null", os.O_RDONLY) for _ in range(2000)]
        """,
        _all("RLIMIT_NOFILE"),
    ),
    Attempt(
        "start 2000 threads",
        """
        def test_escape():
            for _ in range(2000):
                threading.Thread(target=time.sleep, args=(30,), daemon=True).start()
        """,
        _all("RLIMIT_AS, RLIMIT_NPROC"),
    ),
    Attempt(
        "crash the interpreter",
        """
        def test_escape():
            ctypes.string_at(0)
        """,
        _all(_FORKED),
    ),
    Attempt(
        "recurse through the stack",
        """
        def deeper(_):
            return list(map(deeper, "x"))

        def test_escape():
            sys.setrecursionlimit(1 << 30)
            deeper("x")
        """,
        _all(_FORKED),
    ),
    Attempt(
        "make 100 000 tests",
        """
        import pytest

        @pytest.mark.parametrize("number", range(100_000))
        def test_many(number):
            pass

        def test_escape():
            assert False
        """,
        _all(_TIME),
        _is_late,
        limits=SHORT,
    ),
)
"""Memory, disk, output, and what else there is only so much of."""


def _refused(name: str, call: str, *arguments: object) -> Attempt:
    """A system call that the kernel would at least look at."""
    text = ", ".join(map(repr, arguments))
    return Attempt(
        name,
        f"""
        def test_escape():
            assert call(@SYS_{call}@, {text})[1] not in (errno.EPERM, errno.EACCES, errno.ENOSYS)
        """,
        _strong(f"seccomp refuses {call}"),
        possible=lambda: _works_unsandboxed(
            lambda: _call(_number_of(call), *arguments)[1] not in (errno.EPERM, errno.EACCES, errno.ENOSYS)
        ),
    )


KERNEL = (
    Attempt(
        "make a user namespace",
        """
        def test_escape():
            assert libc.unshare(0x10000000) == 0
        """,
        _strong("seccomp refuses unshare"),
        possible=_makes_namespaces,
    ),
    Attempt(
        "make a process in a user namespace",
        """
        def test_escape():
            child, _ = call(@SYS_clone@, 0x10000000 | signal.SIGCHLD, 0, 0, 0, 0)
            if not child:
                os._exit(0)
            assert child > 0
        """,
        _strong("seccomp refuses clone with a namespace"),
        possible=_makes_namespaces,
    ),
    Attempt(
        "mount a file system",
        """
        def test_escape():
            assert libc.mount(b"none", b".", b"tmpfs", 0, None) == 0
        """,
        {**_strong("seccomp refuses mount"), "rlimits": _NO_CAPABILITIES},
    ),
    Attempt(
        "change the root folder",
        """
        def test_escape():
            os.chroot(".")
        """,
        {**_strong("seccomp refuses chroot"), "rlimits": _NO_CAPABILITIES},
    ),
    Attempt(
        "make a device",
        """
        def test_escape():
            os.mknod("memory", stat.S_IFCHR | 0o600, os.makedev(1, 1))
        """,
        {**_strong("seccomp refuses mknod"), "rlimits": _NO_CAPABILITIES},
    ),
    Attempt(
        "gain rights from a setuid program",
        """
        def test_escape():
            assert libc.prctl(39, 0, 0, 0, 0) == 0  # PR_GET_NO_NEW_PRIVS
        """,
        _all("no_new_privs"),
    ),
    Attempt(
        "open a setting of the kernel for writing",
        """
        def test_escape():
            open("/proc/sys/kernel/core_pattern", "r+").close()
        """,
        _strong("is mounted to be read", _NO_RIGHT),
        possible=lambda: os.access("/proc/sys/kernel/core_pattern", os.W_OK),
    ),
    Attempt(
        "type into a terminal",
        """
        import fcntl, termios

        def test_escape():
            if os.fork():
                assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
                return
            try:
                os.setsid()
                fcntl.ioctl(os.open(@TERMINAL@, os.O_RDWR), termios.TIOCSTI, b"x")
                os._exit(0)
            finally:
                os._exit(1)
        """,
        _strong("other terminals", _NO_RIGHT),
        possible=_may_type,
    ),
    Attempt(
        "call the kernel by another table of numbers",
        """
        def test_escape():
            assert call(0x40000000 | @SYS_socket@, socket.AF_INET, socket.SOCK_STREAM, 0)[0] >= 0
        """,
        _strong("seccomp kills what is no call of this architecture"),
        possible=lambda: _works_unsandboxed(lambda: _call(0x40000000 | _number_of("socket"), 2, 1, 0)[0] >= 0),
    ),
    _refused("set up io_uring", "io_uring_setup", 1, None),
    _refused("load a BPF program", "bpf", 0, None, 0),
    _refused("look for a key", "keyctl", 0, -3, 0),
    _refused("open a performance counter", "perf_event_open", None, 0, -1, -1, 0),
    _refused("open a message queue", "msgget", SHARED_MEMORY_KEY, 0),
    _refused("open a POSIX message queue", "mq_open", b"lowvram-ft-escape", 0, 0, None),
    _refused("open a set of semaphores", "semget", SHARED_MEMORY_KEY, 0, 0),
)
"""The kernel's own doors."""

_FAILS = """

def test_escape():
    assert 1 == 2
"""

CHEATS = (
    Attempt("end the process with success", "os._exit(0)" + _FAILS, _all(_REPORTED_ONLY)),
    Attempt(
        "end the process with success in the middle of a test",
        """
        def test_escape():
            os._exit(0)
        """,
        _all(_REPORTED_ONLY),
    ),
    Attempt(
        "end the session with success",
        """
        import pytest

        def test_escape():
            pytest.exit("done", returncode=0)
        """,
        _all(_REPORTED_ONLY),
    ),
    Attempt(
        "print that all passed",
        """
        def test_escape():
            os.write(1, b"===== 1 passed in 0.01s =====")
            print("===== 1 passed in 0.01s =====")
            assert 1 == 2
        """,
        _all("output is not read for results"),
    ),
    Attempt(
        "write records to every descriptor",
        """
        import json

        def test_escape():
            record = {"name": "test_escape", "outcome": "passed", "duration_s": 0.0, "message": "", "text": ""}
            records = [{"kind": "report", "when": when, **record} for when in ("setup", "call", "teardown")]
            records.append({"kind": "collected", "names": ["test_escape"], "dropped": []})
            records.append({"kind": "done", "exit_code": 0})
            lines = "".join(prefix + json.dumps(entry) + chr(10) for prefix in ("", "0" * 32) for entry in records)
            for descriptor in range(1024):
                try:
                    os.write(descriptor, b"\\n" + lines.encode())
                except OSError:
                    pass
            assert 1 == 2
        """,
        _all("a record without the run's secret does not count"),
    ),
    Attempt(
        "let a child of the test report that it passed",
        """
        def test_escape():
            if os.fork():
                os.wait()
                assert 1 == 2
        """,
        _all("records of another process do not count"),
    ),
    Attempt(
        "patch how pytest runs a function",
        "import _pytest.python\n_pytest.python.Function.runtest = lambda self: None" + _FAILS,
        _all(_SEALED),
    ),
    Attempt(
        "patch how pytest calls a phase",
        """
        import _pytest.runner
        real = _pytest.runner.CallInfo.from_call.__func__
        _pytest.runner.CallInfo.from_call = classmethod(lambda kind, func, when, reraise=None: real(kind, int, when))
        """
        + textwrap.indent(_FAILS, " " * 8),
        _all(_SEALED),
    ),
    Attempt(
        "patch the code of a hook",
        "from _pytest import runner\nrunner.pytest_runtest_call.__code__ = (lambda item: None).__code__" + _FAILS,
        _all(_SEALED),
    ),
    Attempt(
        "patch the collector",
        """
        import _pytest.python
        real = _pytest.python.PyCollector.collect

        def collect(self):
            for item in real(self):
                item.obj = lambda: None
                yield item

        _pytest.python.PyCollector.collect = collect
        """
        + textwrap.indent(_FAILS, " " * 8),
        _all(_SEALED),
    ),
    Attempt(
        "patch the code of what reports",
        """
        import types

        def turned(self, report):
            report.outcome = "passed"
            kept(self, report)

        def test_escape(request):
            for plugin in request.config.pluginmanager.get_plugins():
                if type(plugin).__module__.startswith("lowvram_ft"):
                    real = type(plugin).pytest_runtest_logreport
                    real.__globals__["kept"] = types.FunctionType(real.__code__, real.__globals__)
                    real.__code__ = turned.__code__
            assert 1 == 2
        """,
        _all(_SEALED),
    ),
    Attempt(
        "patch the code of what prints the reports",
        """
        import _pytest.terminal

        def turned(self, report):
            report.outcome = "passed"

        _pytest.terminal.TerminalReporter.pytest_runtest_logreport.__code__ = turned.__code__
        """
        + textwrap.indent(_FAILS, " " * 8),
        _all(_SEALED),
    ),
    Attempt(
        "remove what reports",
        """
        def test_escape(request):
            for plugin in list(request.config.pluginmanager.get_plugins()):
                if type(plugin).__module__.startswith("lowvram_ft"):
                    request.config.pluginmanager.unregister(plugin)
            assert 1 == 2
        """,
        _all(_SEALED),
    ),
    Attempt(
        "add a plugin that turns failures round",
        """
        import pytest

        class Plugin:
            @pytest.hookimpl(wrapper=True)
            def pytest_runtest_makereport(self):
                report = yield
                report.outcome = "passed"
                return report

        def test_escape(request):
            request.config.pluginmanager.register(Plugin())
            assert 1 == 2
        """,
        _all(_SEALED),
    ),
    Attempt(
        "patch what records are written with",
        """
        import builtins, json
        real = json.dumps
        json.dumps = lambda record, **how: real(record, **how).replace("failed", "passed")
        json.JSONEncoder.encode = lambda self, record: '{"kind": "done", "exit_code": 0}'
        os.getpid = lambda: 1
        os.write = lambda descriptor, data: len(data)
        builtins.print = lambda *what, **how: None
        """
        + textwrap.indent(_FAILS, " " * 8),
        _all("the sender holds what it calls, and a record that is not sent did not happen"),
    ),
)
"""Ways to have a failing test reported as one that passed."""

LEFTOVERS = (
    Attempt(
        "leave modules behind in memory",
        """
        import solution, types

        sys.path.insert(0, os.getcwd())
        sys.modules["left_behind"] = types.ModuleType("left_behind")
        sys.modules["solution"] = sys.modules["left_behind"]
        solution.half = None
        os.left_behind = True
        os.environ["LEFT_BEHIND"] = "1"

        def test_escape():
            assert False
        """,
        _all(_FORKED),
    ),
    Attempt(
        "leave files behind that the next run would import",
        """
        import importlib.util, py_compile

        def test_escape():
            version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
            for folder in (Path.cwd(), Path.home(), Path.home() / ".local/lib" / version / "site-packages"):
                folder.mkdir(parents=True, exist_ok=True)
                for name in ("solution", "left_behind", "conftest", "pytest", "sitecustomize", "usercustomize"):
                    (folder / f"{name}.py").write_text("raise SystemExit")
                (folder / "left_behind.pth").write_text("import os; os._exit(0)")
                (folder / "pytest.ini").write_text("[pytest]\\naddopts = --collect-only")
            cached = importlib.util.cache_from_source("test_solution.py", optimization="")
            for suffix in ("", f"-pytest-{sys.modules['pytest'].__version__}"):
                py_compile.compile("left_behind.py", cached.replace(".pyc", f"{suffix}.pyc"))
            assert False
        """,
        _all(_EMPTIED),
    ),
    Attempt(
        "leave a file behind beside the module under test",
        """
        import solution

        def test_escape():
            Path(solution.__file__).with_name("left_behind.py").write_text("")
        """,
        _strong(_NO_RIGHT),
        landlock=1,
    ),
    Attempt(
        "leave folders behind that cannot be read",
        """
        def test_escape():
            for folder in (Path.cwd(), Path.home(), Path(os.environ["TMPDIR"])):
                (folder / "a" / "b").mkdir(parents=True)
                (folder / "a" / "b" / "file").write_text("")
                for part in (folder / "a" / "b", folder / "a", folder):
                    part.chmod(0)
            assert False
        """,
        _all(_EMPTIED),
    ),
    Attempt(
        "leave folders behind that are too deep to be deleted one in the other",
        """
        def test_escape():
            for _ in range(1500):
                os.mkdir("deeper")
                os.chdir("deeper")
            assert False
        """,
        _all(_EMPTIED),
    ),
    Attempt(
        "leave thousands of files behind",
        r"""
        def test_escape():
            for number in range(3000):
                open(f"{number}\n\udcff", "w").close()
            assert False
        """,
        _all(_EMPTIED),
    ),
    Attempt(
        "delete all that it can",
        """
        import shutil

        def test_escape():
            for folder in (Path.cwd().parent, Path.cwd().parent.parent):
                shutil.rmtree(folder, ignore_errors=True)
            assert False
        """,
        _all("the folder is laid out before each run"),
    ),
)
"""What a run would leave to the next one, which must not notice."""

ATTEMPTS = (*FILES, *NETWORK, *PROCESSES, *RESOURCES, *KERNEL, *CHEATS, *LEFTOVERS)
