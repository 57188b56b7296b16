"""Where the bytes of a safetensors file come from: a file on this machine, or a range of one on a hub."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import BrokenFileError

Bytes = NDArray[np.uint8]


class ByteSource(Protocol):
    """Bytes that can be read at any place, from several threads at once.

    ``str()`` of one is its name in messages.
    """

    @property
    def size(self) -> int:
        """How many bytes there are."""

    def read(self, offset: int, n_bytes: int, what: str, end: int = 0) -> Bytes:
        """Read exactly ``n_bytes`` from ``offset``, as a fresh array.

        Args:
            offset: the first byte.
            n_bytes: how many.
            what: what is read (a tensor's name), for messages.
            end: where ``what`` ends: a source that is slow to answer may fetch ahead up to there.

        Raises:
            ExportError: they cannot be had; the message names the source and ``what``.
        """


@dataclass(frozen=True)
class LocalFile:
    """A file on this machine.

    It is opened for each read: nothing is shared between threads, nothing stays open, and a file that was
    replaced in the meantime is noticed. An ``open`` costs microseconds beside the megabytes that follow.

    Attributes:
        path: the file.
        size: its size in bytes when it was opened.
        modified_ns: when it was last written to, then.
    """

    path: Path
    size: int
    modified_ns: int

    @classmethod
    def open(cls, path: Path) -> LocalFile:
        """Look a file up.

        Raises:
            BrokenFileError: it is not there, or cannot be read.
        """
        try:
            status = path.stat()
        except FileNotFoundError as error:
            raise BrokenFileError(f"{path}: no such file; fetch or save the weights again") from error
        except OSError as error:
            raise BrokenFileError(f"{path}: cannot be read ({error.strerror}); check the disk") from error
        return cls(path, status.st_size, status.st_mtime_ns)

    def read(self, offset: int, n_bytes: int, what: str, end: int = 0) -> Bytes:
        """See `ByteSource.read`."""
        del end  # the system reads ahead by itself
        values = np.empty(n_bytes, np.uint8)
        try:
            descriptor = os.open(self.path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0))
            try:
                done = _fill(descriptor, values.data, offset)
                changed = os.fstat(descriptor).st_mtime_ns != self.modified_ns
            finally:
                os.close(descriptor)
        except FileNotFoundError as error:
            raise BrokenFileError(
                f"{self.path}: {what}: the file disappeared while it was read; fetch or save it again"
            ) from error
        except OSError as error:
            raise BrokenFileError(f"{self.path}: {what}: cannot be read ({error.strerror}); check the disk") from error
        if done < n_bytes:
            raise BrokenFileError(
                f"{self.path}: {what}: the file became shorter while it was read "
                f"({done} of {n_bytes} bytes at {offset}); fetch or save it again"
            )
        if changed:
            raise BrokenFileError(
                f"{self.path}: {what}: the file was written to while it was read; "
                "run the export again once it is finished"
            )
        return values

    def __str__(self) -> str:
        return str(self.path)


def _fill(descriptor: int, view: memoryview, offset: int) -> int:
    """Read until ``view`` is full or the file ends: one call returns at most 2 GiB, and may be cut short."""
    done = 0
    while done < len(view):
        # pread takes the position with it, so that no two threads share one; Windows has none, but the
        # descriptor is this call's own there, too.
        if hasattr(os, "preadv"):
            got = os.preadv(descriptor, [view[done:]], offset + done)
        else:
            os.lseek(descriptor, offset + done, os.SEEK_SET)
            chunk = os.read(descriptor, min(len(view) - done, 1 << 24))
            view[done : done + len(chunk)] = chunk
            got = len(chunk)
        if got == 0:
            break
        done += got
    return done
