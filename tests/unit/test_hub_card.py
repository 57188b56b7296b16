"""Model cards: what the hub reads in them, what people read, and what nobody may."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

import gguf_export
from lowvram_ft.errors import ModelError, UsageError
from lowvram_ft.hub.card import is_edited, is_empty, is_ours, signed
from lowvram_ft.hub.names import local_path_in, public_base, withheld
from lowvram_ft.hub.parts import Choices
from lowvram_ft.hub.push import Push, plan_push
from lowvram_ft.recipe import load
from tests.gguf_models import make_adapter
from tests.hub_runs import make_run

Made = Callable[..., Push]


@pytest.fixture(scope="module")
def parts(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An adapter and a GGUF."""
    folder = tmp_path_factory.mktemp("parts")
    adapter = make_adapter(tiny_llama, folder / "adapter")
    return adapter, gguf_export.export(tiny_llama, adapter, folder / "x-F16.gguf", quant="F16").path


@pytest.fixture
def made(parts: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    """What would be pushed of a run by a recipe."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    def plan(
        recipe: str | Path = "demo", *overrides: str, base: str = "smollm2-135m", choices: Choices | None = None
    ) -> Push:
        run = make_run(tmp_path / "acme-secret" / "run", *parts, recipe=recipe, overrides=overrides, base=base)
        return plan_push(run, "me/tests", choices or Choices(), dry_run=True)

    return plan


def test_the_hubs_own_client_reads_the_metadata(made: Made) -> None:
    card = ModelCard(made().card)
    data = card.data.to_dict()
    assert data["base_model"] == "HuggingFaceTB/SmolLM2-135M-Instruct" and data["base_model_relation"] == "adapter"
    assert data["license"] == "apache-2.0" and data["library_name"] == "peft" and data["language"] == ["en", "code"]
    assert {"lowvram-ft", "peft", "lora", "gguf", "pytest", "sft"} <= set(data["tags"])
    results = {(result.dataset_name, result.metric_type): result for result in card.data.eval_results}
    passes = results["samples (held-out tasks that ship with lowvram-ft)", "passes"]
    assert passes.metric_value == 0.5 and passes.metric_name == "whole files passing"
    assert passes.metric_args["confidence_interval"] == [0.3, 0.7] and passes.metric_args["tasks"] == 20
    assert ("samples (held-out tasks that ship with lowvram-ft)", "mutation_score") in results
    # written anew by the client, nothing is lost
    again = ModelCard(str(card))
    assert again.data.to_dict() == data and again.text == card.text


def test_what_people_read(made: Made) -> None:
    text = made().card
    for wanted in (
        "ollama run hf.co/me/tests:F16",
        "llama-server -hf me/tests:F16",
        "--enable-lora --max-lora-rank 8 --lora-modules adapter=me/tests",
        'PeftModel.from_pretrained(model, "me/tests")',
        "lowvram-ft export --base HuggingFaceTB/SmolLM2-135M-Instruct --adapter me/tests",
        "### Code Under Test:",
        "| whole files passing | 25.0 % (5–45) | 50.0 % (30–70) | +10 to +40: better |",
        "3.4 s at the 95th percentile, of 8 prompts",
        "KL divergence 0.0011",
        "**missed**",
        "torch 2.13.0",
        "lowvram-ft run demo\n",
    ):
        assert wanted in text, wanted


@pytest.mark.parametrize(
    ("recipe", "base", "licence"),
    [
        ("stage_a_kodcode", "Qwen/Qwen2.5-Coder-7B-Instruct", "cc-by-nc-4.0"),
        ("stage_a_kodcode", "deepseek-ai/deepseek-coder-6.7b-instruct", "deepseek-license-and-cc-by-nc-4.0"),
        ("coderm_unittest", "Qwen/Qwen2.5-Coder-3B-Instruct", "qwen-research"),
    ],
)
def test_the_licence_comes_from_base_and_data(made: Made, recipe: str, base: str, licence: str) -> None:
    push = made(recipe, base=base)
    data = ModelCard(push.card).data
    assert (data.license_name if data.license == "other" else data.license) == licence
    assert "**No commercial use**" in push.card and "no commercial use; the card says so" in " ".join(push.notes)
    assert data.license != "other" or data.license_link.startswith("https://")


def test_a_licence_that_allows_more_than_a_part_is_refused(made: Made) -> None:
    with pytest.raises(UsageError, match=r"--licence apache-2\.0: a part asks for more \(CC-BY-NC-4\.0\)"):
        made("stage_a_kodcode", base="Qwen/Qwen3-0.6B", choices=Choices(licence="apache-2.0"))


def test_public_data_is_named_in_the_metadata(made: Made) -> None:
    push = made("stage_a_kodcode", base="Qwen/Qwen3-0.6B")
    assert ModelCard(push.card).data.datasets == ["KodCode/KodCode-V1-SFT-R1"]


OWN = """
schema_version = 1
description = "the billing of acme-secret"

[model]
base = "Qwen/Qwen3-0.6B"

[[stages]]
name = "acme-secret-billing"
data.source = "repository"
data.path = "/home/jane/acme-secret/rows.jsonl"
eval.suites = ["samples", "jsonl:/home/jane/acme-secret/tasks.jsonl"]
eval.repos = "/home/jane/acme-secret/repos"
export.ollama = "acme-secret"

[[stages]]
name = "acme-secret-more"
data.source = "kodcode"
data.hub_id = "acme-secret/rows"
eval.suites = ["samples", "jsonl:/home/jane/acme-secret/tasks.jsonl"]
preference.url = "http://acme-secret.lan:8000"
"""


def test_nothing_private_of_a_run_gets_out(made: Made, tmp_path: Path) -> None:
    recipe = tmp_path / "acme-secret.toml"
    recipe.write_text(OWN, encoding="utf-8")
    push = made(recipe, base="Qwen/Qwen3-0.6B")
    sent = [file.content or Path(str(file.path)).read_bytes() for file in push.files]
    names = [file.name for file in push.files]
    assert names == ["README.md", "adapter_config.json", "adapter_model.safetensors", "tests-F16.gguf", *names[4:]]
    assert set(names[4:]) == {"template", "params"}
    for name, content in zip(names, sent, strict=True):
        for secret in (b"acme-secret", b"jane", b"secret_of_the_company", str(tmp_path).encode(), b"/home/"):
            assert secret not in content, (name, secret)
    assert not re.search(r"acme-secret|jane|/home/|secret_of", json.dumps(push.to_json()))
    assert "files of the author's own (repository)" in push.card and "PLACEHOLDER" in push.card
    assert "tasks of the author's own: 20 tasks" in push.card
    assert ModelCard(push.card).data.license == "cc-by-nc-4.0"


def test_a_model_of_ones_own_files_is_not_public_without_a_word(made: Made, tmp_path: Path) -> None:
    recipe = tmp_path / "own.toml"
    recipe.write_text(OWN, encoding="utf-8")
    with pytest.raises(UsageError, match="was trained on files of your own, and a model can repeat what it has seen"):
        made(recipe, base="Qwen/Qwen3-0.6B", choices=Choices(public=True))


def test_the_command_of_the_card_repeats_the_run(made: Made, tmp_path: Path) -> None:
    text = made("demo", "train.seed=7", 'export.quant="Q8_0"').card
    assert "lowvram-ft run demo --set 'export.quant=\"Q8_0\"' --set train.seed=7" in text
    recipe = tmp_path / "mine.toml"
    settings = "[train]\nlearning_rate = 3e-4\nmax_steps = 5\n[lora]\nr = 4\n"
    recipe.write_text(f"schema_version = 1\n{settings}", encoding="utf-8")
    (tmp_path / "acme-secret").rename(tmp_path / "first")
    card = made(recipe).card
    found = re.search(r"(?s)```toml\n(.*?)```", card)
    assert found is not None and "lowvram-ft run recipe.toml" in card
    (tmp_path / "recipe.toml").write_text(found[1], encoding="utf-8")
    (ran,), (again,) = load(str(recipe)).stages, load(str(tmp_path / "recipe.toml")).stages
    assert again.recipe == ran.recipe


def test_the_adapter_names_a_base_that_others_have(made: Made) -> None:
    config = next(file for file in made().files if file.name == "adapter_config.json")
    assert json.loads(config.content or b"")["base_model_name_or_path"] == "HuggingFaceTB/SmolLM2-135M-Instruct"


@pytest.mark.parametrize(
    ("named", "base"),
    [
        ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B"),
        ("/home/jane/.cache/huggingface/hub/models--Qwen--Qwen3-0.6B/snapshots/abc", "Qwen/Qwen3-0.6B"),
        (r"C:\Users\jane\.cache\huggingface\hub\models--Qwen--Qwen3-0.6B\snapshots\abc", "Qwen/Qwen3-0.6B"),
        ("/home/jane/.cache/lowvram-ft/models/smollm2-135m-v1", "HuggingFaceTB/SmolLM2-135M-Instruct"),
        (r"C:\Users\jane\lowvram-ft\models\smollm2-135m-v2", "HuggingFaceTB/SmolLM2-135M-Instruct"),
    ],
)
def test_the_base_behind_a_path(named: str, base: str) -> None:
    assert public_base(named) == base


def test_a_base_that_is_a_folder_has_to_be_said(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="say what it is on the hub: --base OWNER/NAME"):
        public_base(str(tmp_path))
    assert public_base(str(tmp_path), "Qwen/Qwen3-0.6B") == "Qwen/Qwen3-0.6B"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("trained in /home/jane/x/y.jsonl on", "/home/jane/x/y.jsonl"),
        (r"C:\Users\jane\model", r"C:\Users\jane\model"),
        ("D:/models/mine", "D:/models/mine"),
        (r"\\server\share\jane", r"\\server\share\jane"),
        ("~/models/x", "~/models/x"),
        ("/Users/jane", "/Users/jane"),
        ("file:///etc/x", "file:///etc/x"),
        ("/anything/at/all", "/anything/at/all"),
        ("https://huggingface.co/data/x", None),
        ("hf.co/me/tests:Q4_K_M", None),
        ("{{ .System }}/no", None),
        ("and/or", None),
        ("<|im_end|>", None),
    ],
)
def test_paths_are_told_from_other_texts(text: str, found: str | None) -> None:
    assert local_path_in(text) == found


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        ("data.path", "rows.jsonl", "PLACEHOLDER"),
        ("data.hub_id", "KodCode/KodCode-V1-SFT-R1", "KodCode/KodCode-V1-SFT-R1"),
        ("data.hub_id", "me/private", "PLACEHOLDER"),
        ("preference.tasks", ["rows", "repository:/home/jane/x"], ["rows", "repository:PLACEHOLDER"]),
        ("preference.tasks", ["installed:acme"], ["installed:PLACEHOLDER"]),
        ("eval.suites", ["samples", "jsonl:mine.jsonl"], ["samples", "jsonl:PLACEHOLDER"]),
        ("preference.url", "http://box:8000", "PLACEHOLDER"),
        ("export.quant", "Q4_K_M", "Q4_K_M"),
        ("train.learning_rate", 2e-4, 2e-4),
        ("model.base", "/home/jane/model", "PLACEHOLDER"),
    ],
)
def test_settings_as_others_may_see_them(key: str, value: object, shown: object) -> None:
    assert withheld(key, value, {"KodCode/KodCode-V1-SFT-R1"}) == shown


def test_a_card_is_known_again(made: Made) -> None:
    card = made().card
    assert is_ours(card) and not is_edited(card) and not is_empty(card)
    assert is_edited(card.replace("# tests", "# mine")) and signed(card) == card
    assert not is_edited(card.replace("\n", "\r\n")), "line ends are not edits"
    assert is_empty("---\nlicense: mit\n---\n") and is_empty("") and not is_ours("# Mine\n")


def test_a_file_that_is_not_the_one_that_was_evaluated_is_refused(made: Made, tmp_path: Path) -> None:
    made()
    gguf = tmp_path / "acme-secret" / "run" / "export" / "demo-F16.gguf"
    data = bytearray(gguf.read_bytes())
    data[-1] ^= 1
    gguf.write_bytes(data)
    with pytest.raises(ModelError, match="is not the file that the run exported"):
        plan_push(gguf, "me/tests", Choices(), dry_run=True)


def test_a_path_inside_a_file_is_not_sent(made: Made, tmp_path: Path) -> None:
    made()
    adapter = tmp_path / "acme-secret" / "run" / "stages" / "traces" / "adapter"
    settings = {"name_or_path": "/home/jane/x", "extra": 1}
    (adapter / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    push = plan_push(adapter, "me/tests", Choices(), dry_run=True)
    sent = next(file for file in push.files if file.name == "tokenizer_config.json")
    assert json.loads(sent.content or b"") == {"name_or_path": "HuggingFaceTB/SmolLM2-135M-Instruct", "extra": 1}
    (adapter / "tokenizer_config.json").write_text(json.dumps({"made_in": "/home/jane/x"}), encoding="utf-8")
    with pytest.raises(ModelError, match=r"names a path of this machine, which all could read \(/home/jane/x\)"):
        plan_push(adapter, "me/tests", Choices(), dry_run=True)


def test_a_stage_of_a_run_has_its_own_figures_alone(made: Made, tmp_path: Path) -> None:
    made()
    first = tmp_path / "acme-secret" / "run" / "stages" / "functions"
    card = plan_push(first, "me/tests", Choices(), dry_run=True).card
    assert "It has not been evaluated" in card and ModelCard(card).data.eval_results is None
    assert "| functions |" in card and "| traces |" not in card


def test_the_place_in_the_tree_of_models(made: Made, parts: tuple[Path, Path], tmp_path: Path) -> None:
    def place(choices: Choices, source: Path) -> tuple[str, str]:
        data = ModelCard(plan_push(source, "me/tests", choices, dry_run=True).card).data
        return data.base_model, data.base_model_relation

    made()
    run, base = tmp_path / "acme-secret" / "run", "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert place(Choices(want="adapter"), run) == (base, "adapter")
    assert place(Choices(want="gguf"), run) == (base, "finetune")
    assert place(Choices(want="gguf", adapter_repo="me/adapter"), run) == ("me/adapter", "quantized")
    silent = ModelCard(plan_push(parts[1], "me/x", Choices(base="Qwen/Qwen3-0.6B"), dry_run=True).card)
    assert silent.data.get("base_model_relation") is None and "a model made of [Qwen/Qwen3-0.6B]" in silent.text


def test_a_recipe_of_ones_own_is_not_taken_for_the_kits_of_that_name(made: Made, tmp_path: Path) -> None:
    (tmp_path / "demo.toml").write_text("schema_version = 1\n[lora]\nr = 4\n", encoding="utf-8")
    card = made(tmp_path / "demo.toml").card
    assert "lowvram-ft run demo" not in card and "lora.r = 4" in card and "lowvram-ft run recipe.toml" in card
