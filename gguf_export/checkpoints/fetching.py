"""Fetching ranges of files over HTTP: retried, resumed where they broke off, and shared between threads."""

from __future__ import annotations

import http.client
import random
import threading
import time
import urllib.error
import urllib.request
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar
from urllib.parse import urljoin, urlsplit

import numpy as np

from ..errors import DownloadError, UnsupportedError
from .sources import Bytes

ATTEMPTS: Final = 7
"""How often a request is tried while nothing of it arrives: with the waits between, about a minute."""

FIRST_WAIT_S = 1.0
"""The first wait, doubled each time; tests make it shorter."""

_LONGEST_WAIT_S: Final = 30.0
_TIMEOUT_S: Final = 30.0
_PIECE_BYTES: Final = 16 << 20
_PIECES_KEPT: Final = 4
_PASSING: Final = (408, 425, 429, 500, 502, 503, 504)
_REDIRECTS: Final = (301, 302, 303, 307, 308)

Taken = TypeVar("Taken")
Span = tuple[int, int]


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Redirects are followed here, so that a token goes to nobody but the hub."""

    def redirect_request(self, *_: Any) -> None:
        return None


@dataclass
class _Piece:
    """Bytes from ``start`` up to ``end`` of one address, there or under way."""

    start: int
    end: int
    content: Future[Bytes] = field(default_factory=Future)


class Fetcher:
    """Fetches from one hub, for any number of threads.

    Args:
        endpoint: the hub's address: the only place that the token is sent to.
        token: the user's, or ``None``.
    """

    def __init__(self, endpoint: str, token: str | None) -> None:
        self._origin = urlsplit(endpoint)[:2]
        self._token = token
        self._opener = urllib.request.build_opener(_NoRedirect)
        self._signed: dict[str, str] = {}
        self._pieces: OrderedDict[tuple[str, int], _Piece] = OrderedDict()
        self._lock = threading.Lock()

    def whole(self, url: str, what: str, at_most: int = 64 << 20) -> bytes:
        """A whole small file.

        Raises:
            DownloadError: it cannot be had, or is larger than ``at_most`` bytes.
        """

        def take(answer: Any) -> bytes:
            content: bytes = answer.read(at_most + 1)
            return content

        content = self._tried(url, what, lambda: None, take)
        if len(content) > at_most:
            raise DownloadError(f"{url}: {what}: larger than {at_most} bytes; is HF_ENDPOINT a hub?")
        return content

    def size(self, url: str, what: str) -> int:
        """The size of a file that can be read by range.

        Raises:
            DownloadError: it cannot be had.
            UnsupportedError: the server does not serve ranges.
        """
        return self._tried(url, what, lambda: (0, 1), lambda answer: _total(answer, url, what, 0))

    def read(self, url: str, offset: int, n_bytes: int, what: str, end: int, size: int) -> Bytes:
        """Bytes of a file, as a fresh array; a few whole slabs are fetched at a time.

        Args:
            url: the file.
            offset: the first byte.
            n_bytes: how many.
            what: what is read, for messages.
            end: how far may be fetched ahead.
            size: the size that the file has to have.

        Raises:
            DownloadError: they cannot be had.
        """
        with self._lock:
            piece = self._find(url, offset, n_bytes)
            mine = piece is None
            if piece is None:
                ahead = max(1, _PIECE_BYTES // max(1, n_bytes)) * n_bytes
                piece = _Piece(offset, max(offset + n_bytes, min(offset + ahead, end)))
                self._pieces[url, offset] = piece
                while len(self._pieces) > _PIECES_KEPT:
                    self._pieces.popitem(last=False)
        if mine:
            try:
                piece.content.set_result(self._range(url, piece.start, piece.end, what, size))
            except BaseException as error:
                with self._lock:
                    self._pieces.pop((url, offset), None)
                piece.content.set_exception(error)
        first = offset - piece.start
        return piece.content.result()[first : first + n_bytes].copy()

    def _find(self, url: str, offset: int, n_bytes: int) -> _Piece | None:
        for key, piece in self._pieces.items():
            if key[0] == url and piece.start <= offset and offset + n_bytes <= piece.end:
                self._pieces.move_to_end(key)
                return piece
        return None

    def _range(self, url: str, start: int, end: int, what: str, size: int) -> Bytes:
        """One range, from where it broke off if it does."""
        values = np.empty(end - start, np.uint8)
        view = values.data
        done = 0

        def take(answer: Any) -> None:
            nonlocal done
            if (total := _total(answer, url, what, start + done)) != size:
                raise DownloadError(f"{url}: {what}: {total} bytes, was {size}; link the model again")
            while done < len(view):
                got = answer.readinto(view[done:])
                if not got:
                    raise http.client.IncompleteRead(b"", len(view) - done)
                done += got

        while done < len(view):
            self._tried(url, what, lambda: (start + done, end), take, lambda: done)
        return values

    def _tried(
        self,
        url: str,
        what: str,
        span: Callable[[], Span | None],
        take: Callable[[Any], Taken],
        progress: Callable[[], int] = lambda: 0,
    ) -> Taken:
        """Ask until an answer was taken whole; attempts count from anew whenever bytes have come."""
        failures, before = 0, progress()
        while True:
            try:
                with self._ask(url, what, span()) as answer:
                    return take(answer)
            except urllib.error.HTTPError as error:
                reason, wait = f"HTTP {error.code}", error.headers.get("Retry-After")
                error.close()
                if error.code in (401, 403, 404) or error.code not in _PASSING:
                    raise DownloadError(_refusal(url, what, error.code)) from error
            except (OSError, http.client.HTTPException) as error:
                reason, wait = _reason(error), None
            if progress() > before:
                failures, before = 0, progress()
            failures += 1
            if failures >= ATTEMPTS:
                raise DownloadError(
                    f"{url}: {what}: cannot be read, tried {failures} times ({reason}); "
                    "check the network, then run the export again"
                )
            time.sleep(_wait_s(failures, wait))

    def _ask(self, url: str, what: str, span: Span | None) -> Any:
        """Send one request, follow its redirects, and return the answer."""
        address = self._signed.get(url, url)
        for _ in range(5):
            headers = {"User-Agent": "gguf_export", "Accept-Encoding": "identity"}
            if span is not None:
                headers["Range"] = f"bytes={span[0]}-{span[1] - 1}"
            if self._token and urlsplit(address)[:2] == self._origin:
                headers["Authorization"] = f"Bearer {self._token}"
            try:
                answer = self._opener.open(urllib.request.Request(address, headers=headers), timeout=_TIMEOUT_S)
            except urllib.error.HTTPError as error:
                if error.code in _REDIRECTS and error.headers.get("Location"):
                    address = urljoin(address, error.headers["Location"])
                    if urlsplit(address).scheme not in ("http", "https"):
                        raise DownloadError(f"{url}: {what}: sent on to an address that is not HTTP") from error
                    error.close()
                    continue
                if address != url and error.code in (401, 403, 404, 410) and self._signed.pop(url, None) is not None:
                    address = url  # a signed address ends after an hour or so: ask for another
                    error.close()
                    continue
                raise
            if address != url:
                self._signed[url] = address  # spares a request for the next piece
            return answer
        raise DownloadError(f"{url}: {what}: too many redirects; is HF_ENDPOINT a hub?")


def _total(answer: Any, url: str, what: str, start: int) -> int:
    """The size of the whole file, from the answer to a range that begins at ``start``."""
    if answer.status != 206:
        raise UnsupportedError(f"{url}: {what}: the server does not serve ranges; download the model instead")
    said = str(answer.headers.get("Content-Range", ""))
    span, _, total = said.removeprefix("bytes ").partition("/")
    if not total.isdigit() or span.split("-")[0] != str(start):
        raise DownloadError(f"{url}: {what}: answered with another range ({said}); download the model instead")
    return int(total)


def _wait_s(failures: int, retry_after: str | None) -> float:
    """The next wait: what the server asks for, or twice the last one, spread so that threads do not all ask at once."""
    if retry_after and retry_after.isdigit():
        return min(float(retry_after), _LONGEST_WAIT_S)
    wait: float = min(FIRST_WAIT_S * 2 ** (failures - 1), _LONGEST_WAIT_S)
    return wait * random.uniform(0.75, 1.25)


def _reason(error: BaseException) -> str:
    if isinstance(error, http.client.IncompleteRead):
        return "the connection was dropped"
    text = str(getattr(error, "reason", "") or error) or type(error).__name__
    return text.splitlines()[0]


def _refusal(url: str, what: str, status: int) -> str:
    if status in (401, 403):
        return f"{what}: HTTP {status} from {url}: accept its licence on the hub, then run: hf auth login"
    if status == 404:
        return f"{what}: not on the hub ({url}); check the name, or run: hf auth login"
    return f"{what}: HTTP {status} from {url}; is HF_ENDPOINT a hub?"
