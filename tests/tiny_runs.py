"""What a test of training needs: settings for a tiny model, its rows, a recipe, and the command line as a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lowvram_ft.data.prepare import cached_set
from lowvram_ft.data.prepared import Example
from lowvram_ft.recipe import DataSection, LoraSection, QuantizationSection, TrainSection
from lowvram_ft.rendering import from_folder
from lowvram_ft.training.engines import LoadPlan

COMMAND = Path(sys.executable).with_name("lowvram-ft")
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
"""The same sums in the same order in every run; and quick, where tiny models share a machine with other work."""
MAX_LENGTH = 2048
N_CTX = 2048


def load_plan(
    *, load_in_4bit: bool = False, lora_dropout: float = 0.0, gradient_checkpointing: bool = False
) -> LoadPlan:
    """How the tests load a tiny model."""
    return LoadPlan(
        quantization=QuantizationSection(load_in_4bit=load_in_4bit),
        lora=LoraSection(r=8, lora_alpha=16, lora_dropout=lora_dropout),
        max_length=MAX_LENGTH,
        gradient_checkpointing=gradient_checkpointing,
        offload_layers=0,
        offload_embedding=False,
        vram_bytes=None,
        seed=0,
    )


def train_section(**changes: Any) -> TrainSection:
    """A ``[train]`` section for a few steps without schedule or clipping, so that steps can be computed by hand."""
    settings: dict[str, Any] = {
        "learning_rate": 1e-3,
        "max_steps": 1,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 1,
        "max_length": MAX_LENGTH,
        "warmup_steps": 0.0,
        "lr_scheduler_type": "constant",
        "optim": "adamw_torch",
        "max_grad_norm": 1e9,
        "gradient_checkpointing": False,
        "eval_steps": 1.0,
    }
    return TrainSection(**(settings | changes))


def examples(model: Path, count: int = 6) -> list[Example]:
    """Rows that ship with the kit, rendered for a model; their lengths and answers differ."""
    section = DataSection(source="samples", subset="functions", max_read=count)
    return list(cached_set(section, from_folder(model), MAX_LENGTH).train)


def for_trainer(rows: Sequence[Example]) -> Any:
    """What an engine's trainer gets: ``input_ids`` and ``labels`` as a ``datasets.Dataset``."""
    from datasets import Dataset

    return Dataset.from_list([{"input_ids": list(row.input_ids), "labels": row.labels} for row in rows])


def write_recipe(folder: Path, model: Path, text: str = "", **train: Any) -> Path:
    """Write a recipe that ends in seconds on a tiny model.

    Args:
        folder: where to write ``tiny.toml``.
        model: the base model.
        text: more TOML at its end, such as ``[[stages]]``.
        train: keys of ``[train]``.
    """
    settings = {
        "max_length": MAX_LENGTH,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 1,
        "gradient_checkpointing": False,
        "eval_steps": 1.0,
        "max_steps": 3,
        "learning_rate": 1e-3,
    } | train
    lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
    path = folder / "tiny.toml"
    path.write_text(
        f"""
schema_version = 1

[model]
base = {json.dumps(str(model))}

[data]
source = "samples"
max_read = 5
eval_share = 0.2

[lora]
r = 8
lora_alpha = 16

[train]
{chr(10).join(lines)}

[export]
quant = "F16"
n_ctx = {N_CTX}
require_stop = false
verify_rows = 2

[bench]
max_prompts = 1
max_new_tokens = 8

[eval]
suites = ["samples"]
max_tasks = 2
max_new_tokens = 16

{text}
""",
        encoding="utf-8",
    )
    return path


def start(*arguments: object) -> subprocess.Popen[str]:
    """Start ``lowvram-ft`` in a process of its own."""
    return subprocess.Popen(
        [str(COMMAND), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | ONE_THREAD,
    )


def run_cli(*arguments: object, timeout_s: float = 300.0) -> subprocess.CompletedProcess[str]:
    """Run ``lowvram-ft`` to its end."""
    return subprocess.run(
        [str(COMMAND), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        env=os.environ | ONE_THREAD,
    )


def run_json(*arguments: object) -> dict[str, Any]:
    """Run ``lowvram-ft … --json`` and read its one object; fails with what it said otherwise."""
    outcome = run_cli(*arguments, "--json")
    assert outcome.returncode == 0, outcome.stderr
    found = json.loads(outcome.stdout)
    assert isinstance(found, dict)
    return found


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str], timeout_s: float = 120.0) -> None:
    """Wait until a condition holds; fails where the process ends first, or it takes too long."""
    end = time.monotonic() + timeout_s
    while not condition():
        if process.poll() is not None:
            output = process.communicate()
            raise AssertionError(f"ended with {process.returncode} before it got there: {output}")
        if time.monotonic() > end:
            process.kill()
            raise AssertionError(f"did not get there in {timeout_s:g} s")
        time.sleep(0.002)


def events(run: Path) -> list[dict[str, Any]]:
    """The whole lines of a run's ``events.jsonl``."""
    path = run / "events.jsonl"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def has_begun(run: Path, step: str) -> bool:
    """Whether a step of a run has begun."""
    return any(event["event"] == "begun" and event["step"] == step for event in events(run))


def steps(run: Path) -> dict[str, Any]:
    """The finished steps of a run, with their results."""
    found = json.loads((run / "run.json").read_text(encoding="utf-8"))["steps"]
    assert isinstance(found, dict)
    return found


TIMED = frozenset(
    {
        "seconds",
        "seconds_per_file",
        "peak_memory_bytes",
        "memory",
        "first_token_s",
        "first_token_s_p50",
        "first_token_s_p95",
        "prefill_tok_per_s",
        "decode_tok_per_s",
    }
)
LATENCY = frozenset({"file_s_p50", "file_s", "file_s_p95", "gate_met"})


def without_timings(value: Any, run: Path) -> Any:
    """A report without what may differ between two runs of the same recipe: timings, memory, the run's own path."""
    if isinstance(value, dict):
        if value.get("gate") == "gate_s":
            return {"gate": "gate_s", "wanted": value["wanted"]}
        return {
            key: without_timings(entry, run) for key, entry in value.items() if key not in TIMED and key not in LATENCY
        }
    if isinstance(value, list):
        return [without_timings(entry, run) for entry in value]
    return value.replace(str(run), "RUN") if isinstance(value, str) else value


def adapter_bytes(run: Path, stages: Sequence[str]) -> list[bytes]:
    """The adapters of a run's stages, byte for byte."""
    return [(run / "stages" / name / "adapter" / "adapter_model.safetensors").read_bytes() for name in stages]
