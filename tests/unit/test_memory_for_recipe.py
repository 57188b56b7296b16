"""From a recipe to a plan, and from a plan's JSON back to what is trained."""

import json
from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from lowvram_ft.hardware import Gpu, Hardware
from lowvram_ft.memory import DEFAULT_ALLOW, Budget, TrainingSetup
from lowvram_ft.memory.for_recipe import PLANNED, as_first, budget_for, plan_recipe, setup_for
from lowvram_ft.memory.table import print_plan
from lowvram_ft.recipe import Recipe, load
from lowvram_ft.training.from_plan import as_planned, load_plan

GIB = 2**30
QWEN = "Qwen/Qwen2.5-Coder-7B-Instruct"


def machine(*, vram_gib=None, ram_gib=16, name="NVIDIA GeForce RTX 3050 Laptop GPU", disk_gib=500):
    size = None if vram_gib is None else int(vram_gib * GIB)
    gpus = () if size is None else (Gpu(name, size, size, (8, 6), "580"),)
    return Hardware(
        gpus=gpus,
        no_gpu_reason=None if gpus else "none here",
        cuda_driver_version="13.0" if gpus else None,
        cpu_count=2,
        cpu_model="a CPU",
        cpu_flags=(),
        ram_total_bytes=ram_gib * GIB,
        ram_available_bytes=ram_gib * GIB,
        disk_free_bytes=disk_gib * GIB,
        platform="linux",
        python_version="3.11.7",
    )


def recipe(base=QWEN, **sections):
    return Recipe.model_validate({"model": {"base": base}, **sections})


def test_by_default_the_7b_fits_a_4_gib_laptop_and_the_engine_gets_the_plan():
    wanted = recipe()
    plan = json.loads(json.dumps(plan_recipe(wanted, machine(vram_gib=4)).to_json()))
    assert plan["fits"]
    got, loaded = as_planned(wanted, plan), load_plan(wanted, plan)
    assert (got.train.max_length, got.lora.r, got.train.optim) == (2048, 16, plan["optimizer"])
    assert loaded.head == plan["head"] == "host"
    for key in (
        "offload_layers",
        "slot_layers",
        "offload_embedding",
        "offload_activations",
        "nf4_embedding",
        "loss_chunk",
    ):
        assert getattr(loaded, key) == plan[key]
    assert loaded.offload_layers > 0
    assert loaded.vram_bytes == Budget(4 * GIB, 16 * GIB).usable_gpu_bytes


def test_what_a_plan_decides_are_fields_of_a_setup():
    assert set(PLANNED) <= set(TrainingSetup.__dataclass_fields__)


def test_another_rank_keeps_the_scale_of_lora():
    wanted = recipe(lora={"r": 64, "lora_alpha": 128}, hardware={"allow": [*DEFAULT_ALLOW, "smaller_rank"]})
    found = plan_recipe(wanted, machine(vram_gib=3.2))
    assert found.fit.plan.fits and found.fit.setup.r < 64
    got = as_planned(wanted, found.to_json())
    assert got.lora.lora_alpha / got.lora.r == 2
    later = as_first(recipe(lora={"r": 64}), found)
    assert later.lora.r == found.fit.setup.r
    assert "smaller_rank" not in later.hardware.allow


def test_checkpointing_and_batches_reach_the_trainer():
    small = recipe("smollm2-135m", train={"per_device_train_batch_size": 64, "gradient_accumulation_steps": 1})
    found = plan_recipe(small, machine(vram_gib=4))
    got = as_planned(small, found.to_json())
    assert got.train.per_device_train_batch_size == found.fit.setup.per_device_train_batch_size < 64
    assert got.train.per_device_train_batch_size * got.train.gradient_accumulation_steps == 64
    assert got.train.gradient_checkpointing == found.fit.setup.gradient_checkpointing


def test_without_a_card_only_what_a_cpu_can_do_is_planned():
    allow = ["checkpointing", "offload_layers", "offload_head", "nf4_head", "optimizer_8bit", "smaller_batch"]
    small = recipe("smollm2-135m", hardware={"allow": allow}, train={"optim": "adamw_8bit"})
    found = plan_recipe(small, machine(ram_gib=16))
    assert found.fit.time is None and found.epoch_s is None
    assert {change.lever for change in found.changes} <= {"checkpointing"}
    assert as_planned(small, found.to_json()).train.optim == "adamw_8bit", "the engine knows what a CPU steps with"


def test_the_reference_engine_is_asked_only_for_what_it_can_do():
    plain = recipe(hardware={"engine": "reference"})
    found = plan_recipe(plain, machine(vram_gib=12))
    assert found.fit.plan.fits
    assert not found.fit.setup.offload_layers and not found.fit.setup.offload_activations
    assert found.fit.setup.loss_chunk is None
    assert not plan_recipe(plain, machine(vram_gib=4)).fit.plan.fits


def test_torchs_adamw_is_not_stepped_on_the_host():
    wanted = recipe(
        train={"optim": "adamw_torch"}, hardware={"allow": ["offload_layers", "offload_head", "offload_optimizer"]}
    )
    found = plan_recipe(wanted, machine(vram_gib=4))
    assert (found.fit.setup.optimizer, found.fit.setup.offload_optimizer) == ("adamw_torch", False)


def test_the_speed_is_that_of_this_machines_card_where_the_table_has_it():
    at_home = plan_recipe(recipe(), machine(vram_gib=4, name="NVIDIA GeForce GTX 1650"))
    assert at_home.fit.time.card == "GTX 1650"
    unknown = plan_recipe(recipe(), machine(vram_gib=4, name="NVIDIA Something 9000"))
    assert unknown.fit.time.card == "RTX 3050 Laptop"


