"""``lowvram-ft improve`` from testgen's log to a model in use, on a tiny random model and a small git repository."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lowvram_ft.testgen
from lowvram_ft.improve import craft as craft_module
from lowvram_ft.inference import opening
from tests.cli.conftest import Cli
from tests.cli.running import files
from tests.improve_home import is_held_out, model_files
from tests.scripted_model import Answer, ByPrompt

REPOSITORY = "me/shop"
OPERATIONS = ("a + b * 2", "a * b + 3", "b - a * 4", "a - b + 7", "a * a - b", "b * b + a")
QUICK = [
    part
    for setting in (
        "train.max_steps=2", "train.max_length=1024", "train.gradient_accumulation_steps=1", "train.eval_steps=1.0",
        "train.gradient_checkpointing=false", "train.optim=adamw_torch", "quantization.load_in_4bit=false",
        "export.quant=F16", "export.n_ctx=1024", "export.verify_rows=0", "export.require_stop=false",
        "eval.max_new_tokens=16", "preference.max_length_bias=4.0", "preference.parts=false",
    )
    for part in ("--set", setting)
]  # fmt: skip
IMPROVE = ("improve", "--suite", "samples", "--max-tasks", "6", *QUICK)


def names(held_out: bool, count: int) -> list[str]:
    found = (f"part_{number}" for number in range(1000))
    return [name for name in found if is_held_out(REPOSITORY, f"shop.{name}") == held_out][:count]


def value(number: int) -> int:
    return int(eval(OPERATIONS[number], {"a": 5, "b": 2}))


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A git repository with four modules, two of which are held out."""
    package = tmp_path / "repo" / "src" / "shop"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    for number, name in enumerate([*names(True, 2), *names(False, 2)]):
        (package / f"{name}.py").write_text(f"def count_{name}(a, b):\n    return {OPERATIONS[number]}\n")
    (tmp_path / "repo" / "pyproject.toml").write_text(
        '[project]\nname = "shop"\nversion = "1"\n[tool.pytest.ini_options]\npythonpath = ["src"]\n'
    )
    for command in (["init", "-q"], ["remote", "add", "origin", f"git@example.org:{REPOSITORY}.git"]):
        subprocess.run(["git", *command], cwd=tmp_path / "repo", check=True)
    return tmp_path / "repo"


