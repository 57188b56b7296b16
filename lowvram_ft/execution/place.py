"""Where jobs are judged: in servers of this process's own pool, or somewhere else for as long as a block lasts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Protocol

from lowvram_ft.execution.pool import Question
from lowvram_ft.execution.verdict import MutationReport, Verdict

Mutants = Literal["never", "if_passing", "always"]
"""Whether a job goes on with mutants after its verdict; ``if_passing``: where at least one test passes."""

Told = tuple[Verdict, MutationReport | None, bool]
"""What a job told, and whether it was told to its end: an answer that was cut off says nothing about the file."""


class Elsewhere(Protocol):
    """Takes the jobs of this process. Called from several threads at a time.

    Attributes:
        places: how many jobs it takes at a time.
    """

    places: int

    def ask(self, question: Question, root: Path | None, mutants: Mutants) -> Told:
        """Have a job done, as `lowvram_ft.execution.executor.ask_here` does.

        Raises:
            MachineError: it cannot be done there.
        """

    def root_problem(self, root: Path) -> str | None:
        """Why ``root`` cannot be read there; None where it can."""

    def stop_busy(self) -> None:
        """Give up every job that runs; whoever waits for it gets an error."""


_elsewhere: Elsewhere | None = None


def elsewhere() -> Elsewhere | None:
    """What takes the jobs now; None for this process's own pool."""
    return _elsewhere


@contextlib.contextmanager
def judged_by(taker: Elsewhere) -> Iterator[None]:
    """Have every job of this process done by ``taker`` until the block ends."""
    global _elsewhere
    before, _elsewhere = _elsewhere, taker
    try:
        yield
    finally:
        _elsewhere = before


def root_problem(root: Path) -> str | None:
    """Why a folder cannot be read where jobs are judged; None where it can."""
    if _elsewhere is not None:
        return _elsewhere.root_problem(root)
    return None if root.is_dir() else f"{root} is not there"
