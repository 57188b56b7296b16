"""Put tests into few groups that fit, those about the same thing together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence

_TRIED = 4
"""How many of the last groups another one is tried with, before it stays by itself."""

Group = tuple[int, ...]


def group(reached: Sequence[Collection[str]], fits: Callable[[Group], bool]) -> list[Group]:
    """Groups of items that fit, in the order of their first items.

    First, items are put together by the rarest name that they reach: what a test is about is what few others use.
    Groups that do not fit are taken apart again. Then groups that share a name are merged where that fits, rare names
    first, so that a name is in one group only where that can be; last, any groups that fit together.

    Args:
        reached: the names that each item reaches. Items that reach none are left out.
        fits: whether a group, in ascending order, fits. Asked once for each group.

    Returns:
        Each item at most once; those that do not fit even alone are left out.
    """
    known: dict[Group, bool] = {}

    def fit(items: Iterable[int]) -> bool:
        key = tuple(sorted(items))
        if key not in known:
            known[key] = fits(key)
        return known[key]

    counts = Counter(name for names in reached for name in names)
    by_subject: dict[str, list[int]] = {}
    for item, names in enumerate(reached):
        if names:
            by_subject.setdefault(min(names, key=lambda name: (counts[name], name)), []).append(item)
    groups = [part for items in by_subject.values() for part in _chunks(items, fit)]
    shared = Counter(name for items in groups for name in _names(items, reached))
    for name, _ in sorted(shared.items(), key=lambda entry: (entry[1], entry[0])):
        with_name = [items for items in groups if name in _names(items, reached)]
        if len(with_name) > 1:
            others = [items for items in groups if name not in _names(items, reached)]
            groups = sorted([*others, *_merged(with_name, fit)])
    return sorted(_merged(groups, fit))


def _names(items: Iterable[int], reached: Sequence[Collection[str]]) -> set[str]:
    return {name for item in items for name in reached[item]}


def _chunks(items: Sequence[int], fit: Callable[[Iterable[int]], bool]) -> list[Group]:
    """Parts of a group that fit, as long as can be, in order."""
    if fit(items):
        return [tuple(items)]
    found: list[Group] = []
    chunk: list[int] = []
    for item in items:
        if chunk and fit([*chunk, item]):
            chunk.append(item)
            continue
        if chunk:
            found.append(tuple(chunk))
        chunk = [item] if fit([item]) else []
    return [*found, tuple(chunk)] if chunk else found


def _merged(groups: Sequence[Group], fit: Callable[[Iterable[int]], bool]) -> list[Group]:
    """Groups, each put to one before it where the two fit together."""
    merged: list[Group] = []
    for items in groups:
        for place in range(len(merged) - 1, max(-1, len(merged) - 1 - _TRIED), -1):
            if fit((*merged[place], *items)):
                merged[place] = tuple(sorted((*merged[place], *items)))
                break
        else:
            merged.append(items)
    return merged
