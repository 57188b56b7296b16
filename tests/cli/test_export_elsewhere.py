"""Adapters as Unsloth, axolotl and LLaMA-Factory leave them on the hub, exported by somebody who has nothing else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import gguf_export
from tests.cli.conftest import Cli
from tests.gguf_models import CHATML_TEMPLATE
from tests.hub_runs import use_hub
from tests.loopback_hub import Hub, serving

QUICK = ("--out", "m.gguf", "--quant", "F16", "--no-verify")
BASE = "Qwen/Tiny-Instruct"
Adapter = Callable[..., str]


@pytest.fixture
def hub(tiny_llama: Path, tmp_path: Path, here: Cli, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with a base, a copy of it at Unsloth's, and the same without a chat template."""
    models = tmp_path / "hub-root" / "models"
    for name in (BASE, "unsloth/tiny-instruct", "Qwen/Tiny"):
        shutil.copytree(tiny_llama, models / name)
    (models / "Qwen/Tiny" / "chat_template.jinja").unlink()
    assert here is not None
    with serving(tmp_path / "hub-root") as running:
        use_hub(running, tmp_path / "hf-home", monkeypatch, None)
        yield running


@pytest.fixture
def adapter(hub: Hub, tiny_adapter: Path, tiny_llama: Path) -> Adapter:
    """Put an adapter on the hub: of a base, with a tokenizer's files or without."""

    def put(base: str, *, template: str | None = None, more_tokens: tuple[str, ...] = (), **config: Any) -> str:
        folder = hub.root / "models" / "jane" / "lora"
        shutil.copytree(tiny_adapter, folder)
        settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        settings |= {"base_model_name_or_path": base} | config
        (folder / "adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")
        if template is not None:
            tokenizer = json.loads((tiny_llama / "tokenizer.json").read_text(encoding="utf-8"))
            number = len(tokenizer["model"]["vocab"])
            for token in more_tokens:
                added = dict(tokenizer["added_tokens"][0], id=number, content=token)
                tokenizer["added_tokens"].append(added)
                number += 1
            (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
            shutil.copy(tiny_llama / "tokenizer_config.json", folder)
            (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
        for name in ("training_args.bin", "trainer_state.json", "optimizer.pt"):
            (folder / name).write_bytes(b"not for anybody")
        return "jane/lora"

    return put


def _template(path: Path) -> str:
    return str(gguf_export.GgufFile(path).get("tokenizer.chat_template"))


def test_unsloth_names_the_base_in_4_bits(here: Cli, adapter: Adapter, tiny_llama: Path, tmp_path: Path) -> None:
    auto = {"base_model_class": "LlamaForCausalLM", "unsloth_fixed": True}
    name = adapter(
        "unsloth/tiny-instruct-unsloth-bnb-4bit",
        template=CHATML_TEMPLATE,
        more_tokens=("<|PAD_TOKEN|>",),
        auto_mapping=auto,
    )
    outcome = here("export", "--adapter", name, *QUICK)
    assert outcome.code == 0, outcome.stderr
    assert (
        "base model: unsloth/tiny-instruct, the 16-bit form of unsloth/tiny-instruct-unsloth-bnb-4bit" in outcome.stderr
    )
    assert "vocabulary: the base's, without <|PAD_TOKEN|> of the adapter's tokenizer" in outcome.stderr
    cached = [path.name for path in tmp_path.glob("hf-home/hub/models--jane--lora/snapshots/*/*")]
    assert "adapter_model.safetensors" in cached and not {"training_args.bin", "optimizer.pt"} & set(cached)
    local = gguf_export.export(
        tiny_llama, next(tmp_path.glob("hf-home/hub/models--jane--lora/snapshots/*")), tmp_path / "x.gguf", quant="F16"
    )
    found = [
        [tensor.data.tobytes() for tensor in gguf_export.GgufFile(path).tensors]
        for path in (tmp_path / "m.gguf", local.path)
    ]
    assert found[0] == found[1]


def test_the_template_that_was_trained_goes_into_the_file(here: Cli, adapter: Adapter, tmp_path: Path) -> None:
    template = CHATML_TEMPLATE.replace("'<|im_start|>assistant\n'", "'<|im_start|>assistant\nAnswer: '")
    assert template != CHATML_TEMPLATE
    outcome = here("export", "--adapter", adapter(BASE, template=template), *QUICK)
    assert outcome.code == 0, outcome.stderr
    assert "chat template: the adapter's own (jane/lora), not the base's" in outcome.stderr
    assert _template(tmp_path / "m.gguf") == template
    assert "Answer: " in (tmp_path / "m.Modelfile").read_text(encoding="utf-8")


def test_a_base_without_a_template_gets_the_adapters(here: Cli, adapter: Adapter, tmp_path: Path) -> None:
    assert here("export", "--adapter", adapter("Qwen/Tiny", template=CHATML_TEMPLATE), *QUICK).code == 0
    assert _template(tmp_path / "m.gguf") == CHATML_TEMPLATE


def test_a_template_can_be_given(here: Cli, adapter: Adapter, tmp_path: Path) -> None:
    name = adapter("Qwen/Tiny")
    outcome = here("export", "--adapter", name, *QUICK)
    assert outcome.code == 2 and "error: Qwen/Tiny: has no chat template, and no adapter brings one" in outcome.stderr
    (tmp_path / "t.jinja").write_text(CHATML_TEMPLATE, encoding="utf-8")
    assert here("export", "--adapter", name, "--chat-template", "t.jinja", *QUICK).code == 0
    assert _template(tmp_path / "m.gguf") == CHATML_TEMPLATE
    outcome = here("export", "--adapter", name, "--chat-template", "none.jinja", *QUICK)
    assert outcome.code == 2 and "none.jinja: cannot be read" in outcome.stderr


def test_tokens_that_only_the_adapter_knows_are_refused(here: Cli, adapter: Adapter, tmp_path: Path) -> None:
    template = CHATML_TEMPLATE.replace("<|im_start|>", "<|turn|>")
    outcome = here("export", "--adapter", adapter(BASE, template=template, more_tokens=("<|turn|>",)), *QUICK)
    problem = (
        "jane/lora: was trained with a vocabulary that Qwen/Tiny-Instruct does not have (<|turn|> in its chat template)"
    )
    assert outcome.code == 2 and f"error: {problem}; merge it where it was trained" in outcome.stderr
    assert not (tmp_path / "m.gguf").exists()


def test_the_whole_path_is_verified(here: Cli, adapter: Adapter) -> None:
    name = adapter(BASE, template=CHATML_TEMPLATE)
    outcome = here("export", "--adapter", name, "--out", "m.gguf", "--quant", "F16", "--n-ctx", 512, "-q")
    # said only where every other check has passed; a random model ends nothing
    hint = "where base + adapter do not end their answers either, that need not count: --no-require-stop"
    assert outcome.code == 1 and hint in outcome.stderr


def test_a_base_of_another_machine_has_to_be_said(here: Cli, adapter: Adapter) -> None:
    name = adapter("/home/jane/models/Tiny-Instruct")
    outcome = here("export", "--adapter", name, *QUICK)
    assert outcome.code == 2 and "jane/lora: its base model is not here (/home/jane/models/Tiny-Instruct); say" in (
        outcome.stderr
    )
    assert here("export", "--adapter", name, "--base", BASE, *QUICK).code == 0
    other = here("export", "--adapter", name, "--base", "unsloth/tiny-instruct", *QUICK)
    assert "names /home/jane/models/Tiny-Instruct as its base" not in other.stderr, "the same name: no doubt"


def test_another_base_than_the_adapters_is_told(here: Cli, adapter: Adapter) -> None:
    outcome = here("export", "--adapter", adapter("Qwen/Qwen3-0.6B"), "--base", BASE, *QUICK)
    assert outcome.code == 0
    assert f"jane/lora: names Qwen/Qwen3-0.6B as its base; exporting onto {BASE}, as asked" in outcome.stderr


def test_what_is_no_adapter_is_said_to_be_what_it_is(here: Cli, hub: Hub, adapter: Adapter, tmp_path: Path) -> None:
    adapter(BASE)
    models = hub.root / "models"
    shutil.copytree(models / "jane/lora", models / "jane/steps" / "checkpoint-500")
    shutil.copytree(models / "jane/lora", models / "jane/pickled")
    (models / "jane/pickled/adapter_model.safetensors").rename(models / "jane/pickled/adapter_model.bin")
    shutil.copytree(models / "jane/steps", tmp_path / "outputs")
    for name, problem in (
        (BASE, f"{BASE}: is a whole model and no adapter (no adapter_config.json); if it is merged already, export it"),
        ("jane/steps", "jane/steps: has adapters in subfolders alone (checkpoint-500); fetch one with: hf download"),
        ("jane/pickled", "jane/pickled: has only adapter_model.bin, which can run code when read"),
        ("jane/none", "jane/none: no such folder here, and no such repository on the hub, or a private one; check"),
        ("outputs", "outputs: has no adapter itself (no adapter_config.json); give one of: outputs/checkpoint-500"),
        ("a/b/c", "a/b/c: no such folder; give the folder that PEFT saved the adapter to, or OWNER/NAME"),
    ):
        outcome = here("export", "--adapter", name, *QUICK)
        assert outcome.code == 2 and f"error: {problem}" in outcome.stderr, outcome.stderr
    outcome = here("export", *QUICK)
    assert outcome.code == 2 and "--base: is needed where no --adapter says which it is" in outcome.stderr


def test_what_was_fetched_is_used_where_the_hub_is_away(
    here: Cli, adapter: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    name = adapter(BASE)
    assert here("export", "--adapter", name, *QUICK).code == 0
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    outcome = here("export", "--adapter", name, "--to", "lora", "--out", "l.gguf")
    assert outcome.code == 0 and "the hub cannot be reached; taking what its cache has" in outcome.stderr
