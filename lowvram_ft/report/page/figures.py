"""Figures as people read them; no line is broken between a number and its unit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

NOTHING = "–"
_SPACE = "\u00a0"
_GIB, _MIB, _KIB = 1 << 30, 1 << 20, 1 << 10


def percent(share: float | None) -> str:
    """A share in percent."""
    return NOTHING if share is None else f"{100 * share:.1f}{_SPACE}%"


def percents(ends: Sequence[float | None] | None) -> str:
    """The ends of an interval of a share, in percent."""
    if ends is None or ends[0] is None or ends[1] is None:
        return ""
    return f"{100 * ends[0]:.0f}–{100 * ends[1]:.0f}{_SPACE}%"


def points(ends: Sequence[float] | None) -> str:
    """The ends of a difference of shares, in points."""
    return NOTHING if ends is None else f"{100 * ends[0]:+.0f} to {100 * ends[1]:+.0f} points"


def amount(value: float | None) -> str:
    """A mean that is no share."""
    return NOTHING if value is None else f"{value:.1f}"


def amounts(ends: Sequence[float | None] | None) -> str:
    """The ends of its interval; none of these can be below 0."""
    if ends is None or ends[0] is None or ends[1] is None:
        return ""
    return f"{max(0.0, ends[0]):.1f}–{ends[1]:.1f}"


def size(n_bytes: float | None) -> str:
    """Bytes in the unit that suits them."""
    if n_bytes is None:
        return NOTHING
    for unit, name in ((_GIB, "GiB"), (_MIB, "MiB"), (_KIB, "KiB")):
        if abs(n_bytes) >= unit:
            value = n_bytes / unit
            return f"{value:.2f}{_SPACE}{name}" if value < 10 else f"{value:,.0f}{_SPACE}{name}"
    return f"{n_bytes:.0f}{_SPACE}B"


def seconds(value: float | None) -> str:
    """A time; long ones in minutes and hours."""
    if value is None:
        return NOTHING
    if value < 120:
        return f"{value:.2f}{_SPACE}s" if value < 10 else f"{value:.1f}{_SPACE}s"
    return f"{value / 60:.0f}{_SPACE}min" if value < 7200 else f"{value / 3600:.1f}{_SPACE}h"


def count(value: float | None) -> str:
    """A whole number, thousands apart."""
    return NOTHING if value is None else f"{value:,.0f}"


def plain(value: Any) -> str:
    """A value of a recipe or a result, as one line."""
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {plain(inner)}" for key, inner in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(plain, value)) or "none"
    return str(value)
