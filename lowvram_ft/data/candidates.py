"""All objects of a source to candidates: in this process where they are few, else in one process a CPU."""

from __future__ import annotations

import itertools
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from lowvram_ft.data.duplicates import Contamination
from lowvram_ft.data.examine import Examined, Examiner, make_examiner
from lowvram_ft.data.objects import Raw
from lowvram_ft.errors import MachineError
from lowvram_ft.recipe import DataSection
from lowvram_ft.rendering import ChatFormat

CHUNK = 128
"""Objects that are examined in one go."""
FEW = 1024
"""Up to so many objects, starting processes takes longer than examining them."""
_AHEAD = 3
"""Chunks that wait for each process."""

_examiner: Examiner | None = None


def examine_all(
    raws: Iterator[Raw],
    section: DataSection,
    chat: ChatFormat | None,
    max_length: int,
    tasks: Sequence[tuple[str, str]],
    workers: int | None = None,
) -> Iterator[Examined]:
    """Examine every object, in order; only a few chunks are in memory at a time.

    Args:
        raws: the objects.
        section: which filters.
        chat: the model's chat format, None for none.
        max_length: most tokens of a row.
        tasks: name and code of each evaluation task.
        workers: processes; None for one a CPU. A chat format that was read from no folder stays in this process.

    Raises:
        DataError: an object has another shape than its source, or a row is too long and that is fatal.
        MachineError: a process ended in the middle of its work.
    """
    first = list(itertools.islice(raws, FEW))
    places = workers if workers is not None else os.cpu_count() or 1
    if len(first) < FEW or places < 2 or (chat is not None and chat.folder is None):
        examiner = Examiner(section, chat, max_length, Contamination(tasks) if tasks else None)
        for chunk in _chunks(itertools.chain(first, raws)):
            yield examiner.chunk(chunk)
        return
    folder = chat.folder if chat is not None else None
    yield from _in_processes(itertools.chain(first, raws), (section, folder, max_length, tasks), places)


def _in_processes(
    raws: Iterator[Raw],
    arguments: tuple[DataSection, Path | None, int, Sequence[tuple[str, str]]],
    places: int,
) -> Iterator[Examined]:
    import multiprocessing

    # not a fork: torch and tokenizers may run threads here, whose locks a fork would copy in whatever state they are
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(places, context, _start, arguments)
    running: deque[Future[Examined]] = deque()
    try:
        for chunk in _chunks(raws):
            running.append(pool.submit(_examine, chunk))
            if len(running) >= _AHEAD * places:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    except BrokenProcessPool as error:
        raise MachineError(
            "data: a process that reads rows ended by itself (out of memory?); close other programs, "
            "or set data.max_read"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start(section: DataSection, folder: Path | None, max_length: int, tasks: Sequence[tuple[str, str]]) -> None:
    global _examiner
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that waits
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _examiner = make_examiner(section, folder, max_length, tasks)


def _examine(chunk: Sequence[Raw]) -> Examined:
    assert _examiner is not None
    return _examiner.chunk(chunk)


def _chunks(raws: Iterator[Raw]) -> Iterator[list[Raw]]:
    take: Callable[[], list[Raw]] = lambda: list(itertools.islice(raws, CHUNK))  # noqa: E731
    return iter(take, [])
