"""A seccomp filter: system calls that no test needs, and that reach past its own process.

No sockets of any family (pairs of connected ones stay), no tracing, no namespaces or mounts, no kernel keyrings,
no BPF, performance counters, io_uring or userfaultfd. A refused call fails with EPERM. The filter is loaded into
the server once and inherited by all that it forks. It stands on libseccomp, through pyseccomp.

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
    *("init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load", "reboot", "syslog"),
    *("swapon", "swapoff", "acct", "quotactl", "nfsservctl", "sethostname", "setdomainname", "settimeofday"),
    *("clock_settime", "adjtimex", "clock_adjtime", "iopl", "ioperm", "vhangup", "mknod", "mknodat"),
)
_SIGNALS = ("kill", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo")
_NEW_NAMESPACES = 0x7E020000
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET; of NEWTIME ``clone`` knows nothing."""


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
    rules.load()


def forbid_signals() -> None:
    """Let the calling process send signals to itself alone; for kernels whose Landlock does not bound signals."""
    import pyseccomp

    me = os.getpid()
    rules = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    for name in _SIGNALS:
        _refuse(rules, name, pyseccomp.Arg(0, pyseccomp.NE, me))
    _refuse(rules, "pidfd_send_signal")
    rules.load()


def _refuse(rules: Any, name: str, *conditions: Any) -> None:
    import pyseccomp

    if pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name) < 0:
        return  # this architecture has no such call
    rules.add_rule(pyseccomp.ERRNO(errno.EPERM), name, *conditions)
