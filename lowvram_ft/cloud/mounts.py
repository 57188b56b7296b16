"""Which files of this machine a recipe names, and where they lie on the one in the cloud."""

from __future__ import annotations

import os
from pathlib import Path

from lowvram_ft.data.jsonl import require_file
from lowvram_ft.errors import UsageError
from lowvram_ft.recipe import PreferenceSection, Resolved, files_of, recipes_dir

JOB = "~/lowvram-ft"
"""The folder in which the command runs there, as it runs in the current one here."""


def mounts_of(resolved: Resolved) -> tuple[str, dict[str, str]]:
    """The recipe as the command names it there, and what has to be copied: the place there, and the one here.

    Raises:
        DataError: a JSONL file is missing.
        UsageError: something lies above the current folder, and is named by a relative path.
    """
    recipe, mounts = _recipe(resolved)
    for stage in resolved.stages:
        sections = stage.recipe
        suites = [suite.partition(":")[2] for suite in sections.eval.suites if suite.startswith("jsonl:")]
        for path in filter(None, [sections.data.path, *suites]):
            require_file(Path(path))
            _add(mounts, path)
        if sections.train.method != "sft":
            _add_preferences(mounts, sections.preference)
        for path in filter(None, [sections.model.base, sections.model.adapter]):
            if Path(path).expanduser().is_dir():  # else a name on the hub, or an adapter that is made there
                _add(mounts, path)
    return recipe, dict(sorted(mounts.items()))


def _add_preferences(mounts: dict[str, str], section: PreferenceSection) -> None:
    """Pairs that are given, and repositories that tasks are taken from."""
    repositories = [source.partition(":")[2] for source in section.tasks if source.startswith("repository:")]
    if section.pairs is None:
        for path in repositories:
            _add(mounts, path)
    else:
        if not Path(section.pairs).is_dir():
            require_file(Path(section.pairs))
        _add(mounts, section.pairs)


def _recipe(resolved: Resolved) -> tuple[str, dict[str, str]]:
    """A recipe that ships with the kit is there; another one goes with the files that it extends."""
    shipped = recipes_dir().resolve()
    if resolved.path.resolve().parent == shipped:
        return resolved.name, {}
    mounts = {}
    for file in files_of(resolved.path):
        if file.resolve().parent == shipped:
            continue
        place = os.path.normpath(Path("recipe") / os.path.relpath(file, resolved.path.parent))
        if place.startswith(".."):
            raise UsageError(f"{file}: lies above the recipe that names it; put it beside {resolved.path}")
        mounts[f"{JOB}/{place}"] = str(file.resolve())
    return f"recipe/{resolved.path.name}", mounts


def _add(mounts: dict[str, str], path: str) -> None:
    """Copy what a recipe names to where the same name finds it."""
    here = Path(path).expanduser()
    if path.startswith("~") or here.is_absolute():
        place = path
    else:
        place = os.path.normpath(path)
        if place.startswith(".."):
            raise UsageError(f"{path}: lies above the current folder; start from that folder, or name the whole path")
        place = f"{JOB}/{place}"
    mounts[place.rstrip("/")] = str(here.resolve())
