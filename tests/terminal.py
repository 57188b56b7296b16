"""A command in a terminal of its own, and what a person would see there: pyte, an emulator, is the judge."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pyte

ROOT = Path(__file__).resolve().parent.parent


class Terminal:
    """A command at work in a pseudo-terminal.

    Args:
        command: what is run; it leads the terminal's session, as a shell would have it.
        columns: of the terminal.
        rows: of the terminal.
        folder: where it is run.
        env: more environment; an empty value removes a variable.
        stdout: a file for standard output; None for the terminal.
    """

    def __init__(
        self,
        command: Sequence[object],
        columns: int = 80,
        rows: int = 24,
        *,
        folder: Path = ROOT,
        env: Mapping[str, str] | None = None,
        stdout: Path | None = None,
    ) -> None:
        self._screen = pyte.HistoryScreen(columns, rows, history=10_000)
        self._stream = pyte.ByteStream(self._screen)
        self.raw = b""
        variables = {"TERM": "xterm-256color", "PYTHONPATH": str(ROOT), "LANG": "C.UTF-8", **(env or {})}
        removed = {"COLUMNS", "LINES", "NO_COLOR", "LOWVRAM_FT_PROGRESS", "WORLD_SIZE", "CI"}
        kept = {key: value for key, value in os.environ.items() if key not in removed}
        environment = {key: value for key, value in {**kept, **variables}.items() if value}
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            os.chdir(folder)
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            if stdout is not None:
                os.dup2(os.open(stdout, os.O_CREAT | os.O_WRONLY | os.O_TRUNC), 1)
            time.sleep(0.05)  # until the terminal has its size
            os.execvpe(str(command[0]), [str(word) for word in command], environment)
        self.resize(columns, rows)
        self.code: int | None = None

    @property
    def lines(self) -> list[str]:
        """The rows of the screen, without those that are empty at its end."""
        found = [line.rstrip() for line in self._screen.display]
        while found and not found[-1]:
            found.pop()
        return found

    @property
    def scrollback(self) -> list[str]:
        """The rows that have left the screen at its top, and then those on it."""
        above = ["".join(row[x].data for x in range(self._screen.columns)) for row in self._screen.history.top]
        return [line.rstrip() for line in above] + self.lines

    @property
    def cursor_hidden(self) -> bool:
        """Whether the cursor was left invisible."""
        return bool(self._screen.cursor.hidden)

    def resize(self, columns: int, rows: int) -> None:
        """Give the window another size."""
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self._screen.resize(rows, columns)

    def press(self, keys: bytes) -> None:
        """Type."""
        os.write(self._fd, keys)

    def echoes(self) -> bool:
        """Whether the terminal shows what is typed, as a shell leaves it."""
        return bool(termios.tcgetattr(self._fd)[3] & termios.ECHO)

    def wait(self, condition: Callable[[list[str]], bool], timeout_s: float = 60.0) -> list[str]:
        """Read until the screen shows something, and the rest of what was written with it.

        Fails where the command ends first.
        """
        end = time.monotonic() + timeout_s
        while not condition(self.lines):
            assert time.monotonic() < end, "\n".join(self.lines)
            assert self._read(0.05), f"ended before it was seen: {self.lines}"
        last = min(end, time.monotonic() + 1.0)
        while time.monotonic() < last and select.select([self._fd], [], [], 0.1)[0] and self._read(0.0):
            pass  # a terminal hands over a view in pieces: until it is silent for a moment
        return self.lines

    def settle(self, seconds: float) -> None:
        """Read for so long."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and self._read(left):
            pass

    def finish(self, timeout_s: float = 60.0) -> list[str]:
        """Read to the end of the command; its exit code is in ``code``."""
        end = time.monotonic() + timeout_s
        while self._read(0.1):
            if time.monotonic() > end:
                os.kill(self.pid, signal.SIGKILL)
                raise AssertionError("\n".join(self.lines))
        self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.close(self._fd)
        return self.lines

    def _read(self, timeout_s: float) -> bool:
        if not select.select([self._fd], [], [], timeout_s)[0]:
            return True
        try:
            found = os.read(self._fd, 1 << 16)
        except OSError:  # Linux says so where the last process has closed its side
            return False
        self.raw += found
        self._stream.feed(found)
        return bool(found)
