"""The recipe of the next generation: that of the model in use, with what a few rows of one's own call for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lowvram_ft.recipe import Recipe, Resolved, load
from lowvram_ft.recipe.sections import Method
from lowvram_ft.run_dir import write_text

TRACES_STAGE = "traces"
ANSWERS_STAGE = "answers"
LEARNING_RATES = {"sft": 5e-5, "rft": 2e-5, "dpo": 5e-6}
"""Of few rows: a small step away from a model that is good already."""
_KEPT = ("model", "quantization", "lora", "train", "hardware", "export")
_OWN = {
    "model": ("adapter", "fallbacks"),
    "train": ("method", "learning_rate", "num_train_epochs", "max_steps", "early_stopping_patience", "seed"),
    "export": ("ollama",),
}
"""Keys that are not taken over from the model in use."""


def write_recipe(
    path: Path,
    base: Mapping[str, Any],
    adapter: Path,
    *,
    traces: Path | None,
    pairs: Path | None,
    method: Method,
    suites: Sequence[str],
    seed: int,
) -> None:
    """Write the recipe of an attempt.

    Args:
        path: the TOML file.
        base: sections of the model in use.
        adapter: its PEFT folder, which training continues.
        traces: rows of stage C; None for none.
        pairs: folder of the pair set; None for none.
        method: ``dpo`` or ``rft``.
        suites: that no row may come from.
        seed: of the training.
    """
    sections = {name: _without(name, base.get(name, {})) for name in _KEPT}
    sections["model"]["adapter"] = str(adapter)
    sections["train"] |= {"num_train_epochs": 1.0, "seed": seed}
    sections["eval"] = {"suites": list(suites)} if suites else {}
    lines = ["schema_version = 1", 'description = "improve"']
    for name, values in sections.items():
        lines += ["", f"[{name}]", *(f"{key} = {_value(value)}" for key, value in values.items())]
    if traces is not None:
        keys: dict[str, Any] = {
            "data.source": "failure_traces",
            "data.path": str(traces),
            "train.learning_rate": LEARNING_RATES["sft"],
        }
        lines += _stage(TRACES_STAGE, keys)
    if pairs is not None:
        keys = {
            "train.method": method,
            "preference.pairs": str(pairs),
            "train.learning_rate": LEARNING_RATES[method],
        }
        lines += _stage(ANSWERS_STAGE, keys)
    write_text(path, "\n".join(lines) + "\n")


def read_recipe(path: Path, overrides: Sequence[str]) -> Resolved:
    """That recipe, with what the user says.

    Raises:
        RecipeError: a setting is not allowed; names all of them.
    """
    return load(str(path), overrides)


def sections_of(recipe: Recipe) -> dict[str, Any]:
    """What the next generation takes over."""
    found: dict[str, Any] = recipe.model_dump(mode="json")
    return {name: found[name] for name in _KEPT}


def _stage(name: str, keys: Mapping[str, Any]) -> list[str]:
    return ["", "[[stages]]", f"name = {_value(name)}", *(f"{key} = {_value(value)}" for key, value in keys.items())]


def _without(section: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None and key not in _OWN.get(section, ())}


def _value(value: Any) -> str:
    """Of TOML: its strings, numbers, booleans and lists are JSON's."""
    return json.dumps(value)
