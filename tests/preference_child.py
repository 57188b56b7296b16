"""Judges answers in a process that its parent kills: run as ``python -m tests.preference_child FOLDER``."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from lowvram_ft.execution import Verdict
from lowvram_ft.execution.verdict import TestResult
from lowvram_ft.preference import judging
from lowvram_ft.preference.records import Answer
from lowvram_ft.progress import Progress
from tests.judged_files import CODE, task, text, winner

N_TEXTS, EACH = 12, 2
SLOW_S = 0.1


def tasks():
    return [task("a"), task("b", code=CODE.replace("x * 2", "x + x"))]


def answers() -> list[Answer]:
    texts = [(name, text(number)) for number in range(N_TEXTS // 2) for name in ("a", "b")]
    return [
        Answer(f"{name}/{body}/{copy}", name, copy, body, 30, "stop", 1.0)
        for copy in range(EACH)
        for name, body in texts
    ]


def main(folder: Path) -> None:
    """Judge with stand-ins that take their time and write down what they were asked."""
    calls = os.open(folder / "calls", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def judge(one: judging.Text):
        os.write(calls, f"judged {one.hash}\n".encode())
        time.sleep(SLOW_S)
        return winner(one.test, one.task.id, text=one.hash, key=one.key)

    def run_tests(code, module, test, limits, root, *, variation):
        os.write(calls, f"again {variation.order}\n".encode())
        time.sleep(SLOW_S)
        return Verdict("ran", (TestResult("test_a", "passed", 0.1, ""),), 1, "", None, 0.1)

    judging._judge = judge
    judging.run_tests = run_tests
    found = judging.judge_answers(tasks(), answers(), folder / "judged.jsonl", Progress(quiet=True))
    assert len(found) == len(answers())
    (folder / "done").write_text("yes")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
