"""One training or evaluation example, and the prompt it is turned into."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

TASK = "### Task: Write pytest tests"
CONSTRAINTS = "pytest only, no hypothesis, no unittest. Edge cases, parametrize, no explanation."
SOLUTION = "solution"
"""The name that every test imports what it tests from."""


@dataclass(frozen=True)
class Row:
    """One training or evaluation example.

    Attributes:
        id: unique within its source.
        group: what must stay on one side of a split: a repository, a task, a cluster of near duplicates.
        source: the data set, such as ``"kodcode"``.
        code: the code under test; rows of several modules carry a ``# module: pkg.mod`` comment before each.
        module: name that the code is importable under; ``"solution"`` where it has none of its own.
        test: a reference test file that passes on the code.
        prompt: the user message.
        completion: the assistant message: the raw test file, stripped.
        meta: what else the source says (kind, difficulty, licence, …).
    """

    id: str
    group: str
    source: str
    code: str
    module: str
    test: str
    prompt: str
    completion: str
    meta: Mapping[str, Any] = field(default_factory=dict)


def build_prompt(
    code: str, *, existing: str | None = None, failing: str | None = None, output: str | None = None
) -> str:
    """The user message. Sections without content are left out.

    Args:
        code: the code under test.
        existing: tests that are there already, for completion tasks.
        failing: a test file that fails, for failure traces and refinement.
        output: what pytest said of it.
    """
    sections = [
        TASK,
        f"### Code Under Test:\n{code.strip()}",
        f"### Constraints:\n{CONSTRAINTS}",
    ]
    if existing:
        sections.append(f"### Existing tests:\n{existing.strip()}")
    if failing:
        sections.append(f"### Failing test:\n{failing.strip()}")
    if output:
        sections.append(f"### Pytest output:\n{output.strip()}")
    return "\n\n".join(sections)


def make_row(
    *,
    id: str,
    group: str,
    source: str,
    code: str,
    test: str,
    module: str = SOLUTION,
    failed_test: str | None = None,
    failure_log: str | None = None,
    meta: Mapping[str, Any] | None = None,
) -> Row:
    """Build a row: its prompt from the code (and the failure, if any), its completion from the test."""
    return Row(
        id=id,
        group=group,
        source=source,
        code=code.strip() + "\n",
        module=module,
        test=test.strip() + "\n",
        prompt=build_prompt(code, failing=failed_test, output=failure_log),
        completion=test.strip(),
        meta=dict(meta or {}),
    )
