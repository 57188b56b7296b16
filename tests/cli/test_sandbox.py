"""Commands that run generated tests, on machines with and without a sandbox."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lowvram_ft.execution import sandbox
from lowvram_ft.execution.pool import UNSANDBOXED
from tests.cli.conftest import Cli
from tests.cli.running import failed

RECIPE = """\
schema_version = 1

[model]
base = "smollm2-135m"

[data]
source = "samples"
subset = "functions"
max_rows = 2
"""
WITHOUT = {"LOWVRAM_FT_SANDBOX": "rlimits", "LOWVRAM_FT_ALLOW_UNSANDBOXED": ""}


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "two.toml"
    path.write_text(RECIPE, encoding="utf-8")
    return path


def test_without_a_sandbox_nothing_generated_is_run(cli: Cli, recipe: Path) -> None:
    outcome = cli("data", "verify", recipe, **WITHOUT)
    assert outcome.code == 3 and outcome.stdout == ""
    assert outcome.stderr.splitlines()[-1].startswith("error: execution: no sandbox for code that a model wrote (")


@pytest.mark.parametrize(
    "command",
    [
        ("run", "two.toml"),
        ("demo",),
        ("eval", "model.gguf"),
        ("testgen", "shop.py"),
    ],
)
def test_a_missing_sandbox_is_told_before_any_work(cli: Cli, recipe: Path, command: tuple[str, ...]) -> None:
    (recipe.parent / "shop.py").write_text("def price():\n    return 3\n", encoding="utf-8")
    outcome = cli(*command, **WITHOUT)
    assert outcome.code == 3 and outcome.stderr.startswith("error: execution: no sandbox"), outcome
    assert not (recipe.parent / "runs").exists()


def test_going_without_has_to_be_asked_for_and_is_said_aloud(cli: Cli, recipe: Path) -> None:
    outcome = cli("data", "verify", recipe, "--allow-unsandboxed", "--json", **WITHOUT)
    assert outcome.code == 0
    assert f"warning: {UNSANDBOXED}\n" in outcome.stderr
    assert json.loads(outcome.stdout)["passing"] == 2


@pytest.mark.skipif(
    all(state.problem is not None for state in sandbox.states()[:-1]), reason="this machine has no sandbox"
)
def test_a_sandbox_that_is_there_is_not_left_because_it_may_be(cli: Cli, recipe: Path) -> None:
    outcome = cli("data", "verify", recipe, "--allow-unsandboxed", "--json")
    assert outcome.code == 0
    assert UNSANDBOXED not in outcome.stderr


def test_a_layer_that_does_not_exist_is_refused(cli: Cli, recipe: Path) -> None:
    outcome = cli("data", "verify", recipe, LOWVRAM_FT_SANDBOX="jail")
    assert outcome == failed(3, "LOWVRAM_FT_SANDBOX: no such layer (jail); use one of bubblewrap, landlock, rlimits"), (
        outcome
    )


def test_verdicts_are_taken_from_earlier_runs_unless_told_not_to(cli: Cli, recipe: Path) -> None:
    first = cli("data", "verify", recipe, "--json")
    again = cli("data", "verify", recipe, "--json")
    anew = cli("data", "verify", recipe, "--json", "--no-cache")
    assert first.stdout == again.stdout == anew.stdout
    said = ["verdicts from earlier runs" in outcome.stderr for outcome in (first, again, anew)]
    assert said == [False, True, False]


def test_doctor_says_which_sandbox_this_machine_has(cli: Cli) -> None:
    checks = {check["name"]: check for check in json.loads(cli("doctor", "--json").stdout)["checks"]}
    assert checks["sandbox"]["status"] in ("ok", "warning", "failing")
    assert (checks["sandbox"]["mend"] is None) == (checks["sandbox"]["status"] == "ok")
