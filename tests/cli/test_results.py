"""What commands print when all goes well: a table for people, one JSON object for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import lowvram_ft.testgen
from lowvram_ft.inference import Completion, Sampling
from tests.cli.conftest import Cli
from tests.cli.running import ROOT, Outcome, files
from tests.tiny_runs import write_recipe

GOOD = """\
import pytest

from solution import price


def test_price():
    assert price(2, 3) == 6


def test_none():
    assert price(0, 3) == 0


def test_wrong():
    assert price(1, 1) == 7


def test_negative():
    with pytest.raises(ValueError):
        price(-1, 3)
"""
SHOP = """\
def price(count, each):
    if count < 0:
        raise ValueError("count")
    return count * each
"""
KEPT = """\
import pytest

from shop.prices import price


def test_price():
    assert price(2, 3) == 6


def test_none():
    assert price(0, 3) == 0


def test_negative():
    with pytest.raises(ValueError):
        price(-1, 3)
"""


class Scripted:
    """A model that says what a test wants it to, one answer after the other."""

    name = "scripted"

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)
        self.prompts: list[str] = []
        self.closed = False

    def generate(self, prompts: Sequence[str], sampling: Sampling, n: int = 1) -> list[list[Completion]]:
        self.prompts += prompts
        return [[Completion(self.answers.pop(0), 10, 20, "stop", 0.5, 0.1)] for _ in prompts]

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A user's module in a package of its own."""
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "prices.py").write_text(SHOP)
    return folder


def script(monkeypatch: pytest.MonkeyPatch, *answers: str) -> Scripted:
    model = Scripted(*answers)
    monkeypatch.setattr(lowvram_ft.testgen, "open_model", lambda _path, _n_ctx: model)
    return model


def one_object(outcome: Outcome) -> dict[str, Any]:
    """The one JSON object on stdout."""
    found = json.loads(outcome.stdout)
    assert isinstance(found, dict)
    return found


def test_testgen_writes_tests_beside_a_file(
    here: Cli, tmp_path: Path, shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = script(monkeypatch, f"Here they are:\n```python\n{GOOD}```\n")
    outcome = here("testgen", "shop/prices.py")
    *lines, last = outcome.stdout.splitlines()
    assert (outcome.code, outcome.stderr) == (0, "testgen prices.py: 1/4 in 0 s  attempts\n")
    assert lines == [
        "wrote shop/test_prices.py",
        "  passed   test_price",
        "  passed   test_none",
        "  passed   test_negative",
        "  dropped  test_wrong (fails on the code: a wrong test, or a bug worth a look)",
    ]
    assert last.startswith("  reaches 100 % of the lines, kills ")
    assert (shop / "test_prices.py").read_text() == KEPT
    assert model.closed
    assert SHOP in model.prompts[0]
    again = here("testgen", "shop/prices.py")
    problem = "error: shop/test_prices.py: exists already, and is not touched; give another place with --out\n"
    assert again == Outcome(2, "", problem)


def test_testgen_as_json(here: Cli, tmp_path: Path, shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, GOOD)
    outcome = here("testgen", "shop/prices.py", "--out", "tests.py", "--json", "-q")
    found = one_object(outcome)
    assert (outcome.code, outcome.stderr) == (0, "")
    assert found["passed"] == ["test_price", "test_none", "test_negative"]
    assert (found["dropped"], found["test_file"], found["attempts"]) == (["test_wrong"], "tests.py", 1)
    assert found["mutation_score"] > 0.5
    assert (tmp_path / "tests.py").read_text() == found["text"] == KEPT


def test_testgen_dry_run_writes_nothing(here: Cli, tmp_path: Path, shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, GOOD)
    before = files(tmp_path)
    outcome = here("testgen", "shop/prices.py", "--dry-run", "-q")
    assert outcome.code == 0
    assert outcome.stdout.startswith(f"{KEPT}\n  passed   test_price\n")
    assert files(tmp_path) == before


def test_testgen_when_no_test_passes(here: Cli, tmp_path: Path, shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, *["I cannot do that."] * 4)
    before = files(tmp_path)
    problem = "shop/prices.py: no generated test passes after 4 attempts; nothing was written\n"
    assert here("testgen", "shop/prices.py", "-q") == Outcome(1, problem, "")
    script(monkeypatch, *["I cannot do that."] * 4)
    outcome = here("testgen", "shop/prices.py", "-q", "--json")
    assert (outcome.code, one_object(outcome)["test_file"]) == (1, None)
    assert files(tmp_path) == before


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
    assert here("report", "out") == Outcome(0, f"stage {said}", "")


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
