"""``--help``: every command and option is explained, at once, and without loading what only a run needs."""

from __future__ import annotations

import json
import statistics
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from lowvram_ft.cli import cli as root
from tests.cli.running import MODULE, environment

HEAVY = {
    "accelerate", "bitsandbytes", "coverage", "cosmic_ray", "datasets", "gguf", "gguf_export", "huggingface_hub",
    "jinja2", "llama_cpp", "numpy", "peft", "pydantic", "pytest", "rich", "safetensors", "tokenizers", "torch",
    "transformers", "trl", "unsloth",
}  # fmt: skip
WITHOUT_RESULT = {"completion", "data", "preference", "recipe"}
"""Groups, and what prints a script; every other command prints a result."""


def commands(group: click.Group = root, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in sorted(group.commands.items()):
        yield (*above, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*above, name))


EVERY = dict(commands())
NAMES = [" ".join(path) for path in EVERY]


def test_the_commands_are_those_of_the_design() -> None:
    assert set(NAMES) >= {
        "bench", "data", "data from-repo", "data inspect", "data prepare", "data verify", "demo", "doctor", "eval",
        "export", "plan", "recipe", "recipe list", "recipe show", "report", "run", "testgen", "train",
    }  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_every_command_and_option_has_a_help_text(name: str) -> None:
    command = EVERY[tuple(name.split())]
    assert command.help and command.help.strip().endswith((".", "?")), "say what it does, in whole sentences"
    for option in command.params:
        if isinstance(option, click.Option):
            assert option.help and option.help.strip().endswith("."), f"{option.opts[0]} has no help text"


@pytest.mark.parametrize("name", [name for name in NAMES if name not in WITHOUT_RESULT])
def test_every_command_that_prints_a_result_takes_json(name: str) -> None:
    assert any("--json" in option.opts for option in EVERY[tuple(name.split())].params)


def test_help_of_every_command_loads_nothing_heavy(tmp_path: Path) -> None:
    program = f"""
import json, sys
from lowvram_ft.cli import cli
for words in {[[], *(list(path) for path in EVERY)]!r}:
    cli.main([*words, "--help"], prog_name="lowvram-ft", standalone_mode=False)
print(json.dumps(sorted({{name.partition(".")[0] for name in sys.modules}} & set({sorted(HEAVY)!r}))))
"""
    done = subprocess.run(
        [MODULE[0], "-c", program], env=environment(tmp_path), capture_output=True, text=True, check=True
    )
    assert done.stdout.count("Usage: lowvram-ft") == len(EVERY) + 1
    assert json.loads(done.stdout.splitlines()[-1]) == []


def test_the_check_for_heavy_modules_can_fail(tmp_path: Path) -> None:
    program = "import sys, lowvram_ft.recipe; print('pydantic' in sys.modules)"
    done = subprocess.run(
        [MODULE[0], "-c", program], env=environment(tmp_path), capture_output=True, text=True, check=True
    )
    assert done.stdout == "True\n"


def test_help_answers_at_once(tmp_path: Path) -> None:
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        subprocess.run([*MODULE, "--help"], env=environment(tmp_path), capture_output=True, check=True)
        seconds.append(time.perf_counter() - began)
    assert statistics.median(seconds) < 1.0, "0.3 s on an idle machine"


def test_version(tmp_path: Path) -> None:
    done = subprocess.run([*MODULE, "--version"], env=environment(tmp_path), capture_output=True, text=True, check=True)
    assert done.stdout == "lowvram-ft, version 0.1.0\n"
