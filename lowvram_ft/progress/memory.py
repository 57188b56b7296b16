"""What this process holds, beside what it may."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

_STATUS = Path("/proc/self/status")
GIB = 1 << 30


@dataclass(frozen=True)
class Memory:
    """Memory in use, now.

    Attributes:
        used_bytes: what counts against the budget.
        budget_bytes: the plan's; None where nothing was planned.
        kind: what is counted, in a word or two.
        beside: more that a reader may want to know.
    """

    used_bytes: int
    budget_bytes: int | None = None
    kind: str = "memory"
    beside: str = ""

    @property
    def words(self) -> str:
        """The same for a reader: ``memory 1.31 of 2.10 GiB planned, 1.52 with mapped files``."""
        planned = f" of {self.budget_bytes / GIB:.2f} GiB planned" if self.budget_bytes is not None else " GiB"
        beside = f", {self.beside}" if self.beside else ""
        return f"{self.kind} {self.used_bytes / GIB:.2f}{planned}{beside}"


def of_process(budget_bytes: int | None = None) -> Memory:
    """Anonymous memory of this process, and all that is resident: with the pages of files that are mapped.

    Source: ``proc_pid_status(5)``: ``RssAnon`` and ``VmRSS`` in KiB. Elsewhere the peak of ``getrusage(2)``, and 0
    where there is neither.
    """
    if not _STATUS.is_file():
        return Memory(_peak_bytes(), budget_bytes, "memory (peak)")
    sizes = {"RssAnon": 0, "VmRSS": 0}
    for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name in sizes:
            sizes[name] = int(value.split()[0]) << 10
    return Memory(sizes["RssAnon"], budget_bytes, "memory", f"{sizes['VmRSS'] / GIB:.2f} with mapped files")


def _peak_bytes() -> int:
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)
