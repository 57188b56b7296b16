"""The stages of a recipe, as sections: what is learnt first, and what is the user's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lowvram_ft.init.material import ENOUGH_OF_ONES_OWN, Material
from lowvram_ft.models import EMBEDDED

FORM_TOKENS = 1024
"""Every row of KodCode that is used fits (``benchmarks/results/kodcode_funnel.json``: 178 of 178)."""
OWN_TOKENS = 2048
ROW_TOKENS = {"kodcode": 450, "coderm": 600, "samples": 320, "own": 900}
"""Of a row, with its prompt. Assumptions: of KodCode's, most have less than 512 (``kodcode_funnel.json``); of the kit's
own, 51,725 / 161 (README); of a repository's, functions and files in equal parts."""
SAMPLE_ROWS = 161
SAMPLE_TOKENS = 125_000
"""Of the demo's three stages together (README)."""
OWN_ROWS = 300
"""Rows that a repository gives, to plan the time by. Assumption."""
OWN_EPOCHS = 2.0
SAMPLE_EPOCHS = 1.5
READ_PER_ROW = 4
"""Objects that are read for each that is used: KodCode keeps 100 of 230, and rows are drawn for diversity."""


@dataclass(frozen=True)
class StageText:
    """One stage.

    Attributes:
        name: of the stage.
        why: a comment.
        sections: section to keys, for `lowvram_ft.recipe`.
    """

    name: str
    why: str
    sections: dict[str, dict[str, Any]]


def stages_for(
    material: Material, base: str, *, form_source: str, form_rows: int, own_rows: int | None, path: str | None
) -> tuple[StageText, ...]:
    """The stages, in order.

    Args:
        material: what the user brings.
        base: the base model; the embedded one learns at higher rates.
        form_source: ``kodcode``, ``coderm`` or ``samples``: where the form of a test is learnt from.
        form_rows: of that source, if it is the hub's.
        own_rows: at the most, of the user's own; None for all.
        path: file of the user's own rows.
    """
    faster = 5.0 if base == EMBEDDED else 1.0
    if material.brings == "samples":
        return _samples(faster)
    found: list[StageText] = []
    if learns_form(material):
        found += _samples(faster)[:1] if form_source == "samples" else [_form(form_source, form_rows, faster)]
    if material.source is not None:
        found.append(_own(material, path, own_rows, alone=not found))
    return tuple(found)


def learns_form(material: Material) -> bool:
    """Whether a stage on other rows comes first, or is all there is."""
    if material.brings == "samples":
        return False
    return material.brings in ("kodcode", "coderm") or (material.rows or 0) < ENOUGH_OF_ONES_OWN


def own_epochs(material: Material) -> float:
    """Passes over the user's own rows: one is enough where they are many."""
    return 1.0 if (material.rows or 0) >= ENOUGH_OF_ONES_OWN else OWN_EPOCHS


def _form(source: str, rows: int, faster: float) -> StageText:
    hub = {"kodcode": "KodCode/KodCode-V1-SFT-R1", "coderm": "KAKA22/CodeRM-UnitTest"}[source]
    data = {"source": source, "hub_id": hub, "max_read": rows * READ_PER_ROW, "max_rows": rows}
    train = {"max_length": FORM_TOKENS, "learning_rate": 2e-4 * faster, "num_train_epochs": 1.0}
    return StageText("form", "the form of a test file, from functions and their tests", {"data": data, "train": train})


def _own(material: Material, path: str | None, most: int | None, *, alone: bool) -> StageText:
    data: dict[str, Any] = {"source": material.source, "path": path, "too_long": "trim"}
    if most is not None:
        data["max_rows"] = most
    if material.rows is not None and material.rows < 40:
        data["eval_share"] = 0.2
    rate = 2e-4 if alone else 1e-4
    train = {"max_length": OWN_TOKENS, "learning_rate": rate, "num_train_epochs": own_epochs(material)}
    return StageText("own", "your own code and tests", {"data": data, "train": train})


def _samples(faster: float) -> tuple[StageText, ...]:
    """As the demo has them."""
    rates = {"functions": (2e-4, SAMPLE_EPOCHS), "modules": (6e-5, 1.0), "traces": (4e-5, 1.0)}
    why = {
        "functions": "functions with their tests: the form of a test file",
        "modules": "whole modules",
        "traces": "failing tests with pytest's output, and what mends them",
    }
    return tuple(
        StageText(
            name,
            why[name],
            {
                "data": {"source": "samples", "subset": name},
                "train": {"max_length": FORM_TOKENS, "learning_rate": rate * faster, "num_train_epochs": epochs},
            },
        )
        for name, (rate, epochs) in rates.items()
    )
