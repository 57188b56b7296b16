"""Recipes: those that ship, the layers, and what a user is told of every mistake."""

import json
import tomllib
from pathlib import Path

import pytest

from lowvram_ft import models
from lowvram_ft.errors import RecipeError
from lowvram_ft.hardware import Gpu, Hardware
from lowvram_ft.memory.for_recipe import plan_recipe
from lowvram_ft.recipe import LORA_TARGETS, SECTIONS, Recipe, find, load, recipes_dir, shipped_recipes

GIB = 2**30
CARD = Gpu("NVIDIA GeForce RTX 3050 Laptop GPU", 4 * GIB, 4 * GIB, (8, 6), "560.35")
LAPTOP = Hardware(
    gpus=(CARD,),
    no_gpu_reason=None,
    cuda_driver_version="12.6",
    cpu_count=8,
    cpu_model="a CPU",
    cpu_flags=("avx2",),
    ram_total_bytes=16 * GIB,
    ram_available_bytes=14 * GIB,
    disk_free_bytes=100 * GIB,
    platform="linux",
    python_version="3.11.7",
)
SHIPPED = shipped_recipes()
EXPECTED = {
    "demo", "stage_a_kodcode", "stage_b_testgeneval", "stage_c_failure_traces", "coderm_unittest", "pilot",
    "testing_agent", "stage_d_preference", "demo_preference",
}  # fmt: skip


def write(folder: Path, **files: str) -> Path:
    """Recipes by name; the last one's path."""
    path = folder
    for name, text in files.items():
        path = folder / f"{name}.toml"
        path.write_text(text, encoding="utf-8")
    return path


def problems(path: Path | str, *overrides: str) -> list[str]:
    """What is wrong with a recipe, without the folder."""
    with pytest.raises(RecipeError) as caught:
        load(str(path), overrides)
    assert caught.value.exit_code == 2
    assert str(caught.value).splitlines() == list(caught.value.problems)
    folder = f"{Path(path).parent}/" if isinstance(path, Path) else "\0"
    return [line.replace(folder, "") for line in caught.value.problems]


# --- the recipes that ship


def test_every_recipe_of_the_design_ships_and_facts_are_no_recipe():
    assert {path.stem for path in SHIPPED} >= EXPECTED
    assert "models" not in {path.stem for path in SHIPPED}
    with pytest.raises(RecipeError, match="no such recipe"):
        find("models")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_recipe_resolves_by_its_name_and_by_its_path(path):
    by_name, by_path = load(path.stem), load(str(path))
    assert by_name.digest() == by_path.digest()
    assert by_name.stages
    for stage in by_name.stages:
        assert stage.recipe.description
        assert {key.partition(".")[0] for key in stage.origin} >= set(SECTIONS)
    json.dumps(by_name.to_json(), allow_nan=False)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_recipe_fits_the_laptop_or_says_what_would(path):
    for stage in load(str(path)).stages:
        plan = plan_recipe(stage.recipe, LAPTOP)
        assert plan.fit.plan.fits == (plan.fit.nearest is None)
        assert plan.fit.plan.fits, plan.fit.nearest
        assert plan.fit.plan.peak_gpu_bytes <= 4 * GIB
        json.dumps(plan.to_json(), allow_nan=False)


def test_a_recipe_that_cannot_fit_says_the_nearest_that_would(tmp_path):
    path = write(tmp_path, big='[model]\nbase = "Qwen/Qwen2.5-Coder-7B-Instruct"\n[hardware]\nallow = []\n')
    plan = plan_recipe(load(str(path)).final, LAPTOP)
    assert not plan.fit.plan.fits
    assert plan.fit.nearest


def test_a_smaller_model_is_planned_only_where_it_is_allowed(tmp_path):
    text = '[model]\nbase = "Qwen/Qwen2.5-Coder-7B-Instruct"\nfallbacks = ["Qwen/Qwen2.5-Coder-0.5B-Instruct"]\n'
    path = write(tmp_path, big=text + '[hardware]\nallow = ["offload_layers", "smaller_model"]\n')
    plan = plan_recipe(load(str(path)).final, LAPTOP)
    assert plan.model.id == "Qwen/Qwen2.5-Coder-0.5B-Instruct"
    assert any("7B-Instruct does not fit" in change.text for change in plan.changes)
    assert plan.cost == "a different training"
    plan = plan_recipe(load(str(path), ['hardware.allow=["offload_layers"]']).final, LAPTOP)
    assert plan.model.id == "Qwen/Qwen2.5-Coder-7B-Instruct"
    assert not plan.fit.plan.fits


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_base_models_of_a_shipped_recipe_are_known_without_a_download(path):
    for stage in load(str(path)).stages:
        for base in (stage.recipe.model.base, *stage.recipe.model.fallbacks):
            assert models.resolve(base).config is not None


