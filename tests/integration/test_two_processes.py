"""Two processes train what one trains with twice the accumulation; and end together, with one message."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.pair_runs import pair, write_pairs
from tests.tiny_runs import ONE_THREAD, events, steps, wait_for, write_recipe

MAIN = Path(__file__).parent.parent / "rank_main.py"
BIN = Path(sys.executable).parent
TORCHRUN = (str(BIN / "torchrun"), "--nproc_per_node", "2")
ACCELERATE = (str(BIN / "accelerate"), "launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
              "--mixed_precision", "no", "--dynamo_backend", "no", "--num_cpu_threads_per_process", "1")  # fmt: skip
"""As on two GPUs: with ``--cpu``, accelerate starts one process, and leaves further ones to ``mpirun``."""
LOSS_TOLERANCE = 5e-7
"""Relative. The same float32 terms summed in another order: two partial sums, then their sum. Of a loss's 24 bits the
last few may differ."""
ADAPTER_TOLERANCE = 2e-5
"""Absolute, for weights up to 0.06. AdamW divides a gradient by its own size, so where a gradient is nearly nothing,
its last bits move a weight by a share of the learning rate (1e-3)."""


@pytest.fixture(scope="module")
def recipe(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """13 rows, 4 to a step, in 2 epochs: the last step of an epoch has one row, and the second process none."""
    path = write_recipe(
        tmp_path_factory.mktemp("ranks"),
        tiny_llama,
        "[quantization]\nload_in_4bit = false\n",
        gradient_accumulation_steps=4,
        max_steps=6,
        eval_steps=3.0,
    )
    text = path.read_text(encoding="utf-8").replace("max_read = 5", "max_read = 14")
    path.write_text(text.replace("lora_alpha = 16", "lora_alpha = 16\nlora_dropout = 0.0"), encoding="utf-8")
    return path


def _command(launcher: tuple[str, ...], recipe: Path, out: Path, *more: str) -> list[str]:
    broken = [word for word in more if not word.startswith("--set")]
    breaks = [word for what in broken for word in ("--break", what)]
    overrides = [word for word in more if word.startswith("--set")]
    start = launcher or (sys.executable,)
    return [*start, str(MAIN), *breaks, "train", str(recipe), "--out", str(out), *overrides]


def _train(launcher: tuple[str, ...], recipe: Path, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        _command(launcher, recipe, out, *more),
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
        env=os.environ | ONE_THREAD,
    )


def _losses(run: Path) -> list[float]:
    return [event["loss"] for event in events(run) if event["event"] == "trained"]


def _evaluated(run: Path) -> list[float]:
    return [event["eval_loss"] for event in events(run) if event["event"] == "validated"]


def _adapter(run: Path) -> dict[str, Any]:
    from safetensors.numpy import load_file

    return dict(load_file(run / "stages" / "tiny" / "adapter" / "adapter_model.safetensors"))


def _farthest(run: Path, other: Path) -> float:
    mine, theirs = _adapter(run), _adapter(other)
    assert mine.keys() == theirs.keys()
    return max(float(abs(mine[name] - theirs[name]).max()) for name in mine)


@pytest.fixture(scope="module")
def alone(recipe: Path) -> Path:
    """The run of one process."""
    out = recipe.parent / "alone"
    outcome = _train((), recipe, out)
    assert outcome.returncode == 0, outcome.stderr
    assert len(_losses(out)) == 6 and len(_evaluated(out)) == 2
    return out


@pytest.fixture(scope="module")
def together(recipe: Path) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The run of two."""
    out = recipe.parent / "together"
    outcome = _train(TORCHRUN, recipe, out)
    assert outcome.returncode == 0, outcome.stderr
    return out, outcome


def test_two_processes_train_what_one_trains(
    alone: Path, together: tuple[Path, subprocess.CompletedProcess[str]]
) -> None:
    out, _ = together
    assert _losses(out) == pytest.approx(_losses(alone), rel=LOSS_TOLERANCE)
    assert _evaluated(out) == pytest.approx(_evaluated(alone), rel=LOSS_TOLERANCE)
    assert _farthest(out, alone) < ADAPTER_TOLERANCE
    mine, theirs = steps(out)["train:tiny"], steps(alone)["train:tiny"]
    assert (mine["processes"], theirs["processes"]) == (2, 1)
    assert mine["steps"] == theirs["steps"] == 6


def test_one_of_two_processes_writes_and_prints(
    alone: Path, together: tuple[Path, subprocess.CompletedProcess[str]]
) -> None:
    out, outcome = together
    assert outcome.stdout.splitlines() == [
        f"tiny: 6 steps, loss {_losses(out)[0]:.3f} to {_losses(out)[-1]:.3f}",
        f"adapter: {out / 'stages' / 'tiny' / 'adapter'}",
    ]
    assert len(re.findall(r"^stage tiny: 13 rows", outcome.stderr, re.MULTILINE)) == 1
    kinds = [event["event"] for event in events(out)]
    assert kinds == [event["event"] for event in events(alone)]
    assert sorted(path.name for path in out.rglob("*") if path.is_file()) == sorted(
        path.name for path in alone.rglob("*") if path.is_file()
    )