def script(monkeypatch: pytest.MonkeyPatch) -> tuple[ByPrompt, list[object]]:
    """A model whose first answer names something that is not there, and whose second is right; and what was opened."""
    answers: dict[str, Answer] = {}
    for number, name in enumerate([*names(True, 2), *names(False, 2)]):
        good = (
            f"from solution import count_{name}\n\n\ndef test_count():\n"
            f"    assert count_{name}(5, 2) == {value(number)}\n    assert count_{name}(a=5, b=2) == {value(number)}\n"
        )
        bad = good.replace("def test_count():\n", "def test_count():\n    missing_name()\n")
        answers[f"def count_{name}("] = [bad, good]
    model, opened = ByPrompt(answers), list[object]()

    def open_model(chosen: object, *_: object, **__: object) -> ByPrompt:
        opened.append(opening.choose_model(str(chosen)).text)
        return model

    monkeypatch.setattr(lowvram_ft.testgen, "open_model", open_model)
    monkeypatch.setattr("lowvram_ft.inference.opening.check_file", lambda _choice: None)
    return model, opened


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where everything is kept."""
    monkeypatch.setenv("LOWVRAM_FT_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_from_a_log_to_a_model_in_use_and_back(
    here: Cli, shop: Path, data: Path, tiny_llama: Path, tiny_adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(monkeypatch)
    begun = json.loads(here("improve", "--from", tiny_adapter, "--base", tiny_llama, "--json").stdout)
    assert begun["generation"] == 0
    assert here("testgen", "repo/src/shop", "--model", "scripted.gguf", "-q", "--samples", "0").code == 0
    logged = records(data / "answers.jsonl")
    assert sorted(one["fate"] for one in logged) == ["fails"] * 4 + ["passes"] * 4
    assert {one["repository"] for one in logged} == {REPOSITORY} and len(records(data / "traces.jsonl")) == 4

    refused = here(*IMPROVE, "-q")
    assert refused.code == 2 and "give --yes" in refused.stderr and not (data / "work").exists()
    outcome = here(*IMPROVE, "--yes", "--json", "-q")
    assert outcome.code == 0, outcome.stderr
    found = json.loads(outcome.stdout)
    assert (found["status"], found["pairs"], found["tasks"], found["gained"]) == ("not better", 2, 8, 0)
    assert [line["event"] for line in records(data / "attempts.jsonl")] == ["registered", "begun", "ended"]
    assert [path.name for path in (data / "models").iterdir()] == ["0"] and not (data / "work").exists()
    assert not list((data.parent / ".cache" / "prepared").glob("*"))

    solved: Callable[..., dict[str, bool]] = lambda gguf, tasks, *_: {  # noqa: E731
        f"{task.suite}/{task.id}": "/models/0/" not in str(gguf) for task in tasks
    }
    monkeypatch.setattr(craft_module, "_solves", solved)
    monkeypatch.setattr(craft_module, "_train", lambda *_: model_files(data.parent / "next", "the next model"))
    found = json.loads(here(*IMPROVE, "--again", "--json", "-q").stdout)
    assert (found["status"], found["k"], found["gained"], found["generation"]) == ("adopted", 2, 8, 2)
    listed = json.loads(here("improve", "--list", "--json").stdout)
    assert (listed["in_use"], listed["before"], listed["repositories"][REPOSITORY]["generations"]) == (2, 0, [2])
    assert "model 2 replaces the one in use" in here("improve", "--list").stdout

    _, opened = script(monkeypatch)
    (shop / "src" / "shop" / f"{names(True, 1)[0]}.py").write_text(
        f"def count_{names(True, 1)[0]}(a, b):\n    return 12\n"
    )
    here("testgen", f"repo/src/shop/{names(True, 1)[0]}.py", "--model", "improved", "-q")
    assert opened == [str(data / "models" / "2" / "model.gguf")]
    back = json.loads(here("improve", "--rollback", "--json").stdout)
    assert back == begun
    assert opening.choose_model("improved").text == begun["gguf"]

    before = files(data)
    assert json.loads(here("improve", "--forget", REPOSITORY, "--dry-run", "--json").stdout)["generations"] == [2]
    assert files(data) == before
    assert here("improve", "--forget", shop).code == 0
    assert not [name for name in files(data) if b"count_part" in (data / name).read_bytes()]
    assert "there is: nothing" in here("improve", "--forget", REPOSITORY).stderr


def test_what_cannot_be_is_told(here: Cli, data: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for arguments, words in (
        (("--yes",), "no model is in use; begin with one that was trained: lowvram-ft improve --from RUN"),
        (("--rollback",), "there is no model before the one in use"),
        (("--list", "--rollback"), "--list, --rollback: say different things"),
        (("--all",), "--all: is for --forget"),
        (("--forget",), "--forget: give a repository (see --list), or --all"),
        (("--base", "x"), "--base: is for --from"),
        (("--from", "empty"), "--from empty: is neither a run directory nor an adapter's folder"),
    ):
        outcome = here("improve", *arguments, "-q")
        assert (outcome.code, outcome.stdout) == (2, "") and words in outcome.stderr, arguments
    model = here("testgen", "--model", "improved", "-q")
    assert model.code == 2
    listed = json.loads(here("improve", "--list", "--json").stdout)
    assert (listed["repositories"], listed["generations"], listed["in_use"]) == ({}, [], None)


def test_who_declines_in_a_terminal_finds_nothing_written(
    here: Cli, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    module = sys.modules["lowvram_ft.cli.improve"]  # the package has the command under this name
    monkeypatch.setattr(module, "_asker", lambda: lambda text: bool(asked.append(text)))
    outcome = here("improve")
    assert (outcome.code, len(asked)) == (0, 1) and "you did not agree; nothing was written" in outcome.stdout
    assert not data.exists()


@pytest.mark.parametrize("how", ["--no-traces", "environment"])
def test_testgen_can_be_kept_from_logging(
    here: Cli, shop: Path, data: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    script(monkeypatch)
    if how == "environment":
        monkeypatch.setenv("LOWVRAM_FT_NO_LOG", "1")
    flags = [] if how == "environment" else [how]
    name = names(False, 1)[0]
    assert here("testgen", f"repo/src/shop/{name}.py", "--model", "scripted.gguf", "-q", *flags).code == 0
    assert not data.exists()
