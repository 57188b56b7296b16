"""What this machine has: GPUs through NVML, the CPU, memory and disk, and where the kit's cache is.

Neither torch nor llama_cpp is imported here; what needs a look inside them is asked in a child process
by `lowvram_ft.doctor`.
"""

from __future__ import annotations

import importlib
import os
import platform as platform_module
import re
import shutil
import sys
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

Platform = Literal["linux", "wsl", "windows", "macos"]

CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_tile")
"""The features that decide which CPU kernels run."""
BF16_FLAGS = frozenset({"avx512_bf16", "amx_tile"})
"""Those with which bf16 products are faster than float32 ones; without either they are many times slower."""


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA GPU.

    Attributes:
        name: as the driver calls it.
        total_bytes: size of its memory.
        free_bytes: what is free now.
        compute_capability: for example ``(8, 6)``.
        driver_version: of the NVIDIA driver.
    """

    name: str
    total_bytes: int
    free_bytes: int
    compute_capability: tuple[int, int]
    driver_version: str


@dataclass(frozen=True)
class Hardware:
    """What a machine has, as far as this process may use it.

    Attributes:
        gpus: NVIDIA GPUs; empty where there is none.
        no_gpu_reason: why ``gpus`` is empty; None where it is not.
        cuda_driver_version: the newest CUDA that the driver runs, for example ``"12.8"``.
        cpu_count: CPUs that this process may run on.
        cpu_model: as the system calls it.
        cpu_flags: those of `CPU_FLAGS` that the CPU has.
        ram_total_bytes: memory, or the limit of the container where that is lower.
        ram_available_bytes: what can be taken without swapping.
        disk_free_bytes: free where runs are written.
        platform: ``wsl`` is Linux under Windows, where the desktop shares the card.
        python_version: of this interpreter.
    """

    gpus: tuple[Gpu, ...]
    no_gpu_reason: str | None
    cuda_driver_version: str | None
    cpu_count: int
    cpu_model: str
    cpu_flags: tuple[str, ...]
    ram_total_bytes: int
    ram_available_bytes: int
    disk_free_bytes: int
    platform: Platform
    python_version: str

    def to_json(self) -> dict[str, object]:
        """All of it as JSON values."""
        return asdict(self)

    def lasting(self) -> dict[str, object]:
        """What a run's figures hang on and what stays as it is, as JSON values: not what is free at the moment."""
        return {
            "cpu": self.cpu_model,
            "cpus": self.cpu_count,
            "ram_bytes": self.ram_total_bytes,
            "gpus": [{"name": gpu.name, "bytes": gpu.total_bytes, "driver": gpu.driver_version} for gpu in self.gpus],
            "cuda": self.cuda_driver_version,
            "platform": self.platform,
        }


def detect(where: Path = Path()) -> Hardware:
    """Look at this machine.

    Args:
        where: the folder whose disk counts; it need not exist yet.
    """
    gpus, cuda, reason = _gpus()
    model, flags = cpu_facts(Path("/proc/cpuinfo"))
    total, available = _memory()
    return Hardware(
        gpus=gpus,
        no_gpu_reason=reason,
        cuda_driver_version=cuda,
        cpu_count=cpu_count(),
        cpu_model=model,
        cpu_flags=flags,
        ram_total_bytes=total,
        ram_available_bytes=available,
        disk_free_bytes=shutil.disk_usage(_existing(where)).free,
        platform=_platform(),
        python_version=platform_module.python_version(),
    )


def cache_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """The user's cache: ``LOWVRAM_FT_CACHE``, or ``lowvram-ft`` in ``XDG_CACHE_HOME`` or ``~/.cache``.

    It is not created here. A relative ``XDG_CACHE_HOME`` is ignored, as the XDG Base Directory
    Specification asks for.

    Args:
        environ: the environment.
    """
    if own := environ.get("LOWVRAM_FT_CACHE"):
        return Path(own).expanduser().absolute()
    xdg = environ.get("XDG_CACHE_HOME")
    base = Path(xdg) if xdg and Path(xdg).is_absolute() else Path.home() / ".cache"
    return base / "lowvram-ft"