def assert_common(recipe: Recipe) -> None:
    """What the design asks of every stage that trains on the laptop."""
    assert recipe.quantization.load_in_4bit
    assert recipe.quantization.bnb_4bit_quant_type == "nf4"
    assert recipe.quantization.bnb_4bit_use_double_quant
    assert (recipe.lora.r, recipe.lora.lora_alpha, recipe.lora.lora_dropout) == (16, 32, 0.05)
    assert set(recipe.lora.target_modules) == {f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")}
    assert recipe.train.max_length == 2048
    effective = recipe.train.per_device_train_batch_size * recipe.train.gradient_accumulation_steps
    assert 16 <= effective <= 32
    assert recipe.train.early_stopping_patience is not None
    assert recipe.hardware.vram_gib == 4.0
    assert recipe.hardware.ram_gib == 16.0


def assert_stage_a(recipe: Recipe) -> None:
    assert_common(recipe)
    assert (recipe.data.source, recipe.data.hub_id) == ("kodcode", "KodCode/KodCode-V1-SFT-R1")
    assert 30_000 <= recipe.data.max_rows <= 50_000
    assert (recipe.train.learning_rate, recipe.train.num_train_epochs) == (2e-4, 1.0)
    assert recipe.train.warmup_steps == 0.03
    assert recipe.train.max_steps is None


def assert_stage_b(recipe: Recipe) -> None:
    assert_common(recipe)
    assert (recipe.data.source, recipe.data.hub_id) == ("testgeneval", "kjain14/testgeneval")
    assert recipe.data.split == "train"
    assert recipe.train.learning_rate == 1e-4
    assert 0.5 <= recipe.train.num_train_epochs <= 1.0
    assert recipe.train.warmup_steps == 0.03


def assert_stage_c(recipe: Recipe) -> None:
    assert_common(recipe)
    assert recipe.data.source == "failure_traces"
    assert recipe.data.path is not None
    assert recipe.train.learning_rate == 5e-5
    assert 100 <= recipe.train.max_steps <= 900
    assert recipe.train.warmup_steps == 0.03


def assert_coderm(recipe: Recipe) -> None:
    assert recipe.quantization.load_in_4bit and recipe.quantization.bnb_4bit_use_double_quant
    assert (recipe.data.source, recipe.data.hub_id) == ("coderm", "KAKA22/CodeRM-UnitTest")
    assert (recipe.data.eval_share, recipe.data.test_share) == (0.1, 0.1)
    assert 8 <= recipe.lora.r <= 16
    assert 1e-5 <= recipe.train.learning_rate <= 2e-5
    assert 0.03 <= recipe.train.warmup_steps <= 0.05
    assert recipe.train.per_device_train_batch_size in (1, 2)
    assert 1 <= recipe.train.num_train_epochs <= 3
    assert recipe.train.max_steps is None


def test_stage_a_is_as_the_design_says():
    assert_stage_a(load("stage_a_kodcode").final)


def test_stage_b_is_as_the_design_says():
    assert_stage_b(load("stage_b_testgeneval").final)


def test_stage_c_is_as_the_design_says():
    assert_stage_c(load("stage_c_failure_traces").final)


def test_stage_d_learns_preferences():
    assert_stage_d(load("stage_d_preference").final)


@pytest.mark.parametrize("method", ["dpo", "rft"])
def test_the_demo_of_preferences_continues_the_demo(method):
    demo, stages = load("demo"), load("demo_preference", [f"train.method={method}"]).stages
    assert [stage.recipe.train.method for stage in stages] == [method]
    (recipe,) = [stage.recipe for stage in stages]
    assert recipe.model.adapter == f"runs/demo/stages/{demo.stages[-1].name}/adapter"
    same = ("model.base", "export.quant", "export.n_ctx", "quantization.load_in_4bit", "lora.r", "lora.lora_alpha")
    for key in same:
        section, name = key.split(".")
        assert getattr(getattr(recipe, section), name) == getattr(getattr(demo.final, section), name), key
    # what was found to work for it
    preference = recipe.preference
    assert (preference.max_pairs_per_task, preference.max_winners_per_task) == (6, 4)
    assert (preference.winning_score, preference.max_length_bias, recipe.train.learning_rate) == (0.3, 1.05, 1e-4)


def test_coderm_is_as_the_masterplan_says():
    recipe = load("coderm_unittest").final
    assert_coderm(recipe)
    assert recipe.data.max_rows == 20_000


def test_the_pilot_is_the_coderm_plan_with_a_few_hundred_rows_and_one_epoch():
    pilot, plan = load("pilot").final, load("coderm_unittest").final
    assert_coderm(pilot)
    assert 200 <= pilot.data.max_rows <= 900
    assert pilot.train.num_train_epochs == 1.0
    assert pilot.lora == plan.lora
    assert pilot.train.learning_rate == plan.train.learning_rate


def assert_stage_d(recipe: Recipe) -> None:
    assert recipe.quantization.load_in_4bit and recipe.quantization.bnb_4bit_use_double_quant
    assert (recipe.train.method, recipe.train.loss_type, recipe.train.beta) == ("dpo", "sigmoid", 0.1)
    assert 5e-7 <= recipe.train.learning_rate <= 5e-5
    assert recipe.preference.winning_score == 0.5
    assert {"standard_library", "installed"} <= set(recipe.preference.tasks)


def test_the_pipeline_is_a_then_b_then_c_then_d():
    stages = load("testing_agent").stages
    assert [stage.name for stage in stages] == ["a", "b", "c", "d"]
    checks = (assert_stage_a, assert_stage_b, assert_stage_c, assert_stage_d)
    for stage, check in zip(stages, checks, strict=True):
        check(stage.recipe)
    assert all(stage.recipe.eval.after_each_stage for stage in stages)
    assert stages[1].recipe.train.num_train_epochs == 0.5
    assert stages[1].origin["train.num_train_epochs"] == "testing_agent.toml [[stages]] 2"


@pytest.mark.parametrize(
    "change",
    [
        "train.learning_rate=1e-4", "lora.lora_dropout=0.0", "quantization.bnb_4bit_use_double_quant=false",
        "data.max_rows=100", "train.gradient_accumulation_steps=4", "train.warmup_steps=0.1",
    ],
)  # fmt: skip
def test_another_value_than_the_designs_would_be_noticed(change):
    with pytest.raises(AssertionError):
        assert_stage_a(load("stage_a_kodcode", [change]).final)


def test_the_demo_chains_functions_modules_and_traces_of_the_embedded_model():
    stages = load("demo").stages
    assert [stage.recipe.data.subset for stage in stages] == ["functions", "modules", "traces"]
    assert {stage.recipe.model.base for stage in stages} == {"smollm2-135m"}
    assert {stage.recipe.data.source for stage in stages} == {"samples"}
    assert not any(stage.recipe.hardware.require_gpu for stage in stages)


def test_the_gates_are_the_designs_by_default():
    recipe = Recipe()
    assert (recipe.bench.gate_s, recipe.eval.gate_pass_rate, recipe.eval.gate_mutation_score) == (10.0, 0.8, 0.5)
    assert recipe.export.quant == "Q4_K_M"
    assert recipe.lora.target_modules == LORA_TARGETS


def test_recipes_are_found_beside_the_checkout():
    assert recipes_dir().is_dir()
    assert (recipes_dir() / "models.toml").is_file()


# --- layers


def test_a_recipe_of_the_name_of_its_base_models_export_is_refused(tmp_path):
    path = write(tmp_path, base="[train]\nseed = 1\n")
    assert path.name == "base.toml"
    with pytest.raises(RecipeError, match="its exports would have the names of its base model's"):
        load(str(path))


def test_the_later_layer_wins_key_by_key_and_each_value_says_where_it_came_from(tmp_path):
    path = write(
        tmp_path,
        base='[train]\nlearning_rate = 1e-3\nmax_length = 512\nseed = 3\n[data]\nsource = "kodcode"\n',
        child='extends = "base.toml"\n[train]\nmax_length = 256\n',
        pipe='[train]\nseed = 4\n[[stages]]\nrecipe = "child.toml"\ntrain.max_length = 128\n[[stages]]\nname = "two"\n',
    )
    one, two = load(str(path), ["train.learning_rate=2e-3", "data.max_rows = 9"]).stages
    assert (one.name, two.name) == ("child", "two")
    assert one.recipe.train.learning_rate == 2e-3
    assert (one.recipe.train.max_length, one.recipe.train.seed, one.recipe.data.source) == (128, 4, "kodcode")
    assert one.recipe.data.max_rows == two.recipe.data.max_rows == 9
    assert (two.recipe.train.max_length, two.recipe.data.source) == (2048, "samples")
    origin = {key: one.origin[f"train.{key}"] for key in ("learning_rate", "max_length", "seed", "optim")}
    assert origin == {
        "learning_rate": "--set",
        "max_length": "pipe.toml [[stages]] 1",
        "seed": "pipe.toml",
        "optim": "default",
    }
    assert one.origin["data.source"] == "base.toml"


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        ('data.path="a b.jsonl"', "a b.jsonl"), ("data.path=rows.jsonl", "rows.jsonl"), ("data.path=a=b", "a=b"),
        ("data.max_rows=7", 7), ("data.eval_share=0.25", 0.25), ("quantization.load_in_4bit=false", False),
        ('model.fallbacks=["x/y"]', ("x/y",)), (" train.warmup_steps = 1e-2", 0.01),
    ],
)  # fmt: skip
def test_set_reads_toml_values_and_bare_words(raw, value):
    section, _, key = raw.partition("=")[0].strip().partition(".")
    recipe = load("demo", [raw]).final
    assert getattr(getattr(recipe, section), key) == value


