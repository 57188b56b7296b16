"""The GPU benchmark runs to its end without a GPU, and what it computes without one is right."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu import peers
from benchmarks.gpu import run as gpu_run
from benchmarks.gpu.holding import table
from benchmarks.gpu.peers import PEERS
from benchmarks.gpu.weights import tensors, write_checkpoint
from benchmarks.training_contestants import _most
from lowvram_ft import models
from lowvram_ft.memory import ModelShape
from lowvram_ft.recipe import TrainSection

GIB = 1 << 30
ROOT = Path(__file__).parents[2]


def test_it_runs_to_its_end_and_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    out = tmp_path / "gpu.json"
    gpu_run.run(out, tmp_path / "weights", int(3.5 * GIB), 500, True, "unsloth")
    found = json.loads(out.read_text(encoding="utf-8"))
    ours, others = ("tiny", "tiny, resident", "tiny, dpo"), [f"tiny, {peer}" for peer in PEERS]
    assert list(found["results"]) == [*ours, *others]
    for name in (*ours, others[0]):
        one = found["results"][name]
        assert one["run"]["fits"] and one["run"]["steps"] == 3 and one["run"]["tok_per_s"] > 0
        assert all(math.isfinite(loss) for loss in one["run"]["losses"])
        assert one["held"]["measured_bytes"] is one["held"]["measured_tok_per_s"] is None, "no figure is made up"
        assert one["held"]["predicted_tok_per_s"] is None, "no speed is predicted for a card that is not there"
    for name in ours:
        one = found["results"][name]
        assert one["held"]["predicted_bytes"] == one["plan"]["plan"]["peak_gpu_bytes"] > 0
    for name in others[1:]:
        assert found["results"][name]["run"] is None and "CUDA" in found["results"][name]["why"]
    assert "| tiny 128 | streamft | did not run: needs a CUDA GPU |  |" in found["table"]
    assert found["summary"]["of_resident"] == {}
    # the same rows, and models that have learnt nothing: a loss is about the logarithm of the vocabulary
    first = [found["results"][name]["run"]["losses"][0] for name in (*ours[:2], others[0])]
    assert first == pytest.approx([math.log(gpu_run.TINY["vocab_size"])] * 3, rel=0.02)
    pairs = found["results"]["tiny, dpo"]
    # at its reference a pair's loss is log 2, and the winner's own is added with its weight
    weight = TrainSection().sft_weight
    assert pairs["run"]["losses"][0] == pytest.approx(math.log(2) + weight * first[0], rel=0.02)
    assert pairs["plan"]["method"] == "dpo" and pairs["plan"]["sequences_per_row"] == 2
    assert pairs["run"]["references_s"] > 0
    ways = found["head_loss"]["ways"]
    assert ways["slices, head on the host"]["gradient_off_by"] < 0.01 < ways["slices, NF4 head"]["gradient_off_by"]
    assert ways["slices, head on the host"]["loss"] == pytest.approx(ways["torch cross_entropy"]["loss"], rel=1e-4)

    again: list[str] = []

    def tried(part: Any, *_: Any) -> Any:
        again.append(part.name)
        return found["results"][part.name]

    monkeypatch.setattr(gpu_run, "run_part", tried)
    monkeypatch.setattr(gpu_run, "head", lambda tiny: pytest.fail("done already"))
    gpu_run.run(out, tmp_path / "weights", int(3.5 * GIB), 500, True, "unsloth")
    assert again == others[1:], "what ran is done; what could not run is tried again"
    gpu_run.run(out, tmp_path / "weights", int(3.5 * GIB), 0, True, "unsloth")
    assert "no time is left for tiny" in capsys.readouterr().out


def test_without_a_gpu_nothing_but_tiny_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_run, "machine", lambda: {"versions": {}})
    with pytest.raises(SystemExit, match="no CUDA GPU was found"):
        gpu_run.run(tmp_path / "gpu.json", tmp_path, GIB, 100, False, "unsloth")
    assert not (tmp_path / "gpu.json").exists()


def test_predictions_are_held_against_the_larger_of_load_and_training() -> None:
    plan = {"plan": {"peak_gpu_bytes": 970}, "time": None}
    run = {"fits": True, "load_reserved_bytes": 1000, "end_reserved_bytes": 900}
    held = gpu_run.hold(plan, run, None)
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


SPEED = {"plan": {"peak_gpu_bytes": 1}, "time": {"card": "RTX 3050 Laptop", "tok_per_s": 110.0}}


def test_speeds_are_held_for_the_card_at_hand() -> None:
    run = {"fits": True, "tok_per_s": 100.0}
    held = gpu_run.hold(SPEED, run, "NVIDIA GeForce RTX 3050 Laptop GPU")
    assert (held["predicted_tok_per_s"], held["measured_tok_per_s"]) == (110.0, 100.0)
    assert held["speed_off"] == pytest.approx(0.1)
    for other in ("NVIDIA GeForce RTX 4090", "a card that nobody knows"):  # the time model had another card in mind
        held = gpu_run.hold(SPEED, run, other)
        assert held["measured_tok_per_s"] == 100.0
        assert held["predicted_tok_per_s"] is held["speed_off"] is None
    none_done = gpu_run.hold(SPEED, {"fits": False, "at": "load"}, "NVIDIA GeForce RTX 3050 Laptop GPU")
    assert none_done["speed_off"] is None and none_done["predicted_tok_per_s"] == 110.0


def test_speeds_are_within_15_percent_or_not_and_stand_beside_the_resident_run() -> None:
    results: dict[str, Any] = {
        name: {"held": {"fits": True, "speed_off": off, "measured_tok_per_s": 90}}
        for name, off in {"a": 0.15, "b": -0.16, "c": None}.items()
    }
    results["a, resident"] = {"held": {"fits": True, "measured_tok_per_s": 100}}
    results["b, resident"] = {"held": {"fits": False, "measured_tok_per_s": None}}
    found = gpu_run.summary(results)
    assert (found["speeds"], found["speeds_within_15_percent"]) == (2, 1)
    assert found["of_resident"] == {"a": pytest.approx(0.9)}


def test_the_table_shows_who_does_not_fit() -> None:
    def one(engine: str, run: dict[str, Any] | None, held: dict[str, Any], capped: bool = True, why: str = "") -> Any:
        part = {"model": "m", "max_length": 512, "engine": engine, "capped": capped}
        return {"part": part, "run": run, "held": held, "why": why}

    ran = {"fits": True, "at": "end"}
    seen = {"measured_bytes": 3 << 30, "measured_tok_per_s": 250.4}
    lines = table(
        {
            "ours": one("unsloth", ran, seen | {"predicted_bytes": 3000 << 20, "predicted_tok_per_s": 240.0}),
            "whole": one("unsloth", ran, seen | {"predicted_bytes": 1, "predicted_tok_per_s": None}, capped=False),
            "peer": one("Unsloth auto", ran, seen | {"predicted_bytes": None}),
            "plain": one("plain PEFT + TRL", {"fits": False, "at": "load"}, {}),
            "gone": one("streamft", None, {}, why="Traceback\n  x | y\nRuntimeError: no | luck\n"),
        }
    )
    assert lines[2:] == [
        "| m 512 | unsloth | 3,072 (3,000) | 250 (240) |",
        "| m 512 | unsloth, resident | 3,072 (0) | 250 (none) |",
        "| m 512 | Unsloth auto | 3,072 | 250 |",
        "| m 512 | plain PEFT + TRL | does not fit: out of memory at load |  |",
        "| m 512 | streamft | did not run: RuntimeError: no / luck |  |",
    ]


def test_a_plan_that_does_not_fit_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_run.subprocess, "run", lambda *_, **__: pytest.fail("it was run"))
    part = gpu_run.parts(True, "reference")[0]
    found = gpu_run.run_part(part, tmp_path, 1 << 20, "cpu", 60)
    assert found["run"] is None and "does not fit" in found["why"]


def test_a_peer_gets_the_same_rows_sections_and_cap(tmp_path: Path) -> None:
    part = gpu_run.parts(True, "reference")[0]
    folder = write_checkpoint(gpu_run.TINY, tmp_path / "tiny")
    job = gpu_run.job_of(part, folder, gpu_run.plan_part(part, folder, GIB), GIB)
    given = peers.job_of({**job, "engine": "Unsloth auto"}, tmp_path / "rows.json", True)
    assert (given.contestant, given.cap_bytes, given.steps) == ("unsloth_auto", GIB, part.steps)
    assert given.recipe["train"] == job["train"] and given.recipe["lora"] == job["plan"]["lora"]
    assert _most(GIB) == {0: "1.00GiB"}
    assert [peers.contestant(peer, True) for peer in PEERS] == ["trl", "unsloth_auto", "streamft"]


@pytest.mark.parametrize(("peak", "fits"), [(GIB - 1, True), (GIB + 1, False)])
def test_streamft_fits_if_it_stays_below_the_cap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, peak: int, fits: bool
) -> None:
    figures = {"peak_bytes": peak, "step_s": 0.5, "tok_per_s": 8.0, "losses": [1.0, 0.9]}
    monkeypatch.setattr(peers.training_streamft, "train", lambda *_: figures)
    job = {"train": {}, "plan": {"lora": {}}, "model": "m", "steps": 2, "cap_bytes": GIB}
    found = peers.streamft(job, [], tmp_path)
    assert (found["fits"], found["end_reserved_bytes"], found["steps"]) == (fits, peak, 2)


def test_what_trains_once_imports_no_library_that_unsloth_patches() -> None:
    late = "('torch', 'transformers', 'trl', 'peft')"
    code = f"import sys, benchmarks.gpu.train_once; print([name for name in {late} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


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
