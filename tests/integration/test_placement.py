"""Embedding and head elsewhere: the same training, or that of the rounded weights, and a plain PEFT adapter."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lowvram_ft.training.engines import LoadPlan
from lowvram_ft.training.engines.reference import ReferenceEngine
from lowvram_ft.training.vocabulary.placement import TableEmbedding, TableHead, device_map
from lowvram_ft.training.vocabulary.tables import HostTable, Nf4Table
from tests.tiny_runs import examples, for_trainer, load_plan, train_section

ENGINE = ReferenceEngine()


@pytest.fixture(autouse=True)
def in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that two ways to the same number can be held against each other."""
    monkeypatch.setattr("lowvram_ft.training.engines.reference.compute_dtype", lambda device: "float32")
    monkeypatch.setattr("lowvram_ft.training.vocabulary.tables.SLICE_ROWS", 100)


@pytest.fixture(params=["llama", "qwen2"])
def model(request: pytest.FixtureRequest, tiny_llama: Path, tiny_qwen2: Path) -> Path:
    """Tied, and with a head of its own."""
    return {"llama": tiny_llama, "qwen2": tiny_qwen2}[request.param]


def _loaded(model: Path, load_in_4bit: bool = True, **levers: Any) -> Any:
    return ENGINE.load(model, replace(load_plan(load_in_4bit=load_in_4bit), **levers), None)


def _train(loaded: Any, model: Path, out: Path, steps: int = 3) -> tuple[list[float], list[float]]:
    """Losses and validation losses of some steps."""
    rows = for_trainer(examples(model, 4))
    train = train_section(max_steps=steps, per_device_train_batch_size=4, eval_steps=1.0)
    trainer = ENGINE.trainer("sft", loaded, train, rows, rows, out, [])
    trainer.train()
    history = trainer.state.log_history
    return [e["loss"] for e in history if "loss" in e], [e["eval_loss"] for e in history if "eval_loss" in e]


def _gradients(loaded: Any, model: Path, out: Path) -> dict[str, Any]:
    """Gradients of a batch, with factors B that are not zero any more."""
    generator = torch.Generator().manual_seed(1)
    trained = {name: p for name, p in loaded.model.named_parameters() if p.requires_grad}
    for name, parameter in trained.items():
        if "lora_B" in name:
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
    rows = for_trainer(examples(model, 4))
    trainer = ENGINE.trainer("sft", loaded, train_section(per_device_train_batch_size=4), rows, None, out, [])
    trainer.compute_loss(loaded.model, dict(trainer.data_collator(list(rows)))).backward()
    return {name: parameter.grad for name, parameter in trained.items()}


@pytest.mark.parametrize("levers", [{"offload_embedding": True, "head": "host"}, {"head": "host"}])
def test_a_vocabulary_on_the_host_trains_the_same(model: Path, levers: dict[str, Any], tmp_path: Path) -> None:
    here = _train(_loaded(model), model, tmp_path / "here")
    moved = _loaded(model, **levers)
    base = moved.model.get_base_model()
    assert isinstance(base.get_output_embeddings(), TableHead)
    assert isinstance(base.get_output_embeddings().table, HostTable)
    assert not [name for name, _ in moved.model.named_parameters() if "lm_head" in name]
    assert any(type(module).__name__ == "Linear4bit" for module in moved.model.modules())
    there = _train(moved, model, tmp_path / "there")
    assert there[0] == pytest.approx(here[0], abs=1e-5)
    assert there[1] == pytest.approx(here[1], abs=1e-5)
    assert here[0][2] < here[0][0]
    found = _gradients(_loaded(model, False, **levers), model, tmp_path / "found")  # with 4 bits, LoRA is 16-bit
    for name, wanted in _gradients(_loaded(model, False), model, tmp_path / "wanted").items():
        assert float((found[name] - wanted).norm() / wanted.norm()) < 1e-5, name


def test_an_nf4_vocabulary_trains_as_its_rounded_weights_do(model: Path, tmp_path: Path) -> None:
    quantized = _loaded(model, nf4_embedding=True, head="nf4")
    base = quantized.model.get_base_model()
    assert isinstance(base.get_input_embeddings(), TableEmbedding)
    head = base.get_output_embeddings().table
    assert isinstance(head, Nf4Table)
    if base.config.tie_word_embeddings:
        assert base.get_input_embeddings().table is head
    rounded = _loaded(model)
    plain = rounded.model.get_base_model()
    rows = [torch.cat([part for _, part in table.slices()]) for table in (base.get_input_embeddings().table, head)]
    with torch.no_grad():
        plain.get_input_embeddings().weight.copy_(rows[0])
        plain.get_output_embeddings().weight.copy_(rows[1])
    expected = _train(rounded, model, tmp_path / "rounded")
    found = _train(quantized, model, tmp_path / "quantized")
    assert found[0] == pytest.approx(expected[0], abs=1e-5)
    assert found[1] == pytest.approx(expected[1], abs=1e-5)
    unrounded = _train(_loaded(model), model, tmp_path / "unrounded", 1)
    assert abs(unrounded[0][0] - found[0][0]) > 1e-4


def test_answers_and_adapters_are_as_without(model: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    moved, plain = _loaded(model, offload_embedding=True, head="host"), _loaded(model)
    ids = torch.arange(3, 20)[None]
    with torch.no_grad():
        torch.testing.assert_close(moved.model(input_ids=ids).logits, plain.model(input_ids=ids).logits)
        greedy = [m.model.generate(input_ids=ids, max_new_tokens=8, do_sample=False).tolist() for m in (moved, plain)]
    assert greedy[0] == greedy[1]
    moved.model.save_pretrained(tmp_path / "adapter")
    found = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), tmp_path / "adapter")
    wanted = {n: p for n, p in moved.model.named_parameters() if "lora_" in n}
    assert wanted and all(torch.equal(p, wanted[n]) for n, p in found.named_parameters() if "lora_" in n)


def test_gradients_pass_a_moved_embedding_when_layers_are_recomputed(model: Path, tmp_path: Path) -> None:
    levers = {"offload_embedding": True, "head": "host", "gradient_checkpointing": True}
    here = _train(_loaded(model), model, tmp_path / "here")
    there = _train(_loaded(model, **levers), model, tmp_path / "there")
    assert there[0] == pytest.approx(here[0], abs=1e-5)


def test_who_takes_a_tables_weight_for_one_sees_nan_and_no_memory(model: Path) -> None:
    base = _loaded(model, head="host").model.get_base_model()
    stand_in = base.get_output_embeddings().weight
    assert stand_in.shape == (base.config.vocab_size, base.config.hidden_size)
    assert (stand_in.dtype, stand_in.requires_grad) == (torch.float32, False)
    assert stand_in.untyped_storage().nbytes() == 4
    assert (torch.ones(2, base.config.hidden_size) @ stand_in.T).isnan().all()


def test_the_loader_puts_on_the_card_what_stays_there() -> None:
    plan: LoadPlan = load_plan()
    assert device_map(plan) == {"": 0}
    found = device_map(replace(plan, head="host"))
    assert (found["lm_head"], found["model.embed_tokens"], found["model.layers"]) == ("cpu", 0, 0)
    found = device_map(replace(plan, nf4_embedding=True))
    assert (found["lm_head"], found["model.embed_tokens"]) == (0, "cpu")
