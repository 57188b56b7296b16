"""Arrays in memory of their own keep their values as they grow."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
import pytest

from lowvram_ft.data.duplicates import mapped_array
from lowvram_ft.data.duplicates.mapped_array import MappedArray, filled


class _CannotMove(mmap.mmap):
    """What macOS gives."""

    def resize(self, newsize: int) -> None:
        raise SystemError("mmap: resizing not available--no mremap()")


@pytest.mark.parametrize("can_move", [True, False])
def test_values_stay_as_an_array_grows(can_move: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not can_move:
        monkeypatch.setattr(mapped_array, "_map", lambda size: _CannotMove(-1, size))
    wide, flat = MappedArray(np.uint8, (6,)), MappedArray(np.uint64)
    for number in range(5000):
        for array in (wide, flat):
            array.make_room(number)
            array.values[number] = number % 251
    expected = np.arange(5000) % 251
    assert (flat.values[:5000] == expected).all()
    assert (wide.values[:5000] == expected[:, None]).all()
    assert flat.nbytes == len(flat.values) * 8 and wide.nbytes == len(wide.values) * 6
    assert not flat.values[5000:].any()


def test_room_that_is_there_moves_nothing() -> None:
    array = MappedArray(np.uint32)
    before: Any = array.values
    array.make_room(len(before) - 1)
    assert array.values is before


def test_a_filled_array() -> None:
    assert filled(10_000, np.uint32(7)).tolist() == [7] * 10_000
