"""What the benchmark of preferences keeps of each seed gives the tables that its records give."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from lowvram_ft.evaluation.comparison import compare
from lowvram_ft.evaluation.metrics import Scores, summarize
from lowvram_ft.run_dir import append_jsonl

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import preference

    yield preference
    sys.modules.pop("preference")


def _records(step: str, rng: np.random.Generator) -> list[dict[str, Any]]:
    found = []
    for suite, count in (("samples", 5), ("humaneval", 9)):
        for number in range(count):
            passed = int(rng.integers(0, 4))
            scores = Scores(True, 3, passed, passed == 3, passed > 0, *map(float, rng.random(3)), True, True, 1.5)
            record = {"key": f"{step}/{suite}/{number}", "step": step, "suite": suite, "task": f"t{number}"}
            found.append(record | {"n_tokens": int(rng.integers(9, 99)), "scores": dataclasses.asdict(scores)})
    return found


def test_tables_of_several_seeds_are_those_of_their_records(benchmark: ModuleType, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    every: dict[str, list[dict[str, Any]]] = {model: [] for model in ("base", "sft", "rft", "dpo")}
    lines = []
    for seed in (0, 2):
        path = tmp_path / f"{seed}.jsonl"
        for model in every:
            records = _records(model if model in ("base", "sft") else f"{model}:{seed}", rng)
            every[model] += records
            append_jsonl(path, *records)
        append_jsonl(path, *_records("rft:7", rng))  # another seed of the same run
        lines += benchmark.outcomes_of(path, seed)
    found = benchmark.table(json.loads(json.dumps(lines)))
    for suite in ("samples", "humaneval"):
        assert found[suite]["means"]["dpo"]["samples_per_task"] == 2
        for model, since in (("rft", "sft"), ("sft", "base")):
            mean = summarize(every[model])[suite]
            assert found[suite]["means"][model]["passes_and_kills"] == pytest.approx(mean["passes_and_kills"])
            assert found[suite]["means"][model]["mutation_score"] == pytest.approx(mean["mutation_score"], abs=1e-6)
            wanted = compare(every[since], every[model])[suite]["passes_and_kills"]["interval"]
            assert found[suite]["differences"][model]["passes_and_kills"]["interval"] == pytest.approx(wanted)


class _Bench:
    """What is kept of a benchmark."""

    def __init__(self, samples: Path) -> None:
        self.samples = samples

    def settings(self) -> Any:
        from lowvram_ft.recipe import Recipe

        return Recipe()


def test_a_seed_of_another_day_is_put_beside_the_others(benchmark: ModuleType, tmp_path: Path) -> None:
    own = {"base": {"seconds": 1.0}, "sft": {"seconds": 2.0}}
    for run, seed in ((0, 1), (1, 0), (2, 1)):
        samples = tmp_path / f"{run}.jsonl"
        rng = np.random.default_rng(run)
        for step in ("base", "sft", f"rft:{seed}", f"dpo:{seed}"):
            append_jsonl(samples, *_records(step, rng))
        benchmark._keep(tmp_path / "results", seed, _Bench(samples), own, {"judge": {"seconds": float(run)}})
    kept = json.loads((tmp_path / "results" / "preference.json").read_text())
    assert {seed: found["parts"]["judge"]["seconds"] for seed, found in kept["seeds"].items()} == {"0": 1.0, "1": 2.0}
    lines = (tmp_path / "results" / "preference_outcomes.jsonl").read_text().splitlines()
    assert [json.loads(line)["seed"] for line in lines] == [0] * 8 + [1] * 8, "the seed that was done again is replaced"
    wanted = benchmark.outcomes_of(tmp_path / "2.jsonl", 1)
    assert [json.loads(line) for line in lines[8:]] == wanted
    assert kept["suites"] == json.loads(json.dumps(benchmark.table(map(json.loads, lines))))
