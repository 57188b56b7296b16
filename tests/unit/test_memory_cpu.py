"""The CPU engine's terms against what its functions save, allocate and keep."""

import gc
import json
from dataclasses import replace

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from lowvram_ft.hardware import detect
from lowvram_ft.memory import LINEAR_NAMES, Budget, ModelShape, TrainingSetup, fit, plan_memory
from lowvram_ft.memory.activations import (
    ATTENTION_BLOCK,
    checkpoint_bytes,
    last_norm_bytes,
    saved_layer_bytes,
    sliced_loss_bytes,
    workspace_bytes,
)
from lowvram_ft.memory.for_recipe import AMPLE, plan_recipe
from lowvram_ft.recipe import load
from lowvram_ft.training.cpu_trainer import completion_nll
from lowvram_ft.training.engines.reference import ReferenceEngine
from lowvram_ft.training.from_plan import as_planned, load_plan
from lowvram_ft.training.fused import fuse
from lowvram_ft.training.fused.attention import BLOCK
from tests.gguf_models import make_tiny_model
from tests.unit.test_memory_real import highest_bytes
from tests.unit.test_memory_terms import FAMILY, adapted, config

GIB = 1 << 30
SOME = (("q_proj", "v_proj"), ("o_proj", "up_proj", "down_proj"))


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def on_cpu(**changes):
    settings = {"load_in_4bit": False, "r": 8, "optimizer": "adamw_torch", "kernels": "cpu", "max_length": 200}
    return TrainingSetup(**settings | changes)


def fused(values, setup):
    model = adapted(values, setup)
    fuse(model)
    return model


def loss_of(model, setup, vocab):
    ids = torch.randint(0, vocab, (setup.per_device_train_batch_size, setup.max_length))
    inputs = {"input_ids": ids, "labels": ids, "attention_mask": torch.ones_like(ids)}

    def loss():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return completion_nll(model, inputs)[0]

    return loss


