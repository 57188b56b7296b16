"""What others write to the terminal while the view is on it: warnings, libraries in C, child processes.

Where standard output and error are the terminal, they become a file in memory, by their file descriptors, so that
whatever inherits them is caught as well; the view prints what it finds there above itself. A file never makes a writer
wait, as a pipe would that nobody reads. A small process watches: where this one is killed, or aborts in native code,
it prints what has not been read, which is what one wants to know then.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from contextlib import suppress

_SHARED_MEMORY = "/dev/shm"
_WATCH = """
import os, sys
if not os.read(0, 1):
    text = b"\\n"
    while text:
        os.write(2, text)
        text = os.read(int(sys.argv[1]), 65536)
"""


class Capture:
    """The standard streams in a file, from its making to `restore`.

    Args:
        terminal: file descriptor of the terminal that the view is on; stays what it is.
    """

    def __init__(self, terminal: int) -> None:
        folder = _SHARED_MEMORY if os.access(_SHARED_MEMORY, os.W_OK) else None
        writer, path = tempfile.mkstemp(prefix="lowvram-ft-", dir=folder)
        self._reader = os.open(path, os.O_RDONLY)
        os.close(writer)
        self._writer = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.unlink(path)
        self._partial = b""
        self._watcher = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _WATCH, str(self._reader)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=terminal,
            pass_fds=[self._reader],
            start_new_session=True,  # Ctrl-C is for this process
        )
        self._saved = {number: os.dup(number) for number in (1, 2) if _same_terminal(number, terminal)}
        _flush()
        for number in self._saved:
            os.dup2(self._writer, number)

    def write(self, text: str) -> None:
        """Add a text of our own, in its order among those of others."""
        os.write(self._writer, text.encode("utf-8", "backslashreplace"))

    def lines(self) -> list[str]:
        """What was written since the last call, as far as its lines are whole.

        Of a line that was written over, as progress bars do, what a reader would see at its end.
        """
        found = [self._partial]
        while chunk := os.read(self._reader, 1 << 16):
            found.append(chunk)
        *whole, self._partial = b"".join(found).split(b"\n")
        self._partial = self._partial[self._partial.rfind(b"\r", 0, -1) + 1 :]
        return [_seen(line) for line in whole]

    def rest(self) -> str:
        """A last line without an end."""
        found, self._partial = _seen(self._partial), b""
        return found

    def restore(self) -> None:
        """Give the standard streams back; a second time changes nothing."""
        _flush()
        while self._saved:
            number, saved = self._saved.popitem()
            os.dup2(saved, number)
            os.close(saved)

    def close(self) -> None:
        """Let go of the file, after `restore`, and of what watches."""
        with suppress(BrokenPipeError):  # somebody killed it
            self._watcher.communicate(b"q")
        os.close(self._writer)
        os.close(self._reader)


def _same_terminal(number: int, terminal: int) -> bool:
    return os.isatty(number) and os.fstat(number).st_rdev == os.fstat(terminal).st_rdev


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # a closed one has nothing left to write
            stream.flush()


def _seen(line: bytes) -> str:
    return line.removesuffix(b"\r").rpartition(b"\r")[2].decode("utf-8", "replace")
