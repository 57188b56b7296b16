"""`clean`: what lies where and how large, and freeing of what nothing needs.

What is at work is never freed; what a run can go on from, what other programs may use and whole runs only where they
are named themselves. Nothing is removed that was not listed before.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lowvram_ft.clean.caches import cache_items, hub_items
from lowvram_ft.clean.improved import improve_items
from lowvram_ft.clean.items import GROUPS, Group, Item
from lowvram_ft.clean.removing import free
from lowvram_ft.clean.runs import find_runs, run_items
from lowvram_ft.errors import RunDirectoryError, UsageError
from lowvram_ft.improve.home import Home

__all__ = ["GROUPS", "Group", "Item", "Places", "chosen", "free", "survey"]


@dataclass(frozen=True)
class Places:
    """Where is looked.

    Attributes:
        hub: the hub's cache.
        home: of improve, and the kit's cache.
        runs: folders of runs, or run directories.
    """

    hub: Path
    home: Home
    runs: tuple[Path, ...]


def survey(places: Places) -> list[Item]:
    """Everything that is there, group by group, the largest first."""
    runs = find_runs((*places.runs, places.home.work / "run"))
    shown = [run for run in runs if run.path != places.home.work / "run"]  # that of improve goes with its attempt
    found = [
        *hub_items(places.hub, runs),
        *cache_items(places.home.cache, runs),
        *run_items(shown, places.runs),
        *improve_items(places.home),
    ]
    return sorted(
        (item for item in found if item.bytes), key=lambda item: (GROUPS.index(item.group), -item.bytes, item.name)
    )


def chosen(items: Sequence[Item], what: Sequence[str], runs: Sequence[Path] = ()) -> list[Item]:
    """The items that are meant: of a group, those that nothing needs; others where they are named.

    Args:
        items: of a survey.
        what: groups, names of the table, or paths.
        runs: folders of runs that were looked in, for the error.

    Raises:
        UsageError: nothing has that name.
        RunDirectoryError: what is named is at work.
    """
    found: dict[tuple[Group, str], Item] = {}
    for word in what:
        if word in GROUPS:
            meant = [item for item in items if item.group == word and item.kept is None]
        else:
            meant = [item for item in items if _is_meant(item, word)]
            if not meant:
                raise _unknown(word, runs)
            for item in meant:
                if not item.named:
                    raise RunDirectoryError(f"clean {word}: {item.kept}; it is not freed")
        found |= {(item.group, item.name): item for item in meant}
    return [item for item in found.values() if not _inside_another(item, list(found.values()))]


def _unknown(word: str, runs: Sequence[Path]) -> UsageError:
    """A path that is not there is told apart from a name: that of a model on the hub looks like a path as well."""
    path = Path(word)
    is_path = path.is_absolute() or word.startswith((".", "~")) or (len(path.parts) > 2 and path.parts[0] not in GROUPS)
    if (is_path or path.parent in runs) and not path.exists():
        places = ", ".join(f"{folder}{os.sep}" for folder in runs) or "no folder"
        return UsageError(f"clean {word}: no such path; runs are looked for in {places} (--runs FOLDER)")
    return UsageError(f"clean {word}: is not in the table; take a group ({', '.join(GROUPS)}), or a name of it")


def _is_meant(item: Item, word: str) -> bool:
    path = Path(word)
    place = path.parent.resolve() / path.name  # a link stands for itself, and is in no table
    return item.name == word.rstrip("/") or item.paths == (place,)


def _inside_another(item: Item, items: Sequence[Item]) -> bool:
    """Whether all of it goes with a folder that is freed as well."""
    others = [path for other in items if other is not item for path in other.paths]
    return all(any(other in path.parents for other in others) for path in item.paths)
