"""The choice between the two engines."""

from __future__ import annotations

import contextlib
import importlib.util
import sys

from lowvram_ft.errors import MachineError, MissingExtraError
from lowvram_ft.hardware import Hardware
from lowvram_ft.recipe import HardwareSection
from lowvram_ft.training.engines.protocol import Engine


def choose(section: HardwareSection, hardware: Hardware) -> Engine:
    """Choose the engine: Unsloth where there is a CUDA GPU and it is installed, the reference engine elsewhere.

    Raises:
        MachineError: the recipe demands a GPU, and there is none.
        MissingExtraError: the recipe names Unsloth, and it is not installed.
    """
    installed = importlib.util.find_spec("unsloth") is not None
    if section.require_gpu and not hardware.gpus:
        raise MachineError(
            "hardware.require_gpu: this recipe needs a CUDA GPU (none found); "
            "use a machine with one, or try a small base model with "
            "--set hardware.require_gpu=false --set model.base=smollm2-135m"
        )
    if section.engine == "unsloth" and not installed:
        raise MissingExtraError('hardware.engine = "unsloth"', "cuda")
    if section.engine == "unsloth" or (section.engine == "auto" and installed and hardware.gpus):
        with contextlib.redirect_stdout(sys.stderr):  # it greets on stdout, which is for results
            from lowvram_ft.training.engines.unsloth import UnslothEngine

        return UnslothEngine()
    from lowvram_ft.training.engines.reference import ReferenceEngine

    return ReferenceEngine()