@pytest.mark.slow
def test_a_batch_that_cannot_be_shared_is_refused_once(recipe: Path, tmp_path: Path) -> None:
    outcome = _train(TORCHRUN, recipe, tmp_path / "run", "--set=train.gradient_accumulation_steps=3")
    assert outcome.returncode != 0
    told = [line for line in outcome.stderr.splitlines() if line.startswith("error:")]
    assert len(told) == 1
    assert "2 processes cannot share it evenly (got 3, micro-batch 1); set" in told[0]


@pytest.mark.slow
@pytest.mark.parametrize("broken", ["wrapper", "tokens", "order", "blanks"])
def test_what_two_processes_depend_on_shows_where_it_is_broken(
    alone: Path, recipe: Path, tmp_path: Path, broken: str
) -> None:
    outcome = _train(TORCHRUN, recipe, tmp_path / "run", broken)
    assert outcome.returncode == 0, outcome.stderr
    assert _losses(tmp_path / "run") != pytest.approx(_losses(alone), rel=100 * LOSS_TOLERANCE)
    assert _farthest(tmp_path / "run", alone) > 10 * ADAPTER_TOLERANCE


@pytest.mark.slow
def test_accelerate_launch_does_the_same(alone: Path, recipe: Path, tmp_path: Path) -> None:
    outcome = _train(ACCELERATE, recipe, tmp_path / "run")
    assert outcome.returncode == 0, outcome.stderr
    assert _losses(tmp_path / "run") == pytest.approx(_losses(alone), rel=LOSS_TOLERANCE)
    assert steps(tmp_path / "run")["train:tiny"]["processes"] == 2


@pytest.mark.slow
def test_a_larger_micro_batch_is_shared_too(recipe: Path, tmp_path: Path) -> None:
    sizes = ("--set=train.per_device_train_batch_size=2", "--set=train.gradient_accumulation_steps=2")
    for launcher, name in (((), "one"), (TORCHRUN, "two")):
        assert _train(launcher, recipe, tmp_path / name, *sizes).returncode == 0
    assert _losses(tmp_path / "two") == pytest.approx(_losses(tmp_path / "one"), rel=LOSS_TOLERANCE)
    assert _farthest(tmp_path / "two", tmp_path / "one") < ADAPTER_TOLERANCE


@pytest.mark.slow
def test_two_processes_compare_the_pairs_that_one_compares(recipe: Path, tmp_path: Path) -> None:
    """Their number is odd, and no multiple of a step: the second process has none in the last one."""
    pairs = write_pairs(tmp_path / "pairs.jsonl", [pair(number) for number in range(11)])
    changes = ("--set=train.method=dpo", f"--set=preference.pairs={pairs}", "--set=data.eval_share=0.15")
    for launcher, name in (((), "one"), (TORCHRUN, "two")):
        outcome = _train(launcher, recipe, tmp_path / name, *changes)
        assert outcome.returncode == 0, outcome.stderr
    one, two = tmp_path / "one", tmp_path / "two"
    assert _losses(two) == pytest.approx(_losses(one), rel=20 * LOSS_TOLERANCE)
    assert _farthest(two, one) < 10 * ADAPTER_TOLERANCE
    kinds = [[event["event"] for event in events(run)] for run in (one, two)]
    assert kinds[0] == kinds[1] and kinds[0].count("references") == 1
    (facts,) = [event for event in events(two) if event["event"] == "references"]
    assert facts["computed"] == facts["pairs"] == 11


@pytest.mark.slow
@pytest.mark.parametrize(
    ("broken", "message"),
    [("fails", "error: rank 1: card 1: is on fire; put it out"), ("dies", "error: another process of this run")],
)
def test_all_end_where_one_does_and_one_says_why(
    alone: Path, recipe: Path, tmp_path: Path, broken: str, message: str
) -> None:
    outcome = _train(TORCHRUN, recipe, tmp_path / "run", broken)
    assert outcome.returncode != 0
    told = [line for line in outcome.stderr.splitlines() if line.startswith("error:")]
    assert len(told) == 1 and told[0].startswith(message)
    assert "lowvram_ft/" not in outcome.stderr  # no traceback of ours
    again = _train(TORCHRUN, recipe, tmp_path / "run")  # nobody holds the directory, nothing is half-written
    assert again.returncode == 0, again.stderr
    assert _losses(tmp_path / "run")[-6:] == pytest.approx(_losses(alone), rel=LOSS_TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_stopped_goes_on_as_if_it_had_not_been(
    alone: Path, recipe: Path, tmp_path: Path, number: signal.Signals
) -> None:
    out = tmp_path / "run"
    process = subprocess.Popen(
        _command(TORCHRUN, recipe, out),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | ONE_THREAD,
    )
    wait_for(lambda: len(_losses(out)) >= 4, process)
    process.send_signal(number)
    _, told = process.communicate(timeout=60)
    assert process.returncode != 0
    assert told.count("stopped; nothing is half-written") <= 1
    assert not json.loads((out / "run.json").read_text(encoding="utf-8"))["steps"].get("train:tiny")
    again = _train(TORCHRUN, recipe, out)
    assert again.returncode == 0, again.stderr
    assert "resumes at checkpoint-" in again.stderr
    assert _farthest(out, alone) < ADAPTER_TOLERANCE
