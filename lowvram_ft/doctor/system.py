"""The machine below the kit: its system, Python, CPU, memory, swap, disks and compiler."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from lowvram_ft import __version__
from lowvram_ft.doctor.check import GIB, Check, Status, gib
from lowvram_ft.doctor.graphics import in_container
from lowvram_ft.hardware import Hardware, has_fast_bf16

PYTHON_RANGE = ((3, 11), (3, 14))
"""As in pyproject.toml: the first that is supported, and the first that is not any more."""
RAM_BYTES = {"failing": 3 * GIB, "warning": 8 * GIB}
"""Below the first the embedded model does not train; below the second no 7B streams from the host."""
AVAILABLE_BYTES = 3 * GIB
"""What a training of the embedded model takes."""
SWAP_RAM_BYTES = 16 * GIB
"""With less memory than this, a peak without swap ends the process."""
DISK_BYTES = {"failing": 2 * GIB, "warning": 40 * GIB}
"""Below the first the demo does not fit; below the second no 7B with its export does."""
SLOW_DISKS = {"9p": "Windows' disk", "drvfs": "Windows' disk", "nfs": "network", "nfs4": "network", "cifs": "network",
              "smb3": "network", "fuse.sshfs": "network"}  # fmt: skip
"""File systems (``/proc/self/mountinfo``) on which reading weights and locking take long or fail."""
COMPILER_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Disk:
    """A disk that the kit writes to.

    Attributes:
        used_for: what, in words.
        path: the folder; its part that exists counts.
    """

    used_for: str
    path: Path


def check_system(root: Path = Path("/")) -> Check:
    """The kit's version and the system: nothing of it can be wrong, and every report needs it."""
    words = [platform.system(), platform.release(), platform.machine()]
    if name := _distribution(root):
        words.insert(0, name + ",")
    if in_container(root):
        words.append("in a container")
    return Check("system", "ok", f"lowvram-ft {__version__} on {' '.join(words)}")


def _distribution(root: Path) -> str:
    """Source: os-release(5)."""
    for file in (root / "etc/os-release", root / "usr/lib/os-release"):
        try:
            found = re.search(r'^PRETTY_NAME="?([^"\n]+)"?$', file.read_text(encoding="utf-8"), re.M)
        except OSError:
            continue
        if found:
            return found[1]
    return ""


def check_windows(machine: Hardware, where: Path, root: Path = Path("/")) -> list[Check]:
    """What is different under Windows and WSL; nothing elsewhere.

    Args:
        machine: what was detected.
        where: the folder that runs are written to.
        root: the file system's root.
    """
    if machine.platform == "windows":
        found = "Windows itself: no sandbox for generated tests, and the desktop keeps more of the card"
        return [Check("Windows", "warning", found, "wsl --install, then install the kit inside Ubuntu")]
    if machine.platform != "wsl":
        return []
    release = _text(root / "proc/sys/kernel/osrelease") or platform.release()
    if "wsl2" not in release.lower() and "microsoft-standard" not in release.lower():
        mend = "in Windows: wsl --set-version DISTRIBUTION 2"
        return [Check("WSL", "failing", "version 1: no GPU, and no sandbox", mend)]
    text = f"version 2; {gib(machine.ram_total_bytes)} of memory are Linux's (by default half of the machine's)"
    if machine.ram_total_bytes < RAM_BYTES["warning"]:
        mend = (
            "if Windows has more: [wsl2] and memory=12GB, a line each, in the file .wslconfig in %UserProfile%, "
            "then: wsl --shutdown"
        )
        return [Check("WSL", "warning", text, mend)]
    if _mount(where, root)[1] in ("9p", "drvfs"):
        return [Check("WSL", "warning", f"{text}; this folder is on Windows' disk: many times slower", "cd ~")]
    return [Check("WSL", "ok", text)]


def check_python(machine: Hardware) -> Check:
    """The version of Python."""
    first, end = PYTHON_RANGE
    numbers = re.findall(r"\d+", machine.python_version)
    version = (int(numbers[0]), int(numbers[1]))
    if first <= version < end:
        return Check("Python", "ok", machine.python_version)
    newest = f"{end[0]}.{end[1] - 1}"
    return Check("Python", "failing", machine.python_version, f"use Python {first[0]}.{first[1]} to {newest}")


def check_cpu(machine: Hardware) -> Check:
    """Which kernels run, and in which type a CPU trains."""
    flags = " ".join(machine.cpu_flags) or "none of the known features"
    kind = "bf16" if has_fast_bf16(machine.cpu_flags) else "float32"
    text = f"{machine.cpu_model}, {machine.cpu_count} for this process, {flags}; would train in {kind}"
    if machine.cpu_flags or platform.machine().lower() not in ("x86_64", "amd64"):
        return Check("CPU", "ok", text)
    return Check("CPU", "warning", f"{text}; without AVX2 models answer slowly", "use a CPU from 2013 or later")


