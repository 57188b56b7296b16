"""The table of a run, as far as it has come."""

import io
import json
import re

import pytest
from rich.console import Console

from lowvram_ft.errors import RunDirectoryError
from lowvram_ft.report.cells import RATES
from lowvram_ft.report.table import print_report, print_suites, report
from lowvram_ft.run_dir import RunDir

BEFORE = {
    "writes_tests": 0.1, "single_tests_pass": 0.05, "useful": 0.0, "passes": 0.0, "line_coverage": 0.125,
    "branch_coverage": 0.1, "mutation_score": 0.02, "pass@1": 0.0, "pass@3": None, "tests_passed": 2, "tests": 40,
    "tasks": 40, "samples_per_task": 1,
}  # fmt: skip
AFTER = BEFORE | {"writes_tests": 1.0, "useful": 0.525, "tests_passed": 90, "tests": 160}
SECONDS = {"p50": 2.0, "p95": 3.0}
BENCH = {"file_s_p50": 3.25, "file_s_p95": 4.5, "first_token_s_p50": 0.31, "decode_tok_per_s": 61.6}
GATES = [
    {"gate": "gate_s", "suite": "bench", "value": 4.5, "wanted": 10.0, "met": True},
    {"gate": "gate_pass_rate", "suite": "samples", "value": 0.0, "wanted": 0.8, "met": False},
]


def run(tmp_path, **steps) -> RunDir:
    found = RunDir(tmp_path / "run")
    found.start(recipe={"name": "demo", "stages": []}, digest="d", versions={}, command="c")
    for name, result in steps.items():
        found.finish(name.replace("__", ":"), result)
    return found


def printed(value, printer=print_report) -> str:
    stream = io.StringIO()
    printer(value, Console(file=stream, width=200))
    return stream.getvalue()


def line(text: str, label: str) -> list[str]:
    (found,) = [row for row in text.splitlines() if label in row]
    return re.split(" {2,}", found.strip())


def full(tmp_path) -> RunDir:
    return run(
        tmp_path,
        plan={"base": "smollm2-135m"},
        eval__before={"suites": {"samples": BEFORE}, "seconds_per_file": SECONDS},
        train__functions={"steps": 3, "first_loss": 1.25, "last_loss": 0.5},
        export={"gguf": "export/[m].gguf"},
        verify={"kind": "reference", "scores": {"kl": 0.0021, "top1_agreement": 0.98765, "other": 1}},
        bench=BENCH,
        eval__after={"suites": {"samples": AFTER}, "seconds_per_file": SECONDS},
        gates={"gates": GATES},
    )


def test_a_report_holds_what_run_json_holds(tmp_path):
    found = report(full(tmp_path).path)
    assert (found["recipe"], found["base"]) == ("demo", "smollm2-135m")
    assert found["suites"] == {"samples": {"before": BEFORE, "after": AFTER, "difference": None}}
    assert found["stages"] == {"functions": {"steps": 3, "first_loss": 1.25, "last_loss": 0.5}}
    assert (found["bench"], found["gates"]) == (BENCH, GATES)
    json.dumps(found)


def test_the_table_shows_before_beside_after(tmp_path):
    text = printed(report(full(tmp_path).path))
    assert "samples: 40 tasks" in text
    assert line(text, "writes tests") == ["writes tests", "10.0 %", "100.0 %"]
    assert line(text, "useful files") == ["useful files", "0.0 %", "52.5 %"]
    assert line(text, "line coverage") == ["line coverage", "12.5 %", "12.5 %"]
    assert line(text, "passing / all") == ["tests passing / all", "2 / 40", "90 / 160"]
    assert "stage functions: 3 steps, loss 1.250 to 0.500" in text
    assert "Pass@1" in text
    assert "Pass@3" not in text
    assert "latency: 3.2 s a file (median), 4.5 s at p95, first token after 0.31 s, 62 tokens/s" in text
    assert "kl 0.0021, top1_agreement 0.9877" in text
    assert "gate gate_s on bench: 4.50 (wanted 10) met" in text
    assert "gate gate_pass_rate on samples: 0.00 (wanted 0.8) missed" in text


