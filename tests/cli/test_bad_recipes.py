"""Recipes and options that cannot be used: the whole output, before anything is downloaded or written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Cli
from tests.cli.running import ROOT, Outcome, failed, files, misused

SHIPPED = (
    "coderm_unittest, demo, demo_preference, pilot, stage_a_kodcode, stage_b_testgeneval, stage_c_failure_traces, "
    "stage_d_preference, testing_agent"
)


def test_misspelt_keys_are_all_named_with_what_was_meant(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('[trian]\nmax_steps = 3\n[train]\nlearnin_rate = 1.0\nmax_length = "long"\n')
    assert cli("train", "mine.toml") == failed(
        2,
        "mine.toml: train.max_length: input should be a valid integer (got 'long')",
        "mine.toml: train.learnin_rate: unknown setting; did you mean train.learning_rate?",
        "mine.toml: trian: unknown setting; did you mean train?",
    )
    assert files(tmp_path) == ["mine.toml"]


def test_missing_recipe(cli: Cli) -> None:
    problem = f"mine.toml: no such recipe; give the path of a .toml file, or one of: {SHIPPED}"
    assert cli("run", "mine.toml") == failed(2, problem)


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("{not toml", ["mine.toml: is not valid TOML (Invalid statement (at line 1, column 1)); mend that line"]),
        (
            'schema_version = 2\nmodel = 3\nextends = "zz.toml"',
            [
                "mine.toml: extends: no such file (zz.toml); name a recipe beside this one, "
                "or one that ships with the kit",
                "mine.toml: schema_version: input should be 1 (got 2)",
                "mine.toml: model: input should be a valid dictionary or instance of ModelSection (got 3)",
            ],
        ),
        (
            '[[stages]]\nrecipe = "zz.toml"',
            [
                "mine.toml: stages[1].recipe: no such file (zz.toml); name a recipe beside this one, "
                "or one that ships with the kit"
            ],
        ),
        (
            '[train]\nlearning_rate = "2e-4"',
            ["mine.toml: train.learning_rate: input should be a valid number (got '2e-4')"],
        ),
        (
            '[data]\nsource = "testgeneval"\nsplit = "test"',
            [
                'mine.toml: data.split: "test" of testgeneval is an evaluation split and must never reach training; '
                'use split = "train"'
            ],
        ),
        (
            '[data]\npath = "rows.jsonl"\n[eval]\nsuites = ["jsonl:rows.jsonl"]',
            ["mine.toml: data.path, eval.suites: rows.jsonl is both trained on and evaluated on; use different files"],
        ),
        (
            '[eval]\nsuites = ["nonsense"]',
            [
                'mine.toml: eval.suites: unknown suite "nonsense"; use samples, humaneval, testgeneval[:PATH], '
                "self_correction[:PATH] or jsonl:PATH"
            ],
        ),
    ],
)
def test_recipe_that_cannot_be_used(here: Cli, tmp_path: Path, text: str, problems: list[str]) -> None:
    (tmp_path / "mine.toml").write_text(text)
    assert here("plan", "mine.toml") == failed(2, *problems)


def test_recipe_that_is_not_text(here: Cli, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_bytes(b"\xff\xfe")
    problem = "mine.toml: is not UTF-8 text (invalid start byte at byte 0); save it as UTF-8"
    assert here("recipe", "show", "mine.toml") == failed(2, problem)


def test_overrides_that_are_nonsense(cli: Cli) -> None:
    wrong = ["nonsense", "train.max_stepz=3", "train.learning_rate=fast", "foo.bar=1", "data.max_rows=0"]
    assert cli("plan", "demo", *(word for value in wrong for word in ("--set", value))) == failed(
        2,
        "--set nonsense: is not section.key=value; for example --set train.max_steps=20",
        "--set: data.max_rows: input should be greater than 0 (got 0)",
        "--set: train.learning_rate: input should be a valid number (got 'fast')",
        "--set: train.max_stepz: unknown setting; did you mean train.max_steps?",
        "--set: foo: unknown setting; the sections are model, data, quantization, lora, preference, train, hardware, "
        "export, bench, eval",
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["frobnicate"], misused("[OPTIONS] COMMAND [ARGS]...", "No such command 'frobnicate'.")),
        (["plan"], misused("plan [OPTIONS] RECIPE", "Missing argument 'RECIPE'.")),
        (["plan", "demo", "--frob"], misused("plan [OPTIONS] RECIPE", "No such option '--frob'.")),
        (
            ["plan", "demo", "--vram", "-3"],
            misused("plan [OPTIONS] RECIPE", "Invalid value for '--vram': -3.0 is not in the range x>0."),
        ),
        (
            ["testgen", "x.py", "--traces", "folder"],
            misused(
                "testgen [OPTIONS] [PATH[::NAME]]...", "Invalid value for '--traces': File 'folder' is a directory."
            ),
        ),
        (
            ["train", "demo", "--out", "file"],
            misused("train [OPTIONS] RECIPE", "Invalid value for '--out': Directory 'file' is a file."),
        ),
        (
            ["export", "--base", "x", "--out", "x.gguf", "--rounding", "q4"],
            misused("export [OPTIONS]", "Invalid value for '--rounding': 'q4' is not one of 'bf16', 'f16', 'f32'."),
        ),
    ],
)
def test_misuse_shows_the_usage(here: Cli, tmp_path: Path, arguments: list[str], expected: Outcome) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    assert here(*arguments) == expected


def test_a_model_that_does_not_exist_under_its_name_resolves_and_says_so(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('[model]\nbase = "Qwen/Qwen3-Coder-7B-Instruct"\n')
    outcome = cli("plan", "mine.toml", "--vram", "24", "--ram", "64")
    assert (outcome.code, outcome.stderr) == (0, "")
    first, second, *_ = outcome.stdout.splitlines()
    assert first == (
        "mine: Qwen/Qwen3-Coder-7B-Instruct does not exist under that name; using Qwen/Qwen2.5-Coder-7B-Instruct"
    )
    assert second == "mine: Qwen/Qwen2.5-Coder-7B-Instruct, 2048 tokens"


def test_a_plan_that_does_not_fit_ends_with_3(cli: Cli) -> None:
    small = ("--vram", "2", "--ram", "4", "--set", "hardware.allow=[]")
    outcome = cli("plan", "stage_a_kodcode", *small)
    assert (outcome.code, outcome.stderr) == (3, "")
    assert "does not fit: " in outcome.stdout
    found = cli("plan", "stage_a_kodcode", *small, "--json")
    assert (found.code, found.stderr) == (3, "")
    assert json.loads(found.stdout)["fits"] is False


@pytest.mark.parametrize("name", ["nowhere", "a/b/c", "./x/y"])
def test_base_model_that_is_neither_folder_nor_hub_id(here: Cli, tmp_path: Path, name: str) -> None:
    problem = f"{name}: no such folder, and not a hub id (owner/name); check the name, or use smollm2-135m"
    assert here("plan", "demo", "--set", f"model.base={name}") == failed(2, problem)


def test_hub_model_that_cannot_be_reached(cli: Cli, tmp_path: Path) -> None:
    problem = "nobody/nothing: is not in the hub's cache, and HF_HUB_OFFLINE is set; unset it, or give a local folder"
    outcome = cli("plan", "demo", "--set", "model.base=nobody/nothing", HF_HOME=str(tmp_path / ".hub"))
    assert outcome == failed(3, problem)


def test_shipped_recipes_are_named_by_their_files() -> None:
    assert SHIPPED.split(", ") == sorted(p.stem for p in (ROOT / "recipes").glob("*.toml") if p.stem != "models")
