"""The plan of preference training against what a pair's two sequences save, allocate and keep."""

import gc
import json
from dataclasses import replace

import pytest
import torch

from lowvram_ft.hardware import detect
from lowvram_ft.memory import Budget, ModelShape, TrainingSetup, plan_memory
from lowvram_ft.memory.activations import checkpoint_bytes, pair_loss_bytes, saved_layer_bytes, workspace_bytes
from lowvram_ft.memory.for_recipe import plan_recipe, setup_for
from lowvram_ft.recipe import load
from lowvram_ft.training.from_plan import load_plan
from lowvram_ft.training.fused import fuse
from lowvram_ft.training.log_probs import completion_log_probs
from tests.gguf_models import make_tiny_model
from tests.unit.test_memory_cpu import saved_bytes
from tests.unit.test_memory_real import highest_bytes
from tests.unit.test_memory_terms import adapted, config

GIB = 1 << 30


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def of_pairs(**changes):
    settings = {"load_in_4bit": False, "r": 8, "optimizer": "adamw_torch", "kernels": "cpu", "max_length": 200}
    return TrainingSetup(**settings | {"sequences_per_row": 2} | changes)


def fused(values, setup):
    model = adapted(values, setup)
    fuse(model)
    return model


def loss_of(model, setup, vocab):
    """A loss over pairs of which every token but the first counts: the most that a recipe can ask for."""
    ids = torch.randint(0, vocab, (setup.sequences, setup.max_length))
    ones = torch.ones_like(ids)
    inputs = {"input_ids": ids, "completion_mask": ones, "attention_mask": ones}
    signs = torch.tensor([1.0, -1.0]).repeat_interleave(setup.per_device_train_batch_size)

    def loss():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return (completion_log_probs(model, inputs, setup.loss_chunk) * signs).sum()

    return loss


@pytest.mark.parametrize("batch", [1, 2])
def test_a_layer_saves_two_sequences_a_row(batch):
    setup = of_pairs(per_device_train_batch_size=batch, gradient_checkpointing=False)
    few, more = (
        saved_bytes(model, loss_of(model, setup, 512))
        for model in (fused(config("llama", layers=layers), setup) for layers in (2, 3))
    )
    shape = ModelShape.from_config(config("llama"))
    assert saved_layer_bytes(shape, setup, on_gpu=False) == pytest.approx(more - few, rel=0.005)
    one = saved_layer_bytes(shape, replace(setup, sequences_per_row=1), on_gpu=False)
    assert one < 0.6 * (more - few), "a plan for one sequence would be seen"


@pytest.mark.parametrize(("hidden", "intermediate", "length"), [(512, 1408, 96)])
def test_the_peak_of_backward_is_the_sum_of_its_terms(hidden, intermediate, length):
    setup = of_pairs(max_length=length)
    values = config(hidden=hidden, intermediate=intermediate, vocab=64)
    shape, model = ModelShape.from_config(values), fused(values, setup)
    loss = loss_of(model, setup, 64)
    loss().backward()  # gradients and tables exist from here on
    gc.collect()
    measured = highest_bytes(lambda: loss().backward())
    kept = checkpoint_bytes(shape, setup) + saved_layer_bytes(shape, setup, on_gpu=False)
    assert 0.98 * measured < kept + workspace_bytes(shape, setup) < 1.05 * measured


@pytest.mark.parametrize(("length", "vocab", "chunk"), [(96, 9_000, None), (128, 9_000, 64)])
def test_the_peak_of_a_large_vocabulary_is_the_loss(length, vocab, chunk):
    setup = of_pairs(max_length=length, loss_chunk=chunk)
    values = config(hidden=256, intermediate=256, vocab=vocab, tied=True)
    shape, model = ModelShape.from_config(values), fused(values, setup)
    loss = loss_of(model, setup, vocab)
    loss().backward()
    gc.collect()
    measured = highest_bytes(loss)  # what the loss's gradient takes is there when the loss is
    plan = plan_memory(shape, setup, Budget(None, 16 * GIB))
    planned = plan.term("loss").bytes + plan.term("activations").bytes
    scratch = 256 * 1024  # of oneDNN's products, whatever their size
    assert 0.9 * planned < measured < planned + scratch
    whole = replace(setup, loss_chunk=None)
    assert (plan_memory(shape, whole, Budget(None, 16 * GIB)).term("loss").bytes > 1.5 * measured) == bool(chunk)


@pytest.mark.parametrize("chunk", [None, 64])
def test_references_take_no_more_than_their_phase(chunk):
    setup = of_pairs(max_length=128, loss_chunk=chunk)
    values = config(hidden=256, intermediate=704, vocab=9_000, tied=True)
    shape, model = ModelShape.from_config(values), fused(values, setup)
    loss = loss_of(model, setup, 9_000)

    def reference():
        with torch.no_grad():
            loss()

    reference()
    gc.collect()
    measured = highest_bytes(reference)
    plan = plan_memory(shape, setup, Budget(None, 16 * GIB))
    names = ["load", "references", "forward", "loss", "backward", "optimizer", "evaluation"]
    assert [phase.name for phase in plan.phases] == names
    (phase,) = (phase for phase in plan.phases if phase.name == "references")
    moving = sum(plan.term(name).bytes for name in ("inputs", "recomputed layer", "loss"))
    assert set(phase.terms) >= {"inputs", "recomputed layer", "loss", "LoRA weights"}
    assert not set(phase.terms) & {"gradients", "optimizer state", "activations"}
    assert 0.2 * moving < measured < moving


def test_a_plan_of_pairs_counts_both_sequences_and_says_so(tmp_path):
    model = make_tiny_model(tmp_path / "model", "llama")
    stages = [
        load("demo", [f"model.base={model}", f'train.method="{method}"', "lora.lora_dropout=0.1"]).stages[0]
        for method in ("sft", "rft", "dpo")
    ]
    found = {stage.recipe.train.method: plan_recipe(stage.recipe, replace(detect(), gpus=())) for stage in stages}
    described = {method: plan.to_json() for method, plan in found.items()}
    assert {method: plan["method"] for method, plan in described.items()} == {m: m for m in ("sft", "rft", "dpo")}
    assert [described[m]["sequences_per_row"] for m in ("sft", "rft", "dpo")] == [1, 1, 2]
    pairs, rows = (found[m].fit.plan for m in ("dpo", "sft"))
    assert pairs.term("inputs").bytes == 2 * rows.term("inputs").bytes
    assert "references" not in {phase.name for phase in rows.phases}
    setup = setup_for(stages[2].recipe, on_gpu=True)
    assert (setup.lora_dropout, setup.loss_chunk, setup.sequences) == (0.0, 256, 2 * setup.per_device_train_batch_size)
    assert load_plan(stages[2].recipe, json.loads(json.dumps(described["dpo"]))).loss_chunk == 256


def test_a_4_gib_card_holds_a_pair_where_the_head_is_on_it():
    """The loss of pairs keeps no logits, wherever the head is; without chunks it would take slices for all tokens."""
    shape = ModelShape.from_config(config(hidden=2048, intermediate=5632, vocab=150_000, layers=24))
    setup = TrainingSetup(sequences_per_row=2, max_length=1024, kernels="fused", loss_chunk=256)
    card = Budget(4 * GIB, 16 * GIB)
    loss = plan_memory(shape, setup, card).term("loss").bytes
    assert pair_loss_bytes(shape, setup) < loss < pair_loss_bytes(shape, replace(setup, loss_chunk=None))
    plain = plan_memory(shape, replace(setup, sequences_per_row=1, loss_chunk=None), card).term("loss").bytes
    assert loss < plain / 10
