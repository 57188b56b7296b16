"""What a plan counts, against the real thing on the CPU: models as bitsandbytes holds them, optimizers after a step."""

import bitsandbytes
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.profiler import ProfilerActivity, profile
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig

from lowvram_ft.memory import HEAD_SLICE_ROWS, Budget, ModelShape, TrainingSetup, nf4_bytes, plan_memory
from lowvram_ft.memory.activations import sliced_loss_bytes
from lowvram_ft.memory.plan import WEIGHTS
from lowvram_ft.memory.terms import layer_payload_bytes, layer_statistics_bytes
from lowvram_ft.training.vocabulary import tables
from lowvram_ft.training.vocabulary.head_loss import head_nll
from lowvram_ft.training.vocabulary.tables import DeviceTable, HostTable, Nf4Table

CPU = Budget(None, 2**35)
CARD = Budget(2**36, 2**36)
FAMILIES = {"llama": {}, "qwen2": {}, "qwen3": {"head_dim": 64}}
TIED = pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
FAMILY = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def config(family, *, tied):
    return {
        "model_type": family,
        "hidden_size": 256,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 704,
        "vocab_size": 1000,
        "tie_word_embeddings": tied,
        **FAMILIES[family],
    }


@pytest.fixture(scope="module")
def quantized(tmp_path_factory):
    """A random model of a config, saved and loaded in NF4 as a user's is."""
    made = {}

    def load(family, *, tied, double_quant=True):
        key = (family, tied, double_quant)
        if key not in made:
            values = config(family, tied=tied)
            folder = tmp_path_factory.mktemp("model")
            plain = AutoConfig.for_model(values.pop("model_type"), **values)
            AutoModelForCausalLM.from_config(plain).to(torch.bfloat16).save_pretrained(folder)
            made[key] = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=torch.bfloat16,
                quantization_config=BitsAndBytesConfig(
                    load_in_4bit=True,
                    bnb_4bit_quant_type="nf4",
                    bnb_4bit_use_double_quant=double_quant,
                    bnb_4bit_compute_dtype=torch.bfloat16,
                ),
            )
        return made[key]

    return load


def storage_bytes(tensors):
    """Bytes of all storages, each once however often it is seen."""
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def tensors_of(state):
    """What a quantization state holds."""
    held = [state.absmax, state.code]
    return [*held, state.offset, state.state2.absmax, state.state2.code] if state.nested else held


def weights_of(model):
    held = list(model.parameters())
    for parameter in model.parameters():
        if isinstance(parameter, bitsandbytes.nn.Params4bit):
            held += tensors_of(parameter.quant_state)
    return held


@TIED
@FAMILY
@pytest.mark.parametrize("double_quant", [True, False], ids=["double", "single"])
def test_all_weights_of_a_quantized_model_are_the_weight_terms(quantized, family, tied, double_quant):
    real = storage_bytes(weights_of(quantized(family, tied=tied, double_quant=double_quant)))
    shape = ModelShape.from_config(config(family, tied=tied))
    plan = plan_memory(shape, TrainingSetup(double_quant=double_quant), CPU)
    planned = sum(term.bytes for term in plan.terms if term.name in WEIGHTS)
    assert planned == pytest.approx(real, rel=0.005)
    other = plan_memory(shape, TrainingSetup(double_quant=not double_quant), CPU)
    assert sum(term.bytes for term in other.terms if term.name in WEIGHTS) != pytest.approx(real, rel=0.005)


@FAMILY
def test_payload_and_statistics_of_a_layer_are_parameter_and_quantization_state(quantized, family):
    model = quantized(family, tied=False)
    parameters = [p for p in model.model.layers[0].parameters() if isinstance(p, bitsandbytes.nn.Params4bit)]
    shape, setup = ModelShape.from_config(config(family, tied=False)), TrainingSetup()
    assert layer_payload_bytes(shape, setup) == sum(p.nbytes for p in parameters)
    statistics = storage_bytes([tensor for p in parameters for tensor in tensors_of(p.quant_state)])
    # the table of NF4's 16 values is one tensor for all weights here, and one for each in the plan
    assert layer_statistics_bytes(shape, setup) == pytest.approx(statistics, abs=64 * len(parameters))


@TIED
@FAMILY
def test_adapter_and_gradients_of_a_model_are_their_terms(quantized, family, tied):
    model = get_peft_model(quantized(family, tied=tied), LoraConfig(r=16, target_modules="all-linear"))
    trained = [p for p in model.parameters() if p.requires_grad]
    plan = plan_memory(ModelShape.from_config(config(family, tied=tied)), TrainingSetup(r=16), CPU)
    assert plan.term("LoRA weights").bytes == storage_bytes(trained)
    ids = torch.randint(0, 1000, (1, 8))
    model(input_ids=ids, labels=ids).loss.backward()
    assert plan.term("gradients").bytes == storage_bytes([p.grad for p in trained])
    model.unload()


