"""The table of what each stage gave: the base and every stage side by side, with paired differences."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from lowvram_ft.evaluation.metrics import Scores, summarize
from lowvram_ft.pipeline import Job
from lowvram_ft.pipeline.evaluating import compare_stages
from lowvram_ft.progress import Progress
from lowvram_ft.recipe import load
from lowvram_ft.report.stages import print_stages
from lowvram_ft.report.table import print_report, report
from lowvram_ft.run_dir import append_jsonl

TASKS = 20
PASSING = {"eval:before": 2, "eval:a": 9, "eval:after": 16}
"""Of 20 tasks; a task that passes after a stage passes after the later ones."""
TOKENS = {"eval:before": 100, "eval:a": 80, "eval:after": 60}


def record(step: str, task: int) -> dict[str, Any]:
    passes = task < PASSING[step]
    scores = Scores(True, 2, 2 if passes else 0, passes, passes, 0.5, 0.5, 0.5 if passes else 0.0)
    return {
        "key": f"{step}/{task}", "step": step, "suite": "samples", "task": str(task), "scores": scores.to_json(),
        "test": "def test(): ...", "n_tokens": TOKENS[step] + task % 2,
    }  # fmt: skip


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """A run of two stages whose evaluations have finished."""
    recipe = tmp_path / "two.toml"
    stages = '[[stages]]\nname = "a"\n[[stages]]\nname = "b"\n'
    recipe.write_text(f"schema_version = 1\n[eval]\nafter_each_stage = true\n{stages}")
    found = Job(load(str(recipe)), tmp_path / "run", Progress(quiet=True), "test")
    with found.at_work():
        for step in PASSING:
            records = [record(step, task) for task in range(TASKS)]
            append_jsonl(found.run.samples, *records)
            found.run.finish(step, {"suites": summarize(records)})
        compare_stages(found)
    return found


def printed(value: dict[str, Any], printer: Any = print_stages) -> str:
    stream = io.StringIO()
    printer(value, Console(file=stream, width=160))
    return stream.getvalue()


def rows(text: str, label: str) -> list[list[str]]:
    return [re.split(" {2,}", line.strip())[1:] for line in text.splitlines() if line.lstrip().startswith(label)]


def test_every_stage_stands_beside_the_base_and_the_stage_before(job: Job) -> None:
    found = report(job.run.path)["stage_by_stage"]["samples"]
    json.dumps(found)
    assert [stage["name"] for stage in found] == ["base", "a", "b"]
    assert [stage["means"]["passes_and_kills"] for stage in found] == [0.1, 0.45, 0.8]
    assert set(found[0]) == {"name", "means"}
    since = [(s["since_before"]["passes"], s["since_base"]["passes"]) for s in found[1:]]
    gains = [(before["gained"], base["gained"]) for before, base in since]
    assert gains == [(7, 7), (7, 14)]
    assert [(before["before"], base["before"]) for before, base in since] == [(0.1, 0.1), (0.45, 0.1)]
    assert all(before["tasks"] == TASKS and before["interval"][0] > 0 for before, _ in since)
    assert [stage["since_before"]["n_tokens"]["difference"] for stage in found[1:]] == [-20, -20]


def test_the_tables_show_means_differences_and_lengths(job: Job) -> None:
    text = printed(report(job.run.path)["stage_by_stage"])
    means, since_before, since_base = rows(text, "passes and kills")
    assert [cell.split(" (")[0] for cell in means] == ["10.0 %", "45.0 %", "80.0 %"]
    assert [len(since_before), len(since_base)] == [2, 1]
    assert all(cell.endswith("better") for cell in (*since_before, *since_base))
    assert [cell.split(" ")[0] for cell in rows(text, "tokens an answer")[0]] == ["100.5", "80.5", "60.5"]
    assert "samples: difference to the base" in text
    assert "samples: 20 tasks, stage by stage" in text


def test_the_report_of_a_run_holds_the_tables(job: Job) -> None:
    assert "stage by stage" in printed(report(job.run.path), print_report)


def test_a_run_without_evaluations_between_has_no_such_table(job: Job) -> None:
    data = job.run.data
    del data["steps"]["compare:stages"]
    job.run.run_json.write_text(json.dumps(data))
    found = report(job.run.path)
    assert found["stage_by_stage"] is None
    assert "stage by stage" not in printed(found, print_report)
