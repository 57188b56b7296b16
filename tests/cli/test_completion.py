"""Shell completion: what each shell is offered, and that offering it takes no time."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lowvram_ft.clean import GROUPS
from lowvram_ft.cli import completing
from lowvram_ft.models import known_models
from lowvram_ft.recipe import recipes_dir, shipped_recipes
from tests.cli.conftest import Cli
from tests.cli.running import ROOT, environment, failed

HEAVY = "('pydantic', 'rich', 'numpy', 'torch', 'lowvram_ft.recipe', 'lowvram_ft.clean', 'lowvram_ft.hardware')"


def offered(folder: Path, *words: str, shell: str = "fish") -> list[str]:
    """What the program answers to a shell that asks, its kinds and help texts apart."""
    env = environment(folder, _LOWVRAM_FT_COMPLETE=f"{shell}_complete", COMP_WORDS=" ".join(("lowvram-ft", *words)))
    env["COMP_CWORD"] = words[-1] if shell == "fish" else str(len(words))
    command = [sys.executable, "-c", "from lowvram_ft.cli import main; main()"]
    done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return [line.partition(",")[2].partition("\t")[0] for line in done.stdout.splitlines()]


def test_commands_and_recipes_are_offered(tmp_path: Path) -> None:
    assert {"demo", "doctor"} <= set(offered(tmp_path, "d"))
    assert offered(tmp_path, "plan", "stage_") == [path.stem for path in shipped_recipes() if path.stem[:6] == "stage_"]
    (tmp_path / "mine.toml").touch()
    (tmp_path / "mine.txt").touch()
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "other.toml").touch()
    assert offered(tmp_path, "data", "inspect", "m") == ["mine.toml", "more/"]
    assert offered(tmp_path, "run", "more/") == ["more/other.toml"]
    assert "mine.toml" in offered(tmp_path, "run", "mi", shell="bash")


def test_runs_groups_and_models_are_offered(tmp_path: Path) -> None:
    for name in ("demo", "mine"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "run.json").touch()
    (tmp_path / "runs" / "no-run").mkdir()
    assert offered(tmp_path, "report", "") == ["runs/demo", "runs/mine", "runs/"]
    assert offered(tmp_path, "improve", "--from", "runs/d") == ["runs/demo", "runs/demo/"]
    assert offered(tmp_path, "clean", "ch") == ["checkpoints"]
    assert offered(tmp_path, "init", "--base", "qwen/qwen3-4") == ["Qwen/Qwen3-4B-Instruct-2507"]


def test_what_is_written_out_again_is_the_same() -> None:
    assert completing._recipes_dir() == recipes_dir()
    assert completing.GROUPS == GROUPS
    assert "smollm2-135m" in known_models()


def test_offering_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys; from lowvram_ft.cli import main\n"
        "try: main()\n"
        f"finally: print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"
    )
    env = environment(tmp_path, _LOWVRAM_FT_COMPLETE="fish_complete", COMP_WORDS="lowvram-ft run ", COMP_CWORD="")
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "demo" in done.stdout
    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_printed_and_parses(here: Cli, shell: str, tmp_path: Path) -> None:
    outcome = here("completion", shell)
    assert outcome.code == 0
    assert "_LOWVRAM_FT_COMPLETE" in outcome.stdout
    if (program := shutil.which(shell)) is None:
        pytest.skip(f"no {shell} here")
    (tmp_path / "script").write_text(outcome.stdout)
    subprocess.run([program, "-n", str(tmp_path / "script")], check=True)


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_bash_completes_with_what_was_installed(here: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("SHELL", "/bin/bash")
    script = tmp_path / "data" / "bash-completion" / "completions" / "lowvram-ft"
    assert here("completion", "--install").stdout == f"{script}: written; it works in a new bash\n"
    program = tmp_path / "bin" / "lowvram-ft"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\nexec {sys.executable} -c 'from lowvram_ft.cli import main; main()' \"$@\"\n")
    program.chmod(0o755)
    ask = (
        f"source {script}; COMP_WORDS=(lowvram-ft plan dem); COMP_CWORD=2; "
        '_lowvram_ft_completion lowvram-ft dem plan; echo "${COMPREPLY[@]}"'
    )
    env = environment(tmp_path) | {"PATH": f"{program.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", ask], env=env, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["demo", "demo_preference"]


def test_the_other_shells_have_their_places(here: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    assert here("completion", "fish", "--install").code == 0
    assert (tmp_path / ".config" / "fish" / "completions" / "lowvram-ft.fish").is_file()
    told = here("completion", "zsh", "--install").stdout
    assert f"fpath+=({tmp_path / '.zfunc'})" in told
    assert (tmp_path / ".zfunc" / "_lowvram-ft").read_text().startswith("#compdef lowvram-ft")


def test_an_unknown_shell_is_refused(here: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHELL", "/usr/bin/nu")
    problem = "completion: $SHELL is no shell that is known (got 'nu'); say bash, zsh or fish"
    assert here("completion") == failed(2, problem)
