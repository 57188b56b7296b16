"""Rows that are broken or too long: what is said of them, and how the command ends."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.cli.conftest import Cli
from tests.cli.running import Outcome, failed, files
from tests.tiny_runs import write_recipe

CODE = "def double(n):\n    return 2 * n\n"
TEST = "from solution import double\n\n\ndef test_double():\n    assert double(2) == 4\n"


def row(number: int, code: str = CODE) -> str:
    return json.dumps({"id": f"row-{number}", "code": code, "test": TEST})


@pytest.fixture
def rows(tmp_path: Path, tiny_llama: Path) -> Path:
    """A recipe that reads ``rows.jsonl``, and eight good rows in it."""
    write_recipe(tmp_path, tiny_llama)
    recipe = tmp_path / "tiny.toml"
    text = recipe.read_text().replace("[data]\n", '[data]\npath = "rows.jsonl"\n')
    recipe.write_text(re.sub(r"max_read = \d+\n", "", text))
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f"{row(number)}\n" for number in range(8)))
    return path


def break_lines(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    lines[1:1] = [b"{not json}\n", b"\n", b"[1, 2]\n"]
    lines[6:6] = [b'{"id": "\xff"}\n']
    path.write_bytes(b"".join(lines) + b'{"id": "cut o')


BROKEN = (
    "rows.jsonl: 4 broken lines: line 2 (not JSON: Expecting property name enclosed in double quotes), "
    "line 4 (a list, not an object), line 7 (not UTF-8), line 13 (not JSON: Unterminated string starting at)"
)


FATAL = ("--set", "data.broken_lines=fatal")


def test_broken_lines_are_fatal_and_numbered_when_asked(cli: Cli, tmp_path: Path, rows: Path) -> None:
    break_lines(rows)
    expected = failed(2, f'{BROKEN}; mend them, or pass over them with data.broken_lines = "skip"')
    assert cli("data", "verify", "tiny.toml", "-q", *FATAL) == expected
    assert cli("data", "prepare", "tiny.toml", "--out", "out", *FATAL) == expected
    assert files(tmp_path) == ["rows.jsonl", "tiny.toml"]


def test_broken_lines_that_are_read_are_fatal_and_no_others(here: Cli, rows: Path) -> None:
    break_lines(rows)
    some = BROKEN.replace("4 broken lines", "2 broken lines").partition(", line 7")[0]
    outcome = here("data", "verify", "tiny.toml", "-q", "--set", "data.max_read=4", *FATAL)
    assert outcome == failed(2, f'{some}; mend them, or pass over them with data.broken_lines = "skip"')


def test_broken_lines_are_fatal_to_training(here: Cli, tmp_path: Path, rows: Path) -> None:
    break_lines(rows)
    outcome = here("train", "tiny.toml", "--out", "out", "-q", *FATAL)
    assert outcome == failed(2, f'{BROKEN}; mend them, or pass over them with data.broken_lines = "skip"')
    assert json.loads((tmp_path / "out" / "run.json").read_text())["steps"].keys() == {"plan"}


FITS = ", ".join(f"{{}} in {length}" for length in (256, 512, 1024, 2048, 4096, 8192, 16384))


def test_broken_lines_are_passed_over_and_it_says_so(here: Cli, rows: Path) -> None:
    break_lines(rows)
    outcome = here("data", "prepare", "tiny.toml", "--out", "out")
    funnel = (
        "  read                 8\n    left out: 2 broken line: not JSON\n"
        "    left out: 1 broken line: a list, not an object\n    left out: 1 broken line: not UTF-8\n"
        f"  rows that fit, by tokens: {FITS.format(*[8] * 7)}\n"
    )
    expected = Outcome(0, f"out/tiny: 6 rows to train on, 2 to validate\n{funnel}  {BROKEN}; passed over\n", "")
    assert outcome == expected
    found = json.loads(here("data", "inspect", "tiny.toml", "--rows", "0", "--json").stdout)["tiny"]
    assert found["notes"] == [f"{BROKEN}; passed over"]
    shown = here("data", "inspect", "tiny.toml", "--rows", "0")
    assert f"\n  {BROKEN}; passed over\n" in shown.stdout
    verified = here("data", "verify", "tiny.toml")
    assert verified.code == 0
    assert f"{BROKEN}; passed over" in verified.stderr.splitlines()


def test_many_broken_lines_are_counted(here: Cli, rows: Path) -> None:
    rows.write_text("\n".join("abc" for _ in range(12)))
    five = ", ".join(f"line {number} (not JSON: Expecting value)" for number in range(1, 6))
    mend = 'mend them, or pass over them with data.broken_lines = "skip"'
    outcome = here("data", "verify", "tiny.toml", *FATAL)
    assert outcome == failed(2, f"rows.jsonl: 12 broken lines: {five} and 7 more; {mend}")
    rows.write_text("abc\n")
    one = "rows.jsonl: 1 broken line: line 1 (not JSON: Expecting value)"
    assert here("data", "verify", "tiny.toml", *FATAL) == failed(2, f"{one}; {mend}")


def test_row_that_is_too_long_is_dropped_with_a_count(here: Cli, rows: Path) -> None:
    with rows.open("a") as file:
        file.write(row(8, CODE + "# long\n" * 2000) + "\n")
    outcome = here("data", "prepare", "tiny.toml", "--out", "out")
    expected = (
        "out/tiny: 6 rows to train on, 2 to validate\n  read                 9\n  length               8\n"
        f"    left out: 1 longer than 2048 tokens\n  rows that fit, by tokens: {FITS.format(*[8] * 6, 9)}\n"
    )
    assert outcome == Outcome(0, expected, "")


def test_row_that_is_too_long_is_fatal_when_asked(here: Cli, tmp_path: Path, rows: Path) -> None:
    with rows.open("a") as file:
        file.write(row(8, CODE + "# long\n" * 2000) + "\n")
    outcome = here("data", "prepare", "tiny.toml", "--out", "out", "--set", "data.too_long=fatal")
    n_tokens = re.search(r"has (\d+) tokens", outcome.stderr)
    assert n_tokens is not None and int(n_tokens[1]) > 2048
    assert outcome == failed(
        2,
        f"samples row-8: has {n_tokens[1]} tokens (max_length is 2048); "
        'raise train.max_length, or set data.too_long = "drop"',
    )
    assert not (tmp_path / "out").exists()


def test_all_rows_too_long(here: Cli, tmp_path: Path, rows: Path) -> None:
    outcome = here("data", "prepare", "tiny.toml", "--out", "out", "--set", "train.max_length=64")
    problem = "samples: no row is left to train on (8 longer than 64 tokens); check the source and train.max_length"
    assert outcome == failed(2, problem)
    assert not (tmp_path / "out").exists()


def test_empty_file(here: Cli, rows: Path) -> None:
    rows.write_text("")
    problem = "samples: no row is left to train on (the source is empty); check the source and train.max_length"
    assert here("data", "prepare", "tiny.toml", "--out", "out") == failed(2, problem)


def test_columns_of_another_source(here: Cli, rows: Path) -> None:
    outcome = here("data", "verify", "tiny.toml", "--set", "data.source=kodcode")
    problem = "rows.jsonl:1: no column solution (columns: code, id, test); check data.source, or the file"
    assert outcome == failed(2, problem)


def test_file_that_is_missing(cli: Cli, rows: Path) -> None:
    rows.unlink()
    problem = "rows.jsonl: no such file; give a JSONL file with one object a line"
    assert cli("data", "verify", "tiny.toml") == failed(2, problem)


def test_missing_file_of_the_last_stage_is_refused_before_the_first_is_trained(cli: Cli, tmp_path: Path) -> None:
    laptop = ("--set", "hardware.require_gpu=false", "--set", "model.base=smollm2-135m")
    outcome = cli("run", "testing_agent", *laptop, "--out", "out")
    assert outcome == failed(2, "failure_traces.jsonl: no such file; give a JSONL file with one object a line")
    assert not (tmp_path / "out").exists()


def test_data_set_that_cannot_be_reached(cli: Cli, tmp_path: Path) -> None:
    outcome = cli("data", "verify", "stage_a_kodcode", HF_HOME=str(tmp_path / ".hub"))
    assert outcome == failed(
        3,
        "KodCode/KodCode-V1-SFT-R1: cannot be loaded, since HF_HUB_OFFLINE is set; "
        "unset it, or set data.path to a JSONL file",
    )


def test_row_whose_test_fails_ends_verification_with_1(here: Cli, rows: Path) -> None:
    wrong = json.dumps({"id": "wrong", "code": CODE, "test": TEST.replace("== 4", "== 5")})
    rows.write_text(f"{row(0)}\n{wrong}\n")
    outcome = here("data", "verify", "tiny.toml", "-q", "--json")
    found = json.loads(outcome.stdout)
    assert (outcome.code, outcome.stderr) == (1, "")
    assert (found["rows"], found["passing"], [bad["id"] for bad in found["bad"]]) == (2, 1, ["wrong"])
