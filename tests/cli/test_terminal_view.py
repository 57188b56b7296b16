"""What a terminal shows while a command runs: at 80 columns, at 40, after Ctrl-C, beside the output of others."""

from __future__ import annotations

import json
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lowvram_ft.training.recovery.checkpoints import STAGING, newest_checkpoint, step_of
from tests.terminal import Terminal
from tests.tiny_runs import write_recipe

STEPS = ("plan", "train:a", "train:b", "export", "verify", "export:base", "bench", "eval:before", "eval:after", "gates")
WORK = f"""
import os, signal, subprocess, sys, time, warnings
from lowvram_ft.progress import Memory, Progress

progress = Progress(title="lowvram-ft run")

def begin():
    progress.pipeline({STEPS!r}, ["plan"])
    progress.begin("train:a", "stage 1 of 2")
    progress.measure(lambda: Memory(3 << 29, 2 << 30, "VRAM reserved"))

def at(step, total=400):
    progress.losses(4.0, 2.0, 1.0)
    progress.step("train a", step, total, "loss 1.000")

def hold(name):
    while not os.path.exists(name):
        time.sleep(0.02)
"""
HEAD = "lowvram-ft run  step"
MARK = re.compile(rb"\x1b\[[0-9;]*[A-Za-z]")
"""A control sequence."""
COLOUR = re.compile(rb"\x1b\[[0-9;]*3[0-9][0-9;]*m")


class Work(Terminal):
    """A script in a terminal, which waits where it says ``hold(NAME)`` until it is told to go on."""

    def __init__(self, folder: Path, script: str, columns: int = 80, rows: int = 24, **settings: object) -> None:
        super().__init__([sys.executable, "-c", WORK + script], columns, rows, folder=folder, **settings)  # type: ignore[arg-type]
        self._folder = folder

    def go(self, name: str = "go") -> None:
        """Let it go on."""
        (self._folder / name).touch()


@pytest.fixture
def work(tmp_path: Path) -> Callable[..., Work]:
    return lambda script, *size, **settings: Work(tmp_path, script, *size, **settings)


def shows(text: str) -> Callable[[list[str]], bool]:
    """Whether some row holds a text."""
    return lambda lines: any(text in line for line in lines)


def heads(lines: list[str]) -> int:
    """How often the first row of the view is on the screen."""
    return sum(HEAD in line for line in lines)


def test_80_columns(work: Callable[..., Work]) -> None:
    terminal = work("begin(); at(0); at(100); hold('go'); at(400)")
    terminal.wait(shows("100/400"))
    shown = terminal.lines
    assert shown[0] == "step 2 of 10: train:a (stage 1 of 2)"
    assert re.fullmatch(r"── lowvram-ft run  step 2 of 10, stage 1 of 2, \d+ s", shown[1])
    assert shown[2] == "✓ plan  ▶ train:a  · train:b  · export  · verify  · export:base  · bench  · …"
    assert shown[3] == "train a"
    assert re.fullmatch(r"━{8}─{22}  100/400  25 %  \d+ s, \d+ s left", shown[4])
    assert shown[5:7] == ["loss 1.000", "█▃▁█▃▁  4.000 ► 1.000"]
    assert re.fullmatch(r"━+─+  VRAM reserved 1.50 of 2.00 GiB planned", shown[7])
    assert len(shown) == 8
    terminal.go()
    last = terminal.finish()
    assert terminal.code == 0
    assert last[0] == "step 2 of 10: train:a (stage 1 of 2)"
    assert re.fullmatch(
        r"train a: 400/400 in \d+ s  loss 1.000, VRAM reserved 1.50 of 2.00 GiB planned", "".join(last[1:])
    )


@pytest.mark.parametrize(("columns", "rows"), [(40, 24), (40, 6), (20, 4), (10, 2)])
def test_a_small_window_shows_one_whole_view(work: Callable[..., Work], columns: int, rows: int) -> None:
    terminal = work("begin(); at(0); at(100); hold('go')", columns, rows)
    terminal.wait(shows("100/400"[: columns - 3]))
    terminal.settle(0.6)  # some more looks, none of which may leave a row behind
    every = terminal.scrollback
    assert len(terminal.lines) <= rows and heads(every) <= 1 and sum("/400" in line for line in every) <= 1
    assert "".join("".join(every).split()).startswith("step2of10:train:a(stage1of2)")
    terminal.go()
    terminal.finish()
    assert terminal.code == 0


