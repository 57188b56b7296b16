"""However a training ends early, the same command goes on with it, and ends where an undisturbed one does."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lowvram_ft.errors import MachineError, Terminated, TrainingError
from lowvram_ft.training import stage
from lowvram_ft.training.recovery.checkpoints import STAGING, checkpoints_in, newest_checkpoint, read_position
from lowvram_ft.training.stage import Trained
from tests.faulty_memory import Fault, FaultyEngine
from tests.stage_runs import UNDISTURBED_STEPS as STEPS
from tests.stage_runs import digest, recipe_for, run_stage
from tests.tiny_runs import ONE_THREAD, events

pytestmark = pytest.mark.usefixtures("one_thread")
SLOW = partial(pytest.param, marks=pytest.mark.slow)
OnEvent = Callable[[str, dict[str, Any]], None]


class PowerCut(BaseException):
    """Nothing handles it: on the disk is what a kill at this moment would leave."""


def _at(step: int, action: Callable[[], None], kind: str = "trained") -> OnEvent:
    def on_event(found: str, fields: dict[str, Any]) -> None:
        if (found, fields.get("step")) == (kind, step):
            action()

    return on_event


def _cut() -> None:
    raise PowerCut


def _terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def _interrupt() -> None:
    raise KeyboardInterrupt


def _steps(out: Path) -> list[int]:
    return [event["step"] for event in events(out) if event["event"] == "trained"]


def _of(out: Path, kind: str) -> list[dict[str, Any]]:
    return [event for event in events(out) if event["event"] == kind]


def _must_equal(trained: Trained, other: Trained) -> None:
    varying = ("peak_memory_bytes", "memory")
    facts = [{key: value for key, value in found.result.items() if key not in varying} for found in (trained, other)]
    assert facts[0] == facts[1]
    assert digest(trained.adapter) == digest(other.adapter)


def test_the_comparison_would_see_a_lost_random_state(
    tiniest: Path, undisturbed: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_for(tiniest, max_steps=STEPS)
    with pytest.raises(PowerCut):
        run_stage(recipe, tmp_path, on_event=_at(6, _cut))
    monkeypatch.setattr("transformers.Trainer._load_rng_state", lambda self, checkpoint: None)
    assert digest(run_stage(recipe, tmp_path).adapter) != digest(undisturbed.adapter)


@pytest.mark.parametrize("minutes", [0.0, 1e-9])
def test_checkpoints_by_time_beside_those_by_step(
    tiniest: Path, undisturbed: Trained, tmp_path: Path, minutes: float
) -> None:
    recipe = recipe_for(tiniest, max_steps=STEPS, save_minutes=minutes)
    with pytest.raises(PowerCut):
        run_stage(recipe, tmp_path, on_event=_at(8, _cut))
    newest = 4 if minutes == 0 else 7  # the cut came before step 8 was saved
    assert checkpoints_in(tmp_path / "checkpoints")[0].name == f"checkpoint-{newest}"
    assert len(checkpoints_in(tmp_path / "checkpoints")) == (1 if minutes == 0 else 2)
    trained = run_stage(recipe, tmp_path)
    assert _steps(tmp_path) == [*range(1, 9), *range(newest + 1, STEPS + 1)]
    _must_equal(trained, undisturbed)


def test_an_evaluation_that_was_cut_off_is_made_up_for(tiniest: Path, undisturbed: Trained, tmp_path: Path) -> None:
    recipe = recipe_for(tiniest, max_steps=STEPS, save_minutes=1e-9)
    with pytest.raises(PowerCut):
        run_stage(recipe, tmp_path, engine=FaultyEngine([Fault("evaluation", call=1, action=_cut)]))
    newest = newest_checkpoint(tmp_path / "checkpoints")
    assert newest is not None and newest.name == "checkpoint-8"
    assert read_position(newest).owes_evaluation
    trained = run_stage(recipe, tmp_path)
    assert [event["step"] for event in _of(tmp_path, "validated")] == [4, 8, 10]
    _must_equal(trained, undisturbed)


@pytest.mark.parametrize(
    ("phase", "call", "saved"),
    [("backward", 6, 6), SLOW("forward", 6, 6), SLOW("evaluation", 1, 8), ("optimizer", 6, 4)],
)
def test_ctrl_c_saves_the_last_finished_step(
    tiniest: Path, undisturbed: Trained, tmp_path: Path, phase: str, call: int, saved: int
) -> None:
    recipe = recipe_for(tiniest, max_steps=STEPS)
    with pytest.raises(KeyboardInterrupt):
        run_stage(recipe, tmp_path, engine=FaultyEngine([Fault(phase, call, 20, _interrupt)]))
    newest = newest_checkpoint(tmp_path / "checkpoints")
    assert newest is not None and newest.name == f"checkpoint-{saved}"  # weights that are half stepped are not saved
    _must_equal(run_stage(recipe, tmp_path), undisturbed)


@pytest.mark.parametrize(
    ("phase", "call", "saved"),
    [("backward", 6, 7), SLOW("optimizer", 6, 7), ("evaluation", 1, 8), SLOW("forward", 3, 4)],
)
def test_sigterm_finishes_the_step_and_saves_it(
    tiniest: Path, undisturbed: Trained, tmp_path: Path, phase: str, call: int, saved: int
) -> None:
    recipe = recipe_for(tiniest, max_steps=STEPS)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated):
        run_stage(recipe, tmp_path, engine=FaultyEngine([Fault(phase, call, 20, _terminate)]))
    assert signal.getsignal(signal.SIGTERM) == before
    newest = newest_checkpoint(tmp_path / "checkpoints")
    assert newest is not None and newest.name == f"checkpoint-{saved}"
    assert _steps(tmp_path) == list(range(1, saved + 1))
    trained = run_stage(recipe, tmp_path)
    assert _steps(tmp_path) == list(range(1, STEPS + 1)), "a step was done twice"
    _must_equal(trained, undisturbed)


def test_a_suspended_training_goes_on_when_it_is_woken(tiniest: Path, undisturbed: Trained, tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from tests.stage_runs import *\n"
        f"run_stage(recipe_for(Path(sys.argv[1]), max_steps={STEPS}), Path(sys.argv[2]))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, tiniest, tmp_path], env=os.environ | ONE_THREAD, cwd=Path(__file__).parents[2]
    )
    try:
        while not (tmp_path / "events.jsonl").is_file() or len(_steps(tmp_path)) < 3:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGSTOP)  # as the system does to all of them before it sleeps
        os.waitpid(process.pid, os.WUNTRACED)
        asleep = _steps(tmp_path)
        time.sleep(0.5)
        assert _steps(tmp_path) == asleep != list(range(1, STEPS + 1))
        process.send_signal(signal.SIGCONT)
        assert process.wait(120) == 0
    finally:
        process.kill()
    assert _steps(tmp_path) == list(range(1, STEPS + 1)), "a step was done twice"
    assert digest(tmp_path / "adapter") == digest(undisturbed.adapter)


def test_a_gpu_that_is_gone_after_a_suspend_says_so_and_nothing_of_it_is_saved(
    tiniest: Path, undisturbed: Trained, tmp_path: Path
) -> None:
    def gone() -> None:
        raise RuntimeError("CUDA error: unspecified launch failure\nCUDA kernel errors might be reported later")

    recipe = recipe_for(tiniest, max_steps=STEPS)
    with pytest.raises(MachineError, match=r"the GPU does not answer any more \(CUDA error: unspecified.*same command"):
        run_stage(recipe, tmp_path, engine=FaultyEngine([Fault("forward", 6, 20, gone)]))
    newest = newest_checkpoint(tmp_path / "checkpoints")
    assert newest is not None and newest.name == "checkpoint-4", "what is on a lost card was read"
    _must_equal(run_stage(recipe, tmp_path), undisturbed)


def test_sigterm_while_loading_ends_at_once(tiniest: Path, tmp_path: Path) -> None:
    with pytest.raises(Terminated):
        run_stage(recipe_for(tiniest), tmp_path, engine=FaultyEngine([Fault("load", action=_terminate)]))
    assert not (tmp_path / "checkpoints").exists()


def test_a_training_that_was_killed_after_its_last_step_has_none_left(
    tiniest: Path, undisturbed: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_for(tiniest, max_steps=STEPS)
    with monkeypatch.context() as patch:
        patch.setattr(stage, "_save", lambda *given: _cut())
        with pytest.raises(PowerCut):
            run_stage(recipe, tmp_path)
    trained = run_stage(recipe, tmp_path)
    assert _steps(tmp_path) == list(range(1, STEPS + 1))
    _must_equal(trained, undisturbed)


# The lowest validation loss is not the last one, and the rate is high enough that it shows.
OVERFITS: dict[str, Any] = {"max_steps": 24, "eval_steps": 2.0, "learning_rate": 0.1, "early_stopping_patience": 3}


def _early(tiniest: Path, out: Path, on_event: OnEvent | None = None) -> Trained:
    return run_stage(recipe_for(tiniest, **OVERFITS), out, on_event=on_event)


@pytest.fixture(scope="module")
def stopped_early(tiniest: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Trained, dict[int, float]]:
    out = tmp_path_factory.mktemp("early")
    trained = _early(tiniest, out)
    losses = {event["step"]: event["eval_loss"] for event in _of(out, "validated")}
    best = min(losses, key=lambda step: losses[step])
    assert trained.result["steps"] == best + 6 < 24, f"nothing to see: {losses}"
    return trained, losses


def test_early_stopping_counts_on(
    tiniest: Path, stopped_early: tuple[Trained, dict[int, float]], tmp_path: Path
) -> None:
    last = stopped_early[0].result["steps"]
    with pytest.raises(PowerCut):
        _early(tiniest, tmp_path, _at(last - 1, _cut))
    _must_equal(_early(tiniest, tmp_path), stopped_early[0])


def test_a_count_that_starts_anew_would_be_seen(
    tiniest: Path, stopped_early: tuple[Trained, dict[int, float]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = stopped_early[0].result["steps"]
    with pytest.raises(PowerCut):
        _early(tiniest, tmp_path, _at(last - 1, _cut))
    monkeypatch.setattr("transformers.Trainer._load_callback_state", lambda self: None)
    assert _early(tiniest, tmp_path).result["steps"] > last


def test_a_training_that_had_stopped_early_is_not_trained_on(
    tiniest: Path, stopped_early: tuple[Trained, dict[int, float]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(stage, "_save", lambda *given: _cut())
        with pytest.raises(PowerCut):
            _early(tiniest, tmp_path)
    trained = _early(tiniest, tmp_path)
    assert _steps(tmp_path) == list(range(1, stopped_early[0].result["steps"] + 1))
    _must_equal(trained, stopped_early[0])


def test_the_best_weights_are_kept_although_their_checkpoint_is_gone(
    tiniest: Path, stopped_early: tuple[Trained, dict[int, float]], tmp_path: Path
) -> None:
    trained, losses = stopped_early
    last = trained.result["steps"]
    with pytest.raises(PowerCut):
        _early(tiniest, tmp_path, _at(last - 1, _cut))
    best = min(losses, key=lambda step: losses[step])
    assert best not in [int(path.name.partition("-")[2]) for path in checkpoints_in(tmp_path / "checkpoints")]
    moved = shutil.move(tmp_path / "checkpoints", tmp_path / "elsewhere" / "checkpoints")  # a run that was moved
    _must_equal(_early(tiniest, Path(moved).parent), trained)


def _truncate(checkpoint: Path) -> None:
    path = checkpoint / "optimizer.pt"
    path.write_bytes(path.read_bytes()[:-7])


def _flip_a_bit(checkpoint: Path) -> None:
    path = checkpoint / "adapter_model.safetensors"
    content = bytearray(path.read_bytes())
    content[-9] ^= 4
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("damage", "all_of_them"),
    [(_truncate, False), (_flip_a_bit, True), SLOW(_truncate, True), SLOW(_flip_a_bit, False)],
)
def test_a_damaged_checkpoint_is_said_and_passed_over(
    tiniest: Path,
    undisturbed: Trained,
    tmp_path: Path,
    damage: Callable[[Path], None],
    all_of_them: bool,
) -> None:
    recipe = recipe_for(tiniest, max_steps=STEPS)
    with pytest.raises(PowerCut):
        run_stage(recipe, tmp_path, on_event=_at(9, _cut))
    newest, older = checkpoints_in(tmp_path / "checkpoints")
    damaged = [newest, older] if all_of_them else [newest]
    for path in damaged:
        damage(path)
    trained = run_stage(recipe, tmp_path)
    assert [event["checkpoint"] for event in _of(tmp_path, "checkpoint_damaged")] == [path.name for path in damaged]
    assert [event["checkpoint"] for event in _of(tmp_path, "resumed")] == ([] if all_of_them else [older.name])
    _must_equal(trained, undisturbed)


def _full(path: str, part: bytes) -> None:
    Path(path).write_bytes(part)  # what still had room
    raise OSError(errno.ENOSPC, "No space left on device", path)


def test_events_that_have_no_room_do_not_end_a_training(tiniest: Path, undisturbed: Trained, tmp_path: Path) -> None:
    def full(kind: str, fields: dict[str, Any]) -> None:
        if fields.get("step") in (5, 6):
            raise MachineError("events.jsonl: cannot be written") from OSError(errno.ENOSPC, "No space left on device")

    _must_equal(run_stage(recipe_for(tiniest, max_steps=STEPS), tmp_path, on_event=full), undisturbed)


def test_an_error_of_another_kind_saves_the_last_step(tiniest: Path, undisturbed: Trained, tmp_path: Path) -> None:
    def fail() -> None:
        raise ValueError("a defect")

    recipe = recipe_for(tiniest, max_steps=STEPS)
    with pytest.raises(ValueError, match="a defect"):
        run_stage(recipe, tmp_path, on_event=_at(6, fail))
    newest = newest_checkpoint(tmp_path / "checkpoints")
    assert newest is not None and newest.name == "checkpoint-6"
    _must_equal(run_stage(recipe, tmp_path), undisturbed)


def test_weights_that_diverged_are_not_saved(tiniest: Path, tmp_path: Path) -> None:
    def diverge() -> None:
        raise TrainingError("the loss is nan")

    with pytest.raises(TrainingError):
        run_stage(recipe_for(tiniest, max_steps=STEPS), tmp_path, on_event=_at(6, diverge))
    assert [path.name for path in checkpoints_in(tmp_path / "checkpoints")] == ["checkpoint-4"]


@pytest.mark.parametrize("dies", [False, True])
def test_a_full_disk_loses_nothing(
    tiniest: Path, undisturbed: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies: bool
) -> None:
    import torch

    save, once = torch.save, iter([True])

    def full(value: Any, path: str, *given: Any, **named: Any) -> None:
        if path.endswith("checkpoint-8/optimizer.pt") and next(once, False):
            _full(path, b"PK")
        save(value, path, *given, **named)

    monkeypatch.setattr(torch, "save", full)
    recipe = recipe_for(tiniest, max_steps=STEPS)
    if dies:
        with pytest.raises(PowerCut):
            run_stage(recipe, tmp_path, on_event=_at(9, _cut))
        assert [path.name for path in checkpoints_in(tmp_path / "checkpoints")] == ["checkpoint-4"]
        assert not (tmp_path / "checkpoints" / STAGING).exists(), "what was half written takes up room"
    trained = run_stage(recipe, tmp_path)
    (failed,) = _of(tmp_path, "checkpoint_failed")
    assert failed["step"] == 8 and "No space left" in failed["reason"]
    _must_equal(trained, undisturbed)


def test_the_best_weights_outlive_a_disk_that_was_full_when_they_came(
    tiniest: Path, stopped_early: tuple[Trained, dict[int, float]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lowvram_ft.training.recovery import checkpoints

    trained, losses = stopped_early
    best = min(losses, key=lambda step: losses[step])
    seal = checkpoints.seal

    def full(staged: Path) -> None:
        if staged.name == f"checkpoint-{best}":
            _full(str(staged / "checksums.json"), b"{")
        seal(staged)

    monkeypatch.setattr(checkpoints, "seal", full)
    with pytest.raises(PowerCut):
        _early(tiniest, tmp_path, _at(best + 3, _cut))
    assert len(_of(tmp_path, "checkpoint_failed")) == 1
    newest = newest_checkpoint(tmp_path / "checkpoints")
    assert newest is not None and newest.name == f"checkpoint-{best + 2}"
    _must_equal(_early(tiniest, tmp_path), trained)


def test_a_disk_that_stays_full_ends_with_what_to_do(
    tiniest: Path, undisturbed: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_for(tiniest, max_steps=STEPS)
    with monkeypatch.context() as patch:
        patch.setattr("lowvram_ft.training.stage.flush", lambda folder: _full(str(folder / "rest"), b""))
        with pytest.raises(MachineError, match=r"no space left on the disk.*free some"):
            run_stage(recipe, tmp_path)
    _must_equal(run_stage(recipe, tmp_path), undisturbed)
    assert _steps(tmp_path) == list(range(1, STEPS + 1))


def test_memory_of_the_host_that_runs_low(
    tiniest: Path, undisturbed: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    available = iter([8 << 30] * 5 + [100 << 20] * 3 + [8 << 30] * 100)
    monkeypatch.setattr(
        "lowvram_ft.training.recovery.out_of_memory.linux_memory", lambda root: (16 << 30, next(available))
    )
    recipe = recipe_for(tiniest, max_steps=STEPS)
    recipe = recipe.model_copy(update={"hardware": recipe.hardware.model_copy(update={"allow": ("checkpointing",)})})
    trained = run_stage(recipe, tmp_path)
    (notch,) = trained.result["notches"]
    assert (notch["phase"], notch["step"], notch["lever"]) == ("between", 6, "checkpointing")
    assert digest(trained.adapter) == digest(undisturbed.adapter)
    assert _steps(tmp_path) == list(range(1, STEPS + 1)), "it is low once more, and nothing is left to do but to go on"


def _kill_at_random(tiniest: Path, out: Path, steps: int, kills: int) -> dict[str, Any]:
    outcome = subprocess.run(
        [sys.executable, "-m", "tests.killed_stages", *map(str, (out, tiniest, steps, kills, 0))],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | ONE_THREAD,
        cwd=Path(__file__).parents[2],
    )
    assert outcome.returncode == 0, outcome.stderr[-3000:]
    found: dict[str, Any] = json.loads(outcome.stdout)
    trials = found["trials"]
    assert len(trials) == kills and all(trial["killed"] for trial in trials)
    assert {trial["digest"] for trial in trials} == {found["digest"]}
    assert {trial["steps"] for trial in trials} == {steps}
    return found


def test_sigkill_at_three_random_moments(tiniest: Path, tmp_path: Path) -> None:
    _kill_at_random(tiniest, tmp_path, 12, 3)


@pytest.mark.slow
def test_sigkill_at_twenty_random_moments(tiniest: Path, tmp_path: Path) -> None:
    found = _kill_at_random(tiniest, tmp_path, 60, 20)
    assert len({trial["at_step"] for trial in found["trials"]}) > 10
    assert sum(bool(trial["resumed"]) for trial in found["trials"]) > 10
