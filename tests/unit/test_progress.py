"""Progress as plain lines, with a clock of our own; what is drawn in a terminal stands in test_terminal_view.py."""

import io
import time as clock_module
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowvram_ft.progress import PLAIN_EVERY_S, Memory, Progress, clock
from lowvram_ft.progress import progress as progress_module
from lowvram_ft.progress.progress import has_view


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(progress_module, "time", found)
    return found


def test_piped_progress_is_plain_lines_that_do_not_flood(time):
    stream = io.StringIO()
    progress = Progress(stream)
    for done in range(1, 101):
        time.now += 1.0
        progress.step("train", done, 100)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "train: 1/100 in 0 s"
    assert lines[-1] == "train: 100/100 in 1 min 39 s"
    assert len(lines) == 1 + 9 + 1
    assert not set(stream.getvalue()) & {"\r", "\x1b"}
    assert PLAIN_EVERY_S == 10.0


def test_a_step_that_came_too_soon_is_told_of_when_its_time_has_come(monkeypatch):
    monkeypatch.setattr(progress_module, "PLAIN_EVERY_S", 0.3)
    stream = io.StringIO()
    progress = Progress(stream)
    for done in (0, 1, 2):
        progress.step("train", done, 9)
    assert stream.getvalue() == "train: 0/9 in 0 s\n"
    wait_for(lambda: stream.getvalue().count("\n") == 2)
    assert stream.getvalue().splitlines()[1].startswith("train: 2/9 in 0 s, ")
    progress.step("train", 3, 9)
    wait_for(lambda: "train: 3/9 in " in stream.getvalue())


def test_nothing_comes_late_of_what_is_over(monkeypatch):
    monkeypatch.setattr(progress_module, "PLAIN_EVERY_S", 0.2)
    stream = io.StringIO()
    progress = Progress(stream)
    for done in (1, 2, 3):
        progress.step("one", done, 3)
    for done in (1, 2):
        progress.step("two", done, 9)
    progress.close()
    clock_module.sleep(0.5)
    assert stream.getvalue().splitlines() == ["one: 1/3 in 0 s", "one: 3/3 in 0 s", "two: 1/9 in 0 s"]


def wait_for(condition: Callable[[], bool]) -> None:
    end = clock_module.monotonic() + 20.0
    while not condition():
        assert clock_module.monotonic() < end
        clock_module.sleep(0.01)


def test_the_time_left_is_what_the_rest_takes_at_the_same_pace(time):
    stream = io.StringIO()
    progress = Progress(stream)
    progress.step("eval", 0, 4)
    time.now += 30.0
    progress.step("eval", 1, 4, "loss 0.5")
    assert stream.getvalue() == "eval: 0/4 in 0 s\neval: 1/4 in 30 s, 1 min 30 s left  loss 0.5\n"


def test_what_was_done_before_the_first_report_does_not_shorten_the_time_left(time):
    stream = io.StringIO()
    progress = Progress(stream)
    progress.step("train", 1, 5)
    time.now += 20.0
    progress.step("train", 2, 5)
    assert stream.getvalue().splitlines() == ["train: 1/5 in 0 s", "train: 2/5 in 20 s, 1 min 00 s left"]


def test_a_new_task_speaks_at_once_and_starts_its_own_clock(time):
    stream = io.StringIO()
    progress = Progress(stream)
    progress.step("one", 1, 9)
    time.now += 1.0
    progress.step("two", 1, 9)
    time.now += 1.0
    progress.step("two", 2, 9)
    assert stream.getvalue().splitlines() == ["one: 1/9 in 0 s", "two: 1/9 in 0 s"]


def test_a_task_that_is_done_and_begun_again_starts_anew(time):
    stream = io.StringIO()
    progress = Progress(stream)
    progress.step("one", 1, 1)
    time.now += 50.0
    progress.step("one", 1, 1)
    assert stream.getvalue() == "one: 1/1 in 0 s\n" * 2


def test_steps_of_a_pipeline_are_lines_of_their_own():
    stream = io.StringIO()
    progress = Progress(stream)
    progress.pipeline(("plan", "train:a", "train:b", "export"), ["plan"])
    progress.begin("train:a", "stage 1 of 2")
    progress.finish("train:a")
    progress.begin("sample:b/1", "stage 2 of 2")
    assert stream.getvalue().splitlines() == [
        "step 2 of 4: train:a (stage 1 of 2)",
        "within step 3 of 4: sample:b/1 (stage 2 of 2)",
    ]


def test_without_a_pipeline_no_step_is_told_of():
    stream = io.StringIO()
    progress = Progress(stream)
    progress.begin("export")
    progress.finish("export")
    assert stream.getvalue() == ""


def test_memory_is_in_the_line_where_there_is_a_plan_to_hold_it_against(time):
    stream = io.StringIO()
    progress = Progress(stream)
    progress.measure(lambda: Memory(3 << 29, 2 << 30, "VRAM reserved"))
    progress.step("train", 1, 2, "loss 0.5")
    progress.measure()
    progress.step("train", 2, 2, "loss 0.4")
    assert stream.getvalue().splitlines() == [
        "train: 1/2 in 0 s  loss 0.5, VRAM reserved 1.50 of 2.00 GiB planned",
        "train: 2/2 in 0 s  loss 0.4",
    ]


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, True),
        ({"TERM": "dumb"}, False),
        ({"TTY_INTERACTIVE": "0"}, False),
        ({"WORLD_SIZE": "2"}, False),
        ({"LOWVRAM_FT_PROGRESS": "plain"}, False),
        ({"LOWVRAM_FT_PROGRESS": "off"}, False),
        ({"LOWVRAM_FT_PROGRESS": "auto"}, True),
        ({"NO_COLOR": "1"}, True),
    ],
)
def test_where_there_is_a_view(monkeypatch, variables, expected):
    for name in ("TERM", "TTY_INTERACTIVE", "WORLD_SIZE", "LOWVRAM_FT_PROGRESS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert has_view(Terminal()) is expected
    assert not has_view(io.StringIO())


def test_the_switch_turns_everything_off(monkeypatch):
    monkeypatch.setenv("LOWVRAM_FT_PROGRESS", "off")
    stream = io.StringIO()
    Progress(stream).say("x")
    assert stream.getvalue() == ""


def test_quiet_says_nothing(time):
    stream = io.StringIO()
    progress = Progress(stream, quiet=True)
    progress.say("x")
    progress.step("x", 1, 1)
    assert stream.getvalue() == ""


def test_progress_goes_to_stderr(capsys):
    Progress().say("here")
    assert capsys.readouterr() == ("", "here\n")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (7.4, "7 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (3599.6, "1 h 00 min"),
        (4830, "1 h 20 min"),
    ],
)
def test_seconds_as_people_read_them(seconds, text):
    assert clock(seconds) == text


@given(st.integers(0, 10**6))
def test_no_unit_overflows(seconds):
    numbers = [int(word) for word in clock(seconds).split() if word.isdigit()]
    assert all(number < 60 for number in numbers[1:])
    assert "h" in clock(seconds) or numbers[0] < 60
