"""Engines: who loads the model and who builds the trainer. Chosen by `choose`."""

from lowvram_ft.training.engines.choice import choose
from lowvram_ft.training.engines.protocol import Engine, Loaded, LoadPlan

__all__ = ["Engine", "LoadPlan", "Loaded", "choose"]
