"""What keeps a training from being lost: checkpoints by time and by step, and a resume that goes on bit for bit.

`Saver` is a callback, and wraps two methods of the one trainer that it is attached to, whatever its class (TRL's, or
the one that Unsloth has rewritten):

- ``_save_checkpoint`` writes aside and renames (see `lowvram_ft.training.recovery.checkpoints`). A full disk is said,
  and training goes on: the checkpoints that are there stay, and it is tried again a minute later.
- ``evaluate`` leaves the random state as it was, so that a training does not depend on when it is evaluated, and an
  evaluation that was cut off can be made up for.

The order of the rows is a function of the step already (`lowvram_ft.training.processes.order`).
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from lowvram_ft.errors import Terminated, cannot_write, is_disk_full
from lowvram_ft.progress import Progress
from lowvram_ft.training.recovery import checkpoints
from lowvram_ft.training.recovery.checkpoints import Position
from lowvram_ft.training.recovery.out_of_memory import HostMemoryLow, HostWatch
from lowvram_ft.training.recovery.random_state import RandomState
from lowvram_ft.training.recovery.stopping import StopRequest
from lowvram_ft.training.reporting.callbacks import Event

Phase = Literal["load", "references", "step", "optimizer", "evaluation", "saving", "between"]
RETRY_S = 60.0
"""Seconds until a checkpoint that could not be written is tried again."""


class TrainingComplete(Exception):
    """The checkpoint that was resumed holds a training that has ended; there is no step left to do."""


class Saver(TrainerCallback):  # type: ignore[misc]
    """Writes checkpoints, and brings a trainer back to where one was written.

    The clock is monotonic: it stands still while a laptop sleeps (Linux: ``CLOCK_MONOTONIC``) and does not jump when
    the time of day is set. So at most ``every_s`` seconds of work are lost, and nothing is saved twice for a night.

    Args:
        stage: name of the stage.
        every_s: seconds of training between two checkpoints; None for those by step alone.
        stop: whether the run is to end.
        watch: whether the host's memory runs low.
        progress: where a person reads it.
        event: where a program reads it.
        clock: seconds, from anywhere.

    Attributes:
        phase: what the trainer is doing.
    """

    def __init__(
        self,
        stage: str,
        every_s: float | None,
        stop: StopRequest,
        watch: HostWatch,
        progress: Progress,
        event: Event,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stage, self._every_s, self._stop, self._watch = stage, every_s, stop, watch
        self._progress, self._event, self._clock = progress, event, clock
        self.phase: Phase = "load"
        self._trainer: Any = None
        self._resumed: Path | None = None
        self._random: RandomState | None = None
        self._tokens = 0
        self._best: dict[str, torch.Tensor] | None = None
        self._best_step: int | None = None
        self._saved_step = 0
        self._due = 0.0
        self._said_low = False

    def attach(self, trainer: Any, resume: Path | None) -> None:
        """Take charge of a trainer's checkpoints.

        Args:
            trainer: a ``trl.SFTTrainer`` or ``trl.DPOTrainer`` with this callback.
            resume: the whole checkpoint that it will be resumed from.
        """
        self._trainer, self._resumed = trainer, resume
        self._saved_step = checkpoints.step_of(resume) if resume is not None else 0
        write, evaluate = trainer._save_checkpoint, trainer.evaluate
        trainer._save_checkpoint = lambda model, trial: self._save(lambda: write(model, trial))
        trainer.evaluate = lambda *given, **named: self._evaluate(lambda: evaluate(*given, **named))

    def logged(self) -> TrainerCallback:
        """A callback to go before all others: from when a step is logged, its state can be saved whatever they do."""
        return _Logged(self)

    def detach(self) -> None:
        """Let go of the trainer, and of the best weights."""
        self._trainer = self._best = None

    def finish(self) -> None:
        """Give the model the weights of the lowest validation loss, where there was a validation."""
        if self._best is None:
            return
        parameters = dict(self._trainer.model.named_parameters())
        with torch.no_grad():
            for name, value in self._best.items():
                parameters[name].copy_(value)

    def rescue(self) -> bool:
        """After a step that was cut off: save the state of the last one that was finished.

        Weights and optimizer change in the optimizer's step alone, so in any other phase they are still whole.

        Returns:
            Whether the newest checkpoint now holds that state.
        """
        step = self._trainer.state.global_step if self._trainer is not None else 0
        if step == self._saved_step:
            return step > 0
        if self.phase in ("load", "references", "optimizer") or self._random is None:
            return False
        self._random.restore()
        self._trainer.model.zero_grad(set_to_none=True)
        self._trainer._save_checkpoint(self._trainer.model, None)
        return bool(self._saved_step == step)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Go on where the checkpoint was written.

        Raises:
            TrainingComplete: it was written at the end.
        """
        self._due = self._clock() + (self._every_s or 0.0)
        self._stop.deferred = True
        if self._resumed is None:
            return
        position = checkpoints.read_position(self._resumed)
        self._tokens = self._trainer._total_train_tokens = position.tokens
        best = self._resumed / checkpoints.BEST
        if best.is_file():
            self._best, self._best_step = load_file(str(best)), state.best_global_step
        if position.owes_evaluation:
            self._make_up_for_evaluation(control)
            position = checkpoints.read_position(self._resumed)
        if position.finished or control.should_training_stop:
            raise TrainingComplete

    def _make_up_for_evaluation(self, control: Any) -> None:
        """What the trainer would have done after the step: evaluate, and save."""
        trainer = self._trainer
        trainer._load_rng_state(str(self._resumed))
        self._random = RandomState.take()
        finished = checkpoints.read_position(self._resumed).finished if self._resumed is not None else False
        control.should_evaluate = True
        metrics = trainer.evaluate()
        trainer._determine_best_metric(metrics, None)
        control.should_training_stop = control.should_training_stop or finished
        trainer._save_checkpoint(trainer.model, None)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A step begins."""
        self.phase = "step"

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """From here on the weights change."""
        self.phase = "optimizer"

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note what a checkpoint of this step has to hold."""
        self._random = RandomState.take()
        self._tokens = int(self._trainer._total_train_tokens)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """After a step, before its evaluation: stop if that was asked for, step down, or save what is due.

        Raises:
            Terminated: the run is to end.
            HostMemoryLow: the host's memory runs low, and something can be done about it.
        """
        if "loss" not in (logs or {}):
            return
        low = self._watch.low_bytes()
        due = self._every_s is not None and self._clock() >= self._due
        stop, short, due = self._of_any_rank(self._stop.requested, low is not None, due)
        if stop:
            raise Terminated
        if low is not None and self._trainer.args.world_size == 1 and self._watch.may_step_down():
            raise HostMemoryLow(low)
        if short and not self._said_low:
            self._progress.say(
                f"train {self._stage}: the host's memory runs low; close other programs. What is trained is saved now"
            )
        due, self._said_low = due or (short and not self._said_low), short
        if not due:
            return
        if control.should_evaluate:  # it may take longer than anything before it
            self._trainer._save_checkpoint(self._trainer.model, None)
        else:
            control.should_save = True

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop in an evaluation, too: it can be long.

        Raises:
            Terminated: the run is to end.
        """
        if self._of_any_rank(self._stop.requested)[0]:
            raise Terminated

    def _evaluate(self, evaluate: Callable[[], Any]) -> Any:
        before, state = self.phase, RandomState.take()
        self.phase = "evaluation"
        result = evaluate()  # an exception leaves the phase as it is: it says where it happened
        state.restore()
        self.phase = before
        return result

    def _save(self, write: Callable[[], None]) -> None:
        """Write a checkpoint aside, and give it its name once it is whole."""
        trainer = self._trainer
        before, self.phase = self.phase, "saving"
        folder = Path(trainer.args.output_dir)
        try:
            self._write(folder, write)
        except Exception as error:
            if not isinstance(error, OSError) and not is_disk_full(error):
                raise
            shutil.rmtree(folder / checkpoints.STAGING, ignore_errors=True)
            self._say_failed(error)
        else:
            self._due = self._clock() + (self._every_s or 0.0)
        self.phase = before

    def _write(self, folder: Path, write: Callable[[], None]) -> None:
        trainer, staging = self._trainer, folder / checkpoints.STAGING
        state = trainer.state
        if state.best_global_step == state.global_step != self._best_step:
            self._best, self._best_step = _trained_weights(trainer.model), state.global_step
        if trainer.args.should_save:
            shutil.rmtree(staging, ignore_errors=True)
        trainer.accelerator.wait_for_everyone()
        ordinary = trainer._get_output_dir
        trainer._get_output_dir = lambda trial=None: str(staging)  # noqa: ARG005
        try:
            write()
        finally:
            trainer._get_output_dir = ordinary
        trainer.accelerator.wait_for_everyone()  # every rank writes its own random state
        if not trainer.args.should_save:
            self._saved_step = state.global_step
            return
        staged = staging / f"{checkpoints.PREFIX}{state.global_step}"
        # the trainer notes the folder where it wrote the best weights; ours lie in every checkpoint
        state.best_model_checkpoint = None
        state.save_to_json(str(staged / checkpoints.TRAINER_STATE))
        if self._best is not None:
            save_file(self._best, str(staged / checkpoints.BEST))
        control = trainer.control
        checkpoints.write_position(
            staged, Position(control.should_training_stop, control.should_evaluate, self._tokens)
        )
        checkpoints.seal(staged)
        checkpoints.publish(staged, folder)
        shutil.rmtree(staging, ignore_errors=True)
        checkpoints.prune(folder)
        self._saved_step = state.global_step

    def _say_failed(self, error: Exception) -> None:
        self._due = self._clock() + min(RETRY_S, self._every_s or RETRY_S)
        kept = f"that of step {self._saved_step} stays the newest" if self._saved_step else "there is none yet"
        reason = cannot_write(Path(self._trainer.args.output_dir), error)
        self._progress.say(f"train {self._stage}: no checkpoint ({reason}); {kept}; training goes on")
        self._event("checkpoint_failed", stage=self._stage, step=self._trainer.state.global_step, reason=str(error))

    def _of_any_rank(self, *flags: bool) -> tuple[bool, ...]:
        """Whether a flag is up in any process: all have to save in the same step, or those that do wait for ever."""
        if self._trainer.args.world_size == 1:
            return flags
        here = torch.tensor([flags], device=self._trainer.args.device, dtype=torch.int32)
        return tuple(bool(up) for up in self._trainer.accelerator.gather(here).amax(dim=0).tolist())


class _Logged(TrainerCallback):  # type: ignore[misc]
    def __init__(self, saver: Saver) -> None:
        self._saver = saver

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if "loss" in (logs or {}):
            self._saver.phase = "between"


def _trained_weights(model: Any) -> dict[str, torch.Tensor]:
    """A copy on the host of what is trained."""
    return {
        name: parameter.detach().to("cpu", copy=True).contiguous()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
