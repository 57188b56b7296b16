"""What commands print when all goes well: a table for people, one JSON object for programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Cli
from tests.cli.running import ROOT, Outcome, files
from tests.tiny_runs import write_recipe


def one_object(outcome: Outcome) -> dict[str, Any]:
    """The one JSON object on stdout."""
    found = json.loads(outcome.stdout)
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize(
    "recipe", sorted(path.stem for path in (ROOT / "recipes").glob("*.toml") if path.stem != "models")
)
def test_every_shipped_recipe_is_shown(here: Cli, recipe: str) -> None:
    outcome = here("recipe", "show", recipe)
    assert (outcome.code, outcome.stderr) == (0, "")
    assert outcome.stdout.startswith("# stage ")
    shown = one_object(here("recipe", "show", recipe, "--json"))
    assert shown["name"] == recipe
    for stage in shown["stages"]:
        assert outcome.stdout.count(f"# stage {stage['name']}\n") == 1
        assert set(stage["origin"]) >= {"model.base", "train.learning_rate", "export.quant"}


def test_recipe_show_says_where_a_value_comes_from(here: Cli) -> None:
    lines = here("recipe", "show", "demo", "--set", "train.max_steps=7").stdout.splitlines()
    assert [line.split("#")[-1].strip() for line in lines if line.startswith("max_steps = 7 ")] == ["--set"] * 3
    assert [line.split("#")[-1].strip() for line in lines if line.startswith("subset = ")] == [
        f"demo.toml [[stages]] {number}" for number in (1, 2, 3)
    ]


def test_recipe_list(here: Cli) -> None:
    found = one_object(here("recipe", "list", "--json"))
    assert list(found) == sorted(path.stem for path in (ROOT / "recipes").glob("*.toml") if path.stem != "models")
    assert here("recipe", "list").stdout == "".join(f"{name:<24}{text}\n" for name, text in found.items())


def test_plan(here: Cli) -> None:
    found = one_object(here("plan", "demo", "--json"))
    assert found["fits"] is True
    assert list(found["stages"]) == ["functions", "modules", "traces"]
    outcome = here("plan", "demo")
    assert (outcome.code, outcome.stderr, outcome.stdout.count("fits: ")) == (0, "", 3)


def test_doctor(here: Cli) -> None:
    found = one_object(here("doctor", "--json"))
    assert {"Python", "GPU", "host memory", "free disk", "C++ compiler", "llama-cpp-python"} <= {
        check["name"] for check in found["checks"]
    }
    outcome = here("doctor")
    assert (outcome.code, outcome.stderr) == (0 if found["ok"] else 3, "")
    assert "Python: 3." in outcome.stdout


def test_bench(here: Cli, tiny_gguf: Path) -> None:
    short = (tiny_gguf, "--max-prompts", "1", "--max-new-tokens", "16", "-q")
    outcome = here("bench", *short, "--gate", "1000")
    assert (outcome.code, outcome.stderr) == (0, "")
    assert [line.split("  ")[0] for line in outcome.stdout.splitlines()] == [
        "model", "prompts", "answers", "prefill", "first token", "decoding", "whole file", "memory", "gate 1000 s",
    ]  # fmt: skip
    missed = here("bench", *short, "--gate", "0.000001", "--json")
    assert (missed.code, missed.stderr, one_object(missed)["gate_met"]) == (1, "", False)


def test_eval(here: Cli, tmp_path: Path, tiny_gguf: Path) -> None:
    short = (tiny_gguf, "--max-tasks", "2", "--max-new-tokens", "16", "--out", "out", "-q")
    outcome = here("eval", *short, "--json")
    found = one_object(outcome)
    assert (outcome.code, outcome.stderr, found["suites"]["samples"]["tasks"]) == (0, "", 2)
    assert [name for name in files(tmp_path) if not name.startswith(".cache/decoding/")] == ["out/samples.jsonl"]
    table = here("eval", *short)
    assert (table.code, table.stderr) == (0, "")
    assert table.stdout.startswith("samples: 2 tasks\n")


def test_export(here: Cli, tmp_path: Path, tiny_llama: Path, tiny_adapter: Path) -> None:
    arguments = (
        "export",
        "--base",
        tiny_llama,
        "--adapter",
        tiny_adapter,
        "--out",
        "mine.gguf",
        "--quant",
        "F16",
        "-q",
    )
    outcome = here(*arguments, "--no-verify", "--json")
    assert (outcome.code, outcome.stderr, one_object(outcome)["quant"]) == (0, "", "F16")
    assert files(tmp_path) == ["mine.Modelfile", "mine.gguf"]


def test_train_and_report(here: Cli, tmp_path: Path, tiny_llama: Path) -> None:
    write_recipe(tmp_path, tiny_llama, max_steps=1, max_length=1024)
    outcome = here("train", "tiny.toml", "--out", "out", "--json", "-q")
    found = one_object(outcome)
    assert (outcome.code, outcome.stderr, found["adapter"]) == (0, "", "out/stages/tiny/adapter")
    assert found["stages"]["tiny"]["steps"] == 1
    again = here("train", "tiny.toml", "--out", "out", "-q")
    loss = found["stages"]["tiny"]["first_loss"]
    said = f"tiny: 1 steps, loss {loss:.3f} to {loss:.3f}\n"
    assert again == Outcome(0, f"{said}adapter: out/stages/tiny/adapter\n", "")
    report = one_object(here("report", "out", "--json"))
    assert (report["recipe"], report["suites"], report["bench"]) == ("tiny", {}, None)
    assert here("report", "out", "--no-html") == Outcome(0, f"stage {said}", "")
    assert not (tmp_path / "out" / "report.html").exists()
    assert here("report", "out") == Outcome(0, f"stage {said}page: out/report.html\n", "")
    assert "1 of 1" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_data_inspect_shows_rows_as_the_model_sees_them(here: Cli, tmp_path: Path, tiny_llama: Path) -> None:
    write_recipe(tmp_path, tiny_llama)
    found = one_object(here("data", "inspect", "tiny.toml", "--rows", "1", "--json"))["tiny"]
    row = found["rows"][0]
    outcome = here("data", "inspect", "tiny.toml", "--rows", "1")
    assert (outcome.code, outcome.stderr) == (0, "")
    assert row["without_loss"] + row["with_loss"] in outcome.stdout
    assert row["with_loss"].endswith("<|im_end|>")


def test_data_prepare_as_json(here: Cli, tmp_path: Path, tiny_llama: Path) -> None:
    write_recipe(tmp_path, tiny_llama)
    outcome = here("data", "prepare", "tiny.toml", "--out", "out", "--json")
    assert (outcome.code, outcome.stderr) == (0, "")
    facts = json.loads((tmp_path / "out" / "tiny" / "prepared.json").read_text())
    assert one_object(outcome)["tiny"] == facts | {"folder": "out/tiny"}


def test_data_inspect_says_which_length_the_memory_plan_allows(here: Cli, tmp_path: Path, tiny_llama: Path) -> None:
    write_recipe(tmp_path, tiny_llama)
    at_512 = ("data", "inspect", "tiny.toml", "--rows", "0", "--set", "train.max_length=512")
    found = one_object(here(*at_512, "--json"))["tiny"]
    within = found["funnel"]["rows_within_tokens"]
    longest = found["longest_that_fits"]
    assert longest > 512 and within[str(longest)] > within["512"]
    hint = f"by the memory plan, train.max_length could be {longest} (it is 512): {within[str(longest)]} rows would fit"
    assert hint in here(*at_512).stdout
    enough = here("data", "inspect", "tiny.toml", "--rows", "0", "--set", f"train.max_length={longest}")
    assert "by the memory plan" not in enough.stdout