def check_memory(machine: Hardware, root: Path = Path("/")) -> Check:
    """Host memory: all of it, what is free, and swap."""
    swap = _swap_bytes(root)
    text = f"{gib(machine.ram_total_bytes)}, {gib(machine.ram_available_bytes)} available"
    text += f", swap {gib(swap)}" if swap is not None else ""
    close = "close other programs, or take a machine with more"
    if machine.ram_total_bytes < RAM_BYTES["failing"]:
        return Check("host memory", "failing", text, close)
    if machine.ram_total_bytes < RAM_BYTES["warning"]:
        return Check("host memory", "warning", f"{text}: too little for a 7B model", close)
    if machine.ram_available_bytes < AVAILABLE_BYTES:
        return Check("host memory", "warning", f"{text}: little is free", "close other programs")
    if swap == 0 and machine.ram_total_bytes < SWAP_RAM_BYTES and not in_container(root):
        return Check("host memory", "warning", f"{text}: a peak ends the run", _more_swap(machine))
    return Check("host memory", "ok", text)


def _more_swap(machine: Hardware) -> str:
    if machine.platform == "wsl":
        return "[wsl2] and swap=8GB, a line each, in the file .wslconfig in %UserProfile%, then: wsl --shutdown"
    return (
        "sudo fallocate -l 8G /swapfile && sudo chmod 600 /swapfile && sudo mkswap /swapfile && sudo swapon /swapfile"
    )


def _swap_bytes(root: Path) -> int | None:
    """Source: ``proc_meminfo(5)``; None where there is no such file."""
    found = re.search(r"^SwapTotal:\s+(\d+) kB$", _text(root / "proc/meminfo"), re.M)
    return int(found[1]) * 1024 if found else None


def check_disks(disks: list[Disk], root: Path = Path("/")) -> list[Check]:
    """Free space, once a disk, and whether it is one that is slow.

    Args:
        disks: the first is where runs go.
        root: the file system's root, whose ``proc/self/mountinfo`` says what is mounted.
    """
    by_device: dict[int, list[Disk]] = {}
    for disk in disks:
        by_device.setdefault(os.stat(existing(disk.path)).st_dev, []).append(disk)
    checks = []
    for group in by_device.values():
        free = shutil.disk_usage(existing(group[0].path)).free
        uses = ", ".join(disk.used_for for disk in group)
        kind = _mount(group[0].path, root)[1]
        text = f"{gib(free)} for {uses}" + (f" ({kind})" if kind else "")
        first = group[0] is disks[0]
        status, mend = _room(free, first)
        if status == "ok" and kind in SLOW_DISKS:
            status = "warning"
            text += f": {SLOW_DISKS[kind]} is slow, and locks may fail"
            mend = (
                "work in a folder on a disk of this machine" if first else "export HF_HOME and LOWVRAM_FT_CACHE there"
            )
        checks.append(Check("free disk" if first else "free disk 2", status, text, mend))
    return checks


def _room(free: int, first: bool) -> tuple[Status, str | None]:
    mend = "lowvram-ft clean" + (", or write runs to another disk" if first else ", or set HF_HOME to another disk")
    if free < DISK_BYTES["failing"]:
        return "failing", mend
    return (
        ("warning", f"too little for a 7B model and its export: {mend}")
        if free < DISK_BYTES["warning"]
        else (
            "ok",
            None,
        )
    )


def existing(path: Path) -> Path:
    """The part of a path that is there."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def _mount(path: Path, root: Path) -> tuple[str, str]:
    """Where the file system of a path is mounted, and its kind; both empty where the system does not say.

    Source: proc_pid_mountinfo(5): fields 5 and, after the hyphen, 1.
    """
    place = existing(path).resolve()
    best = ("", "")
    for line in _text(root / "proc/self/mountinfo").splitlines():
        fields, _, after = line.partition(" - ")
        parts = fields.split()
        if len(parts) < 5 or not after:
            continue
        mounted = parts[4].replace("\\040", " ")
        if place.is_relative_to(mounted) and len(mounted) >= len(best[0]):
            best = (mounted, after.split()[0])
    return best


def check_compiler(*, llama_installed: bool) -> Check:
    """A C++ compiler, without which llama-cpp-python cannot be built."""
    for name in (os.environ.get("CXX"), "c++", "g++", "clang++", "cl"):
        if name and (path := shutil.which(name)):
            version = _compiler_version(path)
            return Check("C++ compiler", "ok", f"{path}{f' {version}' if version else ''}")
    if llama_installed:
        return Check("C++ compiler", "ok", "none, and llama-cpp-python is built already")
    return Check("C++ compiler", "failing", "none", "sudo apt-get install g++ (macOS: xcode-select --install)")


def _compiler_version(path: str) -> str:
    """Of GCC and Clang; empty where it does not say."""
    try:
        done = subprocess.run(
            [path, "-dumpfullversion", "-dumpversion"],
            capture_output=True,
            text=True,
            timeout=COMPILER_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    said = done.stdout.strip().splitlines()
    return said[0] if done.returncode == 0 and said else ""


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
