"""What lies somewhere, and may or may not be freed."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Group = Literal["hub", "cache", "checkpoints", "exports", "improve", "runs"]
GROUPS: tuple[Group, ...] = ("hub", "cache", "checkpoints", "exports", "improve", "runs")
CLEANING = ".cleaning-"
"""In the name of a folder that is being removed: what a kill leaves of it is found by that, and is nobody's."""


@dataclass(frozen=True)
class Item:
    """One thing that lies on the disk.

    Attributes:
        group: which part of the table.
        name: by which it is shown, and can be named.
        what: it is, in words.
        paths: its files and folders. None of them is a link.
        root: the folder that all of them lie in, without links; nothing outside of it is removed.
        bytes: all of them together.
        stamps: device and number of each path when it was listed: another one in its place is left alone.
        kept: why it is not freed with its group; None where it is.
        named: whether it is freed where it is named itself; False for what is at work.
        run: the run directory that it belongs to, which is locked meanwhile; None for none.
        revisions: of the hub's cache, which its own client removes.
    """

    group: Group
    name: str
    what: str
    paths: tuple[Path, ...]
    root: Path
    bytes: int
    stamps: tuple[tuple[int, int], ...] = ()
    kept: str | None = None
    named: bool = True
    run: Path | None = None
    revisions: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        """What a program needs of it."""
        return {
            "group": self.group,
            "name": self.name,
            "what": self.what,
            "paths": [str(path) for path in self.paths],
            "bytes": self.bytes,
            "kept": self.kept,
        }


def item(
    group: Group,
    name: str,
    what: str,
    paths: list[Path],
    root: Path,
    *,
    kept: str | None = None,
    named: bool = True,
    run: Path | None = None,
) -> Item | None:
    """An item of what is there; links are left out, and None where nothing is left.

    Args:
        group: which part of the table.
        name: of it.
        what: it is.
        paths: that may be there.
        root: the folder that they lie in.
        kept: why it is not freed with its group.
        named: whether it is freed where it is named itself.
        run: the run directory that it belongs to.
    """
    root = root.resolve()
    there = [place for path in paths if (place := listed(path, root)) is not None]
    if not there:
        return None
    stats = [path.lstat() for path in there]
    stamps = tuple((found.st_dev, found.st_ino) for found in stats)
    n_bytes = sum(size_of(path) for path in there)
    return Item(group, name, what, tuple(there), root, n_bytes, stamps, kept, named, run)


def listed(path: Path, root: Path) -> Path | None:
    """A path as it is listed: its folder without links; None for a link, and for what lies outside of the root.

    Args:
        path: that may be there.
        root: the folder that it has to lie in, without links.
    """
    place = path.parent.resolve() / path.name
    try:
        mode = place.lstat().st_mode
    except OSError:
        return None
    inside = place != root and place.is_relative_to(root)
    return place if inside and (stat.S_ISDIR(mode) or stat.S_ISREG(mode)) else None


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder. Links are not followed; a file with two names counts once."""
    seen: dict[tuple[int, int], int] = {}
    for found in _stats(path):
        if stat.S_ISREG(found.st_mode):
            seen[found.st_dev, found.st_ino] = found.st_size
    return sum(seen.values())


def devices_of(path: Path) -> set[int]:
    """The file systems of a file, or of a folder and all below it: more than one where something is mounted there."""
    return {found.st_dev for found in _stats(path)}


def _stats(path: Path) -> Iterator[os.stat_result]:
    try:
        found = path.lstat()
    except OSError:
        return
    yield found
    if not stat.S_ISDIR(found.st_mode):
        return
    try:
        with os.scandir(path) as entries:
            below = [Path(entry.path) for entry in entries]
    except OSError:
        return
    for each in below:
        yield from _stats(each)
