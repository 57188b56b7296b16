"""`gguf-export` for an adapter from elsewhere: which template and tokens count, and what it says where it refuses."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import gguf_export
import gguf_export.__main__
from gguf_export import Check, Verification
from gguf_export.__main__ import main
from tests.gguf_models import CHATML_TEMPLATE, make_adapter, make_tiny_model

FAILED = Verification((Check("values", False, "not finite"),), "standalone", {})
TRAINED = CHATML_TEMPLATE.replace("'<|im_start|>assistant\n'", "'<|im_start|>assistant\nAnswer: '")
ENDS = CHATML_TEMPLATE.replace("'<|im_end|>'", "eos_token")
ROOT = Path(__file__).parents[2]
QUICK = ("--quant", "F16", "--no-verify")
Say = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``base`` and ``adapter``."""
    folder = tmp_path_factory.mktemp("model")
    make_adapter(make_tiny_model(folder / "base", "llama", tie=True), folder / "adapter")
    return folder


@pytest.fixture
def here(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with ``base`` and ``adapter`` to change."""
    for name in ("base", "adapter"):
        shutil.copytree(model / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def say(here: Path, capsys: pytest.CaptureFixture[str]) -> Say:
    """Run the command: its exit code, stdout and stderr."""
    assert here.is_dir()

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            code = main(arguments)
        except SystemExit as stop:
            code = int(str(stop.code))
        found = capsys.readouterr()
        return code, found.out, found.err

    return run


def put_tokenizer(base: Path, adapter: Path, template: str | None, *more_tokens: str, **settings: str) -> None:
    """What LLaMA-Factory, axolotl and Unsloth leave beside an adapter."""
    tokenizer = json.loads((base / "tokenizer.json").read_text(encoding="utf-8"))
    number = 1 + max(tokenizer["model"]["vocab"].values())
    for index, token in enumerate(more_tokens):
        tokenizer["added_tokens"].append(dict(tokenizer["added_tokens"][0], id=number + index, content=token))
    (adapter / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    config = json.loads((base / "tokenizer_config.json").read_text(encoding="utf-8")) | settings
    (adapter / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    if template is not None:
        (adapter / "chat_template.jinja").write_text(template, encoding="utf-8")


def template_in(path: Path) -> str:
    return str(gguf_export.GgufFile(path).get("tokenizer.chat_template"))


def test_the_adapters_own_template_goes_into_the_file_and_the_modelfile(here: Path, say: Say) -> None:
    code, _, err = say("base", "m.gguf", "--adapter", "adapter", *QUICK)
    assert code == 0 and err.startswith("chat template: the base's\n")
    assert template_in(here / "m.gguf") == CHATML_TEMPLATE

    put_tokenizer(here / "base", here / "adapter", TRAINED, "<|PAD_TOKEN|>", pad_token="<|PAD_TOKEN|>")
    code, out, err = say("base", "m.gguf", "--adapter", "adapter", "--json", *QUICK)
    assert code == 0 and err.splitlines()[:2] == [
        "chat template: the adapter's own (adapter), not the base's",
        "vocabulary: the base's, without <|PAD_TOKEN|> of the adapter's tokenizer",
    ]
    assert json.loads(out)["chat_template"] == "the adapter's own (adapter), not the base's"
    assert template_in(here / "m.gguf") == TRAINED
    assert "Answer: " in (here / "m.Modelfile").read_text(encoding="utf-8")

    (here / "t.jinja").write_text(CHATML_TEMPLATE, encoding="utf-8")
    code, _, err = say("base", "m.gguf", "--adapter", "adapter", "--chat-template", "t.jinja", *QUICK)
    assert code == 0 and err.startswith("chat template: the one that was given\n")
    assert template_in(here / "m.gguf") == CHATML_TEMPLATE


def test_the_library_takes_the_adapters_own_template_too(here: Path) -> None:
    put_tokenizer(here / "base", here / "adapter", ENDS, eos_token="<|endoftext|>")
    found = gguf_export.export(here / "base", here / "adapter", here / "m.gguf", quant="F16")
    assert found.chat_template == template_in(here / "m.gguf") == ENDS
    assert found.notes == (f"chat template: the adapter's own ({here / 'adapter'}), not the base's",)
    assert found.eos_token == "<|endoftext|>", "the end token beside the adapter is what this template writes"


def test_tokens_that_only_the_adapter_knows_are_refused(here: Path, say: Say) -> None:
    own = CHATML_TEMPLATE.replace("<|im_start|>", "<|turn|>")
    put_tokenizer(here / "base", here / "adapter", own, "<|turn|>")
    code, _, err = say("base", "m.gguf", "--adapter", "adapter", *QUICK)
    problem = "adapter: was trained with a vocabulary that base does not have (<|turn|> in its chat template); merge it"
    assert code == 2 and f"error: {problem} where it was trained" in err
    assert not (here / "m.gguf").exists()


def test_a_base_without_a_template_says_what_to_give(here: Path, say: Say) -> None:
    (here / "base" / "chat_template.jinja").unlink()
    for more, problem in (
        ((), "base: has no chat template; use an instruct model, or give the template that was trained: --chat-templ"),
        (("--adapter", "adapter"), "base: has no chat template, and no adapter brings one; give the one that was tra"),
    ):
        code, _, err = say("base", "m.gguf", *more, *QUICK)
        assert code == 2 and f"error: {problem}" in err and "--chat-template FILE" in err
    put_tokenizer(here / "base", here / "adapter", TRAINED)
    assert say("base", "m.gguf", "--adapter", "adapter", *QUICK)[0] == 0
    assert template_in(here / "m.gguf") == TRAINED


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["m.gguf", "--chat-template", "missing.jinja"], "error: missing.jinja: cannot be read ("),
        (["m.gguf", "--n-ctx", "-5"], "argument --n-ctx: a number of tokens, 256 or more (got '-5')"),
        (["m.gguf", "--n-ctx", "many"], "argument --n-ctx: a number of tokens, 256 or more (got 'many')"),
        (["model"], "OUT: the name of a GGUF ends in .gguf (got model); give model.gguf"),
        ([], "OUT is missing: the .gguf to write (or give --check FILE to verify one)"),
        (["m.gguf", "--check", "m.gguf"], "--check FILE BASE writes nothing (got an output too: m.gguf)"),
        (["--check", "none.gguf"], "error: none.gguf: no such file; give the .gguf to verify"),
        (
            ["m.gguf", "--quant", "q3_k_m"],
            "quant: unknown type 'q3_k_m'; use one of F32, F16, BF16, Q8_0, Q6_K, Q5_K_M, Q4_K_M, Q4_K_S; any other of "
            "llama.cpp's is made of an F16 file: llama-quantize model-F16.gguf model.gguf Q3_K_M",
        ),
    ],
)
def test_what_makes_no_sense_is_one_line(here: Path, say: Say, arguments: list[str], problem: str) -> None:
    code, out, err = say("base", *arguments)
    assert code == 2 and problem in err and out == "" and "Traceback" not in err
    assert not list(here.glob("*.gguf*"))


def test_the_base_alone_is_said_and_a_type_may_be_in_lower_case(here: Path, say: Say) -> None:
    code, out, err = say("base", "m.gguf", "--quant", "q8_0", "--no-verify", "--json")
    assert code == 0 and err.startswith("no --adapter: this is the base alone\n")
    assert json.loads(out)["quant"] == "Q8_0"


def test_a_vocabulary_that_was_resized_is_told(here: Path, say: Say) -> None:
    base = json.loads((here / "base" / "config.json").read_text(encoding="utf-8"))
    rows, width = base["vocab_size"], base["hidden_size"]
    put_embedding(here / "adapter", rows + 16, width)
    code, _, err = say("base", "m.gguf", "--adapter", "adapter", *QUICK)
    assert code == 2 and (
        f"error: adapter: was trained with a vocabulary of another size: model.embed_tokens.weight has {rows + 16} "
        f"rows there, {rows} in base (it names " in err
    )
    assert "; where tokens were added for training, merge it where it was trained (model.merge_and_unload" in err


def put_embedding(adapter: Path, rows: int, width: int) -> None:
    """An embedding that was trained whole (``modules_to_save``), beside the factors."""
    import numpy as np
    from safetensors.numpy import load_file, save_file

    tensors = load_file(adapter / "adapter_model.safetensors")
    tensors["base_model.model.model.embed_tokens.weight"] = np.zeros((rows, width), np.float32)
    save_file(tensors, adapter / "adapter_model.safetensors")
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    config["modules_to_save"] = ["embed_tokens"]
    (adapter / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")


def test_what_is_no_adapter_is_said_to_be_what_it_is(here: Path, say: Say) -> None:
    for name in ("checkpoint-50", "checkpoint-100"):
        shutil.copytree(here / "adapter", here / "outputs" / name)
    shutil.copytree(here / "adapter", here / "run" / "stages" / "a" / "adapter")
    for given, problem in (
        ("outputs", "outputs: has no adapter itself (no adapter_config.json); give one of: outputs/checkpoint-50, "),
        ("run", "run: is a run; give the adapter of a stage: run/stages/a/adapter"),
        ("base", "base: is a whole model and no adapter (no adapter_config.json); if it is merged already, give it as"),
        ("none", "none: no such folder; give the folder that PEFT saved the adapter to"),
    ):
        code, _, err = say("base", "m.gguf", "--adapter", given, *QUICK)
        assert code == 2 and f"error: {problem}" in err


def test_json_of_a_file_that_fails(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_export.__main__, "verify", lambda *_, **__: FAILED)
    code, out, err = say("base", "m.gguf", "--quant", "F16", "--json", "-q")
    found = json.loads(out)
    checks = [{"name": "values", "ok": False, "detail": "not finite"}]
    assert code == 1 and found["ok"] is False and found["verification"] == {"ok": False, "checks": checks}
    assert found["path"].endswith("m.gguf.rejected") and found["modelfile"] is None
    assert "error: " in err and "does not pass its verification (values: not finite)" in err


def test_a_check_finds_an_end_token_that_only_the_settings_name(here: Path, say: Say) -> None:
    (here / "base" / "chat_template.jinja").write_text(ENDS, encoding="utf-8")
    wrong = ("--eos-token", "<|endoftext|>")
    assert say("base", "right.gguf", "--adapter", "adapter", *QUICK)[0] == 0
    assert say("base", "wrong.gguf", "--adapter", "adapter", *wrong, *QUICK)[0] == 0
    assert say("--check", "right.gguf", "base", "--adapter", "adapter")[0] == 0
    assert say("--check", "wrong.gguf", "base", "--adapter", "adapter", *wrong)[0] == 0
    code, out, _ = say("--check", "wrong.gguf", "base", "--adapter", "adapter")
    assert code == 1 and "the file ends answers with <|endoftext|>, training with <|im_end|>" in out
    assert say("--check", "right.gguf", "base", "--adapter", "adapter", *wrong)[0] == 1


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file system that takes no file")
def test_a_folder_that_takes_no_file_is_one_line(here: Path, say: Say) -> None:
    assert here.is_dir()
    code, _, err = say("base", "/proc/m.gguf", "--adapter", "adapter", *QUICK)
    assert code == 1 and "\nerror: /proc: cannot be written to (" in err


def test_a_file_is_checked_from_the_command_line(here: Path, say: Say) -> None:
    assert say("base", "m.gguf", "--adapter", "adapter", *QUICK)[0] == 0
    before = sorted(path.name for path in here.iterdir())
    code, out, _ = say("--check", "m.gguf", "base", "--adapter", "adapter")
    assert code == 0 and out.startswith("PASSED: m.gguf (F16), against the weights of base + adapter")
    code, out, _ = say("--check", "m.gguf", "base", "--json", "-q")
    found = json.loads(out)
    assert code == 1 and found["ok"] is False and found["path"] == "m.gguf"
    assert [check["name"] for check in found["verification"]["checks"] if not check["ok"]]
    assert sorted(path.name for path in here.iterdir()) == before, "whatever is found, the file stays as it is"


def test_a_reader_that_goes_away_is_no_traceback_and_the_file_is_there(here: Path) -> None:
    command = [sys.executable, "-m", "gguf_export", "base", "m.gguf", *QUICK, "--quiet"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert (process.stderr.read(), process.wait(60)) == (b"", 0)
    assert gguf_export.GgufFile(here / "m.gguf").tensors


def test_a_pipe_that_breaks_elsewhere_is_not_taken_for_the_reader(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> int:
        raise BrokenPipeError

    monkeypatch.setattr(gguf_export.__main__, "_run", broken)
    with pytest.raises(BrokenPipeError):
        main(["base", "m.gguf", *QUICK])
