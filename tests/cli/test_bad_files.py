"""Models, adapters and Python files that are missing, broken or of another kind: the whole output, nothing written."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Cli
from tests.cli.running import Outcome, failed, files
from tests.gguf_models import make_tiny_model
from tests.tiny_runs import write_recipe

Cut = Callable[[Path, str], Path]
GGUF_COMMANDS = (["bench"], ["eval"], ["testgen", "mine.py", "--model"])


@pytest.fixture(autouse=True)
def _module(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def double(n):\n    return 2 * n\n")


@pytest.mark.parametrize("command", GGUF_COMMANDS)
def test_missing_gguf(here: Cli, tmp_path: Path, command: list[str]) -> None:
    assert here(*command, "mine.gguf") == failed(2, "mine.gguf: no such file; give a GGUF")
    assert files(tmp_path) == ["mine.py"]


@pytest.mark.parametrize("command", GGUF_COMMANDS)
def test_file_that_is_no_gguf(here: Cli, tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "mine.gguf").write_text("hello")
    problem = "mine.gguf: is not a GGUF; give one, for example from: lowvram-ft export"
    assert here(*command, "mine.gguf") == failed(2, problem)
    assert files(tmp_path) == ["mine.gguf", "mine.py"]


@pytest.mark.parametrize("command", GGUF_COMMANDS)
def test_truncated_gguf(cli: Cli, tmp_path: Path, tiny_gguf: Path, cut: Cut, command: list[str]) -> None:
    cut(tiny_gguf, "")
    problem = "tiny.gguf: llama.cpp cannot load it (truncated, or a newer format); export it again"
    assert cli(*command, "tiny.gguf", "-q") == failed(2, problem)
    assert files(tmp_path) == ["mine.py", "tiny.gguf"]


def test_gguf_cut_off_in_its_header(here: Cli, tmp_path: Path, tiny_gguf: Path) -> None:
    (tmp_path / "tiny.gguf").write_bytes(tiny_gguf.read_bytes()[:2000])
    problem = "tiny.gguf: llama.cpp cannot load it (truncated, or a newer format); export it again"
    assert here("bench", "tiny.gguf") == failed(2, problem)


def test_truncated_base_model_on_export(cli: Cli, tmp_path: Path, tiny_llama: Path, cut: Cut) -> None:
    whole = (tiny_llama / "model.safetensors").stat().st_size
    cut(tiny_llama, "model.safetensors")
    assert cli("export", "--base", "llama", "--out", "out/mine.gguf") == failed(
        2,
        f"llama/model.safetensors: truncated ({whole // 2} bytes, its header says {whole}); fetch or save it again",
    )
    assert not (tmp_path / "out").exists()


def test_truncated_adapter_on_export(cli: Cli, tmp_path: Path, tiny_llama: Path, tiny_adapter: Path, cut: Cut) -> None:
    whole = (tiny_adapter / "adapter_model.safetensors").stat().st_size
    adapter = cut(tiny_adapter, "adapter_model.safetensors").rename(tmp_path / "adapter")
    outcome = cli("export", "--base", tiny_llama, "--adapter", adapter.name, "--out", "out/mine.gguf")
    assert outcome == failed(
        2,
        f"adapter/adapter_model.safetensors: truncated ({whole // 2} bytes, its header says {whole}); "
        "fetch or save it again",
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            {"num_hidden_layers": 1},
            "model.layers.1.mlp.down_proj.weight: no such tensor in other, the adapter changes [256, 512]",
        ),
        (
            {"intermediate_size": 768},
            "model.layers.0.mlp.down_proj.weight: shape [256, 768] in other, the adapter changes [256, 512]",
        ),
    ],
)
def test_adapter_of_another_base_model(
    here: Cli, tmp_path: Path, tiny_llama: Path, tiny_adapter: Path, changes: dict[str, int], problem: str
) -> None:
    make_tiny_model(tmp_path / "other", **changes)
    shutil.copytree(tiny_adapter, tmp_path / "adapter")
    expected = failed(
        2,
        f"adapter: adapter of another base model: {problem} (it names {tiny_llama} as its base); "
        "give the base that it was trained on",
    )
    assert here("export", "--base", "other", "--adapter", "adapter", "--out", "out/mine.gguf") == expected
    assert not (tmp_path / "out").exists()
    write_recipe(tmp_path, Path("other"))
    outcome = here("train", "tiny.toml", "--set", "model.adapter=adapter", "--out", "out", "-q")
    assert outcome == expected
    assert json.loads((tmp_path / "out" / "run.json").read_text())["steps"].keys() == {"plan"}
    assert not list((tmp_path / "out").rglob("*.safetensors"))


def test_a_run_that_failed_before_it_trained_is_begun_anew_with_other_settings(
    here: Cli, tmp_path: Path, tiny_llama: Path
) -> None:
    write_recipe(tmp_path, tiny_llama)
    (tmp_path / "adapter").mkdir()
    outcome = here("train", "tiny.toml", "--set", "model.adapter=adapter", "--out", "out", "-q")
    assert outcome == failed(2, "adapter/adapter_config.json: no such file; an adapter folder needs it")
    (tmp_path / "rows.jsonl").write_text("{}\n")
    outcome = here("train", "tiny.toml", "--set", "data.path=rows.jsonl", "--out", "out", "-q")
    problem = "rows.jsonl:1: no column id (columns: none); check data.source, or the file"
    assert outcome == failed(2, problem)


def test_missing_adapter(here: Cli, tmp_path: Path, tiny_llama: Path) -> None:
    problem = "nowhere: no such folder; give the folder that PEFT saved the adapter to"
    outcome = here("export", "--base", tiny_llama, "--adapter", "nowhere", "--out", "mine.gguf")
    assert outcome == failed(2, f"{problem}, or OWNER/NAME")
    write_recipe(tmp_path, tiny_llama)
    outcome = here("train", "tiny.toml", "--set", "model.adapter=nowhere", "--out", "out", "-q")
    assert outcome == failed(2, problem)


def test_truncated_base_model_on_train(here: Cli, tmp_path: Path, tiny_llama: Path, cut: Cut) -> None:
    cut(tiny_llama, "model.safetensors")
    write_recipe(tmp_path, Path("llama"))
    outcome = here("train", "tiny.toml", "--out", "out", "-q")
    problem = "llama: cannot be loaded (Error while deserializing header: incomplete metadata, file not fully covered)"
    assert outcome == failed(2, f"{problem}; download it again")
    assert json.loads((tmp_path / "out" / "run.json").read_text())["steps"].keys() == {"plan"}


@pytest.mark.parametrize(
    ("missing", "problem"),
    [
        ("config.json", "llama: is not a model folder (no config.json); give one in the hub's layout"),
        (
            "model.safetensors",
            "llama: holds no .safetensors file; convert its weights to safetensors first",
        ),
        ("chat_template.jinja", "llama: has no chat template; use an instruct model"),
    ],
)
def test_model_folder_that_lacks_a_file(
    here: Cli, tmp_path: Path, tiny_llama: Path, missing: str, problem: str
) -> None:
    shutil.copytree(tiny_llama, tmp_path / "llama")
    (tmp_path / "llama" / missing).unlink()
    assert here("export", "--base", "llama", "--out", "mine.gguf") == failed(2, problem)


def test_a_folder_without_weights_is_planned_for_and_not_trained(here: Cli, tmp_path: Path, tiny_llama: Path) -> None:
    (tmp_path / "config-only").mkdir()
    shutil.copy(tiny_llama / "config.json", tmp_path / "config-only")
    write_recipe(tmp_path, Path("config-only"))
    assert here("plan", "tiny.toml", "--json").code == 0
    problem = "config-only: is not a model folder (no tokenizer.json); give one in the hub's layout"
    assert here("train", "tiny.toml", "--out", "out", "-q") == failed(2, problem)
    assert not (tmp_path / "out").exists()


def test_export_type_that_is_not_known(here: Cli, tiny_llama: Path) -> None:
    known = "'F32', 'F16', 'BF16', 'Q8_0', 'Q6_K', 'Q5_K_M', 'Q4_K_M' or 'Q4_K_S'"
    outcome = here("export", "--base", tiny_llama, "--out", "mine.gguf", "--quant", "Q3")
    assert outcome == failed(2, f"--quant: input should be {known} (got 'Q3')")


@pytest.mark.parametrize("command", ["bench", "eval"])
@pytest.mark.parametrize(
    ("suite", "problem"),
    [
        (
            "nonsense",
            "--suite: unknown suite (got 'nonsense'); use samples, humaneval, testgeneval[:PATH], "
            "self_correction[:PATH] or jsonl:PATH",
        ),
        (
            "jsonl:",
            "--suite: unknown suite (got 'jsonl:'); use samples, humaneval, testgeneval[:PATH], "
            "self_correction[:PATH] or jsonl:PATH",
        ),
        ("jsonl:no.jsonl", "no.jsonl: no such file; give a JSONL file with one object a line"),
        ("jsonl:empty.jsonl", "jsonl:empty.jsonl: holds no task; check the file"),
        ("jsonl:other.jsonl", "other.jsonl:1: needs task_id and code (columns: text); add them"),
    ],
)
def test_suite_that_cannot_be_used(
    here: Cli, tmp_path: Path, tiny_gguf: Path, command: str, suite: str, problem: str
) -> None:
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "other.jsonl").write_text('{"text": "hello"}\n')
    assert here(command, tiny_gguf, "--suite", suite) == failed(2, problem)
    assert files(tmp_path) == ["empty.jsonl", "mine.py", "other.jsonl"]


def test_context_that_is_too_short(here: Cli, tmp_path: Path, tiny_gguf: Path) -> None:
    (tmp_path / "long.jsonl").write_text(json.dumps({"task_id": "1", "code": "x = 1\n" * 200}) + "\n")
    outcome = here("bench", tiny_gguf, "--suite", "jsonl:long.jsonl", "--n-ctx", "256", "-q")
    n_tokens = re.search(r"has (\d+) tokens", outcome.stderr)
    assert n_tokens is not None and int(n_tokens[1]) > 256
    problem = "prompt 1: has N tokens, and 8 more are to follow (the context is 256); shorten the code, or raise n_ctx"
    assert outcome == failed(1, problem.replace("N", n_tokens[1]))


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("no.py", None, "no.py: no such file; give the path of a .py file"),
        ("notes.md", b"# Notes\n", "notes.md: is not a Python file; give the path of a .py file"),
        ("broken.py", b"x = 1\ndef f(:\n", "broken.py:2: does not parse (invalid syntax); mend it first"),
        (
            "null.py",
            b"x = 1\0\n",
            "null.py: does not parse (source code string cannot contain null bytes); mend it first",
        ),
        ("latin.py", b"# caf\xe9\n", "latin.py: is not UTF-8 text (byte 5); convert it"),
        (
            "mine.py",
            b"def f():\n    return 1\n",
            "test_mine_generated.py: exists already, as does mine's own; give another place with --out",
        ),
    ],
)
def test_testgen_refuses_a_file_before_it_loads_a_model(
    here: Cli, tmp_path: Path, name: str, content: bytes | None, problem: str
) -> None:
    for taken in ("test_mine.py", "test_mine_generated.py"):
        (tmp_path / taken).write_text("import mine\n")
    if content is not None:
        (tmp_path / name).write_bytes(content)
    before = files(tmp_path)
    assert here("testgen", name, "--model", "no.gguf") == failed(2, problem)
    assert files(tmp_path) == before
    assert (tmp_path / "test_mine.py").read_text() == "import mine\n"


def test_testgen_without_a_model(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def f():\n    return 1\n")
    more = "(or keep that path in LOWVRAM_FT_MODEL); or make one here with: lowvram-ft demo"
    example = "path/to/lowvram-ft/runs/demo/export/demo-Q8_0.gguf"
    searched = f"no export under {tmp_path / 'runs'}; if it lies elsewhere, say where:"
    assert cli("testgen", "mine.py") == failed(2, f"--model: {searched} --model {example} {more}")
    for command in ("eval", "bench"):
        assert cli(command) == failed(2, f"MODEL: {searched} {example} {more}")
    problem = "LOWVRAM_FT_MODEL: no such file (got gone.gguf); set it to an absolute path, or give --model"
    assert cli("testgen", "mine.py", LOWVRAM_FT_MODEL="gone.gguf") == failed(2, problem)


def test_report_on_a_folder_that_is_no_run(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    assert cli("report", "folder") == failed(2, "folder/run.json: no such file; is this a run directory?")
    (tmp_path / "folder" / "run.json").write_text("{")
    problem = (
        "folder/run.json: is not valid JSON (Expecting property name enclosed in double quotes: line 1 column 2 "
        "(char 1)); delete it to start again"
    )
    assert cli("report", "folder") == failed(2, problem)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("[]", "folder/run.json: is not a run; use another --out"),
        (
            '{"schema_version": 9}',
            "folder/run.json: is not a run of this version (schema 9 instead of 1); use another --out",
        ),
    ],
)
def test_report_on_another_kind_of_json(here: Cli, tmp_path: Path, content: str, problem: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "run.json").write_text(content)
    assert here("report", "folder") == failed(2, problem)


def test_debug_shows_the_traceback(here: Cli) -> None:
    outcome = here("--debug", "bench", "mine.gguf")
    assert isinstance(outcome, Outcome)
    assert outcome.code == 2
    assert outcome.stderr.startswith("Traceback (most recent call last):\n")
    assert outcome.stderr.endswith("lowvram_ft.errors.ModelError: mine.gguf: no such file; give a GGUF\n")
