"""What tests reach through the fixtures of the ``conftest.py`` files above them: often all that they reach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from lowvram_ft.data.from_repo.parts_of_tests import FixturePart, TestPart


def above(test: Path, conftests: Mapping[Path, Mapping[str, FixturePart]]) -> list[Mapping[str, FixturePart]]:
    """The fixtures that pytest would offer a test file, those of the nearest ``conftest.py`` first.

    Args:
        test: the file.
        conftests: fixtures by name, by the folder of their ``conftest.py``.
    """
    return [conftests[folder] for folder in test.parents if folder in conftests]


def with_fixtures(part: TestPart, offered: Sequence[Mapping[str, FixturePart]]) -> TestPart:
    """A test with what it reaches through fixtures from above.

    Args:
        part: the test.
        offered: see `above`.
    """
    uses, paths = set(part.uses), set(part.paths)
    pending = [(name, 0) for name in part.fixtures]
    seen: set[tuple[str, int]] = set()
    while pending:
        name, first = pending.pop()
        if (name, first) in seen:
            continue
        seen.add((name, first))
        place = next((place for place in range(first, len(offered)) if name in offered[place]), None)
        if place is not None:
            found = offered[place][name]
            uses |= found.uses
            paths |= found.paths
            pending += [(asked, place + 1 if asked == name else 0) for asked in found.asks]
    return replace(part, uses=frozenset(uses), paths=frozenset(paths))
