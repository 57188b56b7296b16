"""Fixtures that the tests of a training stage share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lowvram_ft.training.stage import Trained
from tests.stage_runs import UNDISTURBED_STEPS, make_tiniest_model, recipe_for, run_stage, single_thread


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """The same sums in the same order in every run of a module."""
    with single_thread():
        yield


@pytest.fixture(scope="session")
def tiniest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama whose step takes milliseconds."""
    return make_tiniest_model(tmp_path_factory.mktemp("model") / "tiniest")


@pytest.fixture(scope="session")
def undisturbed(tiniest: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A stage of `UNDISTURBED_STEPS` on it to which nothing has happened."""
    with single_thread():
        return run_stage(recipe_for(tiniest, max_steps=UNDISTURBED_STEPS), tmp_path_factory.mktemp("undisturbed"))
