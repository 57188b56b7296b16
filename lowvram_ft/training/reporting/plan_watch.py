"""Holds what training really takes against the plan, term by term: after the load, and after the first step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import TrainerCallback

from lowvram_ft.progress import Progress
from lowvram_ft.training.engines.protocol import PEAK
from lowvram_ft.training.reporting import measured
from lowvram_ft.training.reporting.callbacks import Event


class PlanWatch(TrainerCallback):  # type: ignore[misc]
    """Says which terms are over the plan, and notes all of them.

    Args:
        stage: name of the stage.
        planned: bytes of each term on the device that trains, and of the peak on a card.
        progress: where a person reads it.
        event: where a program reads it.

    Attributes:
        found: bytes of each term, as far as they are known yet.
    """

    def __init__(self, stage: str, planned: Mapping[str, int], progress: Progress, event: Event) -> None:
        self._stage, self._planned, self._progress, self._event = stage, planned, progress, event
        self.found: dict[str, int] = {}
        self._steps = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """The weights are where they are."""
        self._note("load", measured.weights_bytes(model, _device(model)))

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """The gradients are there."""
        if not self._steps:
            self._note("gradients", {"gradients": measured.gradients_bytes(model)})

    def on_step_end(
        self, args: Any, state: Any, control: Any, model: Any = None, optimizer: Any = None, **kwargs: Any
    ) -> None:
        """So is the optimizer's state, and all else has come and gone once."""
        self._steps += 1
        if self._steps > 1:
            return
        device = _device(model)
        state_bytes = {"optimizer state": measured.optimizer_bytes(optimizer, device)}
        peak = {PEAK: torch.cuda.max_memory_reserved(device)} if device.type == "cuda" else {}
        self._note("first step", state_bytes | peak)
        self._event("measured", stage=self._stage, planned_bytes=dict(self._planned), measured_bytes=self.found)

    def _note(self, when: str, terms: dict[str, int]) -> None:
        self.found |= terms
        for over in measured.overruns(self._planned, terms):
            self._progress.say(f"train {self._stage}: after {when}: {over.words}")


def _device(model: Any) -> torch.device:
    """Where the trained weights are."""
    return next(parameter.device for parameter in model.parameters() if parameter.requires_grad)
