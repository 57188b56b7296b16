"""Landlock: a process takes rights to files away from itself, and from all that it will start.

It covers reading, writing, making, moving and running files; from version 4 of its interface TCP; from version 6
signals and abstract Unix sockets to the outside; and tracing of processes outside. It does not cover other
sockets (the seccomp filter does), ``stat`` and ``chdir``, nor how much is written.

Source: landlock(7) and linux/landlock.h; numbers of system calls from asm-generic/unistd.h.
"""

from __future__ import annotations

import ctypes
import functools
import os
import stat
import struct
import sys
from collections.abc import Iterable
from pathlib import Path

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION_FLAG = 1
_PATH_BENEATH = 1
_NO_NEW_PRIVS = 38

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_TRUNCATE, _IOCTL_DEV = 1 << 14, 1 << 15
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_FILE_RIGHTS = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_RIGHTS_BY_VERSION = {1: (1 << 13) - 1, 2: 1 << 13, 3: _TRUNCATE, 5: _IOCTL_DEV}
_TCP = 0b11
_SCOPES = 0b11
SIGNALS_SINCE = 6
"""First version of the interface that keeps signals inside."""


@functools.cache
def version() -> int:
    """Version of the kernel's Landlock interface; 0 where it has none."""
    if not sys.platform.startswith("linux"):
        return 0
    answer: int = _libc().syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION_FLAG)
    return max(0, answer)


def problem() -> str | None:
    """Why Landlock cannot be used here, and what would change that; None where it can."""
    if version() > 0:
        return None
    return "this kernel has no Landlock; it needs Linux 5.13, with landlock among the lsm= of its command line"


class Ruleset:
    """What a process may still do with files once it is restricted: a descriptor, made before it forks.

    Args:
        readable: files and folders, with all below, that may be read and run.
        writable: folders below which everything may be done, and device files that may be written.
        most: highest version of the interface to use, for tests of older kernels.

    Raises:
        OSError: a path cannot be opened, or the kernel refuses.
    """

    def __init__(self, readable: Iterable[Path], writable: Iterable[Path], most: int = 1 << 30) -> None:
        found = min(version(), most)
        self.version = found
        self.rights = 0
        for since, rights in _RIGHTS_BY_VERSION.items():
            self.rights |= rights if found >= since else 0
        fields = [self.rights, _TCP if found >= 4 else 0, _SCOPES if found >= SIGNALS_SINCE else 0]
        size = 8 if found < 4 else 16 if found < SIGNALS_SINCE else 24
        attributes = struct.pack("=QQQ", *fields)[:size]
        self.descriptor = _check(_libc().syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(size), 0))
        for path in readable:
            self._allow(path, _READ)
        for path in writable:
            self._allow(path, self.rights)

    def apply(self) -> None:
        """Restrict the calling process, for good."""
        libc = _libc()
        _check(libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0))
        _check(libc.syscall(_RESTRICT_SELF, self.descriptor, 0))

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self.descriptor)

    def _allow(self, path: Path, rights: int) -> None:
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            if not stat.S_ISDIR(os.fstat(handle).st_mode):
                rights &= _FILE_RIGHTS
            rule = struct.pack("=Qi", rights & self.rights, handle)
            _check(_libc().syscall(_ADD_RULE, self.descriptor, _PATH_BENEATH, rule, 0))
        finally:
            os.close(handle)


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _check(answer: int) -> int:
    if answer < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"landlock: {os.strerror(number)}")
    return answer
