"""As many micro-batches for each process, and no row twice: what is missing is filled with rows that carry no loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

from lowvram_ft.data.prepared import IGNORE_INDEX


class Evened:
    """A sampler: the places of another one, then places beyond the rows, up to a multiple.

    ``accelerate`` gives micro-batch ``i`` to process ``i % n``, so the processes' micro-batches of one step are those
    that one process takes one after the other. At the end of an epoch it goes round to the first rows again, to give
    every process as many; the last step would train on rows that one process does not train on there.

    Args:
        order: the places of all rows.
        multiple: rows of one micro-batch on every process.
    """

    def __init__(self, order: Any, multiple: int) -> None:
        self._order, self._multiple = order, multiple

    def __len__(self) -> int:
        return math.ceil(len(self._order) / self._multiple) * self._multiple

    def __iter__(self) -> Iterator[int]:
        yield from self._order
        yield from range(len(self._order), len(self))


class WithBlanks:
    """Rows, and beyond them as many as are asked for that carry no loss: two tokens, `IGNORE_INDEX` as labels.

    Args:
        rows: a ``datasets.Dataset`` with ``input_ids`` and ``labels``.
    """

    def __init__(self, rows: Any) -> None:
        self._rows = rows
        self.column_names = rows.column_names

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, place: int) -> dict[str, list[int]]:
        if place < len(self._rows):
            row: dict[str, list[int]] = self._rows[place]
            return row
        return {"input_ids": [0, 0], "labels": [IGNORE_INDEX, IGNORE_INDEX]}


def share_evenly(trainer: Any) -> None:
    """Have a trainer share its rows so, where it is one of several processes. Its sampler is set before.

    Args:
        trainer: a ``transformers.Trainer`` with a ``datasets.Dataset`` to train on.
    """
    args = trainer.args
    if args.world_size == 1:
        return
    order: Callable[..., Any] = trainer._get_train_sampler
    # an attribute, not a subclass: the engines' trainers are three classes, one of which Unsloth writes at import
    trainer._get_train_sampler = lambda rows=None: Evened(order(rows), args.train_batch_size * args.world_size)
    trainer.train_dataset = WithBlanks(trainer.train_dataset)
