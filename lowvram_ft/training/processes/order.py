"""The order of the rows: of the seed, the epoch and the effective batch, and of nothing else.

The trainer's own order is drawn from torch's global generator, in groups of one process's share of an effective batch.
So two processes would see other effective batches than one with twice the accumulation, dropout on the CPU would shift
the order of the next epoch, and a run that is taken up in a later epoch would draw another one than it had.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from lowvram_ft.data.prepared import IGNORE_INDEX


class EpochOrder:
    """A sampler: rows of like length together; the same effective batches for any number of processes.

    ``accelerate`` gives micro-batch ``i`` to process ``i % n``, so the processes' micro-batches of one step are those
    that one process takes one after the other. At the end of an epoch it goes round to the first rows again, to give
    every process as many, and the last step would train on rows that one process does not train on there. So places
    beyond the rows follow, up to a multiple; they stand for rows without loss (see `WithBlanks`).

    Args:
        lengths: tokens of each row.
        effective_batch: rows of an optimizer step, over all processes.
        multiple: rows of one micro-batch of every process.
        seed: of the order.
        steps_done: optimizer steps so far; says which epoch begins.
    """

    def __init__(
        self, lengths: Sequence[int], effective_batch: int, multiple: int, seed: int, steps_done: Callable[[], int]
    ) -> None:
        self._lengths, self._effective_batch = lengths, effective_batch
        self._seed, self._steps_done = seed, steps_done
        self._padded = math.ceil(len(lengths) / multiple) * multiple

    def __len__(self) -> int:
        return self._padded

    def __iter__(self) -> Iterator[int]:
        import torch
        from transformers.trainer_pt_utils import get_length_grouped_indices

        epoch = self._steps_done() // math.ceil(len(self._lengths) / self._effective_batch)
        # torch's generator on the CPU takes 32 bits of a seed
        generator = torch.Generator().manual_seed((self._seed * 1_000_003 + epoch) % 2**32)
        yield from get_length_grouped_indices(self._lengths, self._effective_batch, generator=generator)
        yield from range(len(self._lengths), self._padded)


BLANK_ROW: Mapping[str, Any] = {"input_ids": [0, 0], "labels": [IGNORE_INDEX, IGNORE_INDEX]}
"""A row without loss."""
BLANK_PAIR: Mapping[str, Any] = {
    "prompt_ids": [0, 0], "chosen_ids": [], "rejected_ids": [], "ref_chosen_logps": 0.0, "ref_rejected_logps": 0.0,
}  # fmt: skip
"""A pair without completions, which counts as none."""


class WithBlanks:
    """Rows, and beyond them as many as are asked for that carry no loss.

    Args:
        rows: a ``datasets.Dataset``.
        blank: what lies beyond.
    """

    def __init__(self, rows: Any, blank: Mapping[str, Any] = BLANK_ROW) -> None:
        self._rows, self._blank = rows, blank
        self.column_names = rows.column_names

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, place: int) -> dict[str, Any]:
        if place < len(self._rows):
            row: dict[str, Any] = self._rows[place]
            return row
        return dict(self._blank)


def put_in_order(trainer: Any) -> None:
    """Give a trainer of rows this order.

    Args:
        trainer: a ``transformers.Trainer`` with a ``datasets.Dataset`` to train on.
    """
    _put_in_order(trainer, _lengths(trainer.train_dataset, "input_ids"), BLANK_ROW)


def put_pairs_in_order(trainer: Any) -> None:
    """Give a trainer of pairs this order; a pair is as long as its longer sequence.

    Args:
        trainer: a ``transformers.Trainer`` with a ``datasets.Dataset`` of pairs to train on.
    """
    names = ("prompt_ids", "chosen_ids", "rejected_ids")
    columns = zip(*(_lengths(trainer.train_dataset, name) for name in names), strict=True)
    _put_in_order(trainer, [prompt + max(completions) for prompt, *completions in columns], BLANK_PAIR)


def _put_in_order(trainer: Any, lengths: Sequence[int], blank: Mapping[str, Any]) -> None:
    args, rows = trainer.args, trainer.train_dataset
    processes = max(1, args.world_size)
    order = EpochOrder(
        lengths,
        effective_batch=args.train_batch_size * args.gradient_accumulation_steps * processes,
        multiple=args.train_batch_size * processes if processes > 1 else 1,
        seed=args.seed,
        steps_done=lambda: int(trainer.state.global_step),
    )
    if len(order) > len(rows):
        trainer.train_dataset = WithBlanks(rows, blank)
    # an attribute, not a subclass: the engines' trainers are three classes, one of which Unsloth writes at import
    trainer._get_train_sampler = lambda _rows=None: order


def _lengths(rows: Any, column: str) -> list[int]:
    """Tokens of each row, from an Arrow column."""
    import pyarrow.compute as pc

    lengths: list[int] = pc.list_value_length(rows.with_format("arrow")[:][column]).to_pylist()
    return lengths
