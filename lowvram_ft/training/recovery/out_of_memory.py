"""Out of memory: how it is recognized, where it happened, and how what a half-done step holds is let go."""

from __future__ import annotations

import gc
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

import torch

from lowvram_ft.hardware import linux_memory
from lowvram_ft.memory.notches import Short

_DEVICE_WORDS = ("CUDA out of memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
_HOST_WORDS = ("DefaultCPUAllocator", "not enough memory", "Cannot allocate memory", "can't allocate memory")
HOST_FLOOR_BYTES = 512 * 2**20
HOST_FLOOR_SHARE = 0.05
"""Memory is low on the host below the lesser of 512 MiB and 5 % of all: before swapping begins in earnest, which would
make every step many times slower, and before the kernel kills a process of its choice. Assumption."""


class HostMemoryLow(MemoryError):
    """The host's memory runs low; nothing has failed yet.

    Args:
        available_bytes: what is left.
    """

    def __init__(self, available_bytes: int) -> None:
        super().__init__(f"{available_bytes / 2**20:.0f} MiB of host memory left")


class HostWatch:
    """Looks at the host's memory between two steps.

    Args:
        memory: total and available bytes; None where this system does not say.
        may_step_down: whether anything can be done about it.
    """

    def __init__(self, memory: Callable[[], tuple[int, int]] | None, may_step_down: Callable[[], bool]) -> None:
        self._memory, self.may_step_down = memory, may_step_down

    def low_bytes(self) -> int | None:
        """What is available, if that is too little; else None."""
        if self._memory is None:
            return None
        total, available = self._memory()
        return available if available < min(HOST_FLOOR_BYTES, HOST_FLOOR_SHARE * total) else None


def host_memory() -> Callable[[], tuple[int, int]] | None:
    """How this system is asked for its memory, limits of containers included."""
    return (lambda: linux_memory(Path("/"))) if sys.platform == "linux" else None


def shortage_of(error: BaseException, device: str) -> Short | None:
    """Where memory ran out; None for an error of another kind.

    An engine may have put an error of its own around it, so causes count.

    Args:
        error: what was raised.
        device: where the model is trained: ``"cuda"`` or ``"cpu"``.
    """
    for link in chain(error):
        text = str(link)
        if isinstance(link, torch.OutOfMemoryError):
            return "device"
        if isinstance(link, RuntimeError) and any(words in text for words in _DEVICE_WORDS):
            return "device"
        host = isinstance(link, MemoryError) or (
            isinstance(link, RuntimeError | OSError) and any(words in text for words in _HOST_WORDS)
        )
        if host:
            return "device" if device == "cpu" else "host"
    return None


def is_lost_device(error: BaseException) -> bool:
    """Whether the GPU no longer answers, as after a suspend with a driver that does not keep its memory."""
    return any(
        isinstance(link, RuntimeError) and str(link).startswith("CUDA error:") and shortage_of(link, "cuda") is None
        for link in chain(error)
    )


def is_in_backward(error: BaseException) -> bool:
    """Whether it was raised under autograd's backward pass, a forward that is computed again included."""
    return any(
        frame.f_code.co_name == "backward"
        and Path(frame.f_code.co_filename).parts[-2:-1] in (("torch",), ("autograd",))
        for link in chain(error)
        for frame, _ in traceback.walk_tb(link.__traceback__)
    )


def chain(error: BaseException) -> Iterator[BaseException]:
    """An error, what caused it, and what it was raised in the handling of."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or link.__context__


def let_go(error: BaseException) -> None:
    """Drop what the frames of an error hold: every tensor of the step that was cut off, the model among them."""
    for link in list(chain(error)):
        trace: TracebackType | None = link.__traceback__
        traceback.clear_frames(trace)
        link.__traceback__ = None


def free_memory() -> None:
    """Give back to the card what no tensor uses any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
