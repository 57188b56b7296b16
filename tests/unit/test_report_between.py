"""Runs against the first of them: paired by task, on what both were asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lowvram_ft.errors import RunDirectoryError
from lowvram_ft.report.between import differences
from lowvram_ft.report.page.reading import read_runs
from lowvram_ft.report.page.side_by_side import side_by_side
from lowvram_ft.run_dir import RunDir, append_jsonl
from tests.page_runs import begin, means, record


def run_of(folder: Path, passing: str, **other: Any) -> Path:
    """A run whose files pass (``1``), fail (``0``) or were not asked for (``-``), task by task."""
    run = begin(folder)
    for number, word in enumerate(passing):
        if word != "-":
            append_jsonl(run.samples, record("eval:after", f"task_{number}", passes=word == "1") | other)
            append_jsonl(run.samples, record("eval:before", f"task_{number}", passes=False))
    return run.path


def between(*paths: Path) -> list[dict[str, Any]]:
    return differences(read_runs(paths))["samples"]


def test_gains_and_losses_are_counted_task_by_task(tmp_path: Path) -> None:
    old, new = run_of(tmp_path / "old", "000000000011"), run_of(tmp_path / "new", "111111111001")
    [found] = between(old, new)
    assert (found["run"], found["to"], found["tasks"]) == ("new", "old", 12)
    passes = found["metrics"]["passes"]
    assert (passes["gained"], passes["lost"], passes["before"], passes["after"]) == (9, 1, 2 / 12, 10 / 12)
    assert passes["p_value"] == pytest.approx(2 * (1 + 10) / 2**10)
    assert passes["verdict"] == "better"
    [back] = between(new, old)
    assert back["metrics"]["passes"]["verdict"] == "worse"
    assert back["metrics"]["passes"]["interval"] == pytest.approx([-end for end in passes["interval"]][::-1])


def test_equal_means_on_other_tasks_are_no_difference_and_no_proof(tmp_path: Path) -> None:
    old, new = run_of(tmp_path / "old", "111111000000"), run_of(tmp_path / "new", "000000111111")
    passes = between(old, new)[0]["metrics"]["passes"]
    assert (passes["difference"], passes["gained"], passes["lost"], passes["verdict"]) == (0, 6, 6, "undecided")


def test_only_what_both_were_asked_counts(tmp_path: Path) -> None:
    old = run_of(tmp_path / "old", "0000000000--")
    new = run_of(tmp_path / "new", "----11111111")
    changed = run_of(tmp_path / "changed", "1111111111--", code="def other():\n    return 1\n")
    assert between(old, new)[0]["tasks"] == 6
    assert between(old, new)[0]["metrics"]["passes"]["gained"] == 6
    assert between(old, new, changed)[1] == {"run": "changed", "to": "old", "tasks": 0, "metrics": {}}


def test_what_was_not_run_is_not_compared(tmp_path: Path) -> None:
    old = run_of(tmp_path / "old", "000000")
    new = run_of(tmp_path / "new", "111111", scores=None, verdict=None)
    assert between(old, new) == [{"run": "new", "to": "old", "tasks": 0, "metrics": {}}]


def test_a_suite_of_one_run_alone_has_no_difference(tmp_path: Path) -> None:
    old, new = run_of(tmp_path / "old", "0000"), run_of(tmp_path / "new", "1111", suite="other")
    assert between(old, new) == [{"run": "new", "to": "old", "tasks": 0, "metrics": {}}]
    assert differences(read_runs([begin(tmp_path / "empty").path, old])) == {}


def test_samples_of_a_task_are_averaged_before_they_are_compared(tmp_path: Path) -> None:
    runs = [begin(tmp_path / name) for name in ("old", "new")]
    for number in range(10):
        for sample in range(3):
            for run, passes in zip(runs, (sample == 0, sample != 0), strict=True):
                append_jsonl(run.samples, record("eval:after", f"t{number}", passes=passes, sample=sample))
    [found] = between(*(run.path for run in runs))
    assert found["tasks"] == 10
    passes = found["metrics"]["passes"]
    assert (passes["before"], passes["after"]) == pytest.approx((1 / 3, 2 / 3))
    assert "gained" not in passes and passes["verdict"] == "better"


def test_side_by_side_says_it_in_words(tmp_path: Path) -> None:
    paths = [run_of(tmp_path / "old", "0" * 12), run_of(tmp_path / "new", "1" * 12), run_of(tmp_path / "bad", "-" * 12)]
    for path, rate in zip(paths[:2], (0.0, 1.0), strict=True):
        RunDir(path).finish("eval:after", {"suites": {"samples": means(rate, 12)}})
    [suite] = side_by_side(read_runs(paths))["suites"]
    paired = suite["paired"]
    assert (paired["to"], paired["columns"], paired["tasks"]) == ("old", ["new", "bad"], ["12", "0"])
    row = next(row for row in paired["rows"] if row["label"] == "whole files passing")
    assert row["cells"][0]["verdict"] == "better" and "12 gained, 0 lost" in row["cells"][0]["why"]
    assert row["cells"][1] is None
    [alone] = side_by_side(read_runs([paths[0], paths[2]]))["suites"]
    assert alone["paired"] is None


@pytest.mark.parametrize(
    "line", ['{"step": "eval:after"}', '{"suite": "a", "task": "b", "sample": null}', '{"suite": "a", "task": "b"}']
)
def test_a_damaged_line_of_samples_is_told(tmp_path: Path, line: str) -> None:
    path = run_of(tmp_path / "run", "01")
    with (path / "samples.jsonl").open("a") as file:
        file.write(f"3\n{{torn\n{line}\n")
    with pytest.raises(RunDirectoryError, match=r"samples\.jsonl: a line is not a sample \(\{"):
        read_runs([path])
    (path / "samples.jsonl").write_text("3\n{torn\n")
    assert read_runs([path])[0].samples == {}
