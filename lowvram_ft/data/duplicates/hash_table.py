"""A hash table from keys to row numbers, for several bands side by side, at four bytes a row and band."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from lowvram_ft.data.duplicates.mapped_array import filled

U32 = npt.NDArray[np.uint32]
Places = npt.NDArray[np.intp]

EMPTY = np.uint32(0xFFFFFFFF)
FULLEST = 0.8
"""Share of the slots that are taken before the table grows."""
GROWTH = 1.0625
WINDOW = 32
"""Slots that are read at once."""
LONGEST_RUN = 256
"""Slots that are searched for a key."""
LONGEST_CROWD = 64
"""Rows of one key that are carried over when the table grows."""
_BLOCK = 1 << 14
"""Rows that are placed at once when the table grows."""
_MIXER = np.uint32(0x9E3779B1)


class HashTable:
    """Open addressing with linear probing (Knuth, *The Art of Computer Programming*, volume 3, 6.4).

    It holds row numbers only; their keys stay with the caller, who checks them. It grows by a sixteenth at a time, and
    the old slots are freed before the new ones are made: its size has no peaks. Of a key that very many rows share,
    only some of the first are kept, so that the work for a row stays bounded and other keys keep their places.

    Args:
        bands: how many keys a row has.
        keys: the keys of the rows 0 to n - 1 in a band, for (band, n); asked for when the table grows.
    """

    def __init__(self, bands: int, keys: Callable[[int, int], U32]) -> None:
        self._bands = bands
        self._keys = keys
        self._steps = np.arange(WINDOW)
        self._every = np.arange(bands)
        self._count = 0
        self._resize(1024)

    @property
    def nbytes(self) -> int:
        """Bytes of the slots."""
        return self._slots.nbytes

    def look_up(self, keys: U32) -> tuple[Places, U32, Places]:
        """Rows that may have these keys, one key a band.

        Returns:
            Band and row number of each candidate; then for each band a free place for a row of that key, or -1.
        """
        home = self._home(keys) + self._starts
        block = self._slots[home[:, None] + self._steps]
        empty = block == EMPTY
        first = empty.argmax(axis=1)
        if empty[self._every, first].all():
            band, step = np.nonzero(self._steps < first[:, None])
            return band, block[band, step], home + first
        return self._look_up_long(home)

    def _look_up_long(self, home: Places) -> tuple[Places, U32, Places]:
        """The same for rows that have crowded together."""
        runs = self._slots[home[:, None] + np.arange(LONGEST_RUN)]
        empty = runs == EMPTY
        ended = empty.any(axis=1)
        first = np.where(ended, empty.argmax(axis=1), LONGEST_RUN)
        band, step = np.nonzero(np.arange(LONGEST_RUN) < first[:, None])
        return band, runs[band, step], np.where(ended & (first < LONGEST_RUN // 2), home + first, -1)

    def insert(self, free: Places) -> None:
        """Put the next row (they count from 0) where `look_up` of its keys found a free place in each band.

        The row's keys must be among what ``keys`` gives by now.
        """
        self._slots[free[free >= 0]] = self._count
        self._count += 1
        if self._count > FULLEST * self._capacity:
            self._resize(int(self._capacity * GROWTH))

    def _home(self, keys: U32) -> Places:
        # The high bits of a product in place of a remainder: any capacity will do, not powers of two alone.
        mixed = (keys * _MIXER).astype(np.uint64)
        return ((mixed * np.uint64(self._capacity)) >> np.uint64(32)).astype(np.intp)

    def _resize(self, capacity: int) -> None:
        self._capacity = capacity
        stride = capacity + LONGEST_RUN + 1
        self._starts = self._every * stride
        self._slots = np.empty(0, dtype=np.uint32)  # frees the old slots first
        self._slots = filled(self._bands * stride + LONGEST_RUN, EMPTY)
        if not self._count:
            return
        for band in range(self._bands):
            self._fill(band, stride)

    def _fill(self, band: int, stride: int) -> None:
        # Sorted as one integer each, which numpy does several times as fast as it sorts indirectly; then a block at a
        # time, so that little memory is needed beside it.
        packed = self._home(self._keys(band, self._count)) << 32
        packed |= np.arange(self._count)
        packed.sort()
        last_home, first_of_home, carried_before, furthest = -1, 0, 0, -self._count
        for start in range(0, self._count, _BLOCK):
            block = packed[start : start + _BLOCK]
            home, rows = block >> 32, block.astype(np.uint32)
            ranks = np.arange(start, start + len(block))
            firsts = np.maximum.accumulate(np.where(np.diff(home, prepend=last_home) > 0, ranks, first_of_home))
            last_home, first_of_home = int(home[-1]), int(firsts[-1])
            carried = ranks - firsts < LONGEST_CROWD
            home, rows = home[carried], rows[carried]
            ranks = np.arange(carried_before, carried_before + len(home))
            # In the order of home, each row takes its home or the slot after the row before it, if that is later.
            offsets = np.maximum(np.maximum.accumulate(home - ranks), furthest)
            carried_before, furthest = carried_before + len(home), int(offsets[-1]) if len(offsets) else furthest
            place = offsets + ranks
            kept = place - home < LONGEST_RUN
            kept &= place < stride - 1  # the last slot of a band stays empty, so that no run goes on into the next
            self._slots[self._starts[band] + place[kept]] = rows[kept]
