"""What a trainer reports while it runs: a progress line, and events in the run directory."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback

from lowvram_ft.errors import TrainingError
from lowvram_ft.hardware import peak_rss_bytes
from lowvram_ft.progress import Progress

Event = Callable[..., None]


class Report(TrainerCallback):  # type: ignore[misc]
    """Loss, tokens a second, memory and time left; every logged step also becomes an event.

    Args:
        stage: name of the stage.
        progress: where a person reads it.
        event: where a program reads it.
        clock: seconds that stand still while the machine sleeps (Linux: ``CLOCK_MONOTONIC``). Evaluations and
            checkpoints do not count as training either.
    """

    def __init__(
        self, stage: str, progress: Progress, event: Event, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stage, self._progress, self._event, self._clock = stage, progress, event, clock
        self._step_began = self._spent_s = 0.0
        self._first_tokens: float | None = None
        self._loss = math.nan
        self._eval_loss: float | None = None
        self._tok_per_s = 0.0
        self._batches = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Its losses are its own."""
        self._progress.losses()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock."""
        self._step_began = self._clock()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop it."""
        self._spent_s += self._clock() - self._step_began

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Take up what the trainer logged.

        Raises:
            TrainingError: the loss is not a finite number.
        """
        values = logs if logs is not None else {}
        if "eval_loss" in values:
            self._eval_loss = float(values["eval_loss"])
            of_pairs = _of_pairs(values, "eval_")
            self._event("validated", stage=self._stage, step=state.global_step, eval_loss=self._eval_loss, **of_pairs)
        if "loss" not in values:
            return
        self._loss = float(values["loss"])
        if not math.isfinite(self._loss):
            raise TrainingError(
                f"{self._stage}: the loss is {self._loss} at step {state.global_step}; "
                "lower train.learning_rate, or raise train.warmup_steps"
            )
        tokens = float(values.get("num_tokens", 0.0))
        if self._first_tokens is None:  # the first step warms up
            self._first_tokens, self._spent_s = tokens, 0.0
        else:
            self._tok_per_s = (tokens - self._first_tokens) / max(self._spent_s, 1e-9)
        # the recorders of `train.report_to` come later, and get these as well
        values |= {"tok_per_s": round(self._tok_per_s, 1), "memory_gib": round(memory_bytes() / 2**30, 3)}
        self._event(
            "trained",
            stage=self._stage,
            step=state.global_step,
            steps=state.max_steps,
            loss=self._loss,
            learning_rate=values.get("learning_rate"),
            tok_per_s=round(self._tok_per_s, 1),
            memory_bytes=memory_bytes(),
            **_of_pairs(values),
        )
        validation = f", validation {self._eval_loss:.3f}" if self._eval_loss is not None else ""
        if "rewards/margins" in values:
            validation += f", margin {values['rewards/margins']:.3f}"
        self._progress.losses(self._loss)
        self._progress.step(
            f"train {self._stage}",
            state.global_step,
            state.max_steps,
            f"loss {self._loss:.3f}{validation}, {self._tok_per_s:.0f} tok/s",
        )

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """An evaluation goes on."""
        self._batches += 1
        batches = kwargs.get("eval_dataloader")
        total = f" of {len(batches)}" if batches is not None else ""
        self._progress.doing(f"validation, batch {self._batches}{total}")

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """It is over."""
        self._batches = 0
        self._progress.doing("")


def _of_pairs(values: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """By how much winners are preferred, and how often, where pairs are trained on; nothing elsewhere."""
    names = {"reward_margin": "rewards/margins", "reward_accuracy": "rewards/accuracies"}
    return {name: float(values[prefix + key]) for name, key in names.items() if prefix + key in values}


def memory_bytes() -> int:
    """Peak memory: reserved on the card where there is one, else resident on the host."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_reserved())
    return peak_rss_bytes() or 0
