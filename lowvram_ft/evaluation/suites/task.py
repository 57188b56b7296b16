"""One piece of code to write tests for."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from lowvram_ft.data.row import SOLUTION, build_prompt

REFINEMENTS = 3
"""How often a writer of the suite ``self_correction`` sees its failures and may try again."""


@dataclass(frozen=True)
class Task:
    """One piece of code to write tests for.

    Attributes:
        suite: where it comes from.
        id: unique within the suite.
        code: the code under test, correct by definition.
        module: name that it is importable under.
        prompt: the user message.
        entry_point: the function or class that is meant; empty where the task does not say.
        wrong_solutions: code with the same names that is wrong: a good test file fails on each.
        reference_test: a test file that passes on the code; empty where there is none.
        refinements: how often the model sees its failures and may try again.
        root: folder that holds the rest of the module's package; None where it needs none.
        not_executed: why tests of this task cannot be run here; they are judged by their text alone then.
    """

    suite: str
    id: str
    code: str
    module: str
    prompt: str
    entry_point: str = ""
    wrong_solutions: tuple[str, ...] = ()
    reference_test: str = ""
    refinements: int = 0
    root: Path | None = None
    not_executed: str = ""

    @property
    def digest(self) -> str:
        """Changes with whatever a result depends on: a record of another digest is of another task."""
        facts = (self.code, self.module, self.prompt, self.wrong_solutions, self.refinements, str(self.root or ""))
        return hashlib.sha256(json.dumps([*facts, self.not_executed]).encode("utf-8", "surrogatepass")).hexdigest()[:12]


def make_task(
    suite: str,
    name: str,
    code: str,
    module: str = SOLUTION,
    *,
    entry_point: str = "",
    wrong_solutions: tuple[str, ...] = (),
    reference_test: str = "",
    refinements: int = 0,
) -> Task:
    """A task with its prompt; every text ends with one line feed."""
    return Task(
        suite,
        name,
        _ended(code),
        module,
        build_prompt(code),
        entry_point,
        tuple(map(_ended, wrong_solutions)),
        _ended(reference_test) if reference_test.strip() else "",
        refinements,
    )


def _ended(text: str) -> str:
    return text.strip() + "\n"