def data_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """The user's data: ``LOWVRAM_FT_DATA``, or ``lowvram-ft`` in ``XDG_DATA_HOME`` or ``~/.local/share``.

    It is not created here. A relative ``XDG_DATA_HOME`` is ignored, as the XDG Base Directory
    Specification asks for.

    Args:
        environ: the environment.
    """
    if own := environ.get("LOWVRAM_FT_DATA"):
        return Path(own).expanduser().absolute()
    xdg = environ.get("XDG_DATA_HOME")
    base = Path(xdg) if xdg and Path(xdg).is_absolute() else Path.home() / ".local" / "share"
    return base / "lowvram-ft"


def _gpus() -> tuple[tuple[Gpu, ...], str | None, str | None]:
    """The GPUs, the CUDA version of the driver, and the reason where there is no GPU."""
    try:
        nvml: Any = importlib.import_module("pynvml")
    except ImportError as error:
        return (), None, f"nvidia-ml-py cannot be imported ({error})"
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return (), None, f"no NVIDIA driver answers ({error})"
    try:
        driver = _text(nvml.nvmlSystemGetDriverVersion())
        cuda = nvml.nvmlSystemGetCudaDriverVersion_v2()
        count = nvml.nvmlDeviceGetCount()
        shown = visible(os.environ.get("CUDA_VISIBLE_DEVICES"), count)
        gpus = tuple(_gpu(nvml, index, driver) for index in shown)
    except nvml.NVMLError as error:
        return (), None, f"the NVIDIA driver failed ({error})"
    finally:
        nvml.nvmlShutdown()
    version = f"{cuda // 1000}.{cuda % 1000 // 10}"
    if gpus:
        return gpus, version, None
    return gpus, version, "CUDA_VISIBLE_DEVICES hides every GPU" if count else "the NVIDIA driver knows no GPU"


def visible(names: str | None, count: int) -> list[int]:
    """The cards that CUDA shows to this process, by NVML's numbers, in CUDA's order.

    Source: CUDA C++ Programming Guide, "CUDA Environment Variables": a number that is no card's hides it and those
    after it. CUDA numbers cards as NVML does with ``CUDA_DEVICE_ORDER=PCI_BUS_ID``, or where all are equal.

    Args:
        names: the value of ``CUDA_VISIBLE_DEVICES``; None if it is not set. Of names (``GPU-…``, ``MIG-…``), which only
            the driver can resolve, all cards are taken.
        count: of all cards.
    """
    if names is None or any(not re.fullmatch(r"\s*(-?\d+)?\s*", name) for name in names.split(",")):
        return list(range(count))
    shown: list[int] = []
    for name in names.split(","):
        if not name.strip() or not 0 <= int(name) < count:
            break
        shown.append(int(name))
    return shown


def _gpu(nvml: Any, index: int, driver: str) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    return Gpu(
        name=_text(nvml.nvmlDeviceGetName(handle)),
        total_bytes=int(memory.total),
        free_bytes=int(memory.free),
        compute_capability=(int(major), int(minor)),
        driver_version=driver,
    )


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def cpu_count() -> int:
    """CPUs that this process may run on."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def peak_rss_bytes() -> int | None:
    """The most memory that this process has held, mapped files included; None on Windows.

    Source: ``getrusage(2)``: ``ru_maxrss`` is in KiB on Linux, in bytes on macOS.
    """
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def cpu_flags() -> tuple[str, ...]:
    """Those of `CPU_FLAGS` that this machine's CPU has; empty where ``/proc/cpuinfo`` does not say."""
    return cpu_facts(Path("/proc/cpuinfo"))[1]


