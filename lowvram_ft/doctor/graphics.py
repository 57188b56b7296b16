"""The card: driver, CUDA, what is free and who holds the rest, and whether torch was built for that driver."""

from __future__ import annotations

import importlib
import importlib.util
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lowvram_ft.doctor.check import MIB, Check, gib, mib
from lowvram_ft.hardware import Gpu, Hardware, visible
from lowvram_ft.memory.setup import DISPLAY_BYTES

TOO_MUCH_BYTES = 64 * MIB
"""What may be held on a card beyond what the plan counts with before it is worth a warning: the plan's headroom."""
MOST_NAMED = 5
_NVIDIA, _AMD = "0x10de", "0x1002"
_WSL_LIBRARY = "usr/lib/wsl/lib/libnvidia-ml.so.1"


@dataclass(frozen=True)
class Program:
    """A program that holds memory of a card.

    Attributes:
        name: of its file, without the folder.
        bytes: what it holds; None where the driver does not say, as under Windows.
    """

    name: str
    bytes: int | None


@dataclass(frozen=True)
class CardUse:
    """Who holds the memory of a card.

    Attributes:
        reserved_bytes: kept back by the driver and the card's own firmware; None where an older driver does not say.
        programs: the largest first.
        display: whether a display is drawn by the card; None where the driver does not say.
    """

    reserved_bytes: int | None
    programs: tuple[Program, ...]
    display: bool | None


def card_uses(environ_devices: str | None) -> tuple[CardUse, ...]:
    """Of every card that CUDA shows to this process; empty where no driver answers.

    Args:
        environ_devices: the value of ``CUDA_VISIBLE_DEVICES``.
    """
    try:
        nvml: Any = importlib.import_module("pynvml")
    except ImportError:  # `check_gpu` says so, from what `detect` found
        return ()
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:  # the same
        return ()
    try:
        shown = visible(environ_devices, nvml.nvmlDeviceGetCount())
        return tuple(_use(nvml, nvml.nvmlDeviceGetHandleByIndex(index)) for index in shown)
    except nvml.NVMLError:
        return ()
    finally:
        nvml.nvmlShutdown()


def _use(nvml: Any, handle: Any) -> CardUse:
    def ask(name: str, *arguments: Any) -> Any:
        """None where the driver or its binding is too old for the question, or the system does not allow it."""
        try:
            return getattr(nvml, name)(*arguments)
        except (nvml.NVMLError, AttributeError):
            return None

    version = getattr(nvml, "nvmlMemory_v2", None)  # the first version does not tell what is reserved
    memory = None if version is None else ask("nvmlDeviceGetMemoryInfo", handle, version)
    held: dict[int, int | None] = {}
    for kind in ("nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetGraphicsRunningProcesses"):
        for process in ask(kind, handle) or ():
            held.setdefault(process.pid, process.usedGpuMemory)
    programs = [Program(_name(ask("nvmlSystemGetProcessName", pid)), size) for pid, size in held.items()]
    display = ask("nvmlDeviceGetDisplayActive", handle)
    return CardUse(
        reserved_bytes=getattr(memory, "reserved", None),
        programs=tuple(sorted(programs, key=lambda program: -(program.bytes or 0))),
        display=None if display is None else bool(display),
    )


def _name(path: str | bytes | None) -> str:
    """A program's file without folder and arguments, which may name people and projects."""
    text = path.decode(errors="replace") if isinstance(path, bytes) else path or "a program"
    return re.split(r"[\\/]", re.split(r"\s+--?\w", text)[0].strip())[-1] or "a program"


def check_gpu(machine: Hardware, root: Path = Path("/")) -> Check:
    """NVIDIA GPUs and their driver. None is no failure: the reference engine trains on the CPU.

    Args:
        machine: what was detected.
        root: the file system's root, where a card without a driver is seen.
    """
    if not machine.gpus:
        reason = machine.no_gpu_reason or "none"
        why, mend = _why_none(machine, root)
        return Check("GPU", "warning", f"none: {reason}{why}", mend)
    text = ", ".join(
        f"{gpu.name} ({gib(gpu.total_bytes)}, compute {gpu.compute_capability[0]}.{gpu.compute_capability[1]})"
        for gpu in machine.gpus
    )
    text += f"; driver {machine.gpus[0].driver_version}, CUDA {machine.cuda_driver_version}"
    if all(gpu.compute_capability < (7, 5) for gpu in machine.gpus):
        return Check("GPU", "warning", text, "use a GPU of compute capability 7.5 or above")
    return Check("GPU", "ok", text)


def _why_none(machine: Hardware, root: Path) -> tuple[str, str]:
    """What explains that no GPU answers, and what mends it."""
    small = "nothing to do for small models: they train on the CPU"
    if machine.no_gpu_reason and "CUDA_VISIBLE_DEVICES" in machine.no_gpu_reason:
        return "", "unset CUDA_VISIBLE_DEVICES"
    if machine.platform == "wsl":
        if (root / _WSL_LIBRARY).exists() and (root / "dev/dxg").exists():
            return "; Windows shares a card with WSL", "update the NVIDIA driver in Windows, then: wsl --shutdown"
        return (
            "; Windows shares none with WSL",
            "with an NVIDIA card: install its driver in Windows, then: wsl --update",
        )
    vendors = _graphics_vendors(root)
    if _NVIDIA in vendors and in_container(root):
        return "; the host has an NVIDIA card", "start the container with: docker run --gpus all"
    if _NVIDIA in vendors:
        return "; an NVIDIA card is there", "sudo ubuntu-drivers install (Debian: sudo apt install nvidia-driver)"
    if _AMD in vendors:
        return "; the AMD card is not used", small
    return "", small


