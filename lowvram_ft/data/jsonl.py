"""Reading JSONL: every broken line is reported with its number."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lowvram_ft.errors import DataError

SHOWN = 5
"""Broken lines named in a message; the rest are counted."""
_NOTED = 1000


@dataclass
class BrokenLines:
    """What could not be read: the first line numbers with the reason, and how many there are."""

    found: list[tuple[int, str]] = field(default_factory=list)
    count: int = 0

    def add(self, number: int, reason: str) -> None:
        """Note a broken line."""
        self.count += 1
        if len(self.found) < _NOTED:
            self.found.append((number, reason))

    def describe(self, path: Path) -> str:
        """One line that names the first broken lines and counts them all."""
        shown = ", ".join(f"line {number} ({reason})" for number, reason in self.found[:SHOWN])
        more = f" and {self.count - SHOWN} more" if self.count > SHOWN else ""
        return f"{path}: {self.count} broken line{'s' if self.count > 1 else ''}: {shown}{more}"

    def refuse(self, path: Path) -> None:
        """End here if there are any.

        Raises:
            DataError: names them.
        """
        if self.count:
            raise DataError(f'{self.describe(path)}; mend them, or pass over them with data.broken_lines = "skip"')


def require_file(path: Path) -> None:
    """Refuse a JSONL file that is not there.

    Raises:
        DataError: it is missing.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; give a JSONL file with one object a line")


def read_rows(
    path: Path, broken: Literal["fatal", "skip"] = "fatal", report: BrokenLines | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a JSONL file, with their line numbers (from 1). Blank lines are passed over.

    Args:
        path: the file.
        broken: ``fatal`` reads the file to its end, then raises with all broken lines; ``skip`` passes them over.
        report: collects what was passed over.

    Raises:
        DataError: the file is missing, or has broken lines and they are fatal.
    """
    lines = report if report is not None else BrokenLines()
    require_file(path)
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            if not raw.strip():
                continue
            value, reason = parse_line(raw)
            if value is None:
                lines.add(number, reason)
            else:
                yield number, value
    if broken == "fatal":
        lines.refuse(path)


def parse_line(raw: bytes) -> tuple[dict[str, Any] | None, str]:
    """The object in a line of JSONL; None with the reason where there is none."""
    try:
        value = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError:
        return None, "not UTF-8"
    except (json.JSONDecodeError, RecursionError) as error:
        return None, f"not JSON: {error.msg}" if isinstance(error, json.JSONDecodeError) else "nested too deep"
    if not isinstance(value, dict):
        return None, f"a {type(value).__name__}, not an object"
    return value, ""
