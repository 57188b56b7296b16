"""A small table of GPUs: what the time model needs to know of them, and where each figure comes from.

The rate is that of dense 16-bit products that are summed in float32, as training does them. GeForce cards run them at
half the rate that is advertised (which sums in 16 bits, or leaves out zeros): a tensor core does 64 (Turing: 32) such
multiply-adds a clock. A laptop's clock depends on the power that its maker allows; the table has one in the middle.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from lowvram_ft.errors import UsageError
from lowvram_ft.memory.setup import GIB

_PCIE_3_X16 = _PCIE_4_X8 = 15.75e9
_PCIE_4_X16 = 31.5e9
_PCIE_5_X16 = 63.0e9
_AMPERE = "NVIDIA GA102 whitepaper, appendix A"
_ADA = "NVIDIA Ada whitepaper, appendix A"
_TURING = "NVIDIA Turing whitepaper, appendix A"


@dataclass(frozen=True)
class Card:
    """One GPU, as its maker describes it.

    Attributes:
        name: without the maker's.
        vram_bytes: the size of its memory.
        memory_bytes_per_s: bandwidth of its memory.
        bus_bytes_per_s: of PCI Express, one way.
        flops_per_s: dense 16-bit products summed in float32; a multiply-add counts two.
        source: of these figures.
    """

    name: str
    vram_bytes: int
    memory_bytes_per_s: float
    bus_bytes_per_s: float
    flops_per_s: float
    source: str


def _cores(count: int, ghz: float, per_clock: int = 128) -> float:
    """Tensor cores x float operations a clock x clock."""
    return count * per_clock * ghz * 1e9


CARDS = (
    Card("RTX 3050 Laptop", 4 * GIB, 192e9, _PCIE_4_X8, _cores(64, 1.485),
         "64 tensor cores at 1.485 GHz (55 W; 35 to 80 W are sold), 128 bit x 12 Gbit/s; NVIDIA's page; " + _AMPERE),
    Card("RTX 3050 Ti Laptop", 4 * GIB, 192e9, _PCIE_4_X8, _cores(80, 1.41),
         "80 tensor cores at 1.41 GHz (50 W), 128 bit x 12 Gbit/s; NVIDIA's page; " + _AMPERE),
    Card("RTX 3050 6GB Laptop", 6 * GIB, 168e9, _PCIE_4_X8, _cores(80, 1.492),
         "80 tensor cores at 1.492 GHz, 96 bit x 14 Gbit/s; NVIDIA's page; " + _AMPERE),
    Card("RTX 3050 6GB", 6 * GIB, 168e9, _PCIE_4_X8, _cores(72, 1.47),
         "72 tensor cores at 1.47 GHz, 96 bit x 14 Gbit/s; NVIDIA's page; " + _AMPERE),
    Card("RTX 3060", 12 * GIB, 360e9, _PCIE_4_X16, _cores(112, 1.777),
         "112 tensor cores at 1.777 GHz, 192 bit x 15 Gbit/s; NVIDIA's page; " + _AMPERE),
    Card("RTX 4050 Laptop", 6 * GIB, 192e9, _PCIE_4_X8, _cores(80, 2.055),
         "80 tensor cores at 2.055 GHz (75 W; 35 to 115 W are sold), 96 bit x 16 Gbit/s; NVIDIA's page; " + _ADA),
    Card("RTX 4060 Laptop", 8 * GIB, 256e9, _PCIE_4_X8, _cores(96, 1.89),
         "96 tensor cores at 1.89 GHz (80 W; 35 to 115 W are sold), 128 bit x 16 Gbit/s; NVIDIA's page; " + _ADA),
    Card("RTX 2060", 6 * GIB, 336e9, _PCIE_3_X16, _cores(240, 1.68, 64),
         "240 tensor cores at 1.68 GHz (float16 alone), 192 bit x 14 Gbit/s; " + _TURING),
    Card("GTX 1650", 4 * GIB, 128e9, _PCIE_3_X16, _cores(896, 1.665, 4),
         "no tensor cores: 896 CUDA cores at 1.665 GHz, float16 at twice the float32 rate; NVIDIA's page; " + _TURING),
    Card("T4", 16 * GIB, 320e9, _PCIE_3_X16, 65e12, "NVIDIA T4 data sheet (float16 alone)"),
    Card("A10", 24 * GIB, 600e9, _PCIE_4_X16, 125e12, "NVIDIA A10 data sheet, without sparsity"),
    Card("L4", 24 * GIB, 300e9, _PCIE_4_X16, 121e12, "NVIDIA L4 data sheet, half of the figure with sparsity"),
    Card("RTX 3090", 24 * GIB, 936e9, _PCIE_4_X16, _cores(328, 1.695), "328 tensor cores at 1.695 GHz; " + _AMPERE),
    Card("RTX 4090", 24 * GIB, 1008e9, _PCIE_4_X16, _cores(512, 2.52), "512 tensor cores at 2.52 GHz; " + _ADA),
    Card("A100 40GB", 40 * GIB, 1555e9, _PCIE_4_X16, 312e12, "NVIDIA A100 data sheet, without sparsity"),
    Card("A100 80GB", 80 * GIB, 1935e9, _PCIE_4_X16, 312e12, "NVIDIA A100 data sheet (PCIe), without sparsity"),
    Card("H100 80GB PCIe", 80 * GIB, 2000e9, _PCIE_5_X16, 756e12, "NVIDIA H100 data sheet (PCIe), without sparsity"),
    Card("H100 80GB SXM", 80 * GIB, 3350e9, _PCIE_5_X16, 989e12, "NVIDIA H100 data sheet (SXM), without sparsity"),
)  # fmt: skip
"""The cards that are known, in no order that matters."""

_MAKERS_WORDS = frozenset({"nvidia", "geforce", "gpu", "tesla", "graphics", "card"})
_SAME_WORDS = {"hbm3": "sxm", "sxm5": "sxm", "mobile": "laptop"}
"""What a driver says, and what the table says."""
_TELLS_APART = frozenset({"laptop", "ti", "super", "max", "d", "q"})


def find_card(name: str) -> Card:
    """The card that is meant: ``RTX 3050 Laptop``, ``rtx3050-laptop``, ``NVIDIA GeForce RTX 3050 Laptop GPU``.

    Raises:
        UsageError: none is, or several are; the message names them.
    """
    found = _matching(name)
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(
            f"--gpu: could be several (got {name!r}); choose from {', '.join(card.name for card in found)}"
        )
    raise UsageError(f"--gpu: not in the table (got {name!r}); choose from {', '.join(card.name for card in CARDS)}")


def known_card(name: str) -> Card | None:
    """The card that a driver names so, or None where the table does not have it."""
    found = _matching(name)
    return found[0] if len(found) == 1 else None


def card_of_size(vram_bytes: int) -> Card:
    """A card to predict for where none is named: the smallest of the table that has so much memory, else the largest.

    Among several of a size, the first of the table.
    """
    enough = [card for card in CARDS if card.vram_bytes >= vram_bytes]
    return min(enough, key=lambda card: card.vram_bytes) if enough else max(CARDS, key=lambda card: card.vram_bytes)


def _matching(name: str) -> list[Card]:
    """Cards whose words hold all that were given, those with the fewest others; else those that were given entirely."""
    given = _words(name)
    if not given:
        return []
    wider = [(len(_words(card.name) - given), card) for card in CARDS if given <= _words(card.name)]
    if wider:
        least = min(extra for extra, _ in wider)
        return [card for extra, card in wider if extra == least]
    return [card for card in CARDS if _words(card.name) < given and not (given - _words(card.name)) & _TELLS_APART]


def _words(name: str) -> frozenset[str]:
    text = re.sub(r"(\d+)\s*gi?b\b", r" \1gb ", name.lower())
    text = re.sub(r"\b(rtx|gtx)(?=\d)", r"\1 ", text)
    text = re.sub(r"(?<=\d{4})(ti|super)\b", r" \1", text)
    return frozenset(_SAME_WORDS.get(word, word) for word in re.findall(r"[a-z0-9]+", text)) - _MAKERS_WORDS
