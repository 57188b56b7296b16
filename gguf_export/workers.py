"""Working on slabs of weights with all cores: results in order, and no more in memory than a few slabs."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, TypeVar

import numpy as np

_Result = TypeVar("_Result")

_KEPT_BYTES: Final = 31 << 20


def cpu_count() -> int:
    """CPUs that this process may run on; where the system does not say (macOS, Windows), those that there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def in_order(jobs: Iterable[Callable[[], _Result]], n_threads: int | None = None) -> Generator[_Result, None, None]:
    """Run jobs in threads, and give their results in the order of the jobs.

    Jobs are taken from the iterable as results are; when this is left, those that have not begun never do.

    Args:
        jobs: what to do; called in any order, by several threads at a time.
        n_threads: as many as this process may use by default.
    """
    from threadpoolctl import threadpool_limits

    n_threads = n_threads or cpu_count()
    keep_freed_memory()
    executor = ThreadPoolExecutor(n_threads, thread_name_prefix="slab")
    # Every core has a slab of its own: BLAS threads on top of that wait for each other, and doubled the time.
    limits = threadpool_limits(limits=1, user_api="blas")
    waiting: deque[Future[_Result]] = deque()
    try:
        for job in jobs:
            waiting.append(executor.submit(job))
            if len(waiting) > 2 * n_threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        executor.shutdown(cancel_futures=True)
        limits.restore_original_limits()


def keep_freed_memory() -> None:
    """Let glibc keep the memory of arrays that are freed, up to twice 31 MiB a thread, for the next ones.

    It hands blocks of this size back to the system at once, and gets them again page by page, which took a third of
    an export. Freeing one larger block raises its threshold (``M_MMAP_THRESHOLD`` in ``mallopt(3)``); elsewhere this
    does nothing.
    """
    block = np.empty(_KEPT_BYTES, np.uint8)
    del block
