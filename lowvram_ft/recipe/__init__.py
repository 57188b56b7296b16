"""Recipes: frozen sections (`sections`), and the layers that they are read from (`layers`)."""

from lowvram_ft.recipe.layers import Resolved, Stage, files_of, find, load, recipes_dir, shipped_recipes
from lowvram_ft.recipe.preference import PreferenceSection
from lowvram_ft.recipe.sections import (
    LORA_TARGETS,
    SECTIONS,
    BenchSection,
    DataSection,
    EvalSection,
    ExportSection,
    HardwareSection,
    LoraSection,
    ModelSection,
    QuantizationSection,
    Recipe,
    TrainSection,
)

__all__ = [
    "LORA_TARGETS",
    "SECTIONS",
    "BenchSection",
    "DataSection",
    "EvalSection",
    "ExportSection",
    "HardwareSection",
    "LoraSection",
    "ModelSection",
    "PreferenceSection",
    "QuantizationSection",
    "Recipe",
    "Resolved",
    "Stage",
    "TrainSection",
    "files_of",
    "find",
    "load",
    "recipes_dir",
    "shipped_recipes",
]