def test_a_window_that_grows_and_shrinks(work: Callable[..., Work]) -> None:
    terminal = work("begin(); at(0); at(100); hold('go')", 100, 24)
    terminal.wait(shows("export:base  · bench  · eval:before"))
    for columns in (60, 120, 50):
        terminal.resize(columns, 24)
        terminal.wait(lambda lines, width=columns: max(map(len, lines)) in range(width - 25, width))  # type: ignore[misc]
        assert heads(terminal.lines) == 1 and sum("/400" in line for line in terminal.lines) == 1
    terminal.go()
    terminal.finish()


def test_the_output_of_others_stands_above_the_view_in_order_and_whole(work: Callable[..., Work]) -> None:
    terminal = work(
        """begin(); at(0); time.sleep(0.8)
subprocess.run("echo 1 of a child >&2; echo 2 of a child", shell=True)
os.write(2, b"3 of a library in C\\n")
warnings.warn("4 of a library")
progress.say("5 of the kit")
print("6 on ", end="", flush=True)
at(100)
time.sleep(0.6)
print("stdout")
print("\\033[31m7 in red\\033[0m", file=sys.stderr)
sys.stderr.write("8:   0%\\r8:  50%\\r8: 100%\\n")
print("9 " + "long " * 40, file=sys.stderr)
os.write(2, b"\\033[2J\\033[Hclears the screen\\n")
hold("go")
print("the end, without a newline", end="", file=sys.stderr)
"""
    )
    terminal.wait(shows("clears the screen"))
    terminal.wait(shows("100/400"))
    whole = "\n".join(terminal.scrollback)
    wanted = ["1 of a child", "2 of a child", "3 of a library in C", "UserWarning: 4 of a library", "5 of the kit",
              "6 on stdout", "7 in red", "8: 100%", "9 long long", "clears the screen", HEAD]  # fmt: skip
    assert [whole.count(text) for text in wanted] == [1] * len(wanted)
    assert [whole.index(text) for text in wanted] == sorted(whole.index(text) for text in wanted)
    assert "50%" not in whole and "".join(terminal.scrollback).count("long") == 40
    assert sum("/400" in line for line in terminal.lines) == 1
    terminal.go()
    assert "the end, without a newline" in "".join(terminal.finish())


