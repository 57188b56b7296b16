"""Fixtures that several groups of tests share: tiny random models, a cache of their own, one finished run."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
from pathlib import Path

import pytest

from lowvram_ft.execution.sandbox import ALLOW_UNSANDBOXED
from tests.gguf_models import make_tiny_model
from tests.tiny_runs import run_json, write_recipe

os.environ.setdefault(ALLOW_UNSANDBOXED, "1")
"""The files that these tests run are our own: a machine without a sandbox runs them all the same."""

if importlib.util.find_spec("torch") is None:  # `make test-pythons`: what needs it cannot even be read
    _NEEDS_TORCH = re.compile(
        r"^(import|from) (torch|datasets|transformers|peft|trl|lowvram_ft\.training)\b", re.MULTILINE
    )
    collect_ignore = [
        str(path) for path in Path(__file__).parent.rglob("test_*.py") if _NEEDS_TORCH.search(path.read_text("utf-8"))
    ]

# A shell starts its background jobs with SIGINT ignored, and nohup ignores SIGHUP: the processes that these tests
# interrupt would inherit it.
for _number, _handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of two layers with tied embeddings and 2048 positions."""
    return make_tiny_model(tmp_path_factory.mktemp("models") / "llama", "llama", tie=True)


@pytest.fixture(scope="session")
def tiny_qwen2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen2 of two layers with biases, an own output head and 2048 positions."""
    return make_tiny_model(tmp_path_factory.mktemp("models") / "qwen2", "qwen2", tie=False)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, for this process and those that it starts."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("LOWVRAM_FT_CACHE", str(folder))
    return folder


THREE_STAGES = """
[[stages]]
name = "first"
data.subset = "functions"
train.learning_rate = 1e-2

[[stages]]
name = "second"
data.subset = "traces"
train.learning_rate = 1e-6
train.warmup_steps = 0.0  # else the first step moves nothing, and of losses that are all alike its may be the best

[[stages]]
name = "third"
data.subset = "functions"
data.seed = 1
train.learning_rate = 1e-12
"""
"""Each learns so much less than the one before that its adapter shows where it came from."""


@pytest.fixture(scope="session")
def llama_run(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A recipe of three chained stages, without 4 bits, and the directory in which it has run."""
    folder = tmp_path_factory.mktemp("llama-run")
    recipe = write_recipe(folder, tiny_llama, "[quantization]\nload_in_4bit = false\n" + THREE_STAGES)
    run_json("run", recipe, "--out", folder / "run")
    return recipe, folder / "run"
