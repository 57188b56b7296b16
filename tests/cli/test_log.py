"""``--log NAME``: what is not there is told before anything is written."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tests.cli.conftest import Cli
from tests.cli.running import failed, files
from tests.tiny_runs import write_recipe


@pytest.mark.parametrize("command", [("run", "tiny.toml"), ("train", "tiny.toml"), ("demo",)])
def test_a_name_that_is_not_installed(
    here: Cli, tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    write_recipe(tmp_path, tiny_llama)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "wandb" else find(name, *rest))
    outcome = here(*command, "--log", "tensorboard", "--log", "wandb", "--out", "out")
    assert outcome == failed(3, "train.report_to: wandb: not installed; run: pip install wandb")
    assert files(tmp_path) == ["tiny.toml"]


def test_a_name_that_nobody_has(here: Cli, tmp_path: Path, tiny_llama: Path) -> None:
    write_recipe(tmp_path, tiny_llama)
    outcome = here("train", "tiny.toml", "--log", "tensorbored", "--out", "out")
    assert outcome.code == 2
    assert outcome.stderr.startswith("error: --set: train.report_to.0: input should be 'tensorboard', 'wandb', ")
    assert outcome.stderr.endswith("(got 'tensorbored')\n") and files(tmp_path) == ["tiny.toml"]
