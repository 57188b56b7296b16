"""One attempt at a stage, from the load to the last step; where it ends early, what is whole is saved."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lowvram_ft.data.prepared import Prepared
from lowvram_ft.data.prepared_pairs import PreparedPairs, for_trainer
from lowvram_ft.errors import Terminated
from lowvram_ft.progress import Progress
from lowvram_ft.recipe import Recipe
from lowvram_ft.training.engines import Engine, Loaded, LoadPlan
from lowvram_ft.training.preference import assert_pair_masks
from lowvram_ft.training.processes.ranks import Ranks
from lowvram_ft.training.recovery.checkpoints import damaged_checkpoints, newest_checkpoint, set_aside
from lowvram_ft.training.recovery.descent import Shortage
from lowvram_ft.training.recovery.out_of_memory import free_memory, is_in_backward, let_go, shortage_of
from lowvram_ft.training.recovery.saving import Saver, TrainingComplete
from lowvram_ft.training.references import FILE, conditions, reference_log_probs
from lowvram_ft.training.reporting.callbacks import Event
from lowvram_ft.training.sft import assert_completion_mask


class Attempt:
    """A model, its trainer and what saves it.

    Args:
        stage: name of the stage.
        engine: who loads and trains.
        device: where: ``"cuda"`` or ``"cpu"``.
        folder: of the checkpoints.
        saver: not attached yet.
        progress: where a person reads how far it is.
        event: where a program reads it.
        ranks: this process among those that train together.

    Attributes:
        loaded: the model; None before it is loaded, and once it is let go.
        trainer: its trainer, in the same way.
    """

    def __init__(
        self,
        stage: str,
        engine: Engine,
        device: str,
        folder: Path,
        saver: Saver,
        progress: Progress,
        event: Event,
        ranks: Ranks,
    ) -> None:
        self._stage, self._engine, self._device, self._folder = stage, engine, device, folder
        self._saver, self._progress, self._event, self._ranks = saver, progress, event, ranks
        self.loaded: Loaded | None = None
        self.trainer: Any = None

    def train(
        self,
        recipe: Recipe,
        model: Path,
        plan: LoadPlan,
        prepared: Prepared | PreparedPairs,
        adapter: Path | None,
        callbacks: Sequence[Any],
    ) -> None:
        """Load, resume where there is a checkpoint, and train to the end.

        Args:
            recipe: the stage's sections.
            model: folder of the base model.
            plan: how it is loaded.
            prepared: the rows, or the pairs.
            adapter: PEFT folder to continue; None starts a new one.
            callbacks: beside the saver.

        Raises:
            ModelError: the model or the adapter cannot be used.
            TrainingError: the loss is not finite, or the mask is wrong.
        """
        self._progress.doing("loading the model")
        self.loaded = self._engine.load(model, plan, adapter)
        if isinstance(prepared, PreparedPairs):
            self._build_for_pairs(recipe, model, plan, prepared, adapter, callbacks)
        else:
            rows, eval_rows = prepared.train.for_trainer(), prepared.eval.for_trainer() if prepared.eval else None
            self._build(recipe, rows, eval_rows, callbacks)
            assert_completion_mask(self.trainer, prepared.train)
        resume = self._resume()
        self._saver.attach(self.trainer, resume)
        self._progress.doing("the first step")
        with suppress(TrainingComplete):
            self.trainer.train(resume_from_checkpoint=str(resume) if resume is not None else None)
        self._saver.finish()

    def _build_for_pairs(
        self,
        recipe: Recipe,
        model: Path,
        plan: LoadPlan,
        prepared: PreparedPairs,
        adapter: Path | None,
        callbacks: Sequence[Any],
    ) -> None:
        """Compare the pairs under the model as the stage begins, which it is until a checkpoint is taken up."""
        assert self.loaded is not None
        self._saver.phase = "references"
        under = conditions(self._engine.name, model, adapter, self.loaded, plan)
        examples, path = (*prepared.train, *prepared.eval), self._folder.parent / FILE
        with self._ranks.first():  # computes them; the others read the same file
            found = reference_log_probs(self._stage, self.loaded, examples, path, under, self._progress, self._event)
        self._saver.phase = "load"
        eval_rows = for_trainer(prepared.eval, found) if prepared.eval else None
        self._build(recipe, for_trainer(prepared.train, found), eval_rows, callbacks)
        assert_pair_masks(self.trainer, prepared.train, found)

    def _build(self, recipe: Recipe, rows: Any, eval_rows: Any, callbacks: Sequence[Any]) -> None:
        assert self.loaded is not None
        self.trainer = self._engine.trainer(
            recipe.train.method,
            self.loaded,
            recipe.train,
            rows,
            eval_rows,
            self._folder,
            [self._saver.logged(), *callbacks, self._saver],
        )

    def shortage(self, error: BaseException) -> Shortage | None:
        """Where memory ran out; None if it did not, or if other processes wait for this one."""
        short = shortage_of(error, self._device)
        if short is None or (self.trainer is not None and self.trainer.args.world_size > 1):
            return None
        phase: str = self._saver.phase
        if phase == "step":
            phase = "backward" if is_in_backward(error) else "forward"
        lines = str(error).strip().splitlines()
        step = int(self.trainer.state.global_step) if self.trainer is not None else 0
        return Shortage(short, phase, step, lines[0][:120] if lines else type(error).__name__)

    def rescue(self, stopped_by: KeyboardInterrupt | None) -> None:
        """Save the last finished step, where it is not saved yet and still whole. What fails here costs only time.

        Args:
            stopped_by: what ended the run; None if memory ran out.
        """
        if self.trainer is None:
            return
        if self.trainer.args.world_size > 1 and not isinstance(stopped_by, Terminated):
            return  # each process would be elsewhere; only a request is answered by all in the same step
        step = int(self.trainer.state.global_step)
        why = "its weights were just being changed"
        try:
            saved = self._saver.rescue()
        except (
            Exception
        ) as error:  # whatever ended the training may keep it from being saved, too: that is what is told
            saved, why = False, str(error).partition("\n")[0]
            let_go(error)
        if saved:
            self._progress.say(f"train {self._stage}: saved at step {step}")
        elif step > 0:
            newest = newest_checkpoint(self._folder)
            there = newest.name if newest is not None else "the beginning"
            self._progress.say(f"train {self._stage}: step {step} is not saved ({why}); it goes on from {there}")

    def release(self) -> None:
        """Let go of the model and all that hangs on it, so that the next attempt finds the memory free."""
        if self.trainer is not None:
            self.trainer.accelerator.free_memory()
        self.trainer = self.loaded = None
        self._saver.detach()
        free_memory()

    def _resume(self) -> Path | None:
        """The checkpoint to go on from; says which ones are damaged."""
        for path in damaged_checkpoints(self._folder):
            self._progress.say(f"train {self._stage}: {path.name} is damaged; the one before it is taken")
            self._event("checkpoint_damaged", stage=self._stage, checkpoint=path.name)
            if self.trainer.args.should_save:
                set_aside(path)
        resume = newest_checkpoint(self._folder)
        if resume is not None:
            self._progress.say(f"train {self._stage}: resumes at {resume.name}")
            self._event("resumed", stage=self._stage, checkpoint=resume.name)
        return resume
