"""What the parts of testgen hand to each other: a module, what a model is shown of it, what a test is worth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Target:
    """What a user asked tests for.

    Attributes:
        file: the module, resolved.
        names: definitions in it, such as ``parse`` or ``Reader.read``; empty for all of it.
        lines: lines of it, from 1, where only these are of interest, as with ``--changed``; None for all.
    """

    file: Path
    names: tuple[str, ...] = ()
    lines: frozenset[int] | None = None


@dataclass(frozen=True)
class Subject:
    """A module as its tests see it.

    Attributes:
        code: its text.
        module: the name that tests import, such as ``pkg.mod``.
        root: folder that this name is imported from.
        beside: files that lie beside the test when it runs, by their names: the project's ``conftest.py``.
        fixtures: that ``conftest.py``, where it has fixtures and is short: shown to the model as tests that are there.
    """

    code: str
    module: str
    root: Path
    beside: Mapping[str, str] = field(default_factory=dict)
    fixtures: str = ""


@dataclass(frozen=True)
class Unit:
    """A part of a module that one prompt is about.

    Attributes:
        name: the definition, such as ``parse`` or ``Reader``; empty for the whole module.
        code: what the model is shown: a module of its own, that tests import as ``solution``.
        lines: lines of the real module that it is about.
    """

    name: str
    code: str
    lines: frozenset[int]


@dataclass(frozen=True)
class Worth:
    """What tests reach in the module under test, and what they catch.

    Attributes:
        lines: first lines of the statements that they run.
        killed: mutants that they find, by their places in `lowvram_ft.execution.MutationReport.mutants`.
        mutants: how many there are, without the equivalent and the incompetent ones.
    """

    lines: frozenset[int] = frozenset()
    killed: frozenset[int] = frozenset()
    mutants: int = 0

    def __or__(self, other: Worth) -> Worth:
        """Of both together."""
        return Worth(self.lines | other.lines, self.killed | other.killed, max(self.mutants, other.mutants))
