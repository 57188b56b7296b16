"""Where an OpenAI-compatible server is, and the key for it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from lowvram_ft.errors import UsageError

KEY_VARIABLE = "LOWVRAM_FT_API_KEY"
"""The one place that a key is read from."""
LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Endpoint:
    """A server's address.

    Attributes:
        url: without a slash at the end; ``/chat/completions`` and ``/models`` follow it.
        model: the name after ``#``; None where there is none.
    """

    url: str
    model: str | None = None

    @property
    def is_local(self) -> bool:
        """Whether it is on this machine, so that no proxy is asked."""
        import httpx

        return httpx.URL(self.url).host in LOOPBACK


def parse_endpoint(text: str) -> Endpoint:
    """Read ``http://localhost:11434#model``; ``/v1`` is added where there is no path.

    Raises:
        UsageError: it is no address, or holds what does not belong there: a password, a key.
    """
    import httpx

    try:
        url = httpx.URL(text.strip())
    except httpx.InvalidURL as error:
        raise UsageError(f"--model: no address ({error}); for example http://localhost:11434/v1#my-model") from error
    shown = str(url.copy_with(userinfo=b"", query=None, fragment=None))
    if url.scheme not in ("http", "https") or not url.host or (url.port or 0) > 65535:
        raise UsageError(f"--model: no address (got {shown!r}); for example http://localhost:11434/v1#my-model")
    if url.userinfo or url.query:
        raise UsageError(f"{shown}: holds a password or a query; leave it out, and give a key in {KEY_VARIABLE}")
    path = url.path.rstrip("/").removesuffix("/chat/completions").rstrip("/")
    base = str(url.copy_with(raw_path=(path or "/v1").encode(), fragment=None)).rstrip("/")
    return Endpoint(base, url.fragment or None)


def is_url(text: str) -> bool:
    """Whether a model is given by a server's address."""
    return re.match(r"https?://", text.strip(), re.IGNORECASE) is not None


def api_key() -> str | None:
    """The key in the environment; None where there is none.

    Raises:
        UsageError: it cannot be sent in a header. The key itself is not told.
    """
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if key and not (key.isascii() and key.isprintable() and " " not in key):
        raise UsageError(f"{KEY_VARIABLE}: holds characters that no key has; set it again")
    return key or None
