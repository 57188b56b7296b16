"""A seccomp filter: system calls that no test needs, and that reach past its own process.

No sockets of any family (pairs of connected streams stay), no tracing, no namespaces or mounts, no kernel
keyrings, no shared memory, semaphores or message queues that outlive a process, no BPF, performance counters,
io_uring or userfaultfd, no limits or priorities of other processes. A refused call fails with EPERM. The filter is
loaded into the server once and inherited by all that it forks. It stands on libseccomp, through pyseccomp.

Source: seccomp(2), seccomp_rule_add(3).
"""

from __future__ import annotations

import errno
import os
import sys
from typing import Any

REFUSED = (
    *("socket", "connect", "bind", "listen", "accept", "accept4"),
    *("ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "kcmp", "pidfd_getfd"),
    *("unshare", "setns", "mount", "umount2", "pivot_root", "chroot", "move_mount", "open_tree", "fsopen"),
    *("fsconfig", "fsmount", "fspick", "mount_setattr", "name_to_handle_at", "open_by_handle_at"),
    *("add_key", "request_key", "keyctl", "bpf", "perf_event_open", "userfaultfd"),
    *("io_uring_setup", "io_uring_enter", "io_uring_register"),
    *("shmget", "shmat", "shmctl", "semget", "semop", "semtimedop", "semctl", "msgget", "msgsnd", "msgrcv", "msgctl"),
    *("mq_open", "mq_unlink", "move_pages", "migrate_pages", "process_mrelease", "fanotify_init", "quotactl_fd"),
    *("init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load", "reboot", "syslog"),
    *("swapon", "swapoff", "acct", "quotactl", "nfsservctl", "sethostname", "setdomainname", "settimeofday"),
    *("clock_settime", "adjtimex", "clock_adjtime", "iopl", "ioperm", "vhangup", "mknod", "mknodat"),
)
_SIGNALS = ("kill", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo")
_NEW_NAMESPACES = 0x7E020000
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET; of NEWTIME ``clone`` knows nothing."""
_OF_A_PROCESS = ("prlimit64", "sched_setaffinity", "sched_setscheduler", "sched_setparam", "sched_setattr")
"""Calls that change the process that their first argument names, the caller where it is 0."""
_UNIX, _DATAGRAM, _RAW, _SOCKET_TYPES = 1, 2, 3, 0xF
_SET_OWNER, _SET_OWNER_EX = 8, 15
_METADATA = (
    *("chmod", "fchmod", "fchmodat", "fchmodat2", "utime", "utimes", "futimesat", "utimensat"),
    *("chown", "fchown", "lchown", "fchownat", "file_setattr"),
    *("setxattr", "lsetxattr", "fsetxattr", "setxattrat", "removexattr", "lremovexattr", "fremovexattr"),
    *("removexattrat", "inotify_add_watch"),
)
_SET_FLAGS = (0x40086602, 0x40046602, 0x401C5820)
"""FS_IOC_SETFLAGS, FS_IOC32_SETFLAGS and FS_IOC_FSSETXATTR."""
_NUMBERS = {"fchmodat2": 452, "setxattrat": 463, "removexattrat": 466, "file_setattr": 469}
"""Of calls that are younger than some versions of libseccomp; the same on every architecture."""


def problem() -> str | None:
    """Why there is no filter here, and what would change that; None where there is one."""
    if not sys.platform.startswith("linux"):
        return "seccomp needs Linux"
    try:
        import pyseccomp
    except ImportError:
        return "pyseccomp is not installed; run: pip install pyseccomp"
    except (OSError, RuntimeError, AttributeError):
        return "libseccomp is not installed; run: sudo apt install libseccomp2"
    if pyseccomp.get_api() < 1:
        return "this kernel has no seccomp filters"
    return None


def load() -> None:
    """Put the calling process, and all it will start, under the filter for good."""
    import pyseccomp

    rules = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    for name in REFUSED:
        _refuse(rules, name)
    # of clone's flags the first argument alone says which namespaces; clone3 hides them behind a pointer
    for bit in (1 << shift for shift in range(32) if _NEW_NAMESPACES >> shift & 1):
        _refuse(rules, "clone", pyseccomp.Arg(0, pyseccomp.MASKED_EQ, bit, bit))
    rules.add_rule(pyseccomp.ERRNO(errno.ENOSYS), "clone3")
    for name in _OF_A_PROCESS:
        _refuse(rules, name, pyseccomp.Arg(0, pyseccomp.NE, 0))
    for name, of_a_process in (("setpriority", os.PRIO_PROCESS), ("ioprio_set", 1)):
        _refuse(rules, name, pyseccomp.Arg(0, pyseccomp.NE, of_a_process))
        _refuse(rules, name, pyseccomp.Arg(1, pyseccomp.NE, 0))
    # a datagram socket of a connected pair sends to any address that it is given
    _refuse(rules, "socketpair", pyseccomp.Arg(0, pyseccomp.NE, _UNIX))
    for kind in (_DATAGRAM, _RAW):
        _refuse(rules, "socketpair", pyseccomp.Arg(1, pyseccomp.MASKED_EQ, _SOCKET_TYPES, kind))
    rules.load()


def forbid_metadata() -> None:
    """Keep the calling process from what Landlock does not bound: modes, owners, times, attributes, watching of files.

    A call for modes or times seems to be done, so that what copies a file with them still can.
    """
    import pyseccomp

    rules = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    for name in _METADATA:
        pretended = name.startswith(("chmod", "fchmod", "ut", "fut"))
        _refuse(rules, name, number=0 if pretended else errno.EPERM)
    for request in _SET_FLAGS:
        _refuse(rules, "ioctl", pyseccomp.Arg(1, pyseccomp.MASKED_EQ, 0xFFFFFFFF, request), number=errno.ENOTTY)
    rules.load()


def forbid_signals() -> None:
    """Let the calling process send signals to itself alone; for kernels whose Landlock does not bound signals."""
    import pyseccomp

    me = os.getpid()
    rules = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    for name in _SIGNALS:
        _refuse(rules, name, pyseccomp.Arg(0, pyseccomp.NE, me))
    _refuse(rules, "pidfd_send_signal")
    for request in (_SET_OWNER, _SET_OWNER_EX):
        _refuse(rules, "fcntl", pyseccomp.Arg(1, pyseccomp.MASKED_EQ, 0xFFFFFFFF, request))
    rules.load()


def _refuse(rules: Any, name: str, *conditions: Any, number: int = errno.EPERM) -> None:
    import pyseccomp

    call = pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name)
    if call < 0:
        call = _NUMBERS.get(name, -1)
    if call >= 0:  # else this architecture has no such call
        rules.add_rule(pyseccomp.ERRNO(number), call, *conditions)
