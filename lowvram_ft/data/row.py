"""One training or evaluation example, and the prompt it is turned into."""

from __future__ import annotations

import ast
import re
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


def import_from_solution(test: str, module: str, names: tuple[str, ...] = ()) -> str:
    """Make a test import what it tests ``from solution import …``.

    Args:
        test: a test file.
        module: the module's real path, whose imports are rewritten.
        names: public names of the code; imported where the test imports nothing from ``solution``.
    """
    if module != SOLUTION:
        test = re.sub(rf"(?m)^(\s*)from {re.escape(module)} import ", r"\1from solution import ", test)
    if re.search(r"(?m)^\s*(from solution import|import solution)\b", test):
        return test
    used = [name for name in names if re.search(rf"\b{re.escape(name)}\b", test)]
    lines = test.splitlines(keepends=True)
    after = _after_docstring_and_future(test)
    return "".join([*lines[:after], f"from solution import {', '.join(used) if used else '*'}\n", *lines[after:]])


def _after_docstring_and_future(test: str) -> int:
    """How many lines the module's docstring and ``from __future__`` imports take: nothing may come before them."""
    try:
        body = ast.parse(test).body
    except (SyntaxError, ValueError, RecursionError):
        return 0
    future = [node for node in body if isinstance(node, ast.ImportFrom) and node.module == "__future__"]
    return future[-1].end_lineno or 0 if future else 0
