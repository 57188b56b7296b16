"""Caches: what the hub's client fetched, and what the kit keeps to be faster."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from lowvram_ft.clean.items import Item, item
from lowvram_ft.clean.runs import FoundRun
from lowvram_ft.data.sources import SOURCES
from lowvram_ft.models import known_models

HOUR_S = 3600.0
DAY_S = 24 * HOUR_S
OWN = {
    "models": "the embedded base model, dequantized",
    "linked": "headers of base models that stay on the hub",
    "prepared": "tokenized rows",
    "tasks": "tasks from Python's library and installed packages",
    "testgen": "what testgen found, to go on after an interruption",
    "decoding": "measured decoding speeds",
    "llama_cpp": "what the doctor asked llama.cpp",
}
"""Folders of the kit's cache: name ► what it is. Others that lie there are nobody's here."""
VERDICTS = ("verdicts.sqlite3", "verdicts.sqlite3-wal", "verdicts.sqlite3-shm")


def cache_items(folder: Path, runs: Sequence[FoundRun]) -> Iterator[Item]:
    """What lies in the kit's cache; while a run is at work, it may read from there.

    Args:
        folder: see `lowvram_ft.hardware.cache_dir`.
        runs: that are known.
    """
    at_work = next((run.name for run in runs if run.locked), None)
    kept = None if at_work is None else f"{at_work} is at work and may read it"
    places = [(name, what, [folder / name]) for name, what in OWN.items()]
    places.append(("verdicts", "verdicts on tests", [folder / name for name in VERDICTS]))
    for name, what, paths in places:
        found = (
            item("cache", f"cache/{name}", what, paths, folder, kept=kept, named=kept is None)
            if folder.is_dir()
            else None
        )
        if found is not None:
            yield found
    yield from _wheels(folder)


def _wheels(folder: Path) -> Iterator[Item]:
    """What the set-up compiled, and what is left where it was broken off; one of the last day may be going on."""
    if not folder.is_dir():
        return
    left = [path for path in sorted((folder / "wheels").glob("tmp*")) if not path.is_symlink()]
    whole = [path for path in sorted((folder / "wheels").glob("*")) if path not in left]
    recent = any(time.time() - path.lstat().st_mtime < DAY_S for path in left)
    kept = "a set-up may be compiling there" if recent else None
    found = [
        item("cache", "cache/wheels", "llama-cpp-python as the set-up compiled it", whole, folder),
        item("cache", "cache/wheels/tmp", "set-ups that were broken off", left, folder, kept=kept),
    ]
    yield from (each for each in found if each is not None)


def hub_items(folder: Path, runs: Sequence[FoundRun]) -> Iterator[Item]:
    """Models and data sets that the hub's client keeps, and downloads that were broken off.

    Args:
        folder: the hub's cache.
        runs: those that are not finished need their base.
    """
    if not folder.is_dir():
        return
    from huggingface_hub import scan_cache_dir

    needed = {base: run.name for run in runs if not run.finished for base in run.bases}
    ours = {
        *known_models(),
        *(source.hub_id for source in SOURCES.values()),
        *(base for run in runs for base in run.bases),
    }
    for repo in sorted(scan_cache_dir(folder).repos, key=lambda repo: -repo.size_on_disk):
        kept = None if repo.repo_id in ours else "other programs use this cache too: freed where it is named"
        if repo.repo_id in needed:
            kept = f"{needed[repo.repo_id]} is not finished, and needs it"
        days = (time.time() - repo.last_accessed) / DAY_S
        what = f"{repo.repo_type}, last used {'today' if days < 1 else f'{days:.0f} days ago'}"
        made = item("hub", repo.repo_id, what, [repo.repo_path], folder, kept=kept)
        if made is not None:
            revisions = tuple(sorted(revision.commit_hash for revision in repo.revisions))
            yield replace(made, bytes=repo.size_on_disk, revisions=revisions)
    yield from _unfinished(folder)
    if folder.name == "hub":
        chunks = item(
            "hub", "hub/xet", "parts that downloads are put together from", [folder.parent / "xet"], folder.parent
        )
        if chunks is not None:
            yield chunks


def _unfinished(folder: Path) -> Iterator[Item]:
    """Downloads that were broken off; one that grew within the last hour may be going on."""
    files = [path for path in folder.glob("*/blobs/*.incomplete") if path.is_file() and not path.is_symlink()]
    recent = any(time.time() - os.stat(path).st_mtime < HOUR_S for path in files)
    kept = "one of them may be going on" if recent else None
    made = item("hub", "hub/unfinished", "downloads that were broken off", files, folder, kept=kept)
    if made is not None:
        yield made