def saved_bytes(model, loss):
    """Bytes of all storages that autograd keeps after a forward, parameters left out."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    seen = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        out = loss()
    del out
    return sum(n_bytes for n_bytes, _ in seen.values())


@pytest.mark.parametrize(
    ("family", "dropout", "batch", "length", "targets"),
    [(family, dropout, batch, 200, LINEAR_NAMES) for family in FAMILY for dropout in (0.0, 0.1) for batch in (1, 2)]
    + [("llama", 0.1, 2, 96, LINEAR_NAMES)]
    + [("llama", 0.1, batch, 200, targets) for targets in SOME for batch in (1, 2)],
)
def test_a_layer_saves_what_the_plan_says(family, dropout, batch, length, targets):
    setup = on_cpu(
        lora_dropout=dropout,
        per_device_train_batch_size=batch,
        max_length=length,
        target_modules=targets,
        gradient_checkpointing=False,
    )
    few, more = (
        saved_bytes(model, loss_of(model, setup, 512))
        for model in (fused(config(family, layers=layers), setup) for layers in (2, 3))
    )
    shape = ModelShape.from_config(config(family))
    assert saved_layer_bytes(shape, setup, on_gpu=False) == pytest.approx(more - few, rel=0.005)
    plain = saved_layer_bytes(shape, replace(setup, kernels="eager"), on_gpu=False)
    assert plain != pytest.approx(more - few, rel=0.005)


def test_the_blocks_are_those_of_the_attention():
    assert ATTENTION_BLOCK == BLOCK


@pytest.mark.parametrize("dropout", [0.0, 0.05])
@pytest.mark.parametrize(
    ("hidden", "intermediate", "batch", "length"),
    [
        (256, 704, 1, 128),
        (512, 1408, 1, 512),
        pytest.param(512, 2816, 1, 256, marks=pytest.mark.slow),
        pytest.param(512, 1408, 4, 256, marks=pytest.mark.slow),
        (576, 1536, 4, 256),
    ],
)
def test_the_peak_of_backward_is_the_sum_of_its_terms(hidden, intermediate, batch, length, dropout):
    setup = on_cpu(lora_dropout=dropout, per_device_train_batch_size=batch, max_length=length)
    values = config(hidden=hidden, intermediate=intermediate, vocab=64)
    if hidden == 576:  # SmolLM2's heads
        values |= {"num_attention_heads": 9, "num_key_value_heads": 3}
    shape, model = ModelShape.from_config(values), fused(values, setup)
    loss = loss_of(model, setup, 64)
    loss().backward()  # gradients and tables exist from here on
    gc.collect()
    measured = highest_bytes(lambda: loss().backward())
    kept = checkpoint_bytes(shape, setup) + saved_layer_bytes(shape, setup, on_gpu=False)
    assert 0.99 * measured < kept + workspace_bytes(shape, setup) < 1.04 * measured
    assert kept < 0.9 * measured


@pytest.mark.parametrize(
    ("batch", "length", "vocab"), [pytest.param(1, 512, 20_000, marks=pytest.mark.slow), (2, 256, 49_152)]
)
def test_the_peak_of_a_large_vocabulary_is_the_loss(batch, length, vocab):
    setup = on_cpu(per_device_train_batch_size=batch, max_length=length)
    values = config(hidden=256, intermediate=256, vocab=vocab, tied=True)
    shape, model = ModelShape.from_config(values), fused(values, setup)
    loss = loss_of(model, setup, vocab)
    loss().backward()
    gc.collect()
    measured = highest_bytes(lambda: loss().backward())
    plan = plan_memory(shape, setup, Budget(None, 16 * GIB))
    assert plan.term("loss").bytes == sliced_loss_bytes(shape, setup) + last_norm_bytes(shape, setup)
    planned = plan.term("loss").bytes + plan.term("activations").bytes
    assert 0.97 * measured < planned < 1.05 * measured
    assert plan_memory(shape, replace(setup, kernels="eager"), Budget(None, 16 * GIB)).term("loss").bytes > 2 * measured


@pytest.mark.parametrize("keep", [True, False])
def test_4_bit_weights_that_are_kept_dequantized_take_their_term(tmp_path, keep):
    model = make_tiny_model(tmp_path / "model", "qwen2", False)
    targets = 'lora.target_modules=["q_proj", "down_proj"]'
    stage = load("demo", [f"model.base={model}", targets, "quantization.load_in_4bit=true"]).stages[0]
    machine = detect()
    shape = ModelShape.from_config(json.loads((model / "config.json").read_text()))
    weights = shape.num_hidden_layers * shape.hidden_size * (shape.attention_width + shape.intermediate_size)
    c = 2 if ReferenceEngine().load(model, plan_of(stage, machine)[1], None).dtype == "bfloat16" else 4
    room = AMPLE * weights * c + (1 if keep else 0)
    planned, plan = plan_of(stage, replace(machine, ram_available_bytes=room))
    assert planned.fit.setup.compute_dtype_bytes == c
    assert plan.keep_dequantized is keep
    assert plan.planned_bytes.get("dequantized copies", 0) == (weights * c if keep else 0)
    loaded = ReferenceEngine().load(model, plan, None)
    assert sum(map(held_by, loaded.model.modules())) == (weights * c if keep else 0)


def plan_of(stage, machine):
    planned = plan_recipe(stage.recipe, replace(machine, gpus=()))
    found = planned.to_json()
    return planned, load_plan(as_planned(stage.recipe, found), found)


def held_by(module):
    """Bytes of the dequantized weight that a module's fused forward holds."""
    forward = vars(module).get("forward")
    cells = forward.__func__.__closure__ if hasattr(forward, "__func__") else ()
    weights = [cell.cell_contents for cell in cells or () if callable(cell.cell_contents)]
    inner = [cell.cell_contents for weight in weights for cell in weight.__closure__ or ()]
    return sum(tensor.nbytes for tensor in inner if isinstance(tensor, torch.Tensor))


def test_where_they_do_not_fit_they_are_dequantized_at_each_use():
    shape = ModelShape.from_config(config("llama"))
    setup = TrainingSetup(kernels="cpu", optimizer="adamw_torch", keep_dequantized=True)
    ample = Budget(None, 16 * GIB)
    whole = plan_memory(shape, setup, ample)
    copies = whole.term("dequantized copies").bytes
    assert whole.term("dequantized weight").bytes == 0
    short = Budget(None, int((whole.peak_host_bytes - copies // 2 - ample.system_bytes) / 0.875))
    assert fit(shape, setup, ample, ["checkpointing"]).setup.keep_dequantized
    assert not fit(shape, setup, short, []).plan.fits
    found = fit(shape, setup, short, ["checkpointing"])
    assert found.plan.fits and not found.setup.keep_dequantized
    assert found.steps == ("4-bit weights dequantized at each use: the same result, slower",)


def test_what_is_kept_so_that_nothing_is_lost_has_terms():
    shape, setup = ModelShape.from_config(config("llama")), TrainingSetup()
    card = plan_memory(shape, setup, Budget(4 * GIB, 16 * GIB))
    host = plan_memory(shape, replace(setup, kernels="cpu", optimizer="adamw_torch"), Budget(None, 16 * GIB))
    trained = card.term("LoRA weights").bytes
    assert card.term("best weights").bytes == card.term("checkpoint copy").bytes == trained
    assert "checkpoint copy" not in {term.name for term in host.terms}
    for plan in (card, host):
        (training,) = (phase for phase in plan.host_phases if phase.name == "training")
        assert training.terms.count("best weights") == 1
        a_checkpoint = 2 * trained + plan.term("optimizer state").bytes
        assert plan.term("checkpoints").bytes == 3 * a_checkpoint
