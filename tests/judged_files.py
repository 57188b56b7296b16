"""Judged files that nobody has run: for what is chosen among them."""

from __future__ import annotations

import dataclasses
import hashlib

from lowvram_ft.preference.judged import Judged
from lowvram_ft.preference.records import PreferenceTask

CODE = "def double(x):\n    if x < 0:\n        return 0\n    return x * 2\n"


def task(name: str = "t", **fields) -> PreferenceTask:
    return PreferenceTask(**{"id": name, "group": name, "source": "rows", "code": CODE, "module": "solution", **fields})


def winner(test: str, name: str = "t", **fields) -> Judged:
    """A file of which every test passes and kills."""
    key = hashlib.sha256(f"{name}/{test}".encode("utf-8", "surrogatepass")).hexdigest()[:8]
    one = Judged(
        key=key,
        task=name,
        text=f"text-{key}",
        test=test,
        fate="passes_and_kills",
        mutation_score=0.8,
        n_mutants=10,
        coverage=1.0,
        n_tests=1,
        passing=("test_a",),
        failing=(),
        killed=(0, 1),
        mixed=(),
        idle=(),
        hacks=(),
        flaky="",
        reason="passes and kills: 1 of 1 test pass",
        duration_s=0.1,
        n_tokens=len(test),
    )
    return dataclasses.replace(one, **fields)


def loser(test: str, name: str = "t", **fields) -> Judged:
    """A file with a test that fails."""
    bad = {"fate": "fails", "mutation_score": 0.0, "passing": (), "failing": ("test_a",), "killed": (), "flaky": None}
    return winner(test, name, **{**bad, "reason": "fails: 1 failed", **fields})


def text(*values: int, pad: int = 0) -> str:
    """A test file that is unlike others with other values."""
    lines = "".join(f"    assert double({value}) == {2 * value}\n" for value in values)
    more = f"    # {'x' * (pad - 7)}\n" if pad else ""
    return f"from solution import double\n\n\ndef test_a():\n{lines}{more}"
