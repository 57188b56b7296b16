"""Progress: a live line in a terminal, plain lines when piped, with a clock of our own."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowvram_ft import progress as progress_module
from lowvram_ft.progress import PLAIN_EVERY_S, Progress, clock


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


def test_a_terminal_has_one_line_that_is_written_over(time):
    stream = Terminal()
    progress = Progress(stream)
    progress.step("train", 1, 2)
    progress.step("train", 2, 2)
    progress.say("done")
    assert stream.getvalue() == "\r\x1b[2Ktrain: 1/2 in 0 s\r\x1b[2Ktrain: 2/2 in 0 s\ndone\n"


def test_a_sentence_does_not_run_into_the_live_line(time):
    stream = Terminal()
    progress = Progress(stream)
    progress.step("train", 1, 2)
    progress.say("a note")
    assert stream.getvalue().endswith("train: 1/2 in 0 s\na note\n")


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
