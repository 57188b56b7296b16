"""One line of the doctor's report."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

Status = Literal["ok", "warning", "failing"]

GIB = 2**30
MIB = 2**20


@dataclass(frozen=True)
class Check:
    """One line of the doctor's report.

    Attributes:
        name: what was looked at.
        status: ``failing`` stops the kit's main job; ``warning`` makes it slower or smaller.
        found: what is there.
        mend: the command that mends it, or what to do; None where it is ok.
    """

    name: str
    status: Status
    found: str
    mend: str | None = None

    def to_json(self) -> dict[str, object]:
        """The check as JSON values."""
        return asdict(self)


def gib(n_bytes: int) -> str:
    """An amount as people read it."""
    return f"{n_bytes / GIB:.1f} GiB"


def mib(n_bytes: int) -> str:
    """A small amount."""
    return f"{n_bytes / MIB:,.0f} MiB"
