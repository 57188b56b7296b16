"""What makes the generated block of init.md: what is picked on machines of several sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from lowvram_ft.hardware import Hardware
from lowvram_ft.init.choose import Wishes, choose
from lowvram_ft.init.machine import Pretend, machine_for
from lowvram_ft.init.material import Material

GIB = 1 << 30
LAPTOP = Hardware(
    gpus=(),
    no_gpu_reason="none",
    cuda_driver_version=None,
    cpu_count=8,
    cpu_model="a laptop's",
    cpu_flags=("avx2",),
    ram_total_bytes=16 * GIB,
    ram_available_bytes=12 * GIB,
    disk_free_bytes=100 * GIB,
    platform="linux",
    python_version="3.11",
)
MACHINES: Sequence[tuple[int | None, int, int]] = (
    *((vram, ram, 100) for vram in (None, 4, 6, 8) for ram in (8, 16, 32)),
    (4, 16, 15),
    (8, 16, 3),
    (None, 8, 2),
)
"""GiB of the card, of host memory, and of free disk."""
Table = Callable[[Sequence[str], Iterable[Sequence[object]]], str]


def picks_block(table: Table) -> str:
    """Base model, rows and estimates, with KodCode and a night of 8 hours."""
    headings = ("card", "memory", "disk", "base model", "rows", "trains", "answers in", "passed over")
    return table(headings, _rows())


def _rows() -> Iterator[Sequence[object]]:
    for vram, ram, disk in MACHINES:
        pretend = Pretend(
            vram_bytes=vram * GIB if vram else None, no_gpu=vram is None, ram_bytes=ram * GIB, disk_bytes=disk * GIB
        )
        found = choose(Material("kodcode"), machine_for(LAPTOP, pretend), Wishes(), pinned=True, rows_file=None)
        [stage] = found.stages
        reasons = [f"{base.split('/')[-1]}: {reason}" for base, reason in found.passed_over.items()]
        yield (
            f"{vram} GiB" if vram else "none",
            f"{ram} GiB",
            f"{disk} GiB",
            f"`{found.base.id.split('/')[-1]}`",
            f"{stage.sections['data']['max_rows']:,}",
            f"{found.train_s / 3600:.1f} h",
            f"{found.answer_s:.0f} s",
            reasons[-1] if reasons else "",
        )
