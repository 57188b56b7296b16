"""The memory that a training holds now, beside its plan, for whoever watches."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from lowvram_ft.progress import Memory
from lowvram_ft.progress.memory import GIB, of_process


def meter(device: str, budget_bytes: int | None) -> Callable[[], Memory]:
    """What finds it out, without a wait for the card.

    Args:
        device: ``"cuda"`` or ``"cpu"``.
        budget_bytes: the peak that was planned.
    """
    return partial(_reserved if device == "cuda" else of_process, budget_bytes)


def _reserved(budget_bytes: int | None) -> Memory:
    """What torch's allocator has taken of the card: the quantity that a plan's peak is about."""
    most = torch.cuda.max_memory_reserved()
    return Memory(torch.cuda.memory_reserved(), budget_bytes, "VRAM reserved", f"at most {most / GIB:.2f} so far")