def test_the_digest_follows_values_and_not_their_origin(tmp_path):
    written = write(tmp_path, a="[train]\nseed = 5\n")
    other = write(tmp_path, b="[data]\n")
    assert load(str(written)).stages[0].recipe == load(str(other), ["train.seed=5"]).stages[0].recipe
    renamed = tmp_path / "sub"
    renamed.mkdir()
    same = write(renamed, a="")
    assert load(str(written)).digest() == load(str(same), ["train.seed=5"]).digest()
    assert load(str(written)).digest() != load(str(written), ["train.seed=6"]).digest()


def test_a_recipe_cannot_be_changed_once_it_is_read():
    with pytest.raises(ValueError, match="frozen"):
        load("demo").final.train.learning_rate = 1.0


def test_an_own_recipe_goes_before_a_shipped_one_of_the_same_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("demo.toml").write_text("[train]\nseed = 77\n")
    assert load("demo.toml").final.train.seed == 77
    assert len(load("demo").stages) == 3


# --- what a user is told


GOLDEN = {
    "misspelt key": (
        "[train]\nlearnin_rate = 1e-4\n",
        "train.learnin_rate: unknown setting; did you mean train.learning_rate?",
    ),
    "key of another section": (
        "[data]\nmax_length = 9\n",
        "data.max_length: unknown setting; did you mean train.max_length?",
    ),
    "key without a section": (
        "learning_rate = 1e-4\n",
        "learning_rate: unknown setting; did you mean train.learning_rate?",
    ),
    "misspelt section": ("[trian]\nseed = 1\n", "trian: unknown setting; did you mean train?"),
    "unheard-of section": (
        "[zzz]\nq = 1\n",
        "zzz: unknown setting; the sections are model, data, quantization, lora, preference, train, hardware, export, "
        "bench, eval",
    ),
    "unheard-of key": (
        "[quantization]\nzzz = 1\n",
        "quantization.zzz: unknown setting; [quantization] has: "
        "load_in_4bit, bnb_4bit_quant_type, bnb_4bit_use_double_quant",
    ),
    "number as a string": (
        '[train]\nlearning_rate = "2e-4"\n',
        "train.learning_rate: input should be a valid number (got '2e-4')",
    ),
    "whole number as a string": ('[lora]\nr = "16"\n', "lora.r: input should be a valid integer (got '16')"),
    "yes": (
        '[quantization]\nload_in_4bit = "yes"\n',
        "quantization.load_in_4bit: input should be a valid boolean (got 'yes')",
    ),
    "negative": ("[train]\nlearning_rate = -1.0\n", "train.learning_rate: input should be greater than 0 (got -1.0)"),
    "not a number": (
        "[train]\nlearning_rate = nan\n",
        "train.learning_rate: input should be a finite number (got nan)",
    ),
    "endless": ("[train]\nlearning_rate = inf\n", "train.learning_rate: input should be a finite number (got inf)"),
    "unknown word": (
        '[data]\nsource = "kodcod"\n',
        "data.source: input should be 'samples', 'kodcode', 'testgeneval', 'coderm', 'failure_traces', 'repository' or "
        "'winners' (got 'kodcod')",
    ),
    "train and eval overlap": (
        '[data]\nsource = "kodcode"\npath = "rows.jsonl"\n[eval]\nsuites = ["samples", "jsonl:./rows.jsonl"]\n',
        "data.path, eval.suites: ./rows.jsonl is both trained on and evaluated on; use different files",
    ),
    "evaluation split": (
        '[data]\nsource = "testgeneval"\nsplit = "dev"\n',
        'data.split: "dev" of testgeneval is an evaluation split and must never reach training; use split = "train"',
    ),
    "subset of a hub source": (
        '[data]\nsource = "kodcode"\nsubset = "traces"\n',
        'data.subset: only with source = "samples" (source is "kodcode"); remove it',
    ),
    "unknown suite": (
        '[eval]\nsuites = ["humanevil"]\n',
        'eval.suites: unknown suite "humanevil"; use samples, humaneval, testgeneval[:PATH], '
        "self_correction[:PATH] or jsonl:PATH",
    ),
    "suite without its path": (
        '[eval]\nsuites = ["jsonl:"]\n',
        'eval.suites: unknown suite "jsonl:"; use samples, humaneval, testgeneval[:PATH], '
        "self_correction[:PATH] or jsonl:PATH",
    ),
    "other schema": ("schema_version = 2\n", "schema_version: input should be 1 (got 2)"),
    "missing extends": (
        'extends = "gone.toml"\n',
        "extends: no such file (gone.toml); name a recipe beside this one, or one that ships with the kit",
    ),
    "stages not a list": ('stages = "a"\n', "stages: is not a list of tables; write [[stages]] once for each stage"),
    "stages a table": (
        '[stages]\nname = "a"\n',
        "stages: is not a list of tables; write [[stages]] once for each stage",
    ),
    "no stages": ("stages = []\n", "stages: is not a list of tables; write [[stages]] once for each stage"),
    "duplicate stage names": (
        '[[stages]]\nname = "a"\n[[stages]]\nname = "a"\ntrain.seed = 2\n',
        "stages: the name a is used twice; give each a name",
    ),
    "stage recipe missing": (
        '[[stages]]\nrecipe = "gone.toml"\n',
        "stages[1].recipe: no such file (gone.toml); name a recipe beside this one, or one that ships with the kit",
    ),
    "not TOML": (
        "[train\n",
        "is not valid TOML (Expected ']' at the end of a table declaration (at line 1, column 7)); mend that line",
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_a_mistake_is_told_in_one_line(tmp_path, name):
    text, line = GOLDEN[name]
    path = write(tmp_path, r=text)
    assert problems(path) == [f"r.toml: {line}"]


def test_every_problem_of_a_recipe_is_told_at_once(tmp_path):
    path = write(
        tmp_path,
        r='[train]\nlearnin_rate = 1\nseed = -1\n[lora]\nr = 0\n[eval]\nsuites = ["x"]\n'
        '[data]\nsource = "testgeneval"\nsplit = "test"\n',
    )
    found = problems(path, "lora.alpha=3", "nonsense")
    assert len(found) == 7
    for word in (
        "train.learnin_rate",
        "train.seed",
        "lora.r",
        "eval.suites",
        "data.split",
        "lora.alpha",
        "--set nonsense",
    ):
        assert sum(word in line for line in found) == 1, word


def test_a_problem_is_told_once_even_where_every_stage_has_it(tmp_path):
    path = write(tmp_path, r='[train]\nsede = 1\n[[stages]]\nname = "a"\n[[stages]]\nname = "b"\n')
    assert problems(path) == ["r.toml: train.sede: unknown setting; did you mean train.seed?"]


def test_a_problem_names_the_file_that_it_is_in(tmp_path):
    path = write(tmp_path, base="[train]\nsede = 1\n", child='extends = "base.toml"\n[train]\nseed = "1"\n')
    assert problems(path) == [
        "child.toml: train.seed: input should be a valid integer (got '1')",
        "base.toml: train.sede: unknown setting; did you mean train.seed?",
    ]


@pytest.mark.parametrize("name", ["stage_a_kodcode.toml", "stage_a_kodcode"])
def test_a_recipe_anywhere_extends_one_that_ships_unless_one_of_that_name_is_beside_it(tmp_path, name):
    path = write(tmp_path, mine=f'extends = "{name}"\n[train]\nmax_length = 256\n')
    (stage,) = load(str(path)).stages
    assert (stage.recipe.data.source, stage.recipe.train.max_length) == ("kodcode", 256)
    assert stage.origin["data.source"] == "stage_a_kodcode.toml"
    (tmp_path / name).write_text('[data]\nsource = "coderm"\n')
    (stage,) = load(str(path)).stages
    assert stage.recipe.data.source == "coderm"


def test_a_pipeline_anywhere_takes_stages_that_ship(tmp_path):
    path = write(tmp_path, pipe='[[stages]]\nrecipe = "stage_a_kodcode.toml"\n[[stages]]\nrecipe = "gone.toml"\n')
    assert problems(path) == [
        "pipe.toml: stages[2].recipe: no such file (gone.toml); name a recipe beside this one, "
        "or one that ships with the kit"
    ]


def test_only_one_level_of_extends_is_read(tmp_path):
    path = write(tmp_path, a="", b='extends = "a.toml"\n', c='extends = "b.toml"\n')
    assert problems(path) == ["c.toml: extends: b.toml extends another recipe itself; one level only"]
    assert load(str(tmp_path / "b.toml")).stages


@pytest.mark.parametrize("item", ["train", "train.seed", "seed=1", ".seed=1", "train.=1", "=1", ""])
def test_a_bad_set_says_how_it_is_written(item):
    assert problems("demo", item) == [f"--set {item}: is not section.key=value; for example --set train.max_steps=20"]


def test_a_wrong_value_in_set_is_told_as_such():
    assert problems("demo", "train.seed=many") == ["--set: train.seed: input should be a valid integer (got 'many')"]
    assert problems("demo", "train.sede=1") == ["--set: train.sede: unknown setting; did you mean train.seed?"]


def test_what_one_stage_trains_on_no_other_stage_is_evaluated_on(tmp_path):
    rows = tmp_path / "rows.jsonl"
    text = (
        f'[eval]\nsuites = ["jsonl:{rows}"]\n'
        f'[[stages]]\nname = "a"\ndata.source = "kodcode"\ndata.path = "{rows}"\neval.suites = ["samples"]\n'
        '[[stages]]\nname = "b"\n'
    )
    assert problems(write(tmp_path, pipe=text)) == [
        "pipe.toml: data.path, eval.suites: rows.jsonl is both trained on and evaluated on; use different files"
    ]
    apart = text.replace(f'data.path = "{rows}"', 'data.path = "other.jsonl"')
    assert len(load(str(write(tmp_path, pipe=apart))).stages) == 2


def test_an_unknown_recipe_is_answered_with_those_that_ship():
    found = problems("stage_z")
    assert found[0].startswith("stage_z: no such recipe; give the path of a .toml file, or one of: ")
    for name in EXPECTED:
        assert name in found[0]


def test_text_that_is_no_utf8_is_told_as_such(tmp_path):
    path = tmp_path / "r.toml"
    path.write_bytes(b'description = "\xff"\n')
    assert problems(path) == ["r.toml: is not UTF-8 text (invalid start byte at byte 15); save it as UTF-8"]


def test_the_facts_about_base_models_are_toml_that_python_reads():
    facts = tomllib.loads((recipes_dir() / "models.toml").read_text())
    assert set(facts["aliases"].values()) <= set(facts["models"])
