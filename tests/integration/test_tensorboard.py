"""TensorBoard beside a training: its own reader finds what was logged, each step once, after an interruption too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lowvram_ft.training.reporting.reporters import Records
from tests.stage_runs import digest, make_tiniest_model, recipe_for, run_stage, single_thread
from tests.tiny_runs import events


def test_what_tensorboard_reads_is_what_the_run_recorded(tmp_path: Path) -> None:
    model = make_tiniest_model(tmp_path / "model")
    recipe = recipe_for(model, max_steps=10, report_to=("tensorboard",))
    out, records = tmp_path / "out", Records(tmp_path / "logs", "tiny")

    def stop(kind: str, fields: dict[str, Any]) -> None:
        if kind == "validated" and fields["step"] == 8:
            raise KeyboardInterrupt

    with single_thread():
        with pytest.raises(KeyboardInterrupt):
            run_stage(recipe, out, on_event=stop, records=records)
        watched = run_stage(recipe, out, records=records)
        alone = run_stage(recipe_for(model, max_steps=10), tmp_path / "alone", records=Records(tmp_path / "no", "tiny"))
    found = EventAccumulator(str(tmp_path / "logs" / "tensorboard" / "tiny")).Reload()
    trained = {event["step"]: event for event in events(out) if event["event"] == "trained"}
    for tag, key in (
        ("train/loss", "loss"),
        ("train/learning_rate", "learning_rate"),
        ("train/tok_per_s", "tok_per_s"),
    ):
        scalars = found.Scalars(tag)
        assert [scalar.step for scalar in scalars] == list(range(1, 11))
        assert [scalar.value for scalar in scalars] == pytest.approx([trained[step][key] for step in range(1, 11)])
    validated = {event["step"]: event["eval_loss"] for event in events(out) if event["event"] == "validated"}
    assert {scalar.step: scalar.value for scalar in found.Scalars("eval/loss")} == pytest.approx(validated)
    assert digest(watched.adapter) == digest(alone.adapter), "who watches changes nothing"
    assert not (tmp_path / "no").exists()
