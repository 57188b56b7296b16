"""SIGTERM and a closed terminal while a stage trains: the step is finished and saved, then the run ends."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from lowvram_ft.errors import Terminated

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


class StopRequest:
    """While it is entered, SIGTERM and SIGHUP are requests.

    Attributes:
        requested: one has come.
        deferred: a request waits until the trainer asks for it; else it ends the run at once, by an exception.
    """

    def __init__(self) -> None:
        self.requested = False
        self.deferred = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():  # Python lets no other thread do it
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:  # nohup: the user wants no stop
                    self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def at_once(self) -> None:
        """From here on a request ends the run where it is; so does one that has come already.

        Raises:
            Terminated: one has.
        """
        self.deferred = False
        if self.requested:
            raise Terminated

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.requested = True
        if not self.deferred:
            raise Terminated
