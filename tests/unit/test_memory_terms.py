"""Formulas against the real thing on the CPU: bitsandbytes, PEFT, torch, autograd, torch's profiler."""

import contextlib
import gc
import io

import bitsandbytes
import pytest
import torch
from bitsandbytes.functional import quantize_4bit
from peft import LoraConfig, get_peft_model
from torch.autograd.graph import saved_tensors_hooks
from torch.profiler import ProfilerActivity, profile
from transformers import AutoConfig, AutoModelForCausalLM

from lowvram_ft.memory import LINEAR_NAMES, Budget, ModelShape, TrainingSetup, nf4_bytes, plan_memory
from lowvram_ft.memory.activations import checkpoint_bytes, loss_bytes, saved_layer_bytes, workspace_bytes
from lowvram_ft.memory.terms import layer_linear_bytes, lora_tensors, optimizer_bytes


@pytest.fixture(autouse=True)
def one_thread():
    """Small products are slower on more threads, and another test may need the rest."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


FAMILY = {"llama": {}, "qwen2": {}, "qwen3": {"head_dim": 64}}


def config(family="llama", *, layers=2, hidden=256, intermediate=704, kv_heads=2, vocab=512, tied=False):
    return {
        "model_type": family,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden // 64,
        "num_key_value_heads": kv_heads,
        "intermediate_size": intermediate,
        "vocab_size": vocab,
        "tie_word_embeddings": tied,
        **FAMILY[family],
    }


def adapted(values, setup, *, device="cpu"):
    """A random bf16 model of that config with the setup's LoRA."""
    values = dict(values)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(values.pop("model_type"), **values))
        model = get_peft_model(
            model.to(torch.bfloat16),
            LoraConfig(
                r=setup.r,
                lora_dropout=setup.lora_dropout,
                target_modules=list(setup.target_modules),
                task_type="CAUSAL_LM",
            ),
        )
    model.config.use_cache = False
    model.train()
    if setup.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    return model


def storages(tensors):
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def batch(setup, vocab=512, *, padded=False):
    ids = torch.randint(0, vocab, (setup.per_device_train_batch_size, setup.max_length))
    mask = torch.ones_like(ids)
    if padded:
        mask[0, -3:] = 0
    return {"input_ids": ids, "labels": ids, "attention_mask": mask}


def saved_bytes(model, inputs):
    """Bytes of all storages that autograd keeps after a forward, parameters left out."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    seen = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = (storage.nbytes(), tensor)  # the tensor keeps the address taken
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = model(**inputs)
    del outputs
    return sum(n_bytes for n_bytes, _ in seen.values())


def peak_bytes(model, inputs):
    """The most that a forward and backward allocates above what was there, by torch's own events."""
    model(**inputs).loss.backward()  # gradients and tables exist from here on
    gc.collect()
    with contextlib.redirect_stdout(io.StringIO()):
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            outputs = model(**inputs)
            outputs.loss.backward()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = highest = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        highest = max(highest, now)
    return highest


@pytest.mark.parametrize("double_quant", [True, False])
@pytest.mark.parametrize(("rows", "columns"), [(576, 192), (576, 1536), (1000, 333), (1, 3), (2048, 5504)])
def test_nf4_bytes_are_those_of_bitsandbytes(rows, columns, double_quant):
    weight, state = quantize_4bit(
        torch.randn(rows, columns, dtype=torch.bfloat16),
        blocksize=64,
        compress_statistics=double_quant,
        quant_type="nf4",
    )
    parts = [weight, state.absmax, state.code]
    if double_quant:
        parts += [state.offset, state.state2.absmax, state.state2.code]
    assert nf4_bytes(rows * columns, double_quant=double_quant) == storages(parts)


@pytest.mark.parametrize("double_quant", [True, False])
@pytest.mark.parametrize("family", FAMILY)
def test_a_layer_of_linear4bit_takes_what_the_plan_says(family, double_quant):
    values = config(family)
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(family, **{k: v for k, v in values.items() if k != "model_type"})
    )
    total = 0
    for name, module in model.model.layers[0].named_modules():
        if name.split(".")[-1] in LINEAR_NAMES:
            quantized = bitsandbytes.nn.Params4bit(
                module.weight.data, quant_type="nf4", compress_statistics=double_quant, requires_grad=False
            ).to("cpu")
            state = quantized.quant_state
            total += storages([quantized, state.absmax, state.code])
            if double_quant:
                total += storages([state.offset, state.state2.absmax, state.state2.code])
    setup = TrainingSetup(double_quant=double_quant)
    assert layer_linear_bytes(ModelShape.from_config(values), setup) == pytest.approx(total, rel=0.005)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("family", FAMILY)
