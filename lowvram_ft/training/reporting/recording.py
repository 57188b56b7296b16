"""Callbacks that record a training with transformers' integrations; see `reporters`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK, MLflowCallback, TensorBoardCallback

from lowvram_ft.errors import MachineError
from lowvram_ft.progress import Progress
from lowvram_ft.run_dir import write_text

PROJECT = "lowvram-ft"
"""What trackio files records under."""


class Recording(TrainerCallback):  # type: ignore[misc]
    """An integration that may fail: at the beginning that ends the run, later on it ends the record alone.

    Args:
        name: as ``train.report_to`` calls it.
        training: name of the stage, or of its round: what the record is called.
        progress: where a person reads that it failed.
        make: makes the integration's own callback.

    Raises:
        MachineError: it cannot be made.
    """

    def __init__(self, name: str, training: str, progress: Progress, make: Callable[[], Any] | None = None) -> None:
        self._name, self._training, self._progress = name, training, progress
        try:
            self._callback: Any = (make or INTEGRATION_TO_CALLBACK[name])()
        except Exception as error:  # each has errors of its own
            raise self._unusable(error) from error

    def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The trainer is there."""
        self._record("on_init_end", args, state, control, kwargs)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Open the record.

        Raises:
            MachineError: it cannot be opened.
        """
        args.run_name, args.project = self._training, PROJECT
        try:
            self._callback.on_train_begin(args, state, control, **kwargs)
        except Exception as error:
            raise self._unusable(error) from error

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The values of a step, or of a validation."""
        self._record("on_log", args, state, control, kwargs)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A checkpoint has been saved."""
        self._record("on_save", args, state, control, kwargs)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close the record."""
        self._record("on_train_end", args, state, control, kwargs)

    def _record(self, event: str, args: Any, state: Any, control: Any, kwargs: dict[str, Any]) -> None:
        if self._callback is None:
            return
        try:
            getattr(self._callback, event)(args, state, control, **kwargs)
        except Exception as error:  # hours of training are worth more than their record
            self._callback = None
            self._progress.say(f"{self._words(error)}; training goes on, and is not recorded there any more")

    def _unusable(self, error: Exception) -> MachineError:
        return MachineError(f"{self._words(error)}; set it up, or leave it out of train.report_to")

    def _words(self, error: Exception) -> str:
        lines = str(error).strip().splitlines()
        return f"train.report_to: {self._name}: {lines[0] if lines else type(error).__name__}"


class TensorBoard(TensorBoardCallback):  # type: ignore[misc]
    """Event files in a folder of our own; one that is resumed takes the place of what it does again.

    Args:
        folder: of this training's event files.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Open the file. Steps after the checkpoint were perhaps recorded before the run was killed."""
        if state.is_world_process_zero:
            resumed = {"purge_step": state.global_step + 1} if state.global_step else {}
            self.tb_writer = self._SummaryWriter(log_dir=str(self._folder), **resumed)
        super().on_train_begin(args, state, control, **kwargs)


class MLflow(MLflowCallback):  # type: ignore[misc]
    """A run of MLflow, which keeps its id in a file, so that the same training goes on in it.

    Args:
        file: of the id.
    """

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._file = file

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Open the run."""
        if self._file.is_file() and state.global_step:
            os.environ["MLFLOW_RUN_ID"] = self._file.read_text(encoding="utf-8").strip()  # MLflow takes it out again
        super().on_train_begin(args, state, control, **kwargs)
        run = self._ml_flow.active_run()
        if run is not None:
            write_text(self._file, f"{run.info.run_id}\n")


def recording(name: str, training: str, folder: Path, progress: Progress) -> Recording:
    """What records for an integration.

    Args:
        name: as ``train.report_to`` calls it.
        training: name of the stage, or of its round.
        folder: for what is written.
        progress: where a person reads that it failed.

    Raises:
        MachineError: it cannot be made.
    """
    makers: dict[str, Callable[[], Any]] = {
        "mlflow": lambda: MLflow(folder / f"mlflow-{training}.id"),
        "tensorboard": lambda: TensorBoard(folder / "tensorboard" / training),
    }
    return Recording(name, training, progress, makers.get(name))
