"""Removing what was listed, and nothing else.

Before each removal the path has to be what it was when it was listed: the same file or folder by the system's own
number, in a folder that is the same place, no link, and on one file system with all that lies below it. Folders are
renamed first, so that a kill leaves nothing that looks whole.
"""

from __future__ import annotations

import os
import shutil
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

from lowvram_ft.clean.items import CLEANING, Item, devices_of, listed
from lowvram_ft.errors import RunDirectoryError, cannot_write
from lowvram_ft.improve.home import Home
from lowvram_ft.run_dir import RunDir


def free(item: Item, home: Home) -> None:
    """Remove one item.

    Args:
        item: as it was listed.
        home: of improve, which is locked while a model of its is removed.

    Raises:
        RunDirectoryError: a command is at work there, or a path is not what it was any more.
        MachineError: the system does not let it be removed.
    """
    with _alone(item, home):
        for path, stamp in zip(item.paths, item.stamps, strict=True):
            _require_same(path, item.root, stamp)
        if item.revisions:
            _free_revisions(item)
            return
        for path in item.paths:
            _remove(path)


def _alone(item: Item, home: Home) -> AbstractContextManager[None]:
    if item.run is not None:
        return RunDir(item.run).lock()
    return home.alone() if item.group == "improve" else nullcontext()


def _require_same(path: Path, root: Path, stamp: tuple[int, int]) -> None:
    if listed(path, root) != path:
        raise RunDirectoryError(f"{path}: is not where it was listed any more; it is left alone: look again")
    found = path.lstat()
    if (found.st_dev, found.st_ino) != stamp:
        raise RunDirectoryError(f"{path}: is another one than was listed; it is left alone: look again")
    if len(devices_of(path)) > 1:
        raise RunDirectoryError(f"{path}: another file system is mounted in it; unmount that first")


def _remove(path: Path) -> None:
    try:
        if not path.is_dir():
            path.unlink()
            return
        gone = path
        if CLEANING not in path.name:
            gone = path.with_name(f".{path.name}{CLEANING}{os.getpid()}")
            path.rename(gone)
        shutil.rmtree(gone)
    except OSError as error:
        raise cannot_write(path, error) from error


def _free_revisions(item: Item) -> None:
    """Leave it to the hub's own client, which knows what other models share."""
    from huggingface_hub import scan_cache_dir

    found = scan_cache_dir(item.root)
    own = frozenset(repo for repo in found.repos if repo.repo_path.resolve() == item.paths[0])
    strategy = replace(found, repos=own).delete_revisions(*item.revisions)
    touched = {*strategy.repos, *strategy.snapshots, *strategy.refs, *strategy.blobs, *strategy.files}
    outside = [path for path in touched if not path.parent.resolve().joinpath(path.name).is_relative_to(item.paths[0])]
    if outside:
        raise RunDirectoryError(f"{outside[0]}: lies outside of {item.paths[0]}; it is left alone")
    strategy.execute()
    if item.paths[0].exists():
        raise RunDirectoryError(f"{item.paths[0]}: could not be removed; check who may write there")
