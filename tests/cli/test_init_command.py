"""``lowvram-ft init``: on machines that are not at hand it writes a recipe that its own plan accepts."""

from __future__ import annotations

import io
import json
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from lowvram_ft.init.material import count_tests, guess
from lowvram_ft.recipe import load
from tests.cli.conftest import Cli
from tests.cli.running import failed, run
from tests.documented import ROOT
from tests.machines import GIB, LAPTOP, NO_GPU

SEVEN, FOUR, THREE = "Qwen/Qwen2.5-Coder-7B-Instruct", "Qwen/Qwen3-4B-Instruct-2507", "Qwen/Qwen2.5-Coder-3B-Instruct"
HALF, EMBEDDED = "Qwen/Qwen2.5-Coder-0.5B-Instruct", "smollm2-135m"


@pytest.fixture
def online(here: Cli, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """As `here`, where the hub may be asked, and `this machine` is a laptop without a GPU."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "")
    monkeypatch.setattr("lowvram_ft.hardware.detect", lambda *_: NO_GPU)
    return here


def said(cli: Cli, *arguments: object) -> dict[str, Any]:
    outcome = cli("init", *arguments, "--json")
    assert (outcome.code, outcome.stderr) == (0, "")
    found = json.loads(outcome.stdout)
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("ram", [8, 16, 32])
@pytest.mark.parametrize(("vram", "base"), [(None, HALF), (4, FOUR), (6, SEVEN), (8, SEVEN)])
def test_a_simulated_machine_gets_a_recipe_that_its_own_plan_accepts(
    online: Cli, vram: int | None, base: str, ram: int
) -> None:
    card = ("--no-gpu",) if vram is None else ("--vram", vram)
    found = said(online, "mine.toml", "--data", "kodcode", *card, "--ram", ram)
    assert found["base"] == base
    assert found["train_s"] <= 8 * 3600
    assert found["answer_s"] <= 10
    assert found["stages"][0]["data"]["max_rows"] >= 1000
    outcome = online("plan", "mine.toml", "--json")  # on a machine without any GPU: the recipe says which is meant
    plan = json.loads(outcome.stdout)
    assert (outcome.code, plan["fits"]) == (0, True)
    [stage] = plan["stages"].values()
    assert stage["model"] == base
    assert stage["class"] in ("", "bitwise the same"), "nothing was given up"
    bound = ram if vram else min(ram, NO_GPU.ram_total_bytes // GIB)  # without a card the recipe is for this machine
    assert stage["plan"]["ram_bytes"] == bound * GIB
    assert (stage["plan"]["peak_gpu_bytes"] > 0) == (vram is not None)


@pytest.mark.parametrize(
    ("vram", "disk", "base"), [(4, "15", THREE), (8, "3", HALF), (None, "2", EMBEDDED), (8, "1", EMBEDDED)]
)
def test_little_disk_takes_a_smaller_model_and_says_so(online: Cli, vram: int | None, disk: str, base: str) -> None:
    card = ("--no-gpu",) if vram is None else ("--vram", vram)
    found = said(online, "mine.toml", "--data", "kodcode", *card, "--ram", 16, "--disk", disk)
    assert found["base"] == base
    assert f"GiB, and {disk} GiB are free" in found["passed_over"][SEVEN if vram else HALF]
    assert online("plan", "mine.toml").code == 0


def test_a_machine_for_which_there_is_nothing_is_told_why(online: Cli, tmp_path: Path) -> None:
    outcome = online("init", "--data", "kodcode", "--no-gpu", "--ram", "1", "-y")
    assert outcome.code == 3
    assert outcome.stderr.startswith("error: init: no base model for no GPU, 1 GiB of memory, 8 CPUs, ")
    assert "smollm2-135m: does not fit (" in outcome.stderr
    assert not (tmp_path / "my_tests.toml").exists()


def test_a_recipe_for_this_machine_follows_the_machine(online: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lowvram_ft.hardware.detect", lambda *_: LAPTOP)
    assert said(online, "--data", "kodcode")["base"] == FOUR
    hardware = load("my_tests.toml").final.hardware
    assert (hardware.require_gpu, hardware.vram_gib, hardware.ram_gib) == (True, None, None)


def test_the_recipe_is_commented_and_names_what_was_passed_over(online: Cli, tmp_path: Path) -> None:
    outcome = online("init", "--data", "kodcode", "--gpu", "RTX 3050 Laptop", "--ram", "16", "-y")
    assert outcome.code == 0
    text = (tmp_path / "my_tests.toml").read_text()
    assert text.startswith("# Written by lowvram-ft init for: RTX 3050 Laptop with 4 GiB, 16 GiB of memory, ")
    assert f"#   {SEVEN}: fits, and would answer in about " in text
    assert "# KodCode is CC-BY-NC-4.0" in text
    keys = [line for line in text.splitlines() if " = " in line and not line.startswith("#")]
    assert sum("#" in line for line in keys) > len(keys) / 2
    assert outcome.stdout.splitlines()[-6:] == [
        "  lowvram-ft plan my_tests.toml",
        "      what goes where, term by term",
        "  lowvram-ft data inspect my_tests.toml",
        "      the rows, as the model sees them",
        "  lowvram-ft run my_tests.toml",
        "      train, export, verify, evaluate; the same command goes on after any interruption",
    ]


def test_more_patience_takes_a_larger_model(online: Cli) -> None:
    assert said(online, "a.toml", "--data", "kodcode", "--vram", 4, "--ram", 16, "--gate", 0)["base"] == SEVEN
    less = said(online, "b.toml", "--data", "kodcode", "--vram", 4, "--ram", 16, "--gate", 0, "--hours", 0.5)
    assert less["base"] != SEVEN and "rows in 0.5 h" in less["passed_over"][SEVEN]
    wanted = said(online, "c.toml", "--data", "kodcode", "--vram", 4, "--ram", 16, "--base", SEVEN)
    assert wanted["base"] == SEVEN and wanted["passed_over"] == {}


def test_commercial_use_leaves_out_what_forbids_it(online: Cli, tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_a.py").touch()
    found = said(online, "--vram", 4, "--ram", 16, "--disk", 15, "--commercial")
    assert found["passed_over"][THREE] == "its licence forbids commercial use"
    assert [stage["data"]["source"] for stage in found["stages"]] == ["coderm", "repository"]
    refused = online("init", "x.toml", "--data", "kodcode", "--commercial", "-y")
    assert refused == failed(
        2, "init --data kodcode: KodCode is CC-BY-NC-4.0 (got --commercial); take --data coderm, or your own rows"
    )
    (tmp_path / "tests" / "test_a.py").unlink()
    alone = said(online, "d.toml", "--vram", 4, "--ram", 16, "--commercial")
    assert [(stage["name"], stage["data"]["source"]) for stage in alone["stages"]] == [("form", "coderm")]
    assert alone["stages"][0]["data"]["max_rows"] >= 1000
    asked_for = said(online, "e.toml", "--vram", 4, "--ram", 16, "--data", "coderm")
    assert [(stage["name"], stage["data"]["source"]) for stage in asked_for["stages"]] == [("form", "coderm")]


# --- what the user brings


def test_a_checkout_of_the_kit_is_nobodys_project() -> None:
    assert count_tests(ROOT) > 100
    assert guess(ROOT, offline=False, commercial=False) == "kodcode"
    assert guess(ROOT / "tests", offline=False, commercial=False) == "repository"


def test_ones_own_repository(online: Cli, tmp_path: Path) -> None:
    project = tmp_path / "my project"
    (project / "tests").mkdir(parents=True)
    nothing = online("init", "--repo", project, "-y")
    problem = (
        "holds no test file (test_*.py, *_test.py); without tests of your own, take --data kodcode or --data samples"
    )
    assert nothing == failed(2, f"init --repo: {project}: {problem}")
    (project / "tests" / "test_a.py").touch()
    found = said(online, "--repo", project, "--vram", 4, "--ram", 16)
    assert [stage["name"] for stage in found["stages"]] == ["form", "own"]
    assert found["stages"][1]["data"] == {
        "source": "repository", "path": "my_tests-rows.jsonl", "too_long": "trim",
    }  # fmt: skip
    assert found["next"][0] == f"lowvram-ft data from-repo '{project}' --out my_tests-rows.jsonl"
    assert online("plan", "my_tests.toml").code == 0


@pytest.mark.parametrize(
    ("columns", "source"),
    [
        ({"code_src", "test_src", "code_file"}, "repository"),
        ({"code", "failed_test", "failure_log", "fixed_test"}, "failure_traces"),
        ({"solution", "test_code", "question"}, "kodcode"),
        ({"code_ground_truth", "unit_tests"}, "coderm"),
    ],
)
def test_ones_own_rows_are_known_by_their_columns(online: Cli, tmp_path: Path, columns: set[str], source: str) -> None:
    line = json.dumps(dict.fromkeys(columns, "x")) + "\n"
    (tmp_path / "mine.jsonl").write_text(line * 30)
    found = said(online, "few.toml", "--rows", "mine.jsonl", "--no-gpu", "--ram", 16)
    assert [stage["data"]["source"] for stage in found["stages"]] == ["kodcode", source]
    (tmp_path / "mine.jsonl").write_text(line * 1500)
    found = said(online, "many.toml", "--rows", "mine.jsonl", "--no-gpu", "--ram", 16)
    assert [stage["data"]["source"] for stage in found["stages"]] == [source]
    assert online("plan", "many.toml").code == 0


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"a": 1}\n', "no kind of rows has these columns (a); the kinds and their columns are in docs/data.md"),
        ("[1]\n", "no kind of rows has these columns (none); the kinds and their columns are in docs/data.md"),
        ("x\n", "its first line is not JSON (Expecting value: line 1 column 1 (char 0)); give a JSONL file"),
        ("", "its first line is not JSON (Expecting value: line 1 column 1 (char 0)); give a JSONL file"),
    ],
)
def test_a_file_that_holds_no_rows_is_refused(online: Cli, tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "bad.jsonl").write_text(text)
    assert online("init", "--rows", "bad.jsonl") == failed(2, f"init --rows: bad.jsonl: {problem}")
    assert not (tmp_path / "my_tests.toml").exists()


def test_offline_takes_only_what_is_here(here: Cli) -> None:
    found = said(here, "--no-gpu", "--ram", 16)  # the environment of these tests says HF_HUB_OFFLINE=1
    assert found["base"] == EMBEDDED
    assert [stage["data"]["subset"] for stage in found["stages"]] == ["functions", "modules", "traces"]
    assert found["passed_over"][SEVEN] == "is not on this machine, and nothing is to be fetched"
    assert here("plan", "my_tests.toml").code == 0


# --- asking


def test_without_a_terminal_nothing_is_asked(tmp_path: Path) -> None:
    outcome = run(tmp_path, "init", "--no-gpu", timeout_s=60)
    assert (outcome.code, outcome.stderr) == (0, "")
    tomllib.loads((tmp_path / "my_tests.toml").read_text())


def asked(monkeypatch: pytest.MonkeyPatch, *answers: str) -> None:
    monkeypatch.setattr(sys.modules["lowvram_ft.cli.init"], "_can_ask", lambda: True)
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{answer}\n" for answer in answers)))


def test_questions_are_asked_on_a_terminal(online: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "proj").mkdir()
    (tmp_path / "proj" / "test_it.py").touch()
    asked(monkeypatch, "n", "repository", "proj", "4")
    outcome = online("init", "--vram", 4, "--ram", 16)
    assert outcome.code == 0
    assert "commercial use?" in outcome.stderr and "What should the model learn from?" in outcome.stderr
    assert "lowvram-ft data from-repo proj --out my_tests-rows.jsonl" in outcome.stdout
    rows = load("my_tests.toml").stages[0].recipe.data.max_rows
    assert rows is not None and rows < 10_000, "half the time, about half the rows"


def test_a_file_that_is_there_is_not_replaced_unasked(
    online: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "my_tests.toml"
    mine.write_text("mine")
    refused = failed(2, "init: my_tests.toml: is there already; give another name, or --force to replace it")
    assert online("init", "--data", "samples", "-y") == refused
    asked(monkeypatch, "n")
    outcome = online("init", "--data", "samples")
    assert outcome.code == 2 and mine.read_text() == "mine"
    asked(monkeypatch, "y", "n", "8")
    assert online("init", "--data", "samples").code == 0
    assert mine.read_text() != "mine"
    mine.write_text("mine")
    assert online("init", "--data", "samples", "-y", "--force").code == 0
    assert mine.read_text() != "mine"
    assert online("init", "notes.md", "-y") == failed(
        2, "init: notes.md: is no name of a recipe; it has to end in .toml"
    )


@pytest.mark.parametrize(
    "flags",
    [("--no-gpu", "--vram", "4"), ("--repo", ".", "--data", "samples"), ("--rows", "a.jsonl", "--data", "kodcode")],
)
def test_flags_that_contradict_each_other_are_refused(online: Cli, flags: tuple[str, ...], tmp_path: Path) -> None:
    assert online("init", *flags).code == 2
    assert list(tmp_path.glob("*.toml")) == []
