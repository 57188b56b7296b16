"""Which cloud GPU a recipe needs: the smallest that holds it with nothing given up."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from lowvram_ft.errors import MachineError, UsageError
from lowvram_ft.hardware import detect
from lowvram_ft.memory.for_recipe import StagePlan, plan_stages
from lowvram_ft.recipe import Resolved

GIB = 2**30
MIB = 2**20
RAM_GIB = (8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
"""Sizes of host memory that are tried for one process, smallest first."""
DISK_BASE_GIB = 100
"""The image of the cloud with its drivers, and the kit's environment with torch's CUDA libraries. Assumption; images
with CUDA are refused on much smaller disks."""


@dataclass(frozen=True)
class Accelerator:
    """A GPU that clouds rent out.

    Attributes:
        name: SkyPilot's.
        vram_bytes: its memory as ``nvidia-smi`` shows it, which is less than it is sold with.
        bfloat16: whether it computes in bfloat16; else training is in float16.
    """

    name: str
    vram_bytes: int
    bfloat16: bool = True


ACCELERATORS = (
    Accelerator("T4", 15360 * MIB, bfloat16=False),
    Accelerator("L4", 23034 * MIB),
    Accelerator("A10G", 23028 * MIB),
    Accelerator("A10", 23028 * MIB),
    Accelerator("A100", 40960 * MIB),
    Accelerator("L40S", 46068 * MIB),
    Accelerator("A100-80GB", 81920 * MIB),
    Accelerator("H100", 81559 * MIB),
)
"""From the smallest up, the usually cheaper first. Their memory is what the driver of that card reports."""
SAME_SIZE = 0.02
"""Cards whose memory differs by no more than this share stand in for each other."""


@dataclass(frozen=True)
class Choice:
    """What a recipe is to be trained on.

    Attributes:
        accelerator: the card that was planned for.
        count: cards; more than one train together.
        stand_ins: names of others of the same size, which SkyPilot may take where they are cheaper or free.
        ram_gib: host memory, of all processes.
        disk_gib: of the machine's disk.
        plans: each stage's plan, of one process.
        given_up: what the plan gives up to fit, in words; empty where nothing.
    """

    accelerator: Accelerator
    count: int
    stand_ins: tuple[str, ...]
    ram_gib: int
    disk_gib: int
    plans: Mapping[str, StagePlan]
    given_up: tuple[str, ...]


def choose(resolved: Resolved, gpu: str | None = None) -> Choice:
    """Choose a GPU for a recipe.

    Args:
        resolved: the recipe. What it says of the machine (``hardware.vram_gib``, ``ram_gib``) is that of another one.
        gpu: ``NAME`` or ``NAME:COUNT`` that a user wants; None for the smallest that holds it with nothing given up.

    Raises:
        UsageError: the GPU is not known.
        MachineError: no GPU is large enough, or the one that is wanted is not.
        ModelError: a base model is unknown.
    """
    if gpu is not None:
        accelerator, count = _wanted(gpu)
        whole = _fitting(resolved, accelerator, give_up=False)
        plans = whole or _fitting(resolved, accelerator, give_up=True)
        if plans is None:
            raise MachineError(_too_small(resolved, accelerator))
        given_up = () if whole else tuple(step for plan in plans[1].values() for step in plan.fit.steps)
        return _choice(accelerator, count, (), *plans, given_up)
    for accelerator in ACCELERATORS:
        plans = _fitting(resolved, accelerator, give_up=False)
        if plans is not None:
            size = accelerator.vram_bytes
            alike = [
                other.name
                for other in ACCELERATORS
                if other != accelerator and abs(other.vram_bytes - size) <= SAME_SIZE * size
            ]
            return _choice(accelerator, 1, tuple(alike), *plans, ())
    raise MachineError(_too_small(resolved, max(ACCELERATORS, key=lambda card: card.vram_bytes)))


def _wanted(gpu: str) -> tuple[Accelerator, int]:
    match = re.fullmatch(r"([\w-]+)(?::(\d+))?", gpu.strip())
    known = {accelerator.name.lower(): accelerator for accelerator in ACCELERATORS}
    found = known.get(match[1].lower()) if match else None
    count = int(match[2] or 1) if match else 0
    if found is None or not 1 <= count <= 8:
        names = ", ".join(accelerator.name for accelerator in ACCELERATORS)
        raise UsageError(f"--gpu: unknown (got {gpu!r}); give one of {names}, or more with :COUNT up to 8, as in L4:2")
    return found, count


def _fitting(resolved: Resolved, accelerator: Accelerator, *, give_up: bool) -> tuple[int, dict[str, StagePlan]] | None:
    """The least host memory of one process, and every stage's plan with it; None where none fits."""
    bare = _elsewhere(resolved, give_up=give_up)
    machine = detect()
    for ram_gib in RAM_GIB:
        budget = {
            "vram_bytes": accelerator.vram_bytes,
            "ram_bytes": ram_gib * GIB,
            "platform": "linux",
            "display": False,
        }
        plans = plan_stages(bare, machine, budget)
        if all(plan.fit.plan.fits for plan in plans.values()):
            return ram_gib, plans
    return None


def _elsewhere(resolved: Resolved, *, give_up: bool) -> Resolved:
    """The recipe without what it says of a machine; without fallbacks, so that the model is the one that is wanted."""
    stages = []
    for stage in resolved.stages:
        section = stage.recipe.hardware
        allow = tuple(word for word in section.allow if word != "smaller_model") if give_up else ()
        hardware = section.model_copy(update={"vram_gib": None, "ram_gib": None, "allow": allow})
        stages.append(replace(stage, recipe=stage.recipe.model_copy(update={"hardware": hardware})))
    return replace(resolved, stages=tuple(stages))


def _choice(
    accelerator: Accelerator,
    count: int,
    stand_ins: tuple[str, ...],
    ram_gib: int,
    plans: Mapping[str, StagePlan],
    given_up: tuple[str, ...],
) -> Choice:
    disk = max(plan.fit.plan.disk_bytes for plan in plans.values())
    disk_gib = DISK_BASE_GIB + -(-disk // (10 * GIB)) * 10
    return Choice(accelerator, count, stand_ins, ram_gib * count, disk_gib, plans, tuple(dict.fromkeys(given_up)))


def _too_small(resolved: Resolved, accelerator: Accelerator) -> str:
    size = accelerator.vram_bytes / GIB
    return (
        f"{resolved.name}: does not fit on {accelerator.name} ({size:.1f} GiB); choose a larger --gpu, let the recipe "
        f"give up more (hardware.allow), or see: lowvram-ft plan {resolved.name} --vram {size:.1f}GiB"
    )
