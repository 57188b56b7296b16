"""What is reported while a stage trains, and when a checkpoint is due."""

from __future__ import annotations

import time
from inspect import signature
from types import SimpleNamespace
from typing import Any

import pytest

from lowvram_ft.progress import Progress
from lowvram_ft.training.recovery.out_of_memory import HostWatch
from lowvram_ft.training.recovery.saving import RETRY_S, Saver
from lowvram_ft.training.recovery.stopping import StopRequest
from lowvram_ft.training.reporting.callbacks import Report


class Clock:
    """Seconds that pass where a test says so."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_neither_evaluations_nor_checkpoints_count_as_training() -> None:
    clock, found = Clock(), []
    report = Report("tiny", Progress(quiet=True), lambda kind, **fields: found.append(fields), clock)
    for step in range(1, 5):
        state = SimpleNamespace(global_step=step, max_steps=4)
        report.on_step_begin(None, state, None)
        clock.now += 2.0 if step > 1 else 60.0  # the first one warms up
        report.on_step_end(None, state, None)
        report.on_log(None, state, None, {"loss": 1.0, "num_tokens": 100.0 * step})
        clock.now += 900.0
    assert [fields["tok_per_s"] for fields in found] == [0.0, 50.0, 50.0, 50.0]


@pytest.mark.parametrize("kind", [Report, Saver])
def test_the_clock_stands_still_while_the_machine_sleeps(kind: Any) -> None:
    assert signature(kind).parameters["clock"].default is time.monotonic
    assert not time.get_clock_info("monotonic").adjustable
    if hasattr(time, "CLOCK_BOOTTIME"):  # the one that goes on
        assert "CLOCK_MONOTONIC" in time.get_clock_info("monotonic").implementation


def _saver(clock: Clock, every_s: float | None = 600.0, memory: Any = None) -> tuple[Saver, Any]:
    watch = HostWatch(memory, lambda: False)
    saver = Saver("tiny", every_s, StopRequest(), watch, Progress(quiet=True), lambda kind, **fields: None, clock)
    control = SimpleNamespace(should_evaluate=False, should_save=False, should_training_stop=False)
    saved: list[float] = []
    trainer = SimpleNamespace(
        args=SimpleNamespace(world_size=1, output_dir="checkpoints", should_save=True),
        state=SimpleNamespace(global_step=0, best_global_step=None),
        accelerator=SimpleNamespace(wait_for_everyone=lambda: None),
        _get_output_dir=None,
        _save_checkpoint=lambda model, trial: saved.append(clock.now),
        evaluate=None,
        model=None,
    )
    saver.attach(trainer, None)
    trainer._save_checkpoint = lambda model, trial: saved.append(clock.now)
    saver.on_train_begin(None, trainer.state, control)
    return saver, SimpleNamespace(control=control, saved=saved, state=trainer.state)


def _step(saver: Saver, here: Any) -> bool:
    """Whether a checkpoint is due after a step."""
    here.control.should_save = False
    saver.on_log(None, here.state, here.control, {"loss": 1.0})
    return bool(here.control.should_save)


def test_a_checkpoint_is_due_after_so_many_minutes() -> None:
    clock = Clock()
    saver, here = _saver(clock)
    clock.now += 599
    assert not _step(saver, here)
    clock.now += 1
    assert _step(saver, here)


def test_none_is_due_by_time_where_that_is_off() -> None:
    clock = Clock()
    saver, here = _saver(clock, every_s=None)
    clock.now += 1e9
    assert not _step(saver, here)


def test_what_is_due_is_saved_before_a_long_evaluation() -> None:
    clock = Clock()
    saver, here = _saver(clock)
    here.control.should_evaluate = True
    assert not _step(saver, here) and here.saved == []
    clock.now += 600
    assert not _step(saver, here) and here.saved == [clock.now]


def test_a_checkpoint_that_failed_is_tried_again_soon() -> None:
    clock = Clock()
    saver, here = _saver(clock)

    def full() -> None:
        raise OSError(28, "No space left on device")

    saver._save(full)
    assert not _step(saver, here)
    clock.now += RETRY_S
    assert _step(saver, here)


def test_a_validation_is_no_step() -> None:
    clock = Clock()
    saver, here = _saver(clock)
    clock.now += 600
    saver.on_log(None, here.state, here.control, {"eval_loss": 1.0})
    assert not here.control.should_save


def test_low_memory_saves_once_until_there_is_more_again() -> None:
    clock, available = Clock(), [100 << 20]
    saver, here = _saver(clock, memory=lambda: (16 << 30, available[0]))
    assert [_step(saver, here) for _ in range(3)] == [True, False, False]
    available[0] = 8 << 30
    assert not _step(saver, here)
    available[0] = 100 << 20
    assert _step(saver, here)
