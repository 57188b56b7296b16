"""SIGTERM as an exception, so that what a command began is tidied up as after Ctrl-C."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from lowvram_ft.errors import Terminated


@contextmanager
def sigterm_raises() -> Iterator[None]:
    """While it is entered, SIGTERM raises `Terminated` in the main thread, where nobody else takes care of it.

    In another thread it does nothing: Python sets handlers in the main one alone.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _raise)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _raise(number: int, frame: FrameType | None) -> None:
    del number, frame
    raise Terminated