@pytest.mark.parametrize("targets", [LINEAR_NAMES, ("q_proj", "v_proj"), ("down_proj",)])
def test_lora_parameters_are_those_of_peft(family, tied, targets):
    values = config(family, tied=tied)
    setup = TrainingSetup(r=8, target_modules=targets, gradient_checkpointing=False)
    trained = [p for p in adapted(values, setup, device="meta").parameters() if p.requires_grad]
    sizes = lora_tensors(ModelShape.from_config(values), setup)
    assert sorted(sizes) == sorted(p.numel() for p in trained)
    plan = plan_memory(ModelShape.from_config(values), setup, Budget(2**32, 2**34))
    assert plan.term("LoRA weights").bytes == sum(p.numel() * p.element_size() for p in trained)
    assert plan.term("gradients").bytes == plan.term("LoRA weights").bytes


@pytest.mark.parametrize("kind", ["adamw_torch", "adamw_8bit", "paged_adamw_8bit"])
@pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")
def test_optimizer_state_is_what_the_optimizer_holds_after_a_step(kind):
    sizes = [16 * 576, 16 * 192, 1536 * 16, 4095, 4096, 4097, 300_001]
    parameters = [torch.nn.Parameter(torch.randn(n)) for n in sizes]
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    optimizer = {
        "adamw_torch": torch.optim.AdamW,
        "adamw_8bit": bitsandbytes.optim.AdamW8bit,
        "paged_adamw_8bit": bitsandbytes.optim.PagedAdamW8bit,
    }[kind](parameters, lr=1e-3)
    optimizer.step()
    held = [value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
    resident, paged = optimizer_bytes(sizes, kind)
    assert resident + paged == storages(held)
    assert paged == (2 * 300_001 if kind == "paged_adamw_8bit" else 0)


@pytest.mark.parametrize("padded", [True, False], ids=["padded", "full"])
@pytest.mark.parametrize("dropout", [0.0, 0.05])
@pytest.mark.parametrize("family", FAMILY)
def test_a_layer_saves_what_autograd_keeps(family, dropout, padded):
    setup = TrainingSetup(
        lora_dropout=dropout,
        per_device_train_batch_size=2 if padded else 1,
        max_length=96,
        gradient_checkpointing=False,
    )
    inputs = batch(setup, padded=padded)
    few, more = (saved_bytes(adapted(config(family, layers=layers), setup), inputs) for layers in (1, 2))
    shape = ModelShape.from_config(config(family))
    assert saved_layer_bytes(shape, setup, on_gpu=False) == pytest.approx(more - few, rel=0.005)


def test_checkpointing_keeps_one_hidden_state_a_layer():
    setup = TrainingSetup(max_length=128)
    inputs = batch(setup)
    few, more = (saved_bytes(adapted(config(layers=layers), setup), inputs) for layers in (2, 6))
    expected = checkpoint_bytes(ModelShape.from_config(config(layers=6)), setup) * 4 / 6
    assert more - few == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("dropout", [0.0, 0.05])
@pytest.mark.parametrize(("hidden", "intermediate"), [(256, 704), (256, 1408), (512, 1408)])
def test_the_peak_of_backward_is_the_sum_of_its_terms(hidden, intermediate, dropout):
    setup = TrainingSetup(lora_dropout=dropout, max_length=128, load_in_4bit=False)
    values = config(hidden=hidden, intermediate=intermediate, vocab=64, kv_heads=hidden // 64)
    shape = ModelShape.from_config(values)
    measured = peak_bytes(adapted(values, setup), batch(setup, vocab=64))
    predicted = (
        checkpoint_bytes(shape, setup) + saved_layer_bytes(shape, setup, on_gpu=False) + workspace_bytes(shape, setup)
    )
    assert 0.975 * measured < predicted < 1.04 * measured, predicted / measured


def test_each_logit_costs_what_the_profiler_sees():
    setup = TrainingSetup(max_length=64)
    few, more = 2048, 6144
    peaks = [peak_bytes(adapted(config(vocab=vocab), setup), batch(setup, vocab=vocab)) for vocab in (few, more)]
    expected = [loss_bytes(ModelShape.from_config(config(vocab=vocab)), setup) for vocab in (few, more)]
    assert peaks[1] - peaks[0] == pytest.approx(expected[1] - expected[0], rel=0.01)


def test_a_loss_in_chunks_needs_less_than_one_over_all_tokens():
    shape = ModelShape.from_config(config(vocab=32_000))
    whole = loss_bytes(shape, TrainingSetup(max_length=2048))
    logits, last_hidden, its_gradient = 256 * 32_000 * (2 + 12), 2048 * 256 * 2, 2048 * 256 * 2
    chunked = loss_bytes(shape, TrainingSetup(max_length=2048, loss_chunk=256))
    assert chunked == logits + last_hidden + its_gradient
    assert loss_bytes(shape, TrainingSetup(max_length=2048, loss_chunk=256)) < whole / 7
    assert loss_bytes(shape, TrainingSetup(max_length=2048, loss_chunk=4096)) == whole
