"""``lowvram-ft eval --suite …``: tasks that are refined, tasks with wrong solutions, tasks that cannot be run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lowvram_ft.run_dir import read_jsonl
from tests.cli.conftest import Cli
from tests.cli.running import failed

CODE = "def double(x):\n    return 2 * x\n"
ROW = {"id": "1", "repo": "a/b", "code_file": "b/m.py", "code_src": CODE, "test_src": "", "test_file": "t.py"}


@pytest.fixture
def short(tiny_gguf: Path) -> tuple[object, ...]:
    return (tiny_gguf, "--max-new-tokens", "16", "--max-tasks", "2", "--out", "out", "-q", "--json")


def test_self_correction_records_every_attempt(here: Cli, tmp_path: Path, short: tuple[object, ...]) -> None:
    outcome = here("eval", *short, "--suite", "self_correction")
    found = json.loads(outcome.stdout)["suites"]["self_correction"]
    assert (outcome.code, outcome.stderr, found["tasks"]) == (0, "", 2)
    assert list(found["answers"]) == ["pass@1", "pass@2", "pass@3", "pass@4"]
    records = list(read_jsonl(tmp_path / "out" / "samples.jsonl"))
    assert all(2 <= len(record["attempts"]) <= 4 for record in records)  # weights of chance write no test
    for record in records:
        first, *more = [attempt["prompt"] for attempt in record["attempts"]]
        assert "### Pytest output:" not in first
        assert all("### Failing test:" in prompt and "### Pytest output:" in prompt for prompt in more)
    again = here("eval", *short, "--suite", "self_correction")
    assert json.loads(again.stdout)["suites"]["self_correction"] == found
    assert list(read_jsonl(tmp_path / "out" / "samples.jsonl")) == records


def test_wrong_solutions_give_error_rates(here: Cli, tmp_path: Path, short: tuple[object, ...]) -> None:
    task = {"task_id": 1, "code": CODE, "wrong_solutions": [CODE.replace("2", "3")]}
    (tmp_path / "mine.jsonl").write_text(json.dumps(task) + "\n")
    outcome = here("eval", *short, "--suite", "jsonl:mine.jsonl")
    means = json.loads(outcome.stdout)["suites"]["jsonl:mine.jsonl"]
    assert (outcome.code, means["false_acceptance"], means["false_rejection"]) == (0, 1.0, 1.0)


def test_testgeneval_is_static_without_repositories(here: Cli, tmp_path: Path, short: tuple[object, ...]) -> None:
    (tmp_path / "dev.jsonl").write_text(json.dumps(ROW) + "\n")
    outcome = here("eval", *short, "--suite", "testgeneval:dev.jsonl")
    (suite,) = json.loads(outcome.stdout)["suites"].items()
    assert (outcome.code, suite[0], suite[1]["static"]) == (0, "testgeneval:dev.jsonl (static)", True)
    assert "passes" not in suite[1]


def test_testgeneval_is_run_in_a_checkout(here: Cli, tmp_path: Path, short: tuple[object, ...]) -> None:
    (tmp_path / "repos" / "b" / "b").mkdir(parents=True)
    (tmp_path / "repos" / "b" / "b" / "m.py").write_text(CODE)
    (tmp_path / "dev.jsonl").write_text(json.dumps(ROW) + "\n")
    outcome = here("eval", *short, "--suite", "testgeneval:dev.jsonl", "--repos", "repos")
    suites = json.loads(outcome.stdout)["suites"]
    assert (outcome.code, list(suites), suites["testgeneval:dev.jsonl"]["passes"]) == (0, ["testgeneval:dev.jsonl"], 0)


def test_a_file_with_several_mistakes_names_each(here: Cli, tmp_path: Path, short: tuple[object, ...]) -> None:
    (tmp_path / "mine.jsonl").write_text('{"task_id": 1}\n{"task_id": 2, "code": "def ("}\n')
    assert here("eval", *short, "--suite", "jsonl:mine.jsonl") == failed(
        2,
        "mine.jsonl:1: needs task_id and code (columns: task_id); add them",
        "mine.jsonl:2: code does not parse; mend it",
    )
