"""One stage on a tiny model, trained in this process; every step takes milliseconds."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from lowvram_ft.progress import Progress
from lowvram_ft.recipe import (
    DataSection,
    HardwareSection,
    LoraSection,
    ModelSection,
    QuantizationSection,
    Recipe,
)
from lowvram_ft.run_dir import append_jsonl
from lowvram_ft.training.engines import Engine
from lowvram_ft.training.processes.ranks import Ranks
from lowvram_ft.training.reporting.reporters import Records
from lowvram_ft.training.stage import Trained, train_stage
from tests.gguf_models import make_tiny_model
from tests.tiny_runs import load_plan, train_section

STAGE = "tiny"
UNDISTURBED_STEPS = 10
"""Of the stage that others are held against."""


@contextmanager
def single_thread() -> Iterator[None]:
    """Tiny products gain nothing from threads, and lose much where the machine has other work."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def make_tiniest_model(path: Path) -> Path:
    """A random Llama whose step takes milliseconds."""
    return make_tiny_model(path, "llama", tie=True, hidden_size=32, intermediate_size=64)


def recipe_for(model: Path, load_in_4bit: bool = False, **train: Any) -> Recipe:
    """A stage of 20 steps over two epochs and more, with dropout, a schedule, clipping and validation."""
    settings: dict[str, Any] = {
        "max_steps": 20,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 1,
        "eval_steps": 4.0,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.1,
        "max_grad_norm": 1.0,
    }
    return Recipe(
        model=ModelSection(base=str(model)),
        data=DataSection(source="samples", subset="functions", max_read=20, eval_share=0.2),
        quantization=QuantizationSection(load_in_4bit=load_in_4bit),
        lora=LoraSection(r=8, lora_alpha=16, lora_dropout=0.1),
        hardware=HardwareSection(allow=("checkpointing", "smaller_batch")),
        train=train_section(**settings | train),
    )


def run_stage(
    recipe: Recipe,
    out: Path,
    *,
    engine: Engine | None = None,
    on_event: Callable[[str, dict[str, Any]], None] | None = None,
    records: Records | None = None,
) -> Trained:
    """Train the stage of a recipe, or take it up; events go to ``out/events.jsonl``."""
    if engine is None:
        from lowvram_ft.training.engines.reference import ReferenceEngine

        engine = ReferenceEngine()

    def event(kind: str, **fields: Any) -> None:
        append_jsonl(out / "events.jsonl", {"event": kind, **fields})
        if on_event is not None:
            on_event(kind, fields)

    plan = replace(
        load_plan(load_in_4bit=recipe.quantization.load_in_4bit),
        lora=recipe.lora,
        gradient_checkpointing=recipe.train.gradient_checkpointing,
    )
    return train_stage(
        STAGE,
        recipe,
        Path(recipe.model.base),
        engine,
        plan,
        out,
        adapter=None,
        progress=Progress(quiet=True),
        event=event,
        ranks=Ranks(),
        records=records,
    )


def digest(adapter: Path) -> str:
    """SHA-256 of an adapter's weights."""
    return hashlib.sha256((adapter / "adapter_model.safetensors").read_bytes()).hexdigest()
