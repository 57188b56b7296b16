"""Who else records a training: by name, in the run directory, and never at its expense."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from lowvram_ft.errors import MachineError, MissingExtraError
from lowvram_ft.progress import Progress
from lowvram_ft.recipe import Recipe, load
from lowvram_ft.recipe.sections import Reporter
from lowvram_ft.training.arguments import training_arguments
from lowvram_ft.training.engines.protocol import Loaded
from lowvram_ft.training.reporting.recording import Recording, TensorBoard
from lowvram_ft.training.reporting.reporters import PACKAGES, Records, require_reporters

ELSEWHERE = {"codecarbon", "flyte", "kubeflow"}
"""A meter of electricity that writes beside the checkpoints, and two platforms that run a training themselves."""


class Heard(Progress):
    """Progress that remembers."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def test_the_names_are_those_of_transformers() -> None:
    assert set(get_args(Reporter)) == set(INTEGRATION_TO_CALLBACK) - ELSEWHERE == set(PACKAGES)


def test_nobody_records_by_default(tmp_path: Path) -> None:
    assert Recipe().train.report_to == ()
    loaded = Loaded(None, None, "cpu", "float32")
    assert training_arguments(loaded, Recipe().train, False, tmp_path)["report_to"] == "none"
    assert Records(tmp_path / "logs", "a").callbacks((), Progress(quiet=True)) == []
    assert not (tmp_path / "logs").exists()


@pytest.mark.parametrize("name", sorted(PACKAGES))
def test_what_is_not_installed_is_told_with_its_command(name: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MachineError) as caught:
        require_reporters((name,))
    package = '"lowvram-ft[tensorboard]"' if name == "tensorboard" else PACKAGES[name][1]
    assert str(caught.value) == f"train.report_to: {name}: not installed; run: pip install {package}"
    assert caught.value.exit_code == 3 and isinstance(caught.value, MissingExtraError) is (name == "tensorboard")


def test_what_is_installed_is_not_imported_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "tensorboard")
    require_reporters(("tensorboard",))
    assert "tensorboard" not in sys.modules


def test_who_watches_is_no_part_of_what_a_run_is() -> None:
    watched = load("demo", ['train.report_to=["tensorboard"]'])
    assert watched.final.train.report_to == ("tensorboard",)
    assert watched.digest() == load("demo").digest() != load("demo", ["train.seed=7"]).digest()


def test_files_are_kept_in_the_run_and_a_resumed_training_has_the_same_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_DIR", "/mine")
    monkeypatch.delenv("WANDB_RUN_ID", raising=False)
    found = []
    for training in ("a", "a", "b"):
        before = dict(os.environ)
        with Records(tmp_path / "logs", training).settings():
            found.append(os.environ["WANDB_RUN_ID"])
            assert os.environ["MLFLOW_TRACKING_URI"] == f"sqlite:///{tmp_path}/logs/mlflow.db"
            assert os.environ["TRACKIO_DIR"] == f"{tmp_path}/logs/trackio"
            assert os.environ["WANDB_DIR"] == "/mine", "what the user has set stays"
        assert dict(os.environ) == before
    assert found[0] == found[1] != found[2]


class Failing:
    """An integration that does not work."""

    def __init__(self, at: str) -> None:
        self._at = at
        self.calls: list[str] = []

    def __getattr__(self, event: str) -> Any:
        def call(args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.calls.append(event)
            if event == self._at:
                raise OSError("no route to host\nand more")

        return call


def test_one_that_fails_later_on_is_left_out_and_training_goes_on() -> None:
    heard, failing = Heard(), Failing("on_log")
    recording = Recording("wandb", "a", heard, lambda: failing)
    recording.on_train_begin(_args(), None, None)
    for _ in range(3):
        recording.on_log(None, None, None, logs={"loss": 1.0})
    recording.on_train_end(None, None, None)
    assert failing.calls == ["on_train_begin", "on_log"]
    assert heard.lines == [
        "train.report_to: wandb: no route to host; training goes on, and is not recorded there any more"
    ]


def test_one_that_cannot_begin_ends_the_run_before_a_step() -> None:
    message = "train.report_to: wandb: no route to host; set it up, or leave it out of train.report_to"
    with pytest.raises(MachineError) as caught:
        Recording("wandb", "a", Heard(), lambda: Failing("on_train_begin")).on_train_begin(_args(), None, None)
    assert str(caught.value) == message

    def broken() -> Any:
        raise OSError("no route to host")

    with pytest.raises(MachineError) as caught:
        Recording("wandb", "a", Heard(), broken)
    assert str(caught.value) == message


def _state(step: int, leads: bool = True) -> Any:
    return SimpleNamespace(global_step=step, is_world_process_zero=leads, is_hyper_param_search=False)


def _args() -> Any:
    return SimpleNamespace(output_dir="nowhere", to_json_string=lambda: "{}")


def test_a_training_that_was_killed_and_taken_up_is_one_curve(tmp_path: Path) -> None:
    for first, last, loss in (
        (0, 13, 1.0),
        (10, 20, 2.0),
    ):  # killed after step 13, taken up at the checkpoint of step 10
        callback = TensorBoard(tmp_path)
        callback.on_train_begin(_args(), _state(first), None)
        for step in range(first + 1, last + 1):
            callback.on_log(_args(), _state(step), None, logs={"loss": loss})
    callback.on_train_end(_args(), _state(20), None)
    found = EventAccumulator(str(tmp_path)).Reload().Scalars("train/loss")
    assert [event.step for event in found] == list(range(1, 21))
    assert [event.value for event in found] == [1.0] * 10 + [2.0] * 10
    assert len(list(tmp_path.iterdir())) == 2


def test_of_several_processes_the_first_alone_writes(tmp_path: Path) -> None:
    callback = TensorBoard(tmp_path / "there")
    callback.on_train_begin(_args(), _state(0, leads=False), None)
    callback.on_log(_args(), _state(1, leads=False), None, logs={"loss": 1.0})
    assert not (tmp_path / "there").exists()
