"""What every source has in common: a name, a licence, and a function from one object to rows."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from lowvram_ft.data import syntax
from lowvram_ft.data.imports import CannotNormalize, import_from_solution
from lowvram_ft.data.row import Row
from lowvram_ft.data.unittest_style import NotConvertible, to_pytest, uses_unittest
from lowvram_ft.errors import DataError

Object = Mapping[str, Any]
MOST_CHARS = 400_000
"""A code or test text longer than this is no training row at any length, and is not even parsed."""


class LeftOut(Exception):
    """A row that is not used.

    Attributes:
        reason: a few words, the same for all rows of a kind, so that they can be counted.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Source:
    """A kind of data set.

    Attributes:
        name: as in ``data.source``.
        licence: of the data.
        columns: those that are read.
        hub_id: on the hub; None where rows come from a file or the package.
        rows: one object to its rows, mostly one. Gets the object and a text that says where it stands. Raises
            `LeftOut` for a row that is not used, `DataError` for an object of another shape.
    """

    name: str
    licence: str
    columns: str
    hub_id: str | None
    rows: Callable[[Object, str], list[Row]]


def column(value: Object, where: str, *names: str) -> str:
    """The first of the named columns that is there, as text, with the line ends that Python's own parser reads.

    Raises:
        DataError: none of them is there; names what was.
        LeftOut: it is there, and holds no text.
    """
    there = [name for name in names if name in value]
    if not there:
        raise DataError(
            f"{where}: no column {' or '.join(names)} (columns: {', '.join(map(str, sorted(value))) or 'none'}); "
            "check data.source, or the file"
        )
    for name in there:
        found = value[name]
        if isinstance(found, str) and found.strip():
            if len(found) > MOST_CHARS:
                raise LeftOut(f"{name} has more than {MOST_CHARS:,} characters")
            if not found.isascii() and _has_surrogates(found):
                raise LeftOut(f"{name} is no valid Unicode")
            return found.replace("\r\n", "\n").replace("\r", "\n") if "\r" in found else found
    raise LeftOut(f"no text in {there[0]}")


def _has_surrogates(text: str) -> bool:
    """Halves of surrogate pairs, which JSON can spell and UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def parse(text: str) -> ast.Module:
    """The syntax tree of a text, not to be changed: several steps ask for the same one.

    Raises:
        LeftOut: it is no Python.
    """
    return _parse(text)


@lru_cache(maxsize=4)
def _parse(text: str) -> ast.Module:
    tree = syntax.parse(text)
    if tree is None:
        raise LeftOut("does not parse")
    return tree


def pytest_file(test: str, code: str, module: str) -> str:
    """``test`` as a pytest file that imports what it tests ``from solution``.

    Raises:
        LeftOut: it does not parse, is unittest style that cannot be converted faithfully, or tests nothing of the code.
    """
    try:
        test = import_from_solution(test, code, module)
        if may_use_unittest(test) and uses_unittest(parse(test)):
            test = to_pytest(test)  # after the import line: names that it knows make for better assertions
        return test
    except NotConvertible as problem:
        raise LeftOut(f"unittest style: {problem.reason}") from None
    except CannotNormalize as problem:
        raise LeftOut("does not parse" if problem.reason.endswith("does not parse") else problem.reason) from None


def may_use_unittest(test: str) -> bool:
    """Whether it is worth a look at the syntax tree."""
    return "unittest" in test or "TestCase" in test


def digest(*texts: str) -> str:
    """A short name for texts that have none."""
    return hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).hexdigest()[:12]
