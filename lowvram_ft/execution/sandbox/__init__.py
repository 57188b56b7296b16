"""What keeps code that a model wrote away from the rest of the machine: three layers, the strongest first.

==============  =======================================================  ======================================
layer           holds                                                    does not hold
==============  =======================================================  ======================================
``bubblewrap``  namespaces of its own: sees Python, the code and a       a fault in the kernel; forging of its
                tmpfs, no home, no network, no other process; the tmpfs  own result (see below); memory of all
                is bounded; ends as a whole                              its processes together
``landlock``    reads Python and the code alone, writes its own folder   as above; the total size of what it
                alone, no sockets, no signals or tracing to the outside  writes; sees that other processes exist
``rlimits``     time, memory, file size, output                          files, network, other processes
==============  =======================================================  ======================================

The first two are joined by a seccomp filter (`lowvram_ft.execution.sandbox.seccomp`), and the first by the
second where the kernel has it. All have the limits of `lowvram_ft.execution.limits`. No layer can tell a test
that passes from one that rewrites, in its own process, the memory of the interpreter that reports it: patched
functions of pytest are found, a forged report made with what lies in the process's memory is not.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from lowvram_ft.errors import MachineError
from lowvram_ft.execution.sandbox import bubblewrap, landlock, seccomp

Layer = Literal["bubblewrap", "landlock", "rlimits"]
LAYERS: tuple[Layer, ...] = ("bubblewrap", "landlock", "rlimits")
ALLOW_UNSANDBOXED = "LOWVRAM_FT_ALLOW_UNSANDBOXED"
"""Environment variable that ``--allow-unsandboxed`` sets: run without a sandbox where there is none."""
FORCED = "LOWVRAM_FT_SANDBOX"
"""Environment variable that names the only layer to use."""


@dataclasses.dataclass(frozen=True)
class LayerState:
    """Whether this machine has a layer.

    Attributes:
        layer: its name.
        problem: why it cannot be used and what would change that; None where it can.
    """

    layer: Layer
    problem: str | None


def states() -> tuple[LayerState, ...]:
    """Every layer, the strongest first, and whether this machine has it. Probed once a process."""
    return tuple(LayerState(layer, _problem(layer)) for layer in LAYERS)


def choose() -> Layer:
    """The strongest layer of this machine, or the one that ``LOWVRAM_FT_SANDBOX`` names.

    Raises:
        MachineError: there is none but ``rlimits``, which needs ``--allow-unsandboxed``; or the named one
            cannot be used.
    """
    forced = os.environ.get(FORCED, "")
    if forced and forced not in LAYERS:
        raise MachineError(f"{FORCED}: no such layer ({forced}); use one of {', '.join(LAYERS)}")
    wanted = (state for state in states() if (state.layer == forced if forced else state.problem is None))
    found = next(wanted, None)
    if found is None:  # not even limits: no system of this kind
        raise MachineError(f"execution: tests cannot be run here: {states()[-1].problem}")
    if found.problem is not None:
        raise MachineError(f"{FORCED}: {forced} cannot be used here: {found.problem}")
    if found.layer == "rlimits" and os.environ.get(ALLOW_UNSANDBOXED) != "1":
        reasons = [f"{state.layer}: {state.problem}" for state in states() if state.problem is not None]
        raise MachineError(
            f"execution: no sandbox for code that a model wrote ({'; '.join(reasons) or 'none was asked for'}); "
            "mend that, or run inside a container or a virtual machine, with --allow-unsandboxed"
        )
    return found.layer


def readable_paths() -> tuple[Path, ...]:
    """What a test process must read of this machine: Python, its packages, the system's libraries, this kit."""
    kit = Path(__file__).resolve().parents[2]
    wanted = [
        *(Path(path) for path in ("/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/etc/ld.so.cache")),
        *(Path(path) for path in ("/etc/localtime", "/etc/alternatives", "/etc/mime.types")),
        Path(sys.prefix),
        Path(sys.base_prefix),
        Path(sys.executable).resolve().parent,
        *(Path(path) for path in sys.path if path.endswith("-packages")),
        kit,
    ]
    found: list[Path] = []
    for path in (each for named in wanted for each in dict.fromkeys((named, named.resolve()))):
        if path.exists() and not any(
            path == kept or (kept in path.parents and not kept.is_symlink()) for kept in found
        ):
            found.append(path)
    return tuple(found)


@functools.cache
def _problem(layer: Layer) -> str | None:
    checks: dict[Layer, Sequence[Callable[[], str | None]]] = {
        "bubblewrap": (bubblewrap.problem,),
        "landlock": (landlock.problem, seccomp.problem),
        "rlimits": (),
    }
    if not hasattr(os, "fork"):
        return "needs a Unix system; on Windows, run inside WSL"
    return next((found for found in (check() for check in checks[layer]) if found is not None), None)
