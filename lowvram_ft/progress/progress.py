"""What the kit calls to say what it is doing: a view in a terminal, plain lines when piped."""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TextIO

from lowvram_ft.progress import lines
from lowvram_ft.progress.memory import Memory, of_process
from lowvram_ft.progress.state import State, Task

if TYPE_CHECKING:
    from lowvram_ft.progress.screen import Screen

PLAIN_EVERY_S = 10.0
"""Seconds between two plain lines of the same task."""
SWITCH = "LOWVRAM_FT_PROGRESS"
"""Environment variable: ``plain`` for lines in a terminal as well, ``off`` for nothing, ``auto``."""


class Progress:
    """Says what is being done, how far it is, how long it will take, and how much memory it holds.

    Args:
        stream: where to write; stderr by default.
        quiet: say nothing.
        title: the command, for the view.
    """

    def __init__(self, stream: TextIO | None = None, *, quiet: bool = False, title: str = "") -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._quiet = quiet or os.environ.get(SWITCH) == "off"
        self._live = has_view(self._stream)
        self._lock = threading.RLock()
        self._state = State(title=title, began=time.monotonic())
        self._screen: Screen | None = None
        self._last = 0.0
        self._late: threading.Timer | None = None

    def say(self, text: str) -> None:
        """One whole line."""
        if self._quiet:
            return
        if self._screen is not None:
            self._screen.line(text)
        else:
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
        before = self._state.task
        if before is None or before.name != task:
            if self._live and before is not None:  # how far it came stays to be read
                self._say_task(before, now)
            self._last = 0.0
            self._set(task=Task(task, done, total, detail, done, now), activity="")
        else:
            self._set(task=replace(before, done=done, total=total, detail=detail), activity="")
        found = self._state.task
        assert found is not None
        with self._lock:  # a late line is of the newest step, or of none
            if done >= total:
                self._forget_late()
                self._say_task(found, now)
                self._set(task=None)
            elif not self._live and (not self._last or now - self._last >= PLAIN_EVERY_S):
                self._forget_late()
                self._last = now
                self._say_task(found, now)
            elif not self._live and self._late is None:
                self._late = threading.Timer(PLAIN_EVERY_S - (now - self._last), self._say_late)
                self._late.daemon = True
                self._late.start()

    def counter(self, task: str) -> Callable[[int], None]:
        """For a task whose end is not known: called with how many units are done; says nothing of what is soon over."""
        began = last = time.monotonic()

        def count(done: int) -> None:
            nonlocal last
            now = time.monotonic()
            if self._quiet or now - last < (1.0 if self._live else PLAIN_EVERY_S):
                return
            last = now
            found = Task(task, done, None, "", 0, began)
            self._set(task=found)
            if not self._live:
                self._say_task(found, now)

        return count

    def pipeline(self, steps: Sequence[str], finished: Iterable[str] = ()) -> None:
        """Which steps there are, in order, and which of them are over; the others are reported by `begin`."""
        if not self._quiet:
            self._set(steps=tuple(steps), finished=set(finished))

    def begin(self, step: str, note: str = "") -> None:
        """A step begins, or a part of one.

        Args:
            step: its name; one that `pipeline` did not name is a part of the first that is not over.
            note: more about it, such as which stage of how many.
        """
        if self._quiet or not self._state.steps:
            return
        self._set(step=step, note=note, activity="")
        self.say(lines.of_step(self._state))

    def finish(self, step: str) -> None:
        """A step is over."""
        if not self._quiet:
            self._set(finished=self._state.finished | {step}, step=None, note="", activity="")

    def doing(self, what: str) -> None:
        """What is done now and not counted, for the view alone; until the next `step`."""
        if not self._quiet and what != self._state.activity:
            self._set(activity=what)

    def losses(self, *values: float) -> None:
        """Losses of further steps of a training, for the view; without any, another training begins."""
        if self._quiet:
            return
        with self._lock:
            if not values:
                self._state.losses.clear()
            self._state.losses.extend(values)
        self._set()

    def measure(self, meter: Callable[[], Memory] = of_process) -> None:
        """How the view finds out how much memory is in use; by default it is what this process holds."""
        if not self._quiet:
            self._set(meter=meter)

    def close(self) -> None:
        """Take the view away, for what is printed next; another `step` brings it back."""
        with self._lock:
            self._forget_late()
        screen, task = self._screen, self._state.task
        if screen is None:
            return
        atexit.unregister(self.close)
        if task is not None:
            self._say_task(task, time.monotonic())
            self._set(task=None)
        self._screen = None
        screen.close()

    def _say_late(self) -> None:
        """The newest step, where it came too soon and no other followed: a log never sticks at its first line."""
        with self._lock:
            task, asked = self._state.task, self._late is threading.current_thread()
            if task is None or not asked:
                return
            self._late = None
            self._last = time.monotonic()
            with suppress(OSError, ValueError):  # nobody reads any more; the work goes on
                self._say_task(task, self._last)

    def _forget_late(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _say_task(self, task: Task, now: float) -> None:
        """A line of it; with the memory where there is a plan to hold it against."""
        memory = self._state.meter()
        self.say(lines.of_task(task, now, memory if memory.budget_bytes is not None else None))

    def _set(self, **changes: Any) -> None:
        """Change the state; the view begins with the first change, where there is one."""
        with self._lock:
            for name, value in changes.items():
                setattr(self._state, name, value)
        at_work = self._state.task is not None or self._state.step is not None
        if self._live and self._screen is None and at_work:
            from lowvram_ft.progress.screen import Screen

            self._screen = Screen(self._stream, self._state, self._lock)
            atexit.register(self.close)
        if self._screen is not None:
            self._screen.changed()


def has_view(stream: TextIO) -> bool:
    """Whether a stream is a terminal that a view can be drawn on, and nobody wants lines instead.

    Several processes that train together write to one terminal, and would write into each other's view.
    """
    if os.environ.get(SWITCH, "auto") != "auto" or os.environ.get("WORLD_SIZE", "1") != "1":
        return False
    if os.environ.get("TERM", "").lower() in ("dumb", "unknown") or os.environ.get("TTY_INTERACTIVE") == "0":
        return False
    return stream.isatty()
