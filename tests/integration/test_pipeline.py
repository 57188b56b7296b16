"""The whole job on tiny random models, through the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.tiny_runs import events, run_cli, run_json, steps, write_recipe

AFTER_TRAINING = ["export", "verify", "export:base", "bench", "eval:before", "eval:after", "compare", "gates"]


@pytest.fixture(scope="module")
def qwen2_run(tiny_qwen2: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, Any]]:
    """A recipe of one stage in NF4, the directory in which it has run, and what it printed."""
    folder = tmp_path_factory.mktemp("qwen2-run")
    text = '[quantization]\nload_in_4bit = true\n\n[hardware]\nengine = "reference"\n'
    recipe = write_recipe(folder, tiny_qwen2, text)
    return recipe, folder / "run", run_json("run", recipe, "--out", folder / "run")


def _samples(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "samples.jsonl").read_text(encoding="utf-8").splitlines()]


def _files(folder: Path) -> dict[str, int]:
    """Every file of a run with the time at which it was written."""
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("which", ["llama", "qwen2"])
def test_a_run_does_every_step_once_and_says_so(which: str, request: pytest.FixtureRequest) -> None:
    run = request.getfixturevalue(f"{which}_run")[1]
    stages = ["first", "second", "third"] if which == "llama" else ["tiny"]
    expected = ["plan", *(f"train:{name}" for name in stages), *AFTER_TRAINING]
    assert list(steps(run)) == expected
    kinds = [(event["event"], event.get("step")) for event in events(run) if event["event"] in ("begun", "finished")]
    assert kinds == [(kind, step) for step in expected for kind in ("begun", "finished")]
    losses = [event for event in events(run) if event["event"] == "trained"]
    assert [(e["stage"], e["step"]) for e in losses] == [(name, step) for name in stages for step in (1, 2, 3)]
    assert all(0 < event["loss"] < 20 for event in losses)
    assert {event["stage"] for event in events(run) if event["event"] == "validated"} == set(stages)


def test_a_run_records_what_it_ran(qwen2_run: tuple[Path, Path, dict[str, Any]], tiny_qwen2: Path) -> None:
    recipe, run, _ = qwen2_run
    data = json.loads((run / "run.json").read_text(encoding="utf-8"))
    assert data["schema_version"] == 1
    assert str(recipe) in data["command"]
    assert {"python", "torch", "transformers", "trl", "peft", "bitsandbytes", "llama-cpp-python"} <= set(
        data["versions"]
    )
    stage = data["recipe"]["stages"][0]
    assert stage["recipe"]["quantization"]["load_in_4bit"] is True
    assert data["steps"]["plan"]["base"] == str(tiny_qwen2)
    trained = data["steps"]["train:tiny"]
    assert trained["engine"] == "reference" and trained["steps"] == trained["planned_steps"] == 3
    assert trained["data"]["train"] + trained["data"]["eval"] == 5
    assert not (run / "stages" / "tiny" / "checkpoints").exists()


@pytest.mark.parametrize("which", ["llama", "qwen2"])
def test_the_export_is_verified_against_the_adapter(which: str, request: pytest.FixtureRequest) -> None:
    run = request.getfixturevalue(f"{which}_run")[1]
    verified = steps(run)["verify"]
    assert verified["ok"] and verified["kind"] == "reference"
    assert verified["scores"]["n_tokens"] > 100
    export = run / "export"
    assert sorted(path.name for path in export.iterdir() if not path.name.startswith("tiny-F16.reference")) == [
        "base-F16.Modelfile", "base-F16.gguf", "tiny-F16.Modelfile", "tiny-F16.gguf", "tiny-F16.verification.json",
    ]  # fmt: skip


def test_every_sample_is_kept_with_its_verdict(qwen2_run: tuple[Path, Path, dict[str, Any]]) -> None:
    samples = _samples(qwen2_run[1])
    assert [sample["step"] for sample in samples] == ["eval:before"] * 2 + ["eval:after"] * 2
    assert len({sample["key"] for sample in samples}) == 4
    for sample in samples:
        assert sample["prompt"].startswith("### Task: Write pytest tests")
        assert sample["code"].strip() in sample["prompt"]
        assert 0 < sample["n_tokens"] <= 16
        assert {"scores", "verdict", "reason", "answer", "test", "finish"} <= set(sample)


def test_the_report_is_what_the_run_printed(qwen2_run: tuple[Path, Path, dict[str, Any]]) -> None:
    _, run, printed = qwen2_run
    found = run_json("report", run)
    assert found == printed
    assert set(found["suites"]["samples"]) == {"before", "after", "difference"}
    assert found["suites"]["samples"]["difference"]["passes"]["tasks"] == 2
    assert set(found["suites"]["samples"]["after"]["intervals"]) >= {"passes", "mutation_score"}
    assert found["suites"]["samples"]["after"]["tasks"] == 2
    assert [gate["gate"] for gate in found["gates"]] == ["gate_pass_rate", "gate_mutation_score", "gate_s"]
    assert found["bench"]["prompts"] == 1


def test_the_same_command_again_does_nothing_anew(qwen2_run: tuple[Path, Path, dict[str, Any]]) -> None:
    recipe, run, printed = qwen2_run
    before, events_before = _files(run), events(run)
    assert run_json("run", recipe, "--out", run) == printed
    changed = {name for name, written in _files(run).items() if before.get(name) != written}
    assert changed <= {"events.jsonl", ".lock"}
    assert [event["event"] for event in events(run)[len(events_before) :]] == ["resumed"]


def test_a_run_of_other_settings_is_left_alone(qwen2_run: tuple[Path, Path, dict[str, Any]]) -> None:
    recipe, run, _ = qwen2_run
    before = _files(run)
    outcome = run_cli("run", recipe, "--out", run, "--set", "train.seed=7")
    assert outcome.returncode == 2
    assert outcome.stderr.startswith("error: ") and outcome.stderr.count("\n") == 2  # and where it is explained
    assert "another recipe or other settings" in outcome.stderr
    assert {name: written for name, written in _files(run).items() if name != ".lock"} == {
        name: written for name, written in before.items() if name != ".lock"
    }


def test_three_stages_continue_one_adapter(llama_run: tuple[Path, Path]) -> None:
    """Rates of 1e-2, 1e-6 and 1e-12: a stage that began an adapter of its own would be far from the one before."""
    adapters = [
        load_file(llama_run[1] / "stages" / name / "adapter" / "adapter_model.safetensors")
        for name in ("first", "second", "third")
    ]
    assert adapters[0].keys() == adapters[1].keys() == adapters[2].keys()

    def distance(one: dict[str, Any], other: dict[str, Any]) -> float:
        return float(max(np.abs(one[key] - other[key]).max() for key in one))

    learned = max(np.abs(values).max() for key, values in adapters[0].items() if "lora_B" in key)
    assert learned > 5e-3  # B starts at zero
    assert 1e-8 < distance(adapters[0], adapters[1]) < 1e-4
    assert distance(adapters[1], adapters[2]) < 1e-8
