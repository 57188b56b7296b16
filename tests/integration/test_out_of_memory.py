"""Memory that runs out: in each phase the stage steps down, goes on, and ends where an undisturbed one does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lowvram_ft.errors import MachineError
from lowvram_ft.training.stage import Trained
from tests.faulty_memory import PHASES, Fault, FaultyEngine
from tests.stage_runs import UNDISTURBED_STEPS as STEPS
from tests.stage_runs import digest, recipe_for, run_stage
from tests.tiny_runs import events

pytestmark = pytest.mark.usefixtures("one_thread")
MOMENTS = {
    "load": [Fault("load", operation=30)],
    "forward": [Fault("forward", call=6, operation=40)],  # after a checkpoint, in the middle of an interval
    "backward": [Fault("backward", call=6, operation=40)],
    "optimizer": [Fault("optimizer", call=6, operation=25)],  # some weights are changed already, some are not
    "evaluation": [Fault("evaluation", call=1, operation=60)],
}
DONE_AGAIN = {"optimizer": 2}
"""Steps since the last checkpoint, where the state in memory is no longer whole; no others are done again."""


def _losses(out: Path) -> dict[int, float]:
    """The loss of each step, as it was reported last."""
    return {event["step"]: event["loss"] for event in events(out) if event["event"] == "trained"}


def _without_memory(trained: Trained) -> dict[str, Any]:
    return {key: value for key, value in trained.result.items() if key not in ("notches", "peak_memory_bytes")}


def test_every_phase_is_tried() -> None:
    assert tuple(MOMENTS) == PHASES


@pytest.mark.parametrize("phase", PHASES)
def test_a_bitwise_step_down_ends_with_the_same_adapter(
    tiniest: Path, undisturbed: Trained, tmp_path: Path, phase: str
) -> None:
    engine = FaultyEngine(MOMENTS[phase])
    trained = run_stage(recipe_for(tiniest, max_steps=STEPS), tmp_path, engine=engine)
    assert [fault.happened for fault in engine.faults] == [True]
    (notch,) = trained.result["notches"]
    assert (notch["phase"], notch["lever"], notch["class"]) == (phase, "checkpointing", "bitwise the same")
    assert [event["phase"] for event in events(tmp_path) if event["event"] == "stepped_down"] == [phase]
    steps = [event["step"] for event in events(tmp_path) if event["event"] == "trained"]
    assert len(steps) - STEPS == DONE_AGAIN.get(phase, 0)
    assert digest(trained.adapter) == digest(undisturbed.adapter)
    assert _without_memory(trained) == _without_memory(undisturbed)
    assert engine.alive == [0, 0], "a model that was given up is still in memory"


def test_memory_that_runs_out_before_the_first_checkpoint(tiniest: Path, undisturbed: Trained, tmp_path: Path) -> None:
    engine = FaultyEngine([Fault("optimizer", operation=25)])
    trained = run_stage(recipe_for(tiniest, max_steps=STEPS), tmp_path, engine=engine)
    assert trained.result["notches"][0]["step"] == 0
    assert digest(trained.adapter) == digest(undisturbed.adapter)


def test_4_bit_weights_are_trained_to_the_same_adapter(tiniest: Path, tmp_path: Path) -> None:
    recipe = recipe_for(tiniest, load_in_4bit=True, max_steps=STEPS)
    there = run_stage(recipe, tmp_path / "there")
    trained = run_stage(recipe, tmp_path / "here", engine=FaultyEngine([Fault("backward", call=6)]))
    assert trained.result["notches"][0]["lever"] == "checkpointing"
    assert digest(trained.adapter) == digest(there.adapter)


def test_the_next_step_down_halves_the_micro_batch(tiniest: Path, undisturbed: Trained, tmp_path: Path) -> None:
    faults = [Fault("forward", call=3), Fault("backward", call=6)]
    trained = run_stage(recipe_for(tiniest, max_steps=STEPS), tmp_path, engine=FaultyEngine(faults))
    assert [notch["lever"] for notch in trained.result["notches"]] == ["checkpointing", "smaller_batch"]
    assert trained.result["notches"][1]["settings"] == {
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 2,
    }
    assert trained.result["steps"] == STEPS
    assert digest(trained.adapter) != digest(undisturbed.adapter)  # other dropout masks: the comparison would see it


def test_without_dropout_a_halved_micro_batch_has_the_same_losses(
    tiniest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lowvram_ft.training.engines.reference.compute_dtype", lambda device: "float32")
    recipe = recipe_for(tiniest, max_steps=STEPS, gradient_checkpointing=True)
    recipe = recipe.model_copy(update={"lora": recipe.lora.model_copy(update={"lora_dropout": 0.0})})
    run_stage(recipe, tmp_path / "there")
    trained = run_stage(recipe, tmp_path / "here", engine=FaultyEngine([Fault("backward", call=4)]))
    assert [notch["lever"] for notch in trained.result["notches"]] == ["smaller_batch"]
    assert _losses(tmp_path / "here") == pytest.approx(_losses(tmp_path / "there"), abs=1e-5)


def test_three_steps_down_are_the_most(tiniest: Path, tmp_path: Path) -> None:
    recipe = recipe_for(tiniest, max_steps=STEPS, per_device_train_batch_size=8)
    with pytest.raises(MachineError, match=r"after 3 steps down: .*micro-batch 4 ► 2.*; close other programs"):
        run_stage(recipe, tmp_path, engine=FaultyEngine([Fault("forward", call=call) for call in (0, 1, 2, 3)]))
    assert len(json.loads((tmp_path / "checkpoints" / "notches.json").read_text())) == 3


def test_what_was_given_up_is_remembered_by_the_next_run(tiniest: Path, undisturbed: Trained, tmp_path: Path) -> None:
    recipe = recipe_for(tiniest, max_steps=STEPS)
    nothing_left = recipe.hardware.model_copy(update={"allow": ("checkpointing",)})
    small = recipe.model_copy(update={"hardware": nothing_left})
    with pytest.raises(MachineError, match=r"allow more of the plan \(hardware.allow: shorter, smaller_batch\)"):
        run_stage(small, tmp_path, engine=FaultyEngine([Fault("forward", call=2), Fault("forward", call=6)]))
    engine = FaultyEngine()
    trained = run_stage(small, tmp_path, engine=engine)
    assert [notch["step"] for notch in trained.result["notches"]] == [2]
    assert engine.loads == 1
    assert digest(trained.adapter) == digest(undisturbed.adapter)


def test_a_smaller_rank_is_no_step_down_because_no_checkpoint_fits_it(tiniest: Path, tmp_path: Path) -> None:
    recipe = recipe_for(tiniest, max_steps=STEPS)

    def fail(kind: str, fields: dict[str, Any]) -> None:
        if kind == "trained" and fields["step"] == 5:
            raise ValueError("the end")

    with pytest.raises(ValueError, match="the end"):
        run_stage(recipe, tmp_path, on_event=fail)
    narrower = recipe.model_copy(update={"lora": recipe.lora.model_copy(update={"r": 4, "lora_alpha": 8})})
    with pytest.raises(RuntimeError, match=r"size mismatch for .*lora_A"):
        run_stage(narrower, tmp_path)


def test_another_error_is_not_taken_for_a_lack_of_memory(tiniest: Path, tmp_path: Path) -> None:
    def fail(kind: str, fields: dict[str, Any]) -> None:
        if kind == "trained" and fields["step"] == 3:
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        run_stage(recipe_for(tiniest, max_steps=STEPS), tmp_path, on_event=fail)
    assert not (tmp_path / "checkpoints" / "notches.json").exists()