def _graphics_vendors(root: Path) -> set[str]:
    """PCI vendors of display controllers (class 03, PCI Code and ID Assignment Specification)."""
    found = set()
    for device in (root / "sys/bus/pci/devices").glob("*"):
        try:
            if (device / "class").read_text().startswith("0x03"):
                found.add((device / "vendor").read_text().strip())
        except OSError:
            continue
    return found


def in_container(root: Path) -> bool:
    """Whether this is a container of Docker, Podman or Kubernetes."""
    return (root / ".dockerenv").exists() or (root / "run/.containerenv").exists()


def check_card_memory(machine: Hardware, uses: tuple[CardUse, ...]) -> list[Check]:
    """What is free on each card, what the driver keeps, and which programs hold the rest; against the plan's figure."""
    counted = DISPLAY_BYTES[machine.platform]
    checks = []
    for number, gpu in enumerate(machine.gpus):
        use = uses[number] if number < len(uses) else CardUse(None, (), None)
        name = "card memory" if len(machine.gpus) == 1 else f"card memory {number}"
        held = gpu.total_bytes - gpu.free_bytes
        text = f"{mib(gpu.free_bytes)} of {mib(gpu.total_bytes)} free; {_held(gpu, use)}"
        if held <= counted + TOO_MUCH_BYTES:
            checks.append(Check(name, "ok", text))
            continue
        text += f"; the plan counts with {mib(counted)} for a desktop on {machine.platform}"
        checks.append(Check(name, "warning", text, _free_some(machine, use)))
    return checks


def _held(gpu: Gpu, use: CardUse) -> str:
    held = gpu.total_bytes - gpu.free_bytes
    parts = [f"held {mib(held)}"]
    if use.reserved_bytes is not None:
        parts.append(f"of it {mib(use.reserved_bytes)} by the driver")
    if use.display is not None:
        parts.append("draws a display" if use.display else "draws no display")
    if use.programs:
        named = [
            program.name + (f" {mib(program.bytes)}" if program.bytes is not None else "")
            for program in use.programs[:MOST_NAMED]
        ]
        more = len(use.programs) - MOST_NAMED
        parts.append("programs: " + ", ".join(named) + (f" and {more} more" if more > 0 else ""))
    return ", ".join(parts)


def _free_some(machine: Hardware, use: CardUse) -> str:
    names = ", ".join(dict.fromkeys(program.name for program in use.programs[:MOST_NAMED]))
    close = f"close {names}" if names else "close programs that draw (browser, editor, video)"
    if machine.platform in ("windows", "wsl"):
        return f"{close}; or in Windows: Settings > System > Display > Graphics, each program: power saving"
    if use.display:
        return (
            f"{close}; or draw the desktop with the integrated graphics: sudo prime-select on-demand, and log in anew"
        )
    return close


def check_cuda_toolkit(machine: Hardware) -> Check:
    """The compiler that llama-cpp-python needs for a build that offloads."""
    path = shutil.which("nvcc")
    if path is not None:
        return Check("CUDA toolkit", "ok", path)
    if not machine.gpus:
        return Check("CUDA toolkit", "ok", "none, and none is needed without a GPU")
    mend = "sudo apt install nvidia-cuda-toolkit, or https://developer.nvidia.com/cuda-downloads"
    if machine.platform == "wsl":
        mend = (
            "https://developer.nvidia.com/cuda-downloads: Linux, WSL-Ubuntu, the package cuda-toolkit alone (no driver)"
        )
    return Check("CUDA toolkit", "warning", "no nvcc: llama-cpp-python cannot be built to run models on the GPU", mend)


@dataclass(frozen=True)
class TorchBuild:
    """What ``torch/version.py`` says.

    Attributes:
        version: with its build, for example ``2.13.0+cpu``.
        cuda: that it was built for; None for a build without.
    """

    version: str
    cuda: str | None


def torch_build() -> TorchBuild | None:
    """Read from its file, without importing torch; None where torch is not installed."""
    try:
        spec = importlib.util.find_spec("torch")
    except ValueError:  # something without a spec stands for it
        return None
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        try:
            text = (Path(folder) / "version.py").read_text(encoding="utf-8")
        except OSError:
            continue
        version = re.search(r"^__version__\s*=\s*'([^']+)'", text, re.M)
        cuda = re.search(r"^cuda[^=\n]*=\s*'([^']+)'", text, re.M)
        return TorchBuild(version[1] if version else "unknown", cuda[1] if cuda else None)
    return None


def check_torch(machine: Hardware, build: TorchBuild | None) -> Check:
    """Whether torch was built for the driver that is here.

    Source of the rule: CUDA Compatibility, "Minor Version Compatibility": a driver runs every CUDA of its own major
    version and those before.
    """
    name = "torch build"
    if build is None:
        return Check(name, "failing", "torch is not installed", "pip install lowvram-ft")
    driver = machine.cuda_driver_version
    if not machine.gpus or driver is None:
        return Check(name, "ok", f"torch {build.version} on the CPU")
    wheels = f"cu{driver.split('.')[0]}{driver.split('.')[1]}"
    other = (
        f"pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/{wheels} (the nearest at or "
        f"below CUDA {driver} that pytorch.org lists)"
    )
    if build.cuda is None:
        return Check(name, "failing", f"torch {build.version} was built without CUDA, and there is a GPU", other)
    if int(build.cuda.split(".")[0]) > int(driver.split(".")[0]):
        found = f"torch {build.version} needs CUDA {build.cuda}, the driver runs {driver}"
        return Check(name, "failing", found, f"update the NVIDIA driver, or {other}")
    return Check(name, "ok", f"torch {build.version} for CUDA {build.cuda}")
