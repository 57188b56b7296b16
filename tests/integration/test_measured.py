"""What a plan says and what training holds: the same bytes, term by term, and a warning where they are not."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from lowvram_ft.memory import Budget, ModelShape, TrainingSetup, plan_memory
from lowvram_ft.progress import Progress
from lowvram_ft.training.engines.protocol import PEAK
from lowvram_ft.training.engines.reference import ReferenceEngine
from lowvram_ft.training.reporting.measured import Overrun, overruns
from lowvram_ft.training.reporting.plan_watch import PlanWatch
from tests.gguf_models import make_tiny_model
from tests.tiny_runs import examples, for_trainer, load_plan, train_section

ENGINE = ReferenceEngine()
MIB = 1 << 20


def _planned(model: Path, dtype: str, load_in_4bit: bool, r: int = 8) -> dict[str, int]:
    shape = ModelShape.from_config(json.loads((model / "config.json").read_text(encoding="utf-8")))
    setup = TrainingSetup(
        load_in_4bit=load_in_4bit,
        r=r,
        optimizer="adamw_torch",
        compute_dtype_bytes={"bfloat16": 2, "float32": 4}[dtype],
    )
    plan = plan_memory(shape, setup, Budget(vram_bytes=None, ram_bytes=1 << 34))
    return {term.name: term.bytes for term in plan.terms if term.where == "host"}


def _train(model: Path, out: Path, watch: PlanWatch, load_in_4bit: bool) -> Any:
    loaded = ENGINE.load(model, load_plan(load_in_4bit=load_in_4bit), None)
    rows = for_trainer(examples(model, 4))
    ENGINE.trainer("sft", loaded, train_section(max_steps=2), rows, None, out, [watch]).train()
    return loaded


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("load_in_4bit", [True, False])
@pytest.mark.parametrize(("family", "tie"), [("llama", False), ("llama", True), ("qwen2", False), ("qwen3", True)])
def test_every_term_that_stays_is_what_the_plan_says(
    family: str, tie: bool, load_in_4bit: bool, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lowvram_ft.training.engines.reference.compute_dtype", lambda device: dtype)
    model = make_tiny_model(tmp_path / "model", family, tie)
    planned = _planned(model, dtype, load_in_4bit)
    events: list[dict[str, Any]] = []
    watch = PlanWatch("s", planned, Progress(quiet=True), lambda kind, **more: events.append({"kind": kind, **more}))
    _train(model, tmp_path / "out", watch, load_in_4bit)
    assert set(watch.found) >= {"decoder weights", "embedding", "head", "LoRA weights", "gradients", "optimizer state"}
    for term, n_bytes in watch.found.items():
        assert n_bytes == pytest.approx(planned[term], rel=0.005), term
    (event,) = events
    assert (event["kind"], event["measured_bytes"], event["planned_bytes"]) == ("measured", watch.found, planned)


def test_a_term_over_its_plan_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lowvram_ft.training.reporting.measured.SMALL_BYTES", 0)
    model = make_tiny_model(tmp_path / "model", "qwen2", False)
    said = io.StringIO()
    dtype = "bfloat16" if ENGINE.load(model, load_plan(), None).dtype == "bfloat16" else "float32"
    planned = _planned(model, dtype, False, r=4)  # half of what is trained
    _train(model, tmp_path / "out", PlanWatch("s", planned, Progress(said), lambda *_, **__: None), False)
    text = said.getvalue()
    for term, when in (("LoRA weights", "load"), ("gradients", "gradients"), ("optimizer state", "first step")):
        assert f"train s: after {when}: {term}: " in text
    assert "100 % over the plan's" in text
    assert "decoder weights" not in text and "embedding" not in text


def test_only_what_is_over_and_not_small_is_said() -> None:
    planned = {"a": 100 * MIB, "b": 100 * MIB, "c": 100 * MIB, "d": MIB, PEAK: 1000 * MIB}
    found = {"a": 105 * MIB, "b": 106 * MIB, "c": 50 * MIB, "d": 2 * MIB, PEAK: 1100 * MIB, "unknown": 1 << 40}
    assert overruns(planned, found) == [Overrun(PEAK, 1000 * MIB, 1100 * MIB), Overrun("b", 100 * MIB, 106 * MIB)]
    assert Overrun("b", 100 * MIB, 106 * MIB).words == "b: 106 MiB, 6 % over the plan's 100"
    assert Overrun("x", 0, MIB).words.startswith("x: 1 MiB, inf %")
