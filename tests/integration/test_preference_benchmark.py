"""The whole preference stage on a tiny random model, with nothing played but what it answers: by its benchmark.

A random model writes no tests, so that another one answers in its place.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from lowvram_ft.pipeline import policy
from tests.preference_runs import Played
from tests.tiny_runs import steps

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.mark.slow
def test_every_part_of_the_benchmark_is_done_once(
    llama_run: tuple[Path, Path],
    tmp_path: Path,
    own_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import preference as benchmark

    played = Played(solves=lambda _model, _task, answer: answer == 0)
    monkeypatch.setattr(policy, "open_policy", played.open)
    settings = {
        "preference.tasks": '["rows"]', "preference.max_tasks": 3, "preference.samples_per_task": 2,
        "preference.max_pairs_per_task": 1, "preference.max_winners_per_task": 1,
        "data.max_read": 12, "preference.winning_score": 0.1, "preference.max_length_bias": 100.0,
        "train.max_steps": 1, "train.max_length": 2048, "export.verify_rows": 0, "export.require_stop": "false",
        "eval.max_new_tokens": 16, "lora.r": 8, "lora.lora_alpha": 16,
    }  # fmt: skip
    sets = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    arguments = [str(llama_run[1]), "--seeds", "0", "--out", str(tmp_path / "out"), "--max-tasks", "2", *sets]
    benchmark.main(arguments)
    printed = capsys.readouterr().out
    assert "samples: 2 tasks, greedy" in printed and "humaneval: 2 tasks, greedy" in printed
    assert "seed 0, minutes: tasks " in printed and "in pieces" not in printed
    for method, file in (("dpo", "pairs"), ("rft", "winners")):
        run = tmp_path / "out" / "seed-0" / method
        learned = (run / "stages/demo_preference/rounds/1/pairs" / f"{file}.jsonl").read_text().splitlines()
        assert len(learned) == 3
        assert steps(run)["train:demo_preference"]["steps"] == 1
        assert {json.loads(line)["group"] for line in learned}
    assert len(played.asked) == 3
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*") if path.is_file()}
    benchmark.main(arguments)
    tables = "samples: 2 tasks" + printed.partition("\nsamples: 2 tasks")[2]
    assert capsys.readouterr().out.strip() == tables.strip(), "the same tables, and no part is done again"
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    sys.modules.pop("preference")
