"""What transformers' integrations record of a training, by their names in ``train.report_to``; nothing by default.

Each gets the same values as the trainer's own log, and two more. What they write to the disk lies in the run directory,
unless their own environment variables say otherwise; where and under which account they publish is their own settings'.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lowvram_ft.errors import MachineError, MissingExtraError

if TYPE_CHECKING:
    from lowvram_ft.progress import Progress
    from lowvram_ft.recipe.sections import Reporter

LOGS = "logs"
"""The folder of a run directory that they write into."""
PACKAGES: dict[str, tuple[tuple[str, ...], str]] = {
    "azure_ml": (("azureml", "azureml.core"), "azureml-core"),
    "clearml": (("clearml",), "clearml"),
    "comet_ml": (("comet_ml",), "comet-ml"),
    "dagshub": (("dagshub", "mlflow"), "dagshub mlflow"),
    "dvclive": (("dvclive",), "dvclive"),
    "mlflow": (("mlflow",), "mlflow"),
    "neptune": (("neptune",), "neptune"),
    "swanlab": (("swanlab",), "swanlab"),
    "tensorboard": (("tensorboard",), ""),
    "trackio": (("trackio",), "trackio"),
    "wandb": (("wandb",), "wandb"),
}
"""Name to the modules that it needs and what pip calls them; of an extra of the kit's, nothing."""


def require_reporters(names: Sequence[Reporter]) -> None:
    """Refuse what is not installed; nothing is imported.

    Raises:
        MissingExtraError: tensorboard is not.
        MachineError: another one is not.
    """
    for name in names:
        modules, packages = PACKAGES[name]
        if all(importlib.util.find_spec(module) is not None for module in modules):
            continue
        if not packages:
            raise MissingExtraError(f"train.report_to: {name}", name)
        raise MachineError(f"train.report_to: {name}: not installed; run: pip install {packages}")


@dataclass(frozen=True)
class Records:
    """Where a training is recorded.

    Attributes:
        folder: for what is written; made where anything is.
        training: name of the stage, or of its round.
    """

    folder: Path
    training: str

    @contextmanager
    def settings(self) -> Iterator[None]:
        """The environment that keeps files in the folder, and lets a training that is resumed continue its record.

        What the user has set stays.
        """
        folder = self.folder.resolve()
        wanted = {
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
            "SWANLAB_LOG_DIR": str(folder / "swanlab"),
            "TRACKIO_DIR": str(folder / "trackio"),
            "WANDB_DIR": str(folder),
            "WANDB_NAME": self.training,
            "WANDB_RESUME": "allow",
            "WANDB_RUN_ID": sha256(f"{folder} {self.training}".encode()).hexdigest()[:16],
        }
        added = {key: value for key, value in wanted.items() if key not in os.environ}
        os.environ.update(added)
        try:
            yield
        finally:
            if (wandb := sys.modules.get("wandb")) is not None:
                wandb.finish()  # its record stays open when a training ends, and would take in the next one
            for key in added:
                os.environ.pop(key, None)

    def callbacks(self, names: Sequence[Reporter], progress: Progress) -> list[Any]:
        """One for each name.

        Args:
            names: ``train.report_to``.
            progress: where a person reads that one does not work any more.

        Raises:
            MachineError: one cannot begin, for example because nobody is logged in.
        """
        if not names:
            return []
        from lowvram_ft.training.reporting.recording import recording

        self.folder.mkdir(parents=True, exist_ok=True)
        return [recording(name, self.training, self.folder, progress) for name in names]
