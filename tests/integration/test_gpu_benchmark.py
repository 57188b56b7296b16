"""The GPU benchmark runs to its end without a GPU, and what it computes without one is right."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu import run as gpu_run
from benchmarks.gpu.weights import tensors, write_checkpoint
from lowvram_ft import models
from lowvram_ft.memory import ModelShape

GIB = 1 << 30


def test_it_runs_to_its_end_and_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    out = tmp_path / "gpu.json"
    gpu_run.run(out, tmp_path / "weights", int(3.5 * GIB), 200, True, "unsloth")
    found = json.loads(out.read_text(encoding="utf-8"))
    assert set(found["results"]) == {"tiny", "tiny, resident"}
    for one in found["results"].values():
        assert one["run"]["fits"] and one["run"]["steps"] == 3 and one["run"]["tok_per_s"] > 0
        assert all(math.isfinite(loss) for loss in one["run"]["losses"])
        assert one["held"]["predicted_bytes"] == one["plan"]["plan"]["peak_gpu_bytes"] > 0
        assert one["held"]["measured_bytes"] is None, "no figure of a card is made up"
    ways = found["head_loss"]["ways"]
    assert ways["slices, head on the host"]["gradient_off_by"] < 0.01 < ways["slices, NF4 head"]["gradient_off_by"]
    assert ways["slices, head on the host"]["loss"] == pytest.approx(ways["torch cross_entropy"]["loss"], rel=1e-4)

    def never(*args: Any) -> Any:
        raise AssertionError(f"done already: {args}")

    monkeypatch.setattr(gpu_run, "run_part", never)
    monkeypatch.setattr(gpu_run, "head", never)
    gpu_run.run(out, tmp_path / "weights", int(3.5 * GIB), 200, True, "unsloth")
    gpu_run.run(out, tmp_path / "weights", int(3.5 * GIB), 0, True, "unsloth")
    assert "no time is left for tiny" in capsys.readouterr().out


def test_without_a_gpu_nothing_but_tiny_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_run, "machine", lambda: {"versions": {}})
    with pytest.raises(SystemExit, match="no CUDA GPU was found"):
        gpu_run.run(tmp_path / "gpu.json", tmp_path, GIB, 100, False, "unsloth")
    assert not (tmp_path / "gpu.json").exists()


def test_predictions_are_held_against_the_larger_of_load_and_training() -> None:
    plan = {"plan": {"peak_gpu_bytes": 970}}
    run = {"fits": True, "load_reserved_bytes": 1000, "end_reserved_bytes": 900}
    held = gpu_run.hold(plan, run)
    assert (held["measured_bytes"], held["off"]) == (1000, pytest.approx(-0.03))
    results = {
        "a": {"held": held},
        "b": {"held": {"off": 0.04}},
        "c": {"held": {"off": 0.06}},
        "d": {"run": None},
        "e": {"held": {"off": None}},
    }
    found = gpu_run.summary(results)
    assert (found["configurations"], found["within_5_percent"]) == (3, 2)
    assert found["more_than_2_percent_below"] == ["a"]


def test_there_are_both_targets_and_at_least_twelve_configurations() -> None:
    parts = gpu_run.parts(False, "unsloth")
    assert [(part.model, part.max_length, part.steps) for part in parts[:2]] == [
        ("deepseek-ai/deepseek-coder-6.7b-instruct", 2048, 20),
        ("Qwen/Qwen2.5-Coder-7B-Instruct", 2048, 20),
    ]
    assert sum(part.capped for part in parts) >= 12
    assert len({part.name for part in parts}) == len(parts)


@pytest.mark.parametrize("name", models.known_models())
def test_random_weights_have_every_parameter_of_the_model(name: str) -> None:
    shape = ModelShape.from_config(models.config_of(models.resolve(name)))
    sizes = [math.prod(size) for _, listed in tensors(shape) for _, size in listed]
    assert sum(sizes) == shape.n_parameters


def test_random_weights_load(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    for config in (gpu_run.TINY, {**gpu_run.TINY, "model_type": "qwen3", "head_dim": 32, "tie_word_embeddings": True}):
        folder = write_checkpoint(config, tmp_path / str(config["model_type"]))
        model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"]
        assert model.dtype == torch.bfloat16
        assert 0.01 < float(model.get_input_embeddings().weight.float().std()) < 0.03
        assert AutoTokenizer.from_pretrained(folder).encode("def f") != []
