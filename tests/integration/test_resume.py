"""A run that is stopped or killed ends, by the same command, where an undisturbed one ends."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from lowvram_ft.training.recovery.checkpoints import newest_checkpoint
from tests.tiny_runs import adapter_bytes, events, has_begun, run_json, start, steps, wait_for, without_timings

STAGES = ("first", "second", "third")


def _resumed(run: Path) -> list[tuple[str, str]]:
    """(stage, checkpoint) of every time that training was taken up."""
    return [
        (event["stage"], event["checkpoint"])
        for event in events(run)
        if event["event"] == "resumed" and "stage" in event
    ]


def _stop_in_training(recipe: Path, run: Path, stage: str, how: signal.Signals) -> tuple[int, str, str]:
    """Run until a stage has its first whole checkpoint, and send the process a signal."""
    checkpoints = run / "stages" / stage / "checkpoints"
    process = start("run", recipe, "--out", run)
    wait_for(lambda: newest_checkpoint(checkpoints) is not None, process)
    process.send_signal(how)
    stdout, stderr = process.communicate(timeout=60)
    assert f"train:{stage}" not in steps(run), "the stage had ended before the signal came"
    return process.returncode, stdout, stderr


def _kill_in_export(recipe: Path, run: Path) -> None:
    """Run until the export writes, and kill the process."""
    process = start("run", recipe, "--out", run)
    wait_for(lambda: has_begun(run, "export") and any((run / "export").glob(".*.tmp-*")), process)
    process.kill()
    process.communicate(timeout=60)
    assert "export" not in steps(run)


def _half_write_a_newer_checkpoint(run: Path, stage: str) -> tuple[Path, Path]:
    """What a kill while saving leaves: the newest checkpoint, and after it one without its end."""
    checkpoints = run / "stages" / stage / "checkpoints"
    whole = newest_checkpoint(checkpoints)
    assert whole is not None
    newer = checkpoints / f"checkpoint-{int(whole.name.removeprefix('checkpoint-')) + 1}"
    shutil.copytree(whole, newer, dirs_exist_ok=True)
    state = newer / "trainer_state.json"
    state.write_bytes(state.read_bytes()[:-20])
    return whole, newer


def _must_equal(run: Path, found: dict[str, Any], other: Path, expected: dict[str, Any], stages: Sequence[str]) -> None:
    assert without_timings(found, run) == without_timings(expected, other)
    assert adapter_bytes(run, stages) == adapter_bytes(other, stages)
    assert found["export"]["sha256"] == expected["export"]["sha256"]
    names = [sorted(str(p.relative_to(r)) for p in r.rglob("*") if p.is_file()) for r in (run, other)]
    assert names[0] == names[1], "leftovers"


@pytest.fixture(scope="module")
def stopped_run(llama_run: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The same recipe, killed in its second stage and in its export, a half-written checkpoint in between."""
    recipe, run = llama_run[0], tmp_path_factory.mktemp("killed") / "run"
    code, _, _ = _stop_in_training(recipe, run, "second", signal.SIGKILL)
    assert code == -signal.SIGKILL
    whole, newer = _half_write_a_newer_checkpoint(run, "second")
    assert newest_checkpoint(newer.parent) == whole
    _kill_in_export(recipe, run)
    assert _resumed(run) == [("second", whole.name)]
    return run, run_json("run", recipe, "--out", run)


def test_a_killed_run_ends_as_an_undisturbed_one(
    llama_run: tuple[Path, Path], stopped_run: tuple[Path, dict[str, Any]]
) -> None:
    other = llama_run[1]
    _must_equal(*stopped_run, other, run_json("report", other), STAGES)


def test_nothing_that_had_finished_is_done_again(stopped_run: tuple[Path, dict[str, Any]]) -> None:
    found = [
        (event["event"], event["step"])
        for event in events(stopped_run[0])
        if "step" in event and event["event"] in ("begun", "finished")
    ]
    assert found.count(("begun", "train:second")) == 2
    assert found.count(("begun", "export")) == 2
    finished = [step for kind, step in found if kind == "finished"]
    assert len(finished) == len(set(finished))
    begun = [step for kind, step in found if kind == "begun"]
    assert sorted(begun) == sorted([*finished, "train:second", "export"])


def test_the_comparison_would_see_another_seed(llama_run: tuple[Path, Path], tmp_path: Path) -> None:
    recipe, other = llama_run
    run = tmp_path / "run"
    found = run_json("run", recipe, "--out", run, "--set", "train.seed=1")
    assert without_timings(found, run) != without_timings(run_json("report", other), other)
    assert adapter_bytes(run, STAGES) != adapter_bytes(other, STAGES)


def test_ctrl_c_is_one_line_and_the_run_goes_on_afterwards(llama_run: tuple[Path, Path], tmp_path: Path) -> None:
    recipe, other = llama_run
    run = tmp_path / "run"
    code, stdout, stderr = _stop_in_training(recipe, run, "first", signal.SIGINT)
    assert code == 130, stderr
    assert stdout == ""
    assert "Traceback" not in stderr
    assert stderr.splitlines()[-1].startswith("stopped; ") and "run the same command again" in stderr.splitlines()[-1]
    found = run_json("run", recipe, "--out", run)
    assert [stage for stage, _ in _resumed(run)] == ["first"]
    _must_equal(run, found, other, run_json("report", other), STAGES)
