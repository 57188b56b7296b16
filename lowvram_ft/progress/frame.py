"""The rows of the view. What does not fit is left out, the least important first; nothing is wrapped."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.text import Text

from lowvram_ft.progress.memory import Memory
from lowvram_ft.progress.state import State, Task, clock

MARGIN = 3
"""Columns that stay free at the right: a terminal writes ``^C`` there without beginning a new row."""
BAR = 30
"""Columns of a bar at the most."""
TIGHT = 0.95
"""The share of the budget from which on the memory is shown as a warning."""


@dataclass(frozen=True)
class Glyphs:
    """What bars and marks are drawn with.

    Attributes:
        full: done.
        empty: not done.
        sparks: of a sparkline, lowest first.
        over: a step that is over.
        now: the one at work.
        ahead: one to come.
        to: between two numbers.
        more: where something was left out.
    """

    full: str
    empty: str
    sparks: str
    over: str
    now: str
    ahead: str
    to: str
    more: str


UNICODE = Glyphs("━", "─", "▁▂▃▄▅▆▇█", "✓", "▶", "·", "►", "…")
ASCII = Glyphs("#", "-", "_.-~^", "x", ">", ".", "to", "...")


def frame(state: State, memory: Memory, now: float, size: tuple[int, int], glyphs: Glyphs) -> Text:
    """The whole view.

    Args:
        state: what is known.
        memory: in use now.
        now: seconds of the clock.
        size: columns and rows of the terminal.
        glyphs: what to draw with.

    Returns:
        Rows, each at most ``columns - MARGIN`` wide, and fewer than the terminal has.
    """
    wide = max(size[0] - MARGIN, 8)
    # from the most important to the least, each with its place from top to bottom
    rows: list[tuple[int, Text | None]] = [
        (3, _task(state, now, wide, glyphs)),
        (6, _memory(memory, wide, glyphs)),
        (2, _doing(state)),
        (4, _detail(state)),
        (5, sparkline(state.losses, wide, glyphs)),
        (1, _steps(state, wide, glyphs)),
        (0, _headline(state, now, glyphs)),
    ]
    room = max(1, size[1] - 2)
    chosen = sorted([(place, row) for place, row in rows if row is not None][:room], key=lambda one: one[0])
    for _, row in chosen:
        row.plain = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", " ", row.plain)  # names of files may hold anything
        row.no_wrap = True
        row.truncate(wide, overflow="ellipsis" if glyphs is UNICODE else "crop")
    whole = Text("\n").join(row for _, row in chosen)
    whole.no_wrap = True
    return whole


def _headline(state: State, now: float, glyphs: Glyphs) -> Text:
    parts = [part for part in (state.place, state.note, clock(now - state.began)) if part]
    return Text.assemble((f"{glyphs.empty * 2} ", "dim"), (state.title or "lowvram-ft", "bold"), "  ", ", ".join(parts))


def _steps(state: State, wide: int, glyphs: Glyphs) -> Text | None:
    """The steps of the pipeline; where there are too many, those around the one at work."""
    if not state.steps:
        return None
    at = state.next_number - 1
    first = 0
    while first < at and _columns(_marked(state, state.steps[first : at + 3], glyphs)) + 4 > wide:
        first += 1
    found = _marked(state, state.steps[first:], glyphs)
    if first:
        found.insert(0, (glyphs.more, "dim"))
    return Text("  ").join(Text(*one) for one in found)


def _marked(state: State, steps: Sequence[str], glyphs: Glyphs) -> list[tuple[str, str]]:
    found = []
    for step in steps:
        if step in state.finished:
            found.append((f"{glyphs.over} {step}", "green"))
        elif step == state.step:
            found.append((f"{glyphs.now} {step}", "bold cyan"))
        else:
            found.append((f"{glyphs.ahead} {step}", "dim"))
    return found


def _columns(parts: Iterable[tuple[str, str]]) -> int:
    return sum(len(text) + 2 for text, _ in parts)


def _doing(state: State) -> Text | None:
    """What is done now, in words."""
    named = state.task.name if state.task is not None else state.step or ""
    if not named and not state.activity:
        return None
    within = f"{state.step}: " if state.step and state.steps and state.step not in state.steps else ""
    return Text.assemble((within, "dim"), (named, "bold"), "  " if named else "", (state.activity, "italic"))


def _task(state: State, now: float, wide: int, glyphs: Glyphs) -> Text | None:
    task = state.task
    if task is None:
        return None
    if task.total is None:
        return Text(f"{task.done:g} in {clock(now - task.began)}")
    share = min(1.0, task.done / task.total) if task.total > 0 else 1.0
    text = f"{task.done:g}/{task.total:g}  {100 * share:.0f} %  {task.times(now)}"
    return Text.assemble(*_bar(share, min(BAR, wide - len(text) - 2), glyphs, "cyan"), text)


def _detail(state: State) -> Text | None:
    task: Task | None = state.task
    return Text(task.detail) if task is not None and task.detail else None


def _memory(memory: Memory, wide: int, glyphs: Glyphs) -> Text | None:
    if memory.used_bytes <= 0:
        return None
    text = memory.words
    if not memory.budget_bytes:
        return Text(text, style="dim")
    share = memory.used_bytes / memory.budget_bytes
    style = "bold red" if share > 1 else "yellow" if share > TIGHT else "green"
    bar = _bar(min(1.0, share), min(BAR, wide - len(text) - 2), glyphs, style)
    return Text.assemble(*bar, (text, style if share > TIGHT else ""))


def _bar(share: float, columns: int, glyphs: Glyphs, style: str) -> list[tuple[str, str]]:
    """A bar of so many columns and two blanks; nothing where there is no room for one worth looking at."""
    if columns < 8:
        return []
    full = round(share * columns)
    return [(glyphs.full * full, style), (glyphs.empty * (columns - full) + "  ", "dim")]


def sparkline(values: Sequence[float], wide: int, glyphs: Glyphs) -> Text | None:
    """The last values as bars of eight heights, with the first and the last of them as numbers; None for fewer than 2.

    Args:
        values: oldest first.
        wide: columns that there are.
        glyphs: what to draw with.
    """
    shown = list(values)[-max(wide - 18, 8) :]
    if len(shown) < 2:
        return None
    low, high = min(shown), max(shown)
    top = len(glyphs.sparks) - 1
    heights = [round((value - low) / (high - low) * top) if high > low else 0 for value in shown]
    line = "".join(glyphs.sparks[height] for height in heights)
    return Text.assemble((line, "magenta"), f"  {shown[0]:.3f} {glyphs.to} {shown[-1]:.3f}")
