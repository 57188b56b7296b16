"""What is known of the work: which step of how many, which task and how far, the last losses, the memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from lowvram_ft.progress.memory import Memory, of_process

KEPT_LOSSES = 400
"""More than any terminal is wide."""


@dataclass
class Task:
    """A piece of work with an end, if that is known.

    Attributes:
        name: what is done.
        done: units done.
        total: units in all; None where nobody knows.
        detail: more to say, which changes as it goes on.
        first: units that were done when it began to report: they took no time on its clock.
        began: seconds of the clock.
    """

    name: str
    done: float
    total: float | None
    detail: str
    first: float
    began: float

    def left_s(self, now: float) -> float | None:
        """What the rest takes at the same pace; None while that cannot be known."""
        if self.total is None or not self.first < self.done < self.total:
            return None
        return (now - self.began) / (self.done - self.first) * (self.total - self.done)

    def times(self, now: float) -> str:
        """How long it has taken and will take."""
        left = self.left_s(now)
        return clock(now - self.began) + (f", {clock(left)} left" if left is not None else "")


@dataclass
class State:
    """All of it.

    Attributes:
        title: the command.
        began: when, in seconds of the clock.
        steps: those of the pipeline, in order; empty where there is none.
        finished: those that are over.
        step: the one at work, in `steps` or a part of one of them.
        note: more about it, such as which stage of how many.
        task: what is counted now.
        activity: what is done now and not counted.
        losses: of the last steps of a training, oldest first.
        meter: the memory now.
    """

    title: str = ""
    began: float = 0.0
    steps: tuple[str, ...] = ()
    finished: set[str] = field(default_factory=set)
    step: str | None = None
    note: str = ""
    task: Task | None = None
    activity: str = ""
    losses: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT_LOSSES))
    meter: Callable[[], Memory] = of_process

    @property
    def place(self) -> str:
        """Which step of how many is at work, in words; empty where there is no pipeline."""
        if not self.steps or self.step is None:
            return ""
        if self.step in self.steps:
            return f"step {self.steps.index(self.step) + 1} of {len(self.steps)}"
        return f"within step {self.next_number} of {len(self.steps)}"

    @property
    def next_number(self) -> int:
        """Number of the first step that is not over, from 1."""
        open_steps = (number for number, step in enumerate(self.steps, 1) if step not in self.finished)
        return next(open_steps, len(self.steps))


def clock(seconds: float) -> str:
    """Seconds as people read them: ``7 s``, ``3 min 05 s``, ``1 h 20 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
