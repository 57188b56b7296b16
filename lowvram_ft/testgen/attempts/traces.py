"""Failure traces: how a failing test file was mended, kept for stage C to learn from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from itertools import zip_longest
from pathlib import Path

from lowvram_ft.hardware import data_dir
from lowvram_ft.testgen.attempts.log import append_once

TRACES = "traces.jsonl"


@dataclass(frozen=True)
class Trace:
    """One refinement that succeeded; the columns of the source ``failure_traces``.

    Attributes:
        code: what the model was shown, importable as ``solution`` by itself.
        failed_test: the test file that fails on it.
        failure_log: what pytest said, letter for letter as in the prompt.
        fixed_test: the file that the model wrote then: it passes, and asserts at least as much.
    """

    code: str
    failed_test: str
    failure_log: str
    fixed_test: str


_COLUMNS = tuple(field.name for field in fields(Trace))


def default_traces_path() -> Path:
    """``traces.jsonl`` where the kit keeps what is the user's, see `lowvram_ft.hardware.data_dir`."""
    return data_dir() / TRACES


def append_traces(path: Path, traces: Iterable[Trace], about: Iterable[Mapping[str, str]] = ()) -> int:
    """Add traces to a JSONL file, each once, however often it is given and by however many processes.

    Args:
        path: the file; made for the user alone.
        traces: what to add.
        about: further columns of each, in their order: where it is from, and when it was added.

    Returns:
        How many were new.

    Raises:
        MachineError: the file cannot be read or written.
    """
    records = [{**asdict(trace), **(more or {})} for trace, more in zip_longest(traces, about)]
    return append_once(path, records, lambda record: tuple(str(record.get(name)) for name in _COLUMNS))