def has_fast_bf16(flags: Collection[str]) -> bool:
    """Whether bf16 products are faster than float32 ones on a CPU with these flags, and not many times slower."""
    return not BF16_FLAGS.isdisjoint(flags)


def cpu_facts(cpuinfo: Path) -> tuple[str, tuple[str, ...]]:
    """Model and features of the CPU.

    Args:
        cpuinfo: ``/proc/cpuinfo``; where it cannot be read, the features stay empty.
    """
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return platform_module.processor() or platform_module.machine(), ()
    facts: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition(":")
        facts.setdefault(key.strip(), value.strip())
    present = facts.get("flags", "").split()
    model = facts.get("model name") or platform_module.machine()
    return model, tuple(flag for flag in CPU_FLAGS if flag in present)


def _memory() -> tuple[int, int]:
    """Total and available bytes."""
    if sys.platform == "linux":
        return linux_memory(Path("/"))
    if sys.platform == "win32":
        return _windows_memory()
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return total, total


def linux_memory(root: Path) -> tuple[int, int]:
    """Total and available bytes on Linux; the limit of a container counts where it is lower.

    A container's file cache can be given back, so it counts as available.

    Source: ``proc_meminfo(5)``; Linux ``Documentation/admin-guide/cgroup-v2.rst``, memory.max,
    memory.current and memory.stat; for version 1 ``cgroup-v1/memory.rst``.

    Args:
        root: the file system's root.
    """
    meminfo = _numbers(root / "proc/meminfo")
    total = meminfo["MemTotal:"] * 1024
    available = meminfo.get("MemAvailable:", meminfo["MemTotal:"]) * 1024
    for folder, limit_name, used_name, cache_name in _cgroups(root):
        limit, used = _number(folder / limit_name), _number(folder / used_name)
        if limit is None or used is None or limit >= total:
            continue
        cache = _numbers(folder / "memory.stat").get(cache_name, 0)
        total, available = limit, min(available, max(0, limit - used + cache))
    return total, available


def _cgroups(root: Path) -> list[tuple[Path, str, str, str]]:
    """The memory groups that this process is in, from the top down, with their files' names."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = ["0::/"]
    groups = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            base = root / "sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        parts = [part for part in path.split("/") if part not in ("", "..")]
        groups += [(base.joinpath(*parts[:depth]), *names) for depth in range(len(parts) + 1)]
    return groups


def _number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None  # "max" is no limit


def _numbers(path: Path) -> dict[str, int]:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    words = (line.split() for line in lines)
    return {word[0]: int(word[1]) for word in words if len(word) >= 2 and word[1].isdigit()}


def _windows_memory() -> tuple[int, int]:
    """Total and available bytes through GlobalMemoryStatusEx."""
    if sys.platform != "win32":
        raise NotImplementedError("only on Windows")
    import ctypes

    class Status(ctypes.Structure):
        """MEMORYSTATUSEX of sysinfoapi.h."""

        _fields_ = (
            ("dwLength", ctypes.c_ulong),
            ("dwMemoryLoad", ctypes.c_ulong),
            ("ullTotalPhys", ctypes.c_ulonglong),
            ("ullAvailPhys", ctypes.c_ulonglong),
            ("ullTotalPageFile", ctypes.c_ulonglong),
            ("ullAvailPageFile", ctypes.c_ulonglong),
            ("ullTotalVirtual", ctypes.c_ulonglong),
            ("ullAvailVirtual", ctypes.c_ulonglong),
            ("ullAvailExtendedVirtual", ctypes.c_ulonglong),
        )

    status = Status(dwLength=ctypes.sizeof(Status))
    ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))
    return int(status.ullTotalPhys), int(status.ullAvailPhys)


def _platform() -> Platform:
    if sys.platform == "win32":
        return "windows"
    if sys.platform == "darwin":
        return "macos"
    return "wsl" if "microsoft" in platform_module.release().lower() else "linux"


def _existing(path: Path) -> Path:
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path
