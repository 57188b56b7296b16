"""Plans add up, fits are smallest, and what does not fit says what would."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from lowvram_ft.errors import UsageError
from lowvram_ft.memory import Budget, ModelShape, TrainingSetup, fit, plan_memory

GIB = 2**30
LAPTOP = Budget(4 * GIB, 16 * GIB)


def shape(family, hidden, layers, heads, kv_heads, intermediate, vocab, *, tied):
    return ModelShape.from_config(
        {
            "model_type": family,
            "hidden_size": hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "intermediate_size": intermediate,
            "vocab_size": vocab,
            "tie_word_embeddings": tied,
        }
    )


DEEPSEEK_6_7B = shape("llama", 4096, 32, 32, 32, 11008, 32256, tied=False)
QWEN_7B = shape("qwen2", 3584, 28, 28, 4, 18944, 152064, tied=False)
QWEN_0_5B = shape("qwen2", 896, 24, 14, 2, 4864, 151936, tied=True)
SMOLLM2 = shape("llama", 576, 30, 9, 3, 1536, 49152, tied=True)
UNSLOTH = TrainingSetup(kernels="fused", loss_chunk=256)


@pytest.mark.parametrize(("platform", "usable"), [("linux", 3.5), ("windows", 3.2), ("wsl", 3.2)])
def test_usable_bytes_of_a_4_gib_card(platform, usable):
    assert Budget(4 * GIB, 16 * GIB, platform).usable_gpu_bytes / GIB == pytest.approx(usable, abs=0.005)
    assert Budget(4 * GIB, 16 * GIB, platform, display=False).usable_gpu_bytes > 3.6 * GIB


def test_a_7b_class_llama_fits_a_4_gib_card_with_about_half_its_layers_on_the_host():
    result = fit(DEEPSEEK_6_7B, UNSLOTH, LAPTOP, ["offload_layers"])
    assert result.plan.fits
    assert 17 <= result.setup.offload_layers <= 20  # Unsloth's own planner finds 17 to 19, and leaves nothing free
    assert result.plan.peak_gpu_bytes <= 3.5 * GIB
    assert result.nearest is None
    one_less = replace(result.setup, offload_layers=result.setup.offload_layers - 1)
    assert not plan_memory(DEEPSEEK_6_7B, one_less, LAPTOP).fits


def test_a_smaller_usable_card_needs_more_layers_on_the_host():
    linux = fit(DEEPSEEK_6_7B, UNSLOTH, LAPTOP, ["offload_layers"])
    windows = fit(DEEPSEEK_6_7B, UNSLOTH, replace(LAPTOP, platform="windows"), ["offload_layers"])
    assert windows.setup.offload_layers > linux.setup.offload_layers


def test_a_whole_loss_over_a_large_vocabulary_does_not_fit_and_says_what_would():
    setup = TrainingSetup(kernels="fused", max_length=1024)
    result = fit(QWEN_7B, setup, LAPTOP, ["offload_layers", "offload_embedding"])
    assert not result.plan.fits
    assert result.nearest is not None
    assert 'allow "offload_head" too' in result.nearest
    shorter = fit(QWEN_7B, setup, LAPTOP, ["offload_layers", "offload_embedding", "shorter"])
    assert shorter.plan.fits
    assert shorter.setup.max_length == 512
    streamed = fit(QWEN_7B, setup, LAPTOP, ["offload_layers", "offload_embedding", "offload_head", "shorter"])
    assert streamed.plan.fits
    assert (streamed.setup.max_length, streamed.setup.head) == (1024, "host")


def test_a_machine_that_is_too_small_is_told_the_card_that_would_do():
    tiny = Budget(GIB, 16 * GIB)
    result = fit(QWEN_7B, UNSLOTH, tiny, [])
    assert not result.plan.fits
    assert result.nearest is not None
    assert "a card of" in result.nearest
    size = float(result.nearest.split("a card of ")[1].split(" GiB")[0])
    assert plan_memory(QWEN_7B, result.setup, replace(tiny, vram_bytes=int(size * GIB))).fits
    assert not plan_memory(QWEN_7B, result.setup, replace(tiny, vram_bytes=int((size - 0.2) * GIB))).fits


@pytest.mark.parametrize("shape", [DEEPSEEK_6_7B, QWEN_0_5B], ids=["untied", "tied"])
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"head": "host", "offload_embedding": True},
        {"head": "nf4", "nf4_embedding": True},
        {"offload_activations": True, "optimizer": "paged_adamw_8bit"},
        {"offload_optimizer": True, "optimizer": "adamw_torch"},
    ],
    ids=["on the card", "tables on the host", "tables in NF4", "paged", "optimizer on the host"],
)
def test_phases_are_sums_of_their_terms_and_the_peak_is_the_largest(shape, change):
    plan = plan_memory(shape, replace(UNSLOTH, offload_layers=18, **change), LAPTOP)
    for phase in plan.phases:
        assert phase.bytes == sum(plan.term(name).bytes for name in phase.terms)
        assert all(plan.term(name).where == "gpu" for name in phase.terms)
    assert plan.peak_gpu_bytes == max(phase.bytes for phase in plan.phases)
    for phase in plan.host_phases:
        assert phase.bytes == sum(plan.term(name).bytes for name in phase.terms)
        assert all(plan.term(name).where == "host" for name in phase.terms)
    assert plan.peak_host_bytes == max(phase.bytes for phase in plan.host_phases)
    on_host = {name for phase in plan.host_phases for name in phase.terms}
    assert on_host == {term.name for term in plan.terms if term.where == "host"}, "a term in no phase"
    assert plan.disk_bytes == sum(term.bytes for term in plan.terms if term.where == "disk")
    used = {name for phase in plan.phases for name in phase.terms}
    apart = {"CUDA context", "display"}
    assert used | apart == {term.name for term in plan.terms if term.where == "gpu"}, "a term in no phase"
    assert all(term.formula and term.source for term in plan.terms)
    assert len({term.name for term in plan.terms}) == len(plan.terms)


def test_a_plan_leaves_free_what_it_may_be_wrong_by():
    budget = Budget(4 * GIB, 16 * GIB)
    setup = replace(UNSLOTH, offload_layers=18)
    peak = plan_memory(DEEPSEEK_6_7B, setup, budget).peak_gpu_bytes
    reserves = budget.vram_bytes - budget.usable_gpu_bytes
    assert plan_memory(DEEPSEEK_6_7B, setup, Budget(reserves + int(peak / 0.98) + 1, 16 * GIB)).fits
    just_so = plan_memory(DEEPSEEK_6_7B, setup, Budget(reserves + int(peak / 0.985), 16 * GIB))
    assert not just_so.fits and 0 < just_so.missing_gpu_bytes < 0.02 * peak


def test_an_offloaded_layer_moves_its_bytes_to_the_host():
    here = plan_memory(DEEPSEEK_6_7B, UNSLOTH, LAPTOP)
    away = plan_memory(DEEPSEEK_6_7B, replace(UNSLOTH, offload_layers=10), LAPTOP)
    moved = here.term("decoder weights").bytes - away.term("decoder weights").bytes
    statistics = away.term("offloaded layers' statistics").bytes
    assert moved == away.term("offloaded layers").bytes + statistics
    assert 0 < statistics < 0.04 * moved  # a byte for 64 weights, and tables
    assert away.term("layer slots").bytes * 5 == away.term("offloaded layers").bytes


def test_an_embedding_leaves_the_card_only_where_the_head_is_another_tensor():
    setup = replace(UNSLOTH, offload_embedding=True)
    untied = plan_memory(QWEN_7B, setup, LAPTOP)
    assert untied.term("offloaded embedding").bytes == 152064 * 3584 * 2
    tied = plan_memory(QWEN_0_5B, setup, LAPTOP)
    assert tied.term("embedding").where == "gpu"
    assert any("head too" in note for note in tied.notes)
    assert not fit(QWEN_0_5B, UNSLOTH, Budget(GIB, 16 * GIB), ["offload_embedding"]).setup.offload_embedding


def test_the_embedding_moves_before_any_layer():
    setup = replace(UNSLOTH, max_length=512)
    with_it = fit(DEEPSEEK_6_7B, setup, LAPTOP, ["offload_embedding", "offload_layers"])
    without = fit(DEEPSEEK_6_7B, setup, LAPTOP, ["offload_layers"])
    assert with_it.setup.offload_embedding
    assert with_it.setup.offload_layers < without.setup.offload_layers


def test_a_smaller_micro_batch_keeps_the_effective_batch():
    setup = TrainingSetup(per_device_train_batch_size=6, gradient_accumulation_steps=2, max_length=2048)
    result = fit(SMOLLM2, setup, LAPTOP, ["smaller_batch"])
    assert result.plan.fits
    assert result.setup.per_device_train_batch_size < 6
    assert result.setup.per_device_train_batch_size * result.setup.gradient_accumulation_steps == 12
    assert "the same effective batch" in result.steps[0]


def test_the_length_is_the_last_thing_to_go_and_not_below_512():
    setup = TrainingSetup(per_device_train_batch_size=4, gradient_accumulation_steps=8, max_length=2048)
    result = fit(SMOLLM2, setup, LAPTOP, ["shorter", "smaller_batch"])
    assert (result.setup.max_length, result.setup.per_device_train_batch_size) == (2048, 1)
    assert fit(SMOLLM2, setup, LAPTOP, ["shorter"]).setup.max_length == 1024
    hopeless = fit(QWEN_7B, setup, Budget(GIB, 16 * GIB), ["shorter", "smaller_batch"])
    assert hopeless.setup.max_length == 512
    assert not hopeless.plan.fits


def test_nothing_changes_where_it_fits_or_nothing_is_allowed():
    assert fit(QWEN_0_5B, UNSLOTH, LAPTOP, ["offload_layers", "shorter"]).steps == ()
    refused = fit(DEEPSEEK_6_7B, UNSLOTH, LAPTOP, [])
    assert (refused.setup, refused.steps, refused.plan.fits) == (UNSLOTH, (), False)


def test_without_a_card_the_same_terms_are_on_the_host():
    with_card = plan_memory(SMOLLM2, UNSLOTH, LAPTOP)
    without = plan_memory(SMOLLM2, replace(UNSLOTH, offload_layers=4), Budget(None, 16 * GIB))
    assert without.device == "host"
    assert without.peak_gpu_bytes == 0
    assert without.offload_layers == 0
    assert {term.where for term in without.terms} == {"host", "disk"}
    assert without.term("decoder weights").bytes == with_card.term("decoder weights").bytes
    outside = sum(without.term(name).bytes for name in ("process", "system", "data set", "best weights"))
    assert without.peak_host_bytes == max(phase.bytes for phase in without.phases) + outside
    assert without.fits
    assert not plan_memory(DEEPSEEK_6_7B, UNSLOTH, Budget(None, 4 * GIB)).fits
    assert fit(DEEPSEEK_6_7B, UNSLOTH, Budget(None, 4 * GIB), ["offload_layers"]).setup.offload_layers == 0


def test_too_little_host_memory_or_disk_does_not_fit():
    setup = replace(UNSLOTH, offload_layers=20)
    assert plan_memory(DEEPSEEK_6_7B, setup, LAPTOP).fits
    assert not plan_memory(DEEPSEEK_6_7B, setup, replace(LAPTOP, ram_bytes=4 * GIB)).fits
    assert not plan_memory(DEEPSEEK_6_7B, setup, replace(LAPTOP, disk_bytes=10 * GIB)).fits


def test_paged_state_and_offloaded_activations_are_counted_on_the_host():
    plain = plan_memory(DEEPSEEK_6_7B, UNSLOTH, LAPTOP)
    paged = plan_memory(DEEPSEEK_6_7B, replace(UNSLOTH, optimizer="paged_adamw_8bit"), LAPTOP)
    total = paged.term("optimizer state").bytes + paged.term("paged optimizer state").bytes
    assert total == plain.term("optimizer state").bytes
    away = plan_memory(DEEPSEEK_6_7B, replace(UNSLOTH, offload_activations=True), LAPTOP)
    assert away.term("offloaded activations").where == "host"
    assert away.peak_gpu_bytes < plain.peak_gpu_bytes


def test_json_holds_every_term():
    plan = plan_memory(SMOLLM2, UNSLOTH, LAPTOP)
    back = json.loads(json.dumps(plan.to_json()))
    assert [term["name"] for term in back["terms"]] == [term.name for term in plan.terms]
    assert back["peak_gpu_bytes"] == plan.peak_gpu_bytes
    assert back["fits"] is True


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"r": 0}, "r: must be at least 1"),
        ({"offload_layers": -1}, "offload_layers: must not be below 0"),
        ({"offload_layers": 2, "gradient_checkpointing": False}, "needs gradient_checkpointing"),
        ({"target_modules": ("q_proj", "qproj")}, r"target_modules: unknown \(got qproj\)"),
        ({"loss_chunk": 0}, "loss_chunk"),
    ],
)
def test_an_impossible_setup_is_refused(change, message):
    with pytest.raises(UsageError, match=message):
        TrainingSetup(**change)


def test_an_impossible_request_is_refused():
    with pytest.raises(UsageError, match="offload_layers: more than the model has"):
        plan_memory(SMOLLM2, replace(UNSLOTH, offload_layers=31), LAPTOP)
    with pytest.raises(UsageError, match="vram_bytes: must be above 0"):
        Budget(0, GIB)
    with pytest.raises(UsageError, match=r"hardware.allow: unknown \(got smaler_batch\)"):
        fit(SMOLLM2, UNSLOTH, LAPTOP, ["smaler_batch"])


def test_planning_imports_no_torch():
    heavy = "('torch', 'numpy', 'pydantic')"
    code = f"import sys, lowvram_ft.memory; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
