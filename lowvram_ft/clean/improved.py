"""What `improve` keeps: models that are not in use any more, and what a killed command left."""

from __future__ import annotations

from collections.abc import Iterator

from lowvram_ft.clean.items import CLEANING, Item, item
from lowvram_ft.improve.home import Home
from lowvram_ft.inference.in_use import read_in_use


def improve_items(home: Home) -> Iterator[Item]:
    """Models and the attempt under way. Logs of answers are not listed: ``improve --forget`` removes those.

    Args:
        home: where.
    """
    if not home.root.is_dir():
        return
    found = read_in_use(home.root)
    numbers = sorted((path for path in home.models.glob("*") if path.name.isdigit()), key=lambda path: int(path.name))
    for folder in numbers:
        number = int(folder.name)
        if found is not None and number == found.generation:
            kept, named = "testgen --model improved uses it", False
        elif found is not None and number in found.history:
            kept, named = "improve --rollback goes back to it", True
        else:
            kept, named = None, True
        yield from _some(item("improve", f"improve/{number}", "a model", [folder], home.root, kept=kept, named=named))
    left = [*home.models.glob(".*.tmp"), *home.models.glob(f".*{CLEANING}*"), *home.root.glob(f".*{CLEANING}*")]
    yield from _some(item("improve", "improve/left", "what was left half-made or half-removed", left, home.root))
    under_way = home.attempt.is_file()
    kept = "an attempt is under way: improve goes on with it" if under_way else None
    yield from _some(item("improve", "improve/work", "an attempt's files", [home.work], home.root, kept=kept))


def _some(found: Item | None) -> list[Item]:
    return [] if found is None else [found]
