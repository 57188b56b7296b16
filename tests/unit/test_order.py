"""The order of the rows, as torch's batch sampler and accelerate's shards hand it out."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from accelerate.data_loader import BatchSamplerShard
from datasets import Dataset
from torch.utils.data import BatchSampler, SequentialSampler

from lowvram_ft.data.prepared import IGNORE_INDEX
from lowvram_ft.training.processes.order import EpochOrder, WithBlanks

LENGTHS = random.Random(7).choices(range(20, 2000), k=641)
EFFECTIVE = 24


def _order(processes: int, micro_batch: int, *, seed: int = 0, step: int = 0) -> EpochOrder:
    multiple = micro_batch * processes if processes > 1 else 1
    return EpochOrder(LENGTHS, EFFECTIVE, multiple, seed, lambda: step)


def _steps(sampler: Any, processes: int, micro_batch: int) -> list[list[int]]:
    """The rows of each optimizer step of an epoch, over all processes."""
    shards = [
        BatchSamplerShard(BatchSampler(sampler, micro_batch, False), processes, rank) for rank in range(processes)
    ]
    accumulation = EFFECTIVE // (micro_batch * processes)
    each = [list(_chunks(iter(shard), accumulation)) for shard in shards]
    assert len({len(steps) for steps in each}) == 1  # else one process would wait for ever
    return [sorted(row for steps in each for batch in steps[number] for row in batch) for number in range(len(each[0]))]


def _chunks(batches: Iterator[list[int]], size: int) -> Iterator[list[list[int]]]:
    while chunk := list(itertools.islice(batches, size)):
        yield chunk


def _real(steps: list[list[int]]) -> list[list[int]]:
    return [[row for row in step if row < len(LENGTHS)] for step in steps]


@pytest.mark.parametrize(("processes", "micro_batch"), [(2, 1), (2, 3), (3, 1), (3, 4), (4, 2), (8, 3), (24, 1)])
@pytest.mark.parametrize("step", [0, 5, 30])
def test_every_number_of_processes_sees_the_same_steps(processes: int, micro_batch: int, step: int) -> None:
    alone = _steps(_order(1, 1, step=step), 1, 1)
    assert sorted(itertools.chain(*alone)) == list(range(len(LENGTHS)))
    assert _real(_steps(_order(processes, micro_batch, step=step), processes, micro_batch)) == alone


@pytest.mark.parametrize("what", ["padding", "group"])
def test_what_the_same_steps_depend_on(what: str) -> None:
    """Without the padding, rows come twice; in groups of one process's share, the steps hold other rows."""
    alone = _steps(_order(1, 1), 1, 1)
    changed: dict[str, Callable[[], EpochOrder]] = {
        "padding": lambda: EpochOrder(LENGTHS, EFFECTIVE, 1, 0, lambda: 0),
        "group": lambda: EpochOrder(LENGTHS, EFFECTIVE // 2, 4, 0, lambda: 0),
    }
    assert _real(_steps(changed[what](), 2, 2)) != alone


def test_an_order_is_that_of_its_epoch_and_seed() -> None:
    steps_an_epoch = 27
    first = list(_order(1, 1))
    assert list(_order(1, 1, step=steps_an_epoch - 1)) == first  # taken up in the middle
    assert list(_order(1, 1, step=steps_an_epoch)) != first
    assert list(_order(1, 1, seed=1)) != first
    assert first != list(SequentialSampler(LENGTHS))


def test_rows_of_a_step_are_of_like_length() -> None:
    order = list(_order(1, 1))
    steps = [[LENGTHS[row] for row in order[i : i + EFFECTIVE]] for i in range(0, len(order), EFFECTIVE)]
    spreads = sorted(max(lengths) - min(lengths) for lengths in steps)
    assert LENGTHS[order[0]] == max(LENGTHS)  # the longest first: what does not fit shows at once
    assert spreads[len(spreads) // 2] < 0.4 * (max(LENGTHS) - min(LENGTHS))  # of 24 drawn at random: nine tenths of it


def test_what_lies_beyond_the_rows_carries_no_loss() -> None:
    rows = WithBlanks(Dataset.from_list([{"input_ids": [5, 6, 7], "labels": [IGNORE_INDEX, 6, 7]}]))
    assert len(rows) == 1
    assert rows[0] == {"input_ids": [5, 6, 7], "labels": [IGNORE_INDEX, 6, 7]}
    assert set(rows[1]["labels"]) == set(rows[2]["labels"]) == {IGNORE_INDEX}
