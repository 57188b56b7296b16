"""Draws the view, from a thread of its own: no work waits for the terminal, and no Ctrl-C finds it half-drawn."""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import suppress
from typing import TextIO

from rich.console import Console, ConsoleDimensions
from rich.live import Live
from rich.text import Text

from lowvram_ft.progress.capture import Capture
from lowvram_ft.progress.frame import ASCII, UNICODE, frame
from lowvram_ft.progress.state import State

DELAY_S = 0.4
"""What is over sooner is not worth a view."""
REFRESH_S = 0.5
"""Seconds between two looks at what has changed."""
PATIENCE_S = 2.0
"""How long the end waits for a terminal that does not take what is written to it (Ctrl-S)."""


class Screen:
    """The view, from its making to `close`.

    Args:
        stream: the terminal.
        state: what is shown; changed under the lock alone.
        lock: of the state.
    """

    def __init__(self, stream: TextIO, state: State, lock: threading.RLock) -> None:
        self._stream, self._state, self._lock = stream, state, lock
        self._pending: list[str] = []
        self._capture: Capture | None = None
        self._up = self._ending = False
        self._wake = threading.Event()
        self._changes = 0
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)
        self._thread.start()

    def line(self, text: str) -> None:
        """One whole line, above the view where it is up."""
        with self._lock:
            if not self._up:
                self._stream.write(f"{text}\n")
                self._stream.flush()
            elif self._capture is not None:
                self._capture.write(f"{text}\n")
            else:
                self._pending.append(text)
        self._wake.set()

    def changed(self) -> None:
        """The state has changed, which the next look will show."""
        self._changes += 1

    def close(self) -> None:
        """Take the view away; what was said stays. The standard streams are what they were."""
        if os.getpid() != self._pid:  # a fork has the object and not the thread
            return
        with self._lock:
            self._ending = True
            if self._capture is not None:
                self._capture.restore()
        self._wake.set()
        self._thread.join(PATIENCE_S)

    def _run(self) -> None:
        if self._ends_within(DELAY_S):
            return
        own = _own_stream(self._stream)
        with self._lock:
            if self._ending:
                return
            if own is not self._stream and sys.platform != "win32":  # there, consoles are no file descriptors
                self._capture = Capture(own.fileno())
            self._up = True
        drawing = Drawing(own, captured=self._capture is not None)
        shown: tuple[object, ...] = ()
        while not self._ending:
            self._print_lines(drawing)
            found = (self._changes, int(time.monotonic()), drawing.measure())
            if not drawing.in_foreground():
                drawing.abandon()
                shown = ()
            elif found != shown:
                shown = found
                self._draw(drawing)
            self._wake.wait(REFRESH_S)
            self._wake.clear()
        self._print_lines(drawing)
        drawing.end()
        if self._capture is not None:
            own.write(self._capture.rest())
            own.close()
            self._capture.close()

    def _draw(self, drawing: Drawing) -> None:
        memory = self._state.meter()  # not under the lock: it is somebody else's code
        with self._lock:
            rows = frame(self._state, memory, time.monotonic(), drawing.measure(), drawing.glyphs)
        drawing.draw(rows)

    def _ends_within(self, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while not self._ending and (left := end - time.monotonic()) > 0:
            self._wake.wait(left)
            self._wake.clear()
        return self._ending

    def _print_lines(self, drawing: Drawing) -> None:
        lines = self._capture.lines() if self._capture is not None else []
        with self._lock:
            lines += self._pending
            self._pending.clear()
        for line in lines:
            drawing.print(line)


class Drawing:
    """Rich's live view on one terminal.

    Args:
        stream: the terminal.
        captured: whether the standard streams lead elsewhere; else what Python writes to stderr is led around the view.

    Attributes:
        glyphs: those that the terminal's encoding has.
    """

    def __init__(self, stream: TextIO, *, captured: bool) -> None:
        self._stream, self._captured = stream, captured
        self._console = _Console(file=stream, highlight=False, markup=False, emoji=False)
        self._live: Live | None = None
        self.glyphs = ASCII if self._console.options.ascii_only else UNICODE

    def measure(self) -> tuple[int, int]:
        """Columns and rows of the terminal, now."""
        with suppress(OSError, ValueError):  # something that says that it is a terminal, and is none
            columns, rows = os.get_terminal_size(self._stream.fileno())
            if columns > 0 and rows > 0:
                return columns, rows
        return self._console.size

    def in_foreground(self) -> bool:
        """Whether the terminal is this process's to draw on; not after ``bg``, or with ``&``."""
        if sys.platform == "win32":
            return True
        try:
            return os.tcgetpgrp(self._stream.fileno()) == os.getpgrp()
        except (OSError, ValueError):  # a terminal that controls nobody, as in some containers
            return True

    def draw(self, rows: Text) -> None:
        """Put the view in place of the one before."""
        self._console.size = ConsoleDimensions(*self.measure())
        if self._live is None:
            self._live = Live(
                console=self._console,
                auto_refresh=False,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=not self._captured,
                vertical_overflow="crop",
            )
            self._live.start()
        self._live.update(rows, refresh=True)

    def print(self, line: str) -> None:
        """A line above the view, as long as it may be; the colours in it stay."""
        self._console.print(Text.from_ansi(line), soft_wrap=True)

    def abandon(self) -> None:
        """Leave the view where it is: the terminal is another's now, and what stands there as well."""
        if self._live is not None:
            self._console.clear_live()
            self._live = None

    def end(self) -> None:
        """Take the view away."""
        if self._live is not None:
            self._live.stop()
            self._live = None


class _Console(Console):
    """Leaves the cursor visible: nobody could give it back where the process is killed or suspended."""

    def show_cursor(self, show: bool = True) -> bool:
        """Nothing."""
        del show
        return False


def _own_stream(stream: TextIO) -> TextIO:
    """The terminal under a file descriptor of its own, if the stream is standard error; else the stream itself."""
    try:
        number = stream.fileno()
    except (OSError, ValueError):
        return stream
    if number != 2:
        return stream
    return os.fdopen(os.dup(number), "w", encoding=stream.encoding, errors="backslashreplace")
