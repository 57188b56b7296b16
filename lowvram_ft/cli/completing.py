"""What a shell offers after TAB. It runs at every TAB: nothing is imported but click."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

import lowvram_ft

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

GROUPS = ("hub", "cache", "checkpoints", "exports", "improve", "runs")
"""Of ``clean``; written out again, because its package takes long to import."""
MOST = 200


def recipes(context: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Recipes that ship with the kit, by name and description; and the ``.toml`` files of the user's."""
    del context, param
    shipped = (path for path in sorted(_recipes_dir().glob("*.toml")) if path.name != "models.toml")
    found = [_item(path.stem, _description(path)) for path in shipped if path.stem.startswith(incomplete)]
    return [*found, *_items(_paths(incomplete, ".toml"))]


def runs(context: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Run directories: those in ``runs/``, and whatever folder is being typed."""
    del context, param
    names = dict.fromkeys([*_runs_in(Path("runs")), *_paths(incomplete, "/")])
    return _items(name for name in names if name.startswith(incomplete))


def models(context: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Base models that the kit knows, and folders."""
    del context, param
    import tomllib

    facts = tomllib.loads((_recipes_dir() / "models.toml").read_text(encoding="utf-8"))
    known = [name for name in facts["models"] if name.lower().startswith(incomplete.lower())]
    return _items([*known, *_paths(incomplete, "/")])


def to_clean(context: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Groups of ``clean``, and run directories."""
    groups = _items(name for name in GROUPS if name.startswith(incomplete))
    return [*groups, *runs(context, param, incomplete)]


def _items(names: Iterable[str]) -> list[CompletionItem]:
    return [_item(name) for name in names]


def _item(name: str, text: str | None = None) -> CompletionItem:
    from click.shell_completion import CompletionItem  # every command imports this module

    return CompletionItem(name, help=text)


def _recipes_dir() -> Path:
    """As `lowvram_ft.recipe.recipes_dir`, whose package takes long to import."""
    package = Path(lowvram_ft.__file__).parent
    shipped = package / "recipes"
    return shipped if shipped.is_dir() else package.parent / "recipes"


def _description(path: Path) -> str:
    """The recipe's own, read without parsing all of it."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.startswith("description = "):
                return line.partition("=")[2].strip().strip('"')
    return ""


def _runs_in(folder: Path) -> Iterator[str]:
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if not entry.name.startswith("."))
    except OSError:
        return
    for name in names[:MOST]:
        if (folder / name / "run.json").is_file():
            yield str(folder / name)


def _paths(incomplete: str, suffix: str) -> Iterator[str]:
    """Files with an ending, or folders (``/``), that begin so; folders are offered on the way to a file."""
    above, _, start = incomplete.rpartition("/")
    folder = Path(f"{above}/" if above or incomplete.startswith("/") else ".").expanduser()
    try:
        with os.scandir(folder) as entries:
            there = sorted((entry.name, entry.is_dir()) for entry in entries)
    except OSError:
        return
    for name, is_dir in there[:MOST]:
        if not name.startswith(start) or (name.startswith(".") and not start.startswith(".")):
            continue
        if is_dir or name.endswith(suffix):
            prefix = incomplete[: len(incomplete) - len(start)]
            yield f"{prefix}{name}" + ("/" if is_dir else "")
