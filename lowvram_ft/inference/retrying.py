"""When to ask a server again: which failures pass, and how long to wait."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

PASSING = frozenset({408, 425, 429, 500, 502, 503, 504, 529})
"""Status codes that may be gone the next time; 529 is what some gateways send when overloaded."""
LONGEST_DELAY_S = 30.0
LONGEST_WAIT_S = 120.0
"""Of ``Retry-After``: a user had rather be told of more."""


@dataclass(frozen=True)
class Policy:
    """How patient to be.

    Attributes:
        retries: times that a request is sent again.
        backoff_s: seconds before the first of them; doubled each time, up to `LONGEST_DELAY_S`.
        timeout_s: seconds without a token (or, of a reply in one piece, until it is there) that count as a failure.
    """

    retries: int = 5
    backoff_s: float = 0.5
    timeout_s: float = 300.0

    def delay_s(self, attempt: int) -> float:
        """Seconds to wait after failure number ``attempt`` (0 is the first), half of them by chance.

        Source: "equal jitter", https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/.
        """
        whole = min(LONGEST_DELAY_S, self.backoff_s * 2.0 ** min(attempt, 30))
        return whole / 2 + random.uniform(0, whole / 2)


class PassingError(Exception):
    """A failure that may be gone the next time.

    Attributes:
        wait_s: how long the server asks to wait; None where it does not say.
        silent: whether nothing came for too long.
        cut: whether a stream began and did not end.
    """

    def __init__(self, what: str, *, wait_s: float | None = None, silent: bool = False, cut: bool = False) -> None:
        super().__init__(what)
        self.wait_s = wait_s
        self.silent = silent
        self.cut = cut


class Pause:
    """A time before which nothing is sent, for all requests to one server."""

    def __init__(self) -> None:
        self._until = 0.0

    def extend(self, seconds: float) -> None:
        """Send nothing for so long from now on."""
        self._until = max(self._until, time.monotonic() + seconds)

    def left_s(self) -> float:
        """Seconds that are left; 0 or below where there is no pause."""
        return self._until - time.monotonic()


def retry_after_s(header: str | None) -> float | None:
    """Seconds that a ``Retry-After`` header asks for: a number, or a date (RFC 9110, section 10.2.3)."""
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            date = parsedate_to_datetime(header)
        except ValueError:
            return None
        seconds = (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return max(0.0, seconds) if seconds < float("inf") else None
