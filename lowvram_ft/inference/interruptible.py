"""Run asyncio from plain code: also inside a loop that runs already, and so that Ctrl-C ends it at once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import Future, wait
from typing import Any, TypeVar

Result = TypeVar("Result")
_LOOK_S = 0.2
"""On Windows, waiting for a lock cannot be interrupted; a wait with an end is over soon."""
_STOP_S = 2.0


def run_interruptible(work: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
    """Run a coroutine to its end in a thread of its own.

    A notebook and most agent frameworks call from inside a loop that runs, where ``asyncio.run`` is refused.

    Args:
        work: makes the coroutine.

    Raises:
        KeyboardInterrupt: Ctrl-C; the coroutine was cancelled first, so that its connections are closed.
    """
    outcome: Future[Result] = Future()
    running: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = []
    stopped = threading.Event()

    async def main() -> Result:
        task = asyncio.current_task()
        assert task is not None
        running.append((asyncio.get_running_loop(), task))
        if stopped.is_set():
            raise asyncio.CancelledError
        return await work()

    def thread_main() -> None:
        try:
            outcome.set_result(asyncio.run(main()))
        except BaseException as error:
            outcome.set_exception(error)

    thread = threading.Thread(target=thread_main, name="lowvram-ft-requests", daemon=True)
    thread.start()
    try:
        while not outcome.done():
            wait([outcome], timeout=_LOOK_S)
        return outcome.result()
    finally:
        stopped.set()
        if not outcome.done():
            for loop, task in running:
                loop.call_soon_threadsafe(task.cancel)
        thread.join(timeout=_STOP_S)


async def all_or_none(parts: Iterable[Coroutine[Any, Any, Result]]) -> list[Result]:
    """The results of coroutines that run side by side; where one fails, the others are stopped first."""
    tasks = [asyncio.create_task(part) for part in parts]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