OPTIMIZERS = {
    "adamw_torch": torch.optim.AdamW,
    "adamw_8bit": bitsandbytes.optim.AdamW8bit,
    "paged_adamw_8bit": bitsandbytes.optim.PagedAdamW8bit,
}


@TIED
@FAMILY
@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")
def test_the_state_of_an_adapters_optimizer_is_its_term(family, tied, kind):
    values = config(family, tied=tied)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(values.pop("model_type"), **values))
    model = get_peft_model(model.to(torch.bfloat16), LoraConfig(r=16, target_modules="all-linear"))
    trained = [p for p in model.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.grad = torch.randn_like(parameter)
    optimizer = OPTIMIZERS[kind](trained, lr=1e-3)
    optimizer.step()
    held = [value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
    shape = ModelShape.from_config(config(family, tied=tied))
    plan = plan_memory(shape, TrainingSetup(r=16, optimizer=kind), CPU)
    assert plan.term("optimizer state").bytes == pytest.approx(storage_bytes(held), rel=0.005)
    on_host = plan_memory(shape, TrainingSetup(r=16, optimizer=kind, offload_optimizer=True), CARD)
    assert on_host.term("offloaded optimizer state").bytes == pytest.approx(storage_bytes(held), rel=0.005)
    assert on_host.term("optimizer copies").bytes == 2 * storage_bytes(trained)


@TIED
def test_embedding_and_head_for_every_place(tied):
    shape = ModelShape.from_config(config("qwen2", tied=tied))
    weight = torch.randn(1000, 256).to(torch.bfloat16)
    real = {
        "device": weight.nbytes,
        "host": storage_bytes([HostTable(weight, torch.device("cpu"))._weight]),
        "nf4": Nf4Table(weight, torch.device("cpu")).nbytes,
    }
    for where, expected in real.items():
        setup = TrainingSetup(head=where, nf4_embedding=where == "nf4", offload_embedding=where == "host")
        plan = plan_memory(shape, setup, CARD)
        names = ["embedding"] if tied else ["embedding", "head"]
        prefix, place = ("offloaded ", "host") if where == "host" else ("", "gpu")
        for name in names:
            assert plan.term(prefix + name).bytes == pytest.approx(expected, rel=0.005)
            assert plan.term(prefix + name).where == place
        assert ("head slices" in {term.name for term in plan.terms}) == (where != "device")
        if tied:
            assert plan.term("head").bytes == 0
    assert nf4_bytes(256_000, double_quant=False) != pytest.approx(real["nf4"], rel=0.005)


def test_a_slice_of_the_plan_is_a_slice_of_the_table():
    assert HEAD_SLICE_ROWS == tables.SLICE_ROWS
    rows = [len(rows) for _, rows in DeviceTable(torch.zeros(10_000, 64)).slices()]
    assert rows == [4096, 4096, 1808]


def highest_bytes(work):
    """The most that is allocated at a time, by torch's own events."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    now = highest = 0
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        highest = max(highest, now)
    return highest


@pytest.mark.parametrize(
    ("tokens", "hidden", "vocab"), [(256, 256, 20_000), (512, 512, 9_000), (64, 896, 5_000), (128, 512, 300)]
)
def test_the_loss_over_a_head_in_slices_takes_its_term(tokens, hidden, vocab):
    values = {**config("llama", tied=False), "hidden_size": hidden, "vocab_size": vocab}
    shape = ModelShape.from_config(values)
    weight = torch.randn(vocab, hidden).to(torch.bfloat16)
    states = torch.randn(tokens, hidden).to(torch.bfloat16).requires_grad_()
    labels = torch.randint(0, vocab, (tokens,))
    measured = highest_bytes(lambda: head_nll(states, labels, DeviceTable(weight)).backward()) + states.nbytes
    planned = sliced_loss_bytes(shape, TrainingSetup(max_length=tokens))
    scratch = 256 * 1024  # of oneDNN's products, whatever their size
    assert planned - 0.005 * measured <= measured <= planned + scratch
    whole = tokens * vocab * 4  # what one float32 copy of all logits would take
    assert vocab < 8192 or planned < whole
    assert sliced_loss_bytes(shape, TrainingSetup(max_length=2 * tokens)) > measured + scratch
