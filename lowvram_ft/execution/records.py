"""What a fork may report: a record of another form, which only a forger sends, does not count."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

MESSAGE_CHARS = 300
"""Most characters of a test's message."""
FAILURE_CHARS = 6000
"""Most characters of one failure as pytest prints it."""
_NAME_CHARS = 10_000

_Check = Callable[[Any], bool]


def _is_text(most: int) -> _Check:
    return lambda value: isinstance(value, str) and len(value) <= most


def _is_one_of(*words: str) -> _Check:
    return lambda value: isinstance(value, str) and value in words


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 31


def _is_seconds(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and value >= 0


def _is_list(check: _Check) -> _Check:
    return lambda value: isinstance(value, list) and all(map(check, value))


def _are_numbers(value: Any) -> bool:
    """Of `lowvram_ft.execution.verdict.Coverage`, or None."""
    return value is None or (isinstance(value, dict) and _has(value, _COVERAGE))


_NAMES = _is_list(_is_text(_NAME_CHARS))
_COVERAGE: dict[str, _Check] = {
    **dict.fromkeys(("statements", "covered_statements", "branches", "covered_branches"), _is_count),
    **dict.fromkeys(("covered_lines", "missing_lines"), _is_list(_is_count)),
}
_FORMS: dict[str, dict[str, _Check]] = {
    "collected": {"names": _NAMES, "dropped": _NAMES},
    "collection_error": {"text": _is_text(FAILURE_CHARS), "timed_out": lambda value: isinstance(value, bool)},
    "start": {"name": _is_text(_NAME_CHARS)},
    "report": {
        "name": _is_text(_NAME_CHARS),
        "outcome": _is_one_of("passed", "failed", "skipped", "error", "timeout"),
        "when": _is_one_of("setup", "call", "teardown"),
        "duration_s": _is_seconds,
        "message": _is_text(MESSAGE_CHARS),
        "text": _is_text(FAILURE_CHARS),
    },
    "tampered": {"what": _is_text(MESSAGE_CHARS)},
    "coverage": {"numbers": _are_numbers, "raw_lines": _is_list(_is_count)},
    "done": {
        "exit_code": lambda value: type(value) is int,
        "marks_s": lambda value: isinstance(value, list) and len(value) == 4 and all(map(_is_seconds, value)),
    },
}


def is_well_formed(record: dict[str, Any]) -> bool:
    """Whether a record is one that `lowvram_ft.execution.session` sends."""
    form = _FORMS.get(record["kind"]) if isinstance(record["kind"], str) else None
    return form is not None and _has({key: value for key, value in record.items() if key != "kind"}, form)


def _has(value: dict[str, Any], form: dict[str, _Check]) -> bool:
    return value.keys() == form.keys() and all(check(value[key]) for key, check in form.items())
