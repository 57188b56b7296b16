"""The progress as lines of a log."""

from __future__ import annotations

from lowvram_ft.progress.memory import Memory
from lowvram_ft.progress.state import State, Task, clock


def of_task(task: Task, now: float, memory: Memory | None = None) -> str:
    """How far a task is: ``train: 1/4 in 30 s, 1 min 30 s left  loss 0.812, memory 1.31 of 2.10 GiB planned``."""
    if task.total is None:
        return f"{task.name}: {task.done:g} in {clock(now - task.began)}"
    more = [part for part in (task.detail, memory.words if memory is not None else "") if part]
    detail = f"  {', '.join(more)}" if more else ""
    return f"{task.name}: {task.done:g}/{task.total:g} in {task.times(now)}{detail}"


def of_step(state: State) -> str:
    """Which step of the pipeline begins: ``step 2 of 9: train:samples (stage 1 of 1)``."""
    note = f" ({state.note})" if state.note else ""
    return f"{state.place}: {state.step}{note}"
