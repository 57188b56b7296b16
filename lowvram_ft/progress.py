"""Progress on stderr: a live line in a terminal, plain lines when piped."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

PLAIN_EVERY_S = 10.0
"""Seconds between two plain lines of the same task."""


class Progress:
    """Says what is being done, how far it is, and how long it will take.

    Args:
        stream: where to write; stderr by default.
        quiet: say nothing.
    """

    def __init__(self, stream: TextIO | None = None, *, quiet: bool = False) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._quiet = quiet
        self._live = self._stream.isatty()
        self._open = False
        self._task = ""
        self._began = 0.0
        self._last = 0.0
        self._first = 0.0

    def say(self, text: str) -> None:
        """One whole line."""
        if self._quiet:
            return
        self._end_line()
        self._stream.write(f"{text}\n")
        self._stream.flush()

    def step(self, task: str, done: float, total: float, detail: str = "") -> None:
        """How far a task is.

        Args:
            task: its name; a new one restarts the clock.
            done: units done, from 0.
            total: units in all.
            detail: more to show at the end of the line.
        """
        if self._quiet:
            return
        now = time.monotonic()
        if task != self._task:
            self._end_line()
            self._task, self._began, self._last, self._first = task, now, 0.0, done
        last = done >= total
        if not self._live and not last and self._last and now - self._last < PLAIN_EVERY_S:
            return
        self._last = now
        spent = now - self._began
        # the clock starts with the first report: what was done before it took no time on it
        known = self._first < done < total
        left = f", {clock(spent / (done - self._first) * (total - done))} left" if known else ""
        line = f"{task}: {done:g}/{total:g} in {clock(spent)}{left}{'  ' + detail if detail else ''}"
        if self._live:
            self._stream.write(f"\r\x1b[2K{line}")
            self._open = True
            if last:
                self._end_line()
        else:
            self._stream.write(f"{line}\n")
        if last:
            self._task = ""
        self._stream.flush()

    def counter(self, task: str) -> Callable[[int], None]:
        """For a task whose end is not known: called with how many units are done; says nothing of what is soon over."""
        began = last = time.monotonic()

        def count(done: int) -> None:
            nonlocal last
            now = time.monotonic()
            if not self._quiet and now - last >= (1.0 if self._live else PLAIN_EVERY_S):
                last = now
                line = f"{task}: {done} in {clock(now - began)}"
                self._stream.write(f"\r\x1b[2K{line}" if self._live else f"{line}\n")
                self._stream.flush()
                self._open = self._live

        return count

    def _end_line(self) -> None:
        if self._open:
            self._stream.write("\n")
            self._open = False


def clock(seconds: float) -> str:
    """Seconds as people read them: ``7 s``, ``3 min 05 s``, ``1 h 20 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
