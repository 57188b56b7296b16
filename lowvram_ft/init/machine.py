"""The machine that a recipe is written for: this one, or another that the user describes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lowvram_ft.hardware import Gpu, Hardware
from lowvram_ft.memory.cards import Card, known_card

PRETENDED_DRIVER = "pretended"


@dataclass(frozen=True)
class Pretend:
    """What is said of another machine; None everywhere stands for this one.

    Attributes:
        card: of the table.
        vram_bytes: the size of its card.
        no_gpu: it has none.
        ram_bytes: the size of its memory.
        disk_bytes: what is free on its disk.
        cpus: that it has.
    """

    card: Card | None = None
    vram_bytes: int | None = None
    no_gpu: bool = False
    ram_bytes: int | None = None
    disk_bytes: int | None = None
    cpus: int | None = None

    @property
    def another(self) -> bool:
        """Whether the memory or the card is another machine's."""
        return self.no_gpu or self.vram_bytes is not None or self.card is not None or self.ram_bytes is not None


def machine_for(here: Hardware, pretend: Pretend) -> Hardware:
    """This machine with what is said of another."""
    machine = here
    if pretend.no_gpu:
        machine = replace(machine, gpus=(), no_gpu_reason="none is to be used", cuda_driver_version=None)
    elif pretend.card is not None or pretend.vram_bytes is not None:
        card = pretend.card
        size = pretend.vram_bytes or (card.vram_bytes if card is not None else 0)
        name = card.name if card is not None else f"a card of {size / 2**30:g} GiB"
        gpu = Gpu(name, size, size, (8, 6), PRETENDED_DRIVER)
        machine = replace(machine, gpus=(gpu,), no_gpu_reason=None)
    if pretend.ram_bytes is not None:
        machine = replace(machine, ram_total_bytes=pretend.ram_bytes, ram_available_bytes=pretend.ram_bytes)
    if pretend.disk_bytes is not None:
        machine = replace(machine, disk_free_bytes=pretend.disk_bytes)
    if pretend.cpus is not None:
        machine = replace(machine, cpu_count=pretend.cpus)
    return machine


def card_of(machine: Hardware) -> Card | None:
    """The machine's card in the table, where it is there by name."""
    return known_card(machine.gpus[0].name) if machine.gpus else None


def described(machine: Hardware) -> str:
    """A machine in a line."""
    card = "no GPU" if not machine.gpus else machine.gpus[0].name
    if machine.gpus and "card of" not in card:
        card += f" with {machine.gpus[0].total_bytes / 2**30:.3g} GiB"
    return (
        f"{card}, {machine.ram_total_bytes / 2**30:.3g} GiB of memory, {machine.cpu_count} CPUs, "
        f"{machine.disk_free_bytes / 2**30:.3g} GiB of free disk"
    )