def test_an_epoch_is_counted_in_steps_of_the_effective_batch():
    found = plan_recipe(recipe(data={"max_rows": 1000, "eval_share": 0.1}), machine(vram_gib=4))
    assert found.rows == 900
    assert found.epoch_s == pytest.approx(57 * found.fit.time.step_s)  # 900 / 16, rounded up
    assert plan_recipe(recipe(), machine(vram_gib=4)).epoch_s is None


def test_a_training_is_counted_in_epochs_or_in_its_own_steps():
    data = {"max_rows": 1000, "eval_share": 0.1}
    half = plan_recipe(recipe(data=data, train={"num_train_epochs": 0.5}), machine(vram_gib=4))
    assert half.train_s == pytest.approx(0.5 * half.epoch_s)
    assert half.to_json()["train_s"] == half.train_s
    steps = plan_recipe(recipe(data=data, train={"max_steps": 300, "num_train_epochs": 0.5}), machine(vram_gib=4))
    assert steps.train_s == pytest.approx(300 * steps.fit.time.step_s)
    unknown = recipe(train={"max_steps": 300})
    assert plan_recipe(unknown, machine(vram_gib=4)).train_s == steps.train_s
    assert plan_recipe(recipe(), machine(vram_gib=4)).train_s is None
    assert "300 steps take" in _printed(steps)
    assert "0.5 epochs of 900 rows take" in _printed(half)
    assert "an epoch of 900 rows takes" in _printed(plan_recipe(recipe(data=data), machine(vram_gib=4)))


def _printed(found):
    console = Console(width=200, file=StringIO())
    print_plan("a", found, console)
    return console.file.getvalue()


def test_a_file_that_a_run_will_want_is_missed_in_the_plan(tmp_path):
    rows = tmp_path / "rows.jsonl"
    wanted = recipe(data={"source": "failure_traces", "path": str(rows)})
    (note,) = plan_recipe(wanted, machine(vram_gib=4)).notes
    assert note == f"data.path: {rows} is not there; a run wants it before its first stage"
    rows.write_text("")
    assert plan_recipe(wanted, machine(vram_gib=4)).notes == ()


@pytest.mark.parametrize(
    ("here", "expected"),
    [
        ({"vram_gib": 4, "ram_gib": 16}, (4, 16)),
        ({"vram_gib": 3, "ram_gib": 8}, (3, 8)),  # less of both: as WSL shows it, or an older card
        ({"vram_gib": 24, "ram_gib": 64}, (4, 16)),
        ({"ram_gib": 8}, (4, 16)),  # nothing can be trained here: the plan is about the recipe's machine
    ],
)
def test_a_recipes_sizes_are_bounds_where_it_can_be_trained(here, expected):
    wanted = recipe(hardware={"vram_gib": 4.0, "ram_gib": 16.0, "require_gpu": True})
    budget = budget_for(wanted, machine(**here), {})
    assert (budget.vram_bytes, budget.ram_bytes) == tuple(size * GIB for size in expected)
    asked = budget_for(wanted, machine(**here), {"ram_bytes": 12 * GIB})
    assert asked.ram_bytes == 12 * GIB


def test_a_recipe_for_a_cpu_is_bounded_too():
    wanted = recipe(hardware={"ram_gib": 16.0, "vram_gib": 4.0})
    assert budget_for(wanted, machine(ram_gib=8), {}) == budget_for(recipe(), machine(ram_gib=8), {})
    assert budget_for(wanted, machine(ram_gib=32), {}).ram_bytes == 16 * GIB


def test_a_disk_that_is_short_is_told_but_refuses_nothing():
    short = plan_recipe(recipe(), machine(vram_gib=4, disk_gib=3))
    assert short.fit.plan.fits
    assert any("3.0 GiB of disk are free" in note for note in short.notes)
    assert plan_recipe(recipe(), machine(vram_gib=4)).notes == ()
    assert plan_recipe(recipe(), machine(disk_gib=3), {"vram_bytes": 4 * GIB}).notes == (), "another machine's disk"


def test_a_recipe_for_the_reference_engine_keeps_its_own_loss():
    fused, eager = setup_for(recipe(), on_gpu=True), setup_for(recipe(hardware={"engine": "reference"}), on_gpu=True)
    assert (fused.kernels, fused.loss_chunk) == ("fused", 256)
    assert replace(fused, kernels="eager", loss_chunk=None) == eager


@pytest.mark.parametrize(
    ("overrides", "count"),
    [
        ((), 0),
        (("train.method=dpo",), 1),
        (("train.method=rft", "preference.rounds=3", "preference.held_out_tasks=9"), 2),
        (("train.method=dpo", "preference.rounds=3"), 1),
        (("train.method=dpo", "preference.pairs=mine.jsonl"), 0),
        (("train.method=dpo", "preference.url=http://localhost:1/v1"), 0),
        (("train.method=dpo", "eval.after_each_stage=true"), 2),
    ],
)
def test_the_disk_holds_the_models_that_answer(overrides, count):
    plan = plan_recipe(load("stage_a_kodcode", overrides).final, machine(vram_gib=4)).fit.plan
    found = [term.bytes for term in plan.terms if term.name == "more GGUFs"]
    one = 6_740_512_768 * 4.9 / 8
    assert len(found) == (count > 0) and sum(found) == pytest.approx(count * one, rel=1e-6)
    assert plan.disk_bytes == sum(term.bytes for term in plan.terms if term.where == "disk")
