"""Arrays in memory of their own, which grow in place and leave nothing behind.

`malloc` keeps freed blocks of up to 32 MiB for later (glibc's M_MMAP_THRESHOLD), where an array that grows again and
again leaves holes that nothing else fits into: 40 bytes a row of an index, beside 230 that it uses.
"""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
import numpy.typing as npt


def _map(size: int) -> mmap.mmap:
    """So many bytes of zeros, none of which takes memory before it is written to."""
    if hasattr(mmap, "MAP_PRIVATE"):
        return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return mmap.mmap(-1, size)  # Windows: not shared with anybody, since it has no name


class MappedArray:
    """An array that grows by a sixteenth at a time, by moving no more than its address where the system can.

    Args:
        dtype: of its elements.
        row_shape: shape of one row.

    Attributes:
        values: the array, shape [capacity, *row_shape]. It is another one after `make_room`: hold no view of it.
    """

    def __init__(self, dtype: npt.DTypeLike, row_shape: tuple[int, ...] = ()) -> None:
        self._dtype, self._row_shape = np.dtype(dtype), row_shape
        self._row_bytes = self._dtype.itemsize * int(np.prod(row_shape, dtype=np.int64))
        self._memory = _map(1024 * self._row_bytes)
        self.values = self._view()

    def _view(self) -> npt.NDArray[Any]:
        return np.frombuffer(self._memory, self._dtype).reshape(-1, *self._row_shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the whole capacity."""
        return len(self._memory)

    def make_room(self, count: int) -> None:
        """Grow where ``count`` rows are all that fit."""
        if count < len(self.values):
            return
        size = (count + max(count // 16, 1024)) * self._row_bytes
        self.values = np.empty((0, *self._row_shape), self._dtype)  # a mapping with views cannot be moved
        try:
            self._memory.resize(size)
        except SystemError:  # no mremap: macOS
            old, self._memory = self._memory, _map(size)
            self._memory[: len(old)] = old[:]
            old.close()
        self.values = self._view()


def filled(count: int, value: np.uint32) -> npt.NDArray[np.uint32]:
    """An array that is given back to the system as soon as nothing refers to it; shape [count]."""
    values = np.frombuffer(_map(4 * count), np.uint32)
    values[:] = value
    return values