def test_the_table_shows_intervals_differences_and_what_they_say(tmp_path):
    ends = {"useful": (0.0, 0.0876), "writes_tests": (0.04, 0.23)}
    later = {"useful": (0.375, 0.67), "writes_tests": (0.912, 1.0), "assertions_per_test": (-0.1, 2.25)}
    difference = {
        "useful": {"interval": (0.35, 0.67), "verdict": "better"},
        "writes_tests": {"interval": (-0.95, -0.8), "verdict": "worse"},
        "mutation_score": {"interval": (-0.03, 0.04), "verdict": "undecided"},
        "line_coverage": {"interval": None, "verdict": "undecided"},
    }
    gate = {"gate": "gate_pass_rate", "suite": "[s]", "value": 0.75, "wanted": 0.8, "met": False, "tasks": 40}
    reasons = {"fails": 3, "passes and kills": 37}
    after = AFTER | {"intervals": later, "assertions_per_test": 1.25, "reasons": reasons}
    before = {"suites": {"samples": BEFORE | {"intervals": ends}}, "seconds_per_file": SECONDS}
    found = run(
        tmp_path,
        eval__before=before,
        eval__after={"suites": {"samples": after}, "seconds_per_file": SECONDS},
        compare={"suites": {"samples": difference}},
        gates={"gates": [gate | {"interval": (0.6, 0.86), "verdict": "undecided"}]},
    )
    text = printed(report(found.path))
    assert line(text, "useful files") == ["useful files", "0.0 % (0–9)", "52.5 % (38–67)", "+35 to +67 better"]
    assert line(text, "writes tests")[2:] == ["100.0 % (91–100)", "-95 to -80 worse"]
    assert line(text, "mutation score")[-1] == "-3 to +4 undecided"
    assert line(text, "line coverage")[-1] == "–"
    assert line(text, "checks a test") == ["checks a test", "–", "1.2 (0.0–2.2)"]
    assert "ranges: intervals of 95 %" in text
    assert "files: 37 passes and kills, 3 fails" in text
    assert "gate gate_pass_rate on [s]: 0.75 (wanted 0.8) undecided at 40 tasks (0.60 to 0.86)" in text


def test_the_table_fits_an_ordinary_terminal():
    ends = dict.fromkeys(RATES, (0.874, 1.0))
    means = dict.fromkeys(RATES, 0.975) | {"intervals": ends, "tasks": 164, "tests_passed": 999, "tests": 1234}
    difference = {key: {"interval": (-0.25, 0.11), "verdict": "undecided"} for key in RATES}
    sides = {"before": means, "after": means, "difference": difference}
    stream = io.StringIO()
    empty = {"stage_by_stage": None, "stages": {}, "bench": None, "verify": None, "export": None, "gates": []}
    print_report({"suites": {"humaneval": sides}, **empty}, Console(file=stream, width=80))
    rows = [row for row in stream.getvalue().splitlines() if "%" in row and "ranges" not in row]
    assert len(rows) == len(RATES), "no row is broken in two"


def test_a_suite_that_was_read_and_not_run_says_so():
    read = {"static": True, "tasks": 7, "samples_per_task": 1, "parses": 0.5, "writes_tests": 0.25, "tests": 9,
            "assertions_per_test": 1.5}  # fmt: skip
    text = printed({"suites": {"t": read}, "seconds_per_file": SECONDS, "samples": "x"}, print_suites)
    assert "t: 7 tasks, read and not run" in text
    assert line(text, "writes tests") == ["writes tests", "25.0 %"]
    assert line(text, "passing / all") == ["tests passing / all", "– / 9"]


def test_a_path_with_brackets_is_shown_as_it_is(tmp_path):
    assert "export: export/[m].gguf, verified" in printed(report(full(tmp_path).path))
    suite = "jsonl:[red]/tasks.jsonl"
    steps = {"eval__after": {"suites": {suite: AFTER}, "seconds_per_file": SECONDS}}
    assert f"{suite}: 40 tasks" in printed(report(run(tmp_path / "other", **steps).path))


@pytest.mark.parametrize("side", ["before", "after"])
def test_a_side_that_has_not_run_is_a_dash(tmp_path, side):
    steps = {f"eval__{side}": {"suites": {"samples": AFTER}, "seconds_per_file": SECONDS}}
    text = printed(report(run(tmp_path, **steps).path))
    cells = line(text, "writes tests")
    assert cells == (["writes tests", "100.0 %", "–"] if side == "before" else ["writes tests", "–", "100.0 %"])
    assert "–" in line(text, "passing / all")


def test_a_run_that_has_only_begun_has_an_empty_report(tmp_path):
    found = report(run(tmp_path).path)
    assert (found["suites"], found["stages"], found["bench"], found["gates"]) == ({}, {}, None, [])
    assert printed(found) == ""


def test_a_suite_of_one_side_only_is_shown_too(tmp_path):
    found = report(
        run(
            tmp_path,
            eval__before={"suites": {"a": BEFORE}, "seconds_per_file": SECONDS},
            eval__after={"suites": {"a": AFTER, "b": AFTER}, "seconds_per_file": SECONDS},
        ).path
    )
    assert list(found["suites"]) == ["a", "b"]
    assert found["suites"]["b"]["before"] is None
    assert "b: 40 tasks" in printed(found)


def test_one_evaluation_is_shown_by_itself():
    found = {"suites": {"samples": AFTER}, "seconds_per_file": SECONDS, "samples": "out/[x]/samples.jsonl"}
    text = printed(found, print_suites)
    assert line(text, "writes tests") == ["writes tests", "100.0 %"]
    assert "2.0 s a file (median); samples: out/[x]/samples.jsonl" in text


def test_every_mean_of_a_summary_has_a_name_in_the_table():
    from lowvram_ft.evaluation.metrics import METRICS

    assert set(METRICS) <= set(RATES)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(RunDirectoryError, match="is this a run directory"):
        report(tmp_path)
