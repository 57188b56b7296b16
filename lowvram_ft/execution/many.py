"""Many jobs, several at a time: threads of this process wait, each for a server or for another machine."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar, cast

from lowvram_ft.execution.place import elsewhere
from lowvram_ft.execution.pool import default_pool

_AHEAD = 4
"""Jobs that are taken for each worker before the first of them has to be given."""

Job = TypeVar("Job")
Result = TypeVar("Result")


def run_many(
    function: Callable[[Job], Result],
    jobs: Iterable[Job],
    *,
    workers: int | None = None,
    on_result: Callable[[int, Result], None] | None = None,
) -> list[Result]:
    """Call ``function`` on each job, several at a time, and give the results in the order of the jobs.

    Args:
        function: calls `run_tests`, `mutation_analysis` or `judge`.
        jobs: its arguments.
        workers: how many at a time; None for one a CPU, or as many as `judged_by` gives them to.
        on_result: gets the place of each job and its result as soon as there is one, in this thread.

    Raises:
        KeyboardInterrupt: after every running process is killed.
        MachineError: as for `run_tests`; what runs is killed first.
    """
    results: dict[int, Result] = {}
    for place, result in _as_completed(function, jobs, workers):
        results[place] = result
        if on_result is not None:
            on_result(place, result)
    return [results[place] for place in sorted(results)]


def run_stream(
    function: Callable[[Job], Result], jobs: Iterable[Job], *, workers: int | None = None
) -> Iterator[Result]:
    """Call ``function`` on each job, several at a time, and give each result as soon as those before it are given.

    Jobs are taken as they are needed, a few ahead of the result that is given next: neither jobs nor results pile
    up, however many there are.

    Args:
        function: calls `run_tests`, `mutation_analysis` or `judge`.
        jobs: its arguments.
        workers: how many at a time; None for one a CPU, or as many as `judged_by` gives them to.

    Raises:
        KeyboardInterrupt: after every running process is killed.
        MachineError: as for `run_tests`; what runs is killed first.
    """
    early: dict[int, Result] = {}
    following = 0
    for place, result in _as_completed(function, jobs, workers, ahead=lambda: len(early)):
        early[place] = result
        while following in early:
            yield early.pop(following)
            following += 1


def _as_completed(
    function: Callable[[Job], Result],
    jobs: Iterable[Job],
    workers: int | None,
    ahead: Callable[[], int] = lambda: 0,
) -> Iterator[tuple[int, Result]]:
    """Place and result of each job, as soon as there is one; waits where too many are ``ahead``."""
    from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

    taker = elsewhere()
    places = workers or (os.cpu_count() or 1 if taker is None else taker.places)
    running: dict[Future[Result], int] = {}
    waiting = enumerate(jobs)
    with ThreadPoolExecutor(max_workers=places) as threads:
        try:
            more = True
            while more or running:
                while more and len(running) + ahead() < _AHEAD * places:
                    place, job = next(waiting, (-1, None))
                    if more := place >= 0:
                        running[threads.submit(function, cast(Job, job))] = place
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(future), future.result()
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            while not all(future.done() for future in running):
                (default_pool() if taker is None else taker).stop_busy()
                time.sleep(0.05)
            raise
