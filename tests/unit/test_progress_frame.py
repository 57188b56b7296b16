"""The rows of the view: what they say, and what is left out where there is no room."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowvram_ft.progress.frame import ASCII, MARGIN, UNICODE, frame, sparkline
from lowvram_ft.progress.memory import Memory, of_process
from lowvram_ft.progress.state import State, Task

GIB = 1 << 30
STEPS = ("plan", "train:a", "train:b", "export", "verify", "export:base", "bench", "eval:before", "eval:after", "gates")


def training() -> State:
    """A run of two stages in the middle of its second one."""
    state = State("lowvram-ft run", 100.0, STEPS, {"plan", "train:a"}, "train:b", "stage 2 of 2")
    state.task = Task("train b", 30, 120, "loss 0.812, 95 tok/s", 10, 140.0)
    state.losses.extend([4.0, 3.0, 2.0, 1.0])
    return state


def rows(state: State, columns: int, height: int = 24, memory: Memory | None = None, **more: object) -> list[str]:
    """What is drawn 200 s after the clock began."""
    memory = memory if memory is not None else Memory(int(1.5 * GIB), 3 * GIB, "VRAM reserved", "at most 1.90 so far")
    glyphs = more.get("glyphs", UNICODE)
    return frame(state, memory, 300.0, (columns, height), glyphs).plain.splitlines()  # type: ignore[arg-type]


def test_all_that_is_known_is_shown() -> None:
    assert rows(training(), 100) == [
        "── lowvram-ft run  step 3 of 10, stage 2 of 2, 3 min 20 s",
        "✓ plan  ✓ train:a  ▶ train:b  · export  · verify  · export:base  · bench  · eval:before  · eval:…",
        "train b  ",
        "━" * 8 + "─" * 22 + "  30/120  25 %  2 min 40 s, 12 min 00 s left",
        "loss 0.812, 95 tok/s",
        "█▆▃▁  4.000 ► 1.000",
        "━" * 15 + "─" * 15 + "  VRAM reserved 1.50 of 3.00 GiB planned, at most 1.90 so far",
    ]


def test_the_time_left_is_that_of_the_pace_since_the_first_report() -> None:
    task = Task("t", 30, 120, "", first=10, began=100.0)
    assert task.left_s(140.0) == pytest.approx(40.0 / 20 * 90)


def test_without_unicode_there_is_only_ascii() -> None:
    found = rows(training(), 60, glyphs=ASCII)
    assert "\n".join(found).isascii()
    assert "x plan  x train:a  > train:b" in found[1]
    assert found[3].startswith("###---")


def test_steps_that_do_not_fit_make_room_for_the_one_at_work() -> None:
    state = training()
    state.finished |= set(STEPS[:8])
    state.step = "eval:after"
    line = rows(state, 50)[1]
    assert line.startswith("…") and "▶ eval:after  · gates" in line and "plan" not in line


@pytest.mark.parametrize(
    ("used", "style"), [(1.0, "green"), (2.9, "yellow"), (3.1, "bold red")], ids=["below", "tight", "over"]
)
def test_memory_over_the_plan_is_red(used: float, style: str) -> None:
    drawn = frame(training(), Memory(int(used * GIB), 3 * GIB), 300.0, (80, 24), UNICODE)
    line = next(row for row in drawn.split("\n") if "planned" in row.plain)
    assert style in {str(span.style) for span in line.spans}


def test_a_short_terminal_keeps_what_matters_most() -> None:
    assert [row.split("  ")[-1] for row in rows(training(), 80, 3)] == ["2 min 40 s, 12 min 00 s left"]
    assert len(rows(training(), 80, 6)) == 4


def test_a_task_without_an_end_says_how_many() -> None:
    state = State(task=Task("reading x", 1200, None, "", 0, 290.0))
    assert rows(state, 80)[2] == "1200 in 10 s"


def test_what_nobody_knows_is_left_out() -> None:
    assert rows(State("lowvram-ft export", 290.0), 80, memory=Memory(0)) == ["── lowvram-ft export  10 s"]


@settings(deadline=None)
@given(
    st.integers(1, 300),
    st.integers(1, 60),
    st.integers(0, 10**9),
    st.integers(0, 10**9),
    st.text(max_size=80),
    st.lists(st.floats(-1e6, 1e6), max_size=500),
)
def test_nothing_is_wider_or_higher_than_the_terminal(
    columns: int, height: int, done: int, total: int, text: str, losses: list[float]
) -> None:
    state = training()
    state.task = Task("task", done, total, text, 0, 0.0)
    state.losses.extend(losses)
    found = frame(state, Memory(GIB, GIB), 300.0, (columns, height), UNICODE)
    lines = found.split("\n")
    assert max(line.cell_len for line in lines) <= max(columns - MARGIN, 8)
    assert len(lines) <= max(1, height - 2)


@settings(deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=300), st.integers(30, 200))
def test_the_sparkline_is_highest_where_the_values_are(values: list[float], columns: int) -> None:
    drawn = sparkline(values, columns, UNICODE)
    assert drawn is not None
    line = drawn.plain.split("  ")[0]
    shown = values[-len(line) :]
    heights = ["▁▂▃▄▅▆▇█".index(mark) for mark in line]
    if max(shown) > min(shown):
        assert heights[shown.index(max(shown))] == 7 and heights[shown.index(min(shown))] == 0
    pairs = sorted(zip(shown, heights, strict=True))
    assert [height for _, height in pairs] == sorted(heights)


def test_one_value_is_no_line() -> None:
    assert sparkline([1.0], 80, UNICODE) is None


def test_memory_of_this_process_grows_by_what_it_takes() -> None:
    before = of_process()
    held = bytearray(64 << 20)
    held[::4096] = b"x" * len(held[::4096])
    after = of_process(5 * GIB)
    assert 60 << 20 <= after.used_bytes - before.used_bytes <= 80 << 20
    assert after.budget_bytes == 5 * GIB and "of 5.00 GiB planned" in after.words
