"""Ctrl-C at any step: one line, exit code 130, nothing half-written. Run directories that are not free."""

from __future__ import annotations

import fcntl
import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

import gguf_export
import lowvram_ft.bench
import lowvram_ft.embedded_model
import lowvram_ft.evaluation.evaluate
import lowvram_ft.run_dir
from lowvram_ft.training.recovery.checkpoints import STAGING, newest_checkpoint, step_of
from tests.cli.conftest import Cli
from tests.cli.running import MODULE, Outcome, environment, failed, files
from tests.tiny_runs import write_recipe

STOPPED = "\nstopped; nothing is half-written: run the same command again\n"
"""After an empty line, which ends the one where a terminal shows ``^C``."""


def interrupt(*_: object, **__: object) -> NoReturn:
    raise KeyboardInterrupt


# Ctrl-C while training: see test_terminal_view.py
@pytest.mark.parametrize(("how", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 143)])
def test_stopped_while_training(tmp_path: Path, tiny_llama: Path, how: signal.Signals, code: int) -> None:
    write_recipe(tmp_path, tiny_llama, max_steps=500, eval_steps=400)
    process = subprocess.Popen(
        [*MODULE, "train", "tiny.toml", "--out", "out"],
        cwd=tmp_path,
        env=environment(tmp_path / ".cache"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if line.startswith("train tiny: "):
            time.sleep(1)  # some steps further on
            process.send_signal(how)
            break
    stdout, stderr = process.communicate(timeout=60)
    assert Outcome(process.returncode, stdout, stderr[-len(STOPPED) :]) == Outcome(code, "", STOPPED)
    assert "Traceback" not in "".join(said) + stderr
    assert json.loads((tmp_path / "out" / "run.json").read_text())["steps"].keys() == {"plan"}
    newest = newest_checkpoint(tmp_path / "out" / "stages" / "tiny" / "checkpoints")
    assert newest is not None and f"train tiny: saved at step {step_of(newest)}\n" in stderr
    assert not [name for name in files(tmp_path / "out") if STAGING in name or ".tmp" in name]


def test_ctrl_c_while_a_run_is_recorded(
    here: Cli, tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_recipe(tmp_path, tiny_llama)
    monkeypatch.setattr(lowvram_ft.run_dir.os, "fsync", interrupt)
    assert here("run", "tiny.toml", "--out", "out") == Outcome(130, "", STOPPED)
    assert files(tmp_path / "out") == [".lock"]


@pytest.mark.parametrize("moment", [0.0, 0.5, 1.0])
def test_ctrl_c_while_exporting(
    here: Cli, tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch, moment: float
) -> None:
    export: Any = gguf_export.export

    def interrupted(*arguments: Any, progress: Callable[[str, float], None], **settings: Any) -> Any:
        def stop(_: str, share: float) -> None:
            if share >= moment:
                raise KeyboardInterrupt

        return export(*arguments, progress=stop, **settings)

    monkeypatch.setattr(gguf_export, "export", interrupted)
    outcome = here("export", "--base", tiny_llama, "--out", "out/mine.gguf", "-q")
    assert outcome == Outcome(130, "", STOPPED)
    assert files(tmp_path) == []


def test_ctrl_c_while_the_embedded_model_is_unpacked(
    here: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lowvram_ft.embedded_model, "_write_config", interrupt)
    monkeypatch.setattr("gguf.quants.dequantize", lambda data, _: data)
    monkeypatch.setattr("safetensors.numpy.save_file", lambda _, path, metadata: path.write_text(str(metadata)))
    monkeypatch.setattr(lowvram_ft.embedded_model, "unpermute", lambda values, _: values)
    assert here("data", "inspect", "demo") == Outcome(130, "", STOPPED)
    assert files(tmp_path) == []


def test_ctrl_c_while_rows_are_prepared(
    here: Cli, tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_recipe(tmp_path, tiny_llama)
    monkeypatch.setattr("lowvram_ft.data.card.write_json", interrupt)
    assert here("data", "prepare", "tiny.toml", "--out", "out") == Outcome(130, "", STOPPED)
    assert files(tmp_path) == ["tiny.toml"]


@pytest.mark.parametrize(
    ("command", "place"),
    [
        (["bench"], "lowvram_ft.inference.decoding.choose"),
        (["eval"], "lowvram_ft.inference.decoding.choose"),
        (["eval", "--max-tasks", "1", "--max-new-tokens", "16"], "lowvram_ft.evaluation.evaluate.run_many"),
        (["testgen", "mine.py", "--model"], "lowvram_ft.inference.decoding.choose"),
        (["testgen", "mine.py", "--max-new-tokens", "16", "--model"], "lowvram_ft.testgen.attempts.examine.run_tests"),
    ],
)
def test_ctrl_c_while_a_model_answers_or_its_tests_run(
    here: Cli, tmp_path: Path, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch, command: list[str], place: str
) -> None:
    (tmp_path / "mine.py").write_text("def double(n):\n    return 2 * n\n")
    monkeypatch.setattr(place, interrupt)
    assert here(*command, tiny_gguf, "-q") == Outcome(130, "", STOPPED)
    assert [name for name in files(tmp_path) if not name.startswith(".cache/decoding/")] == ["mine.py"]


def test_ctrl_c_while_rows_are_verified(here: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lowvram_ft.data.verify_recipe.verify_rows", interrupt)
    assert here("data", "verify", "demo", "-q") == Outcome(130, "", STOPPED)


def test_directory_that_holds_something_else_is_left_alone(cli: Cli, tmp_path: Path, tiny_llama: Path) -> None:
    write_recipe(tmp_path, tiny_llama)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    expected = failed(2, "out: is not empty and holds no run; use another --out")
    assert cli("train", "tiny.toml", "--out", "out") == expected
    assert cli("run", "tiny.toml", "--out", "out") == expected
    assert files(tmp_path / "out") == ["thesis.txt"]


def test_directory_that_holds_a_run_of_another_recipe(here: Cli, tmp_path: Path, tiny_llama: Path) -> None:
    write_recipe(tmp_path, tiny_llama)
    folder = tmp_path / "out"
    folder.mkdir()
    run = {"schema_version": 1, "digest": "0123456789abcdef", "steps": {"plan": {}, "train:tiny": {}}}
    (folder / "run.json").write_text(json.dumps(run))
    outcome = here("train", "tiny.toml", "--out", "out")
    digest = outcome.stderr.partition("this is ")[2][:16]
    assert outcome == failed(
        2,
        f"out: holds a run of another recipe or other settings (0123456789abcdef, this is {digest}); "
        "use another --out, or delete it",
    )
    assert json.loads((folder / "run.json").read_text()) == run


def test_directory_that_holds_checkpoints_of_another_recipe(here: Cli, tmp_path: Path, tiny_llama: Path) -> None:
    write_recipe(tmp_path, tiny_llama)
    (tmp_path / "out" / "stages" / "tiny" / "checkpoints" / "checkpoint-5").mkdir(parents=True)
    run = {"schema_version": 1, "digest": "0123456789abcdef", "steps": {"plan": {}}}
    (tmp_path / "out" / "run.json").write_text(json.dumps(run))
    outcome = here("train", "tiny.toml", "--out", "out")
    assert outcome.code == 2
    assert outcome.stderr.startswith("error: out: holds a run of another recipe or other settings (")


def test_damaged_run(here: Cli, tmp_path: Path, tiny_llama: Path) -> None:
    write_recipe(tmp_path, tiny_llama)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "run.json").write_text("")
    problem = "out/run.json: is not valid JSON (Expecting value: line 1 column 1 (char 0)); delete it to start again"
    assert here("train", "tiny.toml", "--out", "out") == failed(2, problem)


def test_two_commands_at_once_in_one_directory(cli: Cli, tmp_path: Path, tiny_llama: Path) -> None:
    write_recipe(tmp_path, tiny_llama)
    (tmp_path / "out").mkdir()
    with (tmp_path / "out" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        expected = failed(2, "out: another command is at work here; wait for it")
        assert cli("train", "tiny.toml", "--out", "out") == expected
    assert files(tmp_path / "out") == [".lock"]
