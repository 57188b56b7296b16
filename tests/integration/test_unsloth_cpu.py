"""The unsloth engine's own code, on Unsloth's CPU backend, held against the reference engine."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from lowvram_ft.training.engines.reference import ReferenceEngine
from tests.gguf_models import make_adapter, make_tiny_model
from tests.pair_runs import SIDES, Brute, brute_loss, pair
from tests.tiny_runs import examples, for_trainer, load_plan, run_cli, train_section, write_recipe

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("unsloth") is None,
    reason="Unsloth is not installed; run: pip install --no-deps -r tests/unsloth-cpu-requirements.txt",
)
CASES = {"float32": ("float32", False), "nf4": ("float32", True), "nf4-bfloat16": ("bfloat16", True)}
TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-3}
ENVIRONMENT = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module", params=CASES)
def case(
    request: pytest.FixtureRequest, tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, bool, Path, dict[str, Any]]:
    """Type, whether in 4 bits, the folder, and what the engine found there."""
    dtype, load_in_4bit = CASES[request.param]
    out = tmp_path_factory.mktemp("unsloth")
    given = make_adapter(tiny_llama, out / "given")
    other = make_adapter(make_tiny_model(out / "base", "llama", num_hidden_layers=1), out / "other")
    arguments = [tiny_llama, given, other, out, dtype, load_in_4bit]
    outcome = subprocess.run(
        [sys.executable, "-m", "tests.unsloth_on_cpu", *map(str, arguments)],
        cwd=Path(__file__).parents[2],
        env=os.environ | ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stderr
    return dtype, load_in_4bit, out, json.loads((out / "found.json").read_text(encoding="utf-8"))


def _reference_loss(
    model: Path, dtype: str, load_in_4bit: bool, adapter: Path | None, out: Path, monkeypatch: pytest.MonkeyPatch
) -> float:
    monkeypatch.setattr("lowvram_ft.training.engines.reference.compute_dtype", lambda device: dtype)
    engine, rows = ReferenceEngine(), for_trainer(examples(model, 4))
    loaded = engine.load(model, load_plan(load_in_4bit=load_in_4bit), adapter)
    train = train_section(per_device_train_batch_size=len(rows))
    trainer = engine.trainer("sft", loaded, train, rows, None, out, [])
    trainer.train()
    return float(next(entry["loss"] for entry in trainer.state.log_history if "loss" in entry))


def test_it_trains_the_adapter_alone_in_the_type_asked_for(case: tuple[str, bool, Path, dict[str, Any]]) -> None:
    dtype, load_in_4bit, _, found = case
    assert (found["device"], found["dtype"]) == ("cpu", dtype)
    assert ("Linear4bit" in found["linear"]) == load_in_4bit
    assert found["trainable"] == ["lora_A", "lora_B"]
    losses, validated = found["fresh"]
    assert len(losses) == len(validated) == 2
    # all rows are in the batch, and are validated too: a step lowers the loss, as the next step finds it
    assert validated[1] < validated[0] < losses[0]
    assert losses[1] == pytest.approx(validated[0], abs=TOLERANCE[dtype])


def test_the_first_loss_is_the_reference_engines(
    case: tuple[str, bool, Path, dict[str, Any]], tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dtype, load_in_4bit, out, found = case
    fresh, given = (
        _reference_loss(tiny_llama, dtype, load_in_4bit, adapter, tmp_path, monkeypatch)
        for adapter in (None, out / "given")
    )
    assert found["fresh"][0][0] == pytest.approx(fresh, abs=TOLERANCE[dtype])
    assert found["given"][0][0] == pytest.approx(given, abs=TOLERANCE[dtype])
    assert abs(fresh - given) > 2 * TOLERANCE[dtype]  # an adapter that was not loaded would be seen
    if load_in_4bit and dtype == "float32":
        whole = _reference_loss(tiny_llama, dtype, False, out / "given", tmp_path, monkeypatch)
        assert abs(whole - given) > 2 * TOLERANCE[dtype]  # so would weights in another type


def test_an_adapter_goes_on_where_it_was_saved(case: tuple[str, bool, Path, dict[str, Any]]) -> None:
    dtype, _, out, found = case
    assert found["continued_weights_equal"]
    assert found["continued"][0][0] == pytest.approx(found["fresh"][1][1], abs=TOLERANCE[dtype])
    assert {path.name for path in (out / "adapter").iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}


def test_both_engines_continue_each_others_adapters(
    case: tuple[str, bool, Path, dict[str, Any]], tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dtype, load_in_4bit, out, found = case
    loss = _reference_loss(tiny_llama, dtype, load_in_4bit, out / "adapter", tmp_path, monkeypatch)
    assert loss == pytest.approx(found["continued"][0][0], abs=TOLERANCE[dtype])


def test_a_head_that_unsloth_does_not_know_trains_the_same(
    case: tuple[str, bool, Path, dict[str, Any]],
) -> None:
    dtype, _, _, found = case
    losses, validated = found["host_head"]
    assert losses[0] == pytest.approx(found["given"][0][0], abs=TOLERANCE[dtype])
    assert validated[0] == pytest.approx(found["given"][1][0], abs=TOLERANCE[dtype])
    assert validated[1] < validated[0] < losses[0]
    rounded = found["nf4_tables"][0][0]
    assert TOLERANCE["float32"] < abs(rounded - losses[0]) < 0.2


def test_the_plan_bounds_the_logits_that_unsloth_makes(case: tuple[str, bool, Path, dict[str, Any]]) -> None:
    *_, found = case
    assert found["loss_rows"][0] <= 300 < 4 * found["loss_rows"][0]
    assert found["loss_rows"][1] <= 77 < 4 * found["loss_rows"][1]


def test_pairs_are_compared_as_plain_logits_have_them(
    case: tuple[str, bool, Path, dict[str, Any]], tiny_llama: Path
) -> None:
    dtype, load_in_4bit, out, found = case
    if (dtype, load_in_4bit) != ("float32", False):
        assert "preferences" not in found
        return
    values = [pair(number) for number in range(4)]
    ours = found["preferences"]
    before, after = Brute(tiny_llama, out / "given"), Brute(tiny_llama, out / "preferences" / "policy")
    for value, stored in zip(values, ours["references"], strict=True):
        plain = [before.log_prob(value["prompt"], value[side])[0] for side in SIDES]
        assert stored == pytest.approx(plain, rel=1e-5)
    assert len(ours["losses"]) == 6
    for name, loss in ours["losses"].items():
        kind, weight = name.split()
        expected = fmean(brute_loss(kind, 0.3, float(weight), after, before, value) for value in values)
        assert loss == pytest.approx(expected, rel=1e-4), name
    for whole, parts in zip(ours["4x1"], ours["1x4"], strict=True):
        assert parts == pytest.approx(whole, rel=1e-4)
    assert ours["changed"] == ["lora_A", "lora_B"]


def test_an_adapter_of_another_base_is_refused(case: tuple[str, bool, Path, dict[str, Any]]) -> None:
    *_, out, found = case
    assert str(out / "other") in found["refused"]
    assert "does not fit this base model" in found["refused"] and "\n" not in found["refused"]


def test_the_command_keeps_stdout_for_its_result(tiny_llama: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, tiny_llama, '[hardware]\nengine = "unsloth"\n', max_steps=2)
    outcome = run_cli("train", recipe, "--out", tmp_path / "run", "--json", "-q")
    assert outcome.returncode == 0, outcome.stderr
    found = json.loads(outcome.stdout)  # one object: Unsloth's greetings are not among it
    assert found["stages"]["tiny"]["engine"] == "unsloth"
    assert (tmp_path / "run" / "stages" / "tiny" / "adapter" / "adapter_model.safetensors").is_file()


def test_a_format_that_unsloth_does_not_know_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, tiny_llama, '[hardware]\nengine = "unsloth"\n', max_steps=2)
    fp4 = 'quantization.bnb_4bit_quant_type="fp4"'
    outcome = run_cli("train", recipe, "--out", tmp_path / "run", "-q", "--set", fp4)
    assert outcome.returncode == 2
    assert 'error: quantization.bnb_4bit_quant_type: Unsloth knows "nf4" alone (got "fp4")' in outcome.stderr