def test_a_result_on_stdout_is_whole_and_nothing_else_is_there(work: Callable[..., Work], tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    terminal = work("begin(); at(0); at(100); hold('go'); progress.close(); print('{\"a\": 1}')", stdout=out)
    terminal.wait(shows("100/400"))
    terminal.go()
    shown = terminal.finish()
    assert json.loads(out.read_text()) == {"a": 1}
    assert heads(shown) == 0 and not shows('"a"')(shown)


def test_a_view_that_was_closed_for_a_result_comes_back(work: Callable[..., Work]) -> None:
    terminal = work(
        "begin(); at(0); at(100); hold('a'); progress.close(); print('a result'); at(0); at(200); hold('b')"
    )
    terminal.wait(shows("100/400"))
    terminal.go("a")
    terminal.wait(shows("200/400"))
    lines = terminal.lines
    result = lines.index("a result")
    assert "".join(lines[:result]).endswith("GiB planned")
    assert (heads(lines[:result]), heads(lines[result:])) == (0, 1)
    terminal.go("b")
    terminal.finish()


def test_ctrl_c_takes_the_view_away_and_leaves_what_was_reached(work: Callable[..., Work]) -> None:
    terminal = work("begin(); at(0); at(100); hold('never')")
    terminal.wait(shows("100/400"))
    terminal.press(b"\x03")
    shown = terminal.finish()
    assert terminal.code in (-signal.SIGINT, 130)
    assert heads(shown) == 0 and any(line.startswith("train a: 100/400 in ") for line in shown)
    assert "KeyboardInterrupt" in shown
    assert not terminal.cursor_hidden and b"\x1b[?25l" not in terminal.raw


def test_the_last_words_of_a_process_that_is_killed_are_read(work: Callable[..., Work]) -> None:
    terminal = work(
        "begin(); at(0); hold('go'); os.write(2, b'terminate called: CUDA error\\n'); os.kill(os.getpid(), 9)"
    )
    terminal.wait(shows("0/400"))
    terminal.go()
    shown = terminal.finish()
    assert terminal.code == -signal.SIGKILL
    assert shown[-1] == "terminate called: CUDA error" and not terminal.cursor_hidden


def test_who_forks_leaves_the_view_alone(work: Callable[..., Work]) -> None:
    terminal = work("begin(); at(0); time.sleep(0.8)\nif os.fork() == 0: sys.exit()\nos.wait(); at(100); hold('go')")
    terminal.wait(shows("100/400"))
    assert heads(terminal.scrollback) == 1
    terminal.go()
    terminal.finish()
    assert terminal.code == 0


def test_what_is_soon_over_has_no_view(work: Callable[..., Work]) -> None:
    terminal = work("begin(); at(0); at(400)")
    shown = terminal.finish()
    assert not MARK.search(terminal.raw) and heads(shown) == 0
    assert any(line.startswith("train a: 400/400") for line in shown)


@pytest.mark.parametrize("variables", [{"TERM": "dumb"}, {"LOWVRAM_FT_PROGRESS": "plain"}, {"WORLD_SIZE": "2"}])
def test_plain_lines_where_nothing_can_be_drawn(work: Callable[..., Work], variables: dict[str, str]) -> None:
    terminal = work("begin(); at(0); time.sleep(0.8); at(400)", env=variables)
    shown = terminal.finish()
    assert not MARK.search(terminal.raw)
    assert [line[:15] for line in shown[:2]] == ["step 2 of 10: t", "train a: 0/400 "]


def test_no_colour(work: Callable[..., Work]) -> None:
    for name, variables in (("coloured", {}), ("not", {"NO_COLOR": "1"})):
        terminal = work(f"begin(); at(0); at(100); hold('{name}')", env=variables)
        terminal.wait(shows("100/400"))
        terminal.go(name)
        terminal.finish()
        assert bool(COLOUR.search(terminal.raw)) is (name == "coloured")


def test_a_console_without_unicode(work: Callable[..., Work]) -> None:
    terminal = work("begin(); at(0); at(100); hold('go')", env={"PYTHONIOENCODING": "cp1252"})
    terminal.wait(shows("100/400"))
    assert "\n".join(terminal.lines).isascii() and shows("x plan  > train:a")(terminal.lines)
    terminal.go()
    terminal.finish()
    assert terminal.code == 0


def test_a_job_in_the_background_draws_nothing(work: Callable[..., Work], tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(
        WORK + "begin(); at(0); at(100); time.sleep(1.5); progress.say('still here'); at(400)"
    )
    terminal = work("subprocess.run([sys.executable, 'job.py'], process_group=0)")
    shown = terminal.finish()
    assert b"\xe2\x94\x81" not in terminal.raw and heads(shown) == 0
    assert "still here" in shown and any(line.startswith("train a: 400/400") for line in shown)


def test_a_stopped_terminal_stops_nobody_who_works(work: Callable[..., Work], tmp_path: Path) -> None:
    terminal = work(
        "begin(); at(0); at(100); hold('go')\nfor n in range(101, 300): at(n)\nopen('done', 'w'); hold('end')"
    )
    terminal.wait(shows("100/400"))
    terminal.press(b"\x13")  # Ctrl-S
    terminal.go()
    end = time.monotonic() + 20
    while not (tmp_path / "done").exists():
        assert time.monotonic() < end
        time.sleep(0.02)
    terminal.press(b"\x11")  # Ctrl-Q
    terminal.wait(shows("299/400"))
    terminal.go("end")
    terminal.finish()
    assert terminal.code == 0


def test_training_in_a_terminal_until_ctrl_c(tmp_path: Path, tiny_llama: Path) -> None:
    write_recipe(tmp_path, tiny_llama, max_steps=4000, eval_steps=3000)
    command = [sys.executable, "-m", "lowvram_ft", "train", "tiny.toml", "--out", "out"]
    settings = {"LOWVRAM_FT_CACHE": str(tmp_path / ".cache"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    terminal = Terminal(command, folder=tmp_path, env=settings)
    terminal.wait(lambda lines: shows("► ")(lines) and shows("/4000")(lines), 120)
    shown = "\n".join(terminal.lines)
    assert re.search(r"── lowvram-ft train  step 2 of 2, stage 1 of 1, \d+ s\n✓ plan  ▶ train:tiny\ntrain tiny", shown)
    assert re.search(r"memory \d\.\d\d of \d\.\d\d GiB planned", shown)
    terminal.press(b"\x03")
    last = "\n".join(terminal.finish())
    assert terminal.code == 130
    newest = newest_checkpoint(tmp_path / "out" / "stages" / "tiny" / "checkpoints")
    assert newest is not None
    assert re.search(rf"\ntrain tiny: saved at step {step_of(newest)}\ntrain tiny: \d+/4000 in ", last)
    assert not [path for path in (tmp_path / "out").rglob("*") if STAGING in path.name or ".tmp" in path.name]
    assert last.endswith("\nstopped; nothing is half-written: run the same command again")
    assert heads(last.splitlines()) == 0 and not terminal.cursor_hidden
