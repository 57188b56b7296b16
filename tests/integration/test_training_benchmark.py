"""The comparison of the engines: what it counts, who it refuses, and one run of it on a tiny model."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks.training import CONTESTANTS, cannot_run, reason, table
from benchmarks.training_plot import loss_curves
from benchmarks.training_streamft import from_report
from tests.tiny_runs import ONE_THREAD, write_recipe

ROOT = Path(__file__).parents[2]


def test_the_reason_is_the_last_exception() -> None:
    log = (
        "Traceback (most recent call last):\n  File x\nValueError: no\n\nAttributeError: 'a' has no b\n  0%|   | 0/1\n"
    )
    assert reason(log) == "AttributeError: 'a' has no b"
    assert reason("Killed\n") == "Killed"
    assert reason("") == "it ended without a word"


def test_who_cannot_run_is_told_why() -> None:
    assert cannot_run("reference", None, on_gpu=False) is None
    assert cannot_run("older_trl_best", None, on_gpu=False) == "no --older-trl given"
    assert cannot_run("streamft", None, on_gpu=False) == "needs a CUDA GPU"


def test_the_plot_is_an_svg_with_a_line_a_contestant() -> None:
    tree = ElementTree.fromstring(loss_curves({"one": [1.0, 0.5, 0.4], "two": [1.0, 0.6, 0.4]}))
    lines = [element.get("points", "").split() for element in tree.iter() if element.tag.endswith("polyline")]
    assert [len(points) for points in lines] == [3, 3]
    assert lines[0][0] == lines[1][0] and lines[0][1] != lines[1][1]


def test_streamfts_report_is_read() -> None:
    row = {"step_s_med": 0.5, "peak_gb_max": 3.5, "losses": [1.0], "targets": "all", "head": "bf16"}
    row |= {"blocks_on_gpu": 4, "seq": 128, "lora_r": 16}
    found = from_report(f"[load] x\n{json.dumps(row)}\n", 128)
    assert (found["tok_per_s"], found["peak_bytes"]) == (256.0, 3_500_000_000)


def test_the_engine_and_plain_trl_start_at_the_same_loss(tiny_llama: Path, tmp_path: Path) -> None:
    recipe = write_recipe(
        tmp_path, tiny_llama, "[quantization]\nload_in_4bit = false\n", per_device_train_batch_size=2, max_steps=2
    )
    out = tmp_path / "training.json"
    names = ["reference", "trl", "transformers_loss_best"]
    outcome = subprocess.run(
        [
            sys.executable,
            "-m",
            "benchmarks.training",
            "--recipe",
            recipe,
            "--repetitions",
            "1",
            "--out",
            out,
            "--only",
            *names,
        ],
        cwd=ROOT,
        env=os.environ | ONE_THREAD | {"CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stderr
    found = json.loads(out.read_text(encoding="utf-8"))
    ours, theirs = (found["contestants"][name] for name in ("reference", "transformers_loss_best"))
    assert ours["losses"][0] == pytest.approx(theirs["losses"][0], abs=0.02)
    assert len(ours["losses"]) == 2 and ours["losses"] != ours["losses"][::-1]
    for figures in (ours, theirs):
        assert 0 < figures["tok_per_s"] <= figures["padded_tok_per_s"]
        assert figures["peak_bytes"] > 1 << 28
    if importlib.util.find_spec("triton") is None:
        assert "NoneType" in found["cannot_run"]["trl"]["reason"]
    assert (tmp_path / "training.svg").read_text(encoding="utf-8").startswith("<svg")
    assert all(name in table(found) for name in names)
    assert set(found["contestants"]) | set(found["cannot_run"]) == set(names) <= set(CONTESTANTS)
