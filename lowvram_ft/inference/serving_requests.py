"""What requests go through before llama-cpp-python's server sees them: who may ask, and what is filled in.

The server samples at temperature 0.8 with a repetition penalty of 1.1 where a client says nothing, which is wrong for
code. It breaks a stream off where the prompt is too long, computes an answer to its end after the client has gone, and
lets any page in the user's browser ask it. All of that is settled here, in plain ASGI, without a change to it.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import threading
from collections.abc import Awaitable, Callable, MutableMapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from lowvram_ft.inference.endpoint import LOOPBACK

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

CHAT = "/v1/chat/completions"
PLAIN = "/v1/completions"
DEFAULTS = {"temperature": 0.0, "top_p": 1.0, "top_k": 0, "repeat_penalty": 1.0}
"""What a client that says nothing gets: the model's own greedy choice, as in this kit's process."""
MOST_BYTES = 32 << 20

gone: ContextVar[threading.Event | None] = ContextVar("gone", default=None)
"""Set as soon as the client of the request that is being answered has closed its connection."""


@dataclass(frozen=True)
class Refusal(Exception):
    """A request that is not passed on.

    Attributes:
        status: of HTTP.
        message: what is wrong, and what to do.
        code: OpenAI's name for it, which clients look for; None where there is none.
    """

    status: int
    message: str
    code: str | None = None


class Requests:
    """Prepares requests for the server behind it.

    Args:
        app: the server.
        check: raises `Refusal` for a conversation (``messages``, ``tools``) that the model cannot be given.
        loopback_only: whether the server is bound to this machine; then a page from elsewhere may not ask, by its
            ``Origin`` or by a name of its own that leads here (DNS rebinding).
        key: that the server asks for; it refuses a wrong one itself.
        stopping: whether the server is about to end.
        name: of the model, for replies to clients that name none; the server would tell them the file's path.
    """

    def __init__(
        self,
        app: App,
        check: Callable[[dict[str, Any]], None],
        *,
        loopback_only: bool,
        key: str | None,
        stopping: Callable[[], bool],
        name: str,
    ) -> None:
        self._app = app
        self._check = check
        self._loopback_only = loopback_only
        self._key = key
        self._stopping = stopping
        self._name = name

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI)."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers = {name.lower().decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        try:
            if self._loopback_only:
                refuse_strangers(headers)
            if scope["method"] != "POST" or scope["path"] not in (CHAT, PLAIN) or not self._has_key(headers):
                return await self._app(scope, receive, send)
            body = {"model": self._name, **completed(await _read(receive), chat=scope["path"] == CHAT)}
            if scope["path"] == CHAT:
                self._check(body)
        except Refusal as refusal:
            return await _refuse(send, refusal)
        await self._pass_on(scope, receive, send, json.dumps(body).encode())
        return None

    def _has_key(self, headers: dict[str, str]) -> bool:
        return self._key is None or hmac.compare_digest(
            headers.get("authorization", "").encode(), f"Bearer {self._key}".encode()
        )

    async def _pass_on(self, scope: Message, receive: Receive, send: Send, body: bytes) -> None:
        """Hand the new body on, and watch for the client to go."""
        left, told = asyncio.Event(), threading.Event()
        unread = [body]

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            told.set()
            left.set()

        async def replay() -> Message:
            if unread:
                return {"type": "http.request", "body": unread.pop(), "more_body": False}
            await left.wait()
            return {"type": "http.disconnect"}

        kept = [(name, value) for name, value in scope["headers"] if name.lower() not in _OF_THE_BODY]
        length = (b"content-length", str(len(body)).encode())
        changed = {**scope, "headers": [*kept, length, (b"content-type", b"application/json")]}
        watching = asyncio.create_task(watch())
        token = gone.set(told)
        try:
            await self._app(changed, replay, send)
        except Exception:
            if not (told.is_set() or self._stopping()):  # else nobody is there to be told
                raise
        finally:
            gone.reset(token)
            watching.cancel()


_OF_THE_BODY = (b"content-length", b"content-type", b"content-encoding", b"transfer-encoding")


def refuse_strangers(headers: dict[str, str]) -> None:
    """Let only this machine's own programs ask.

    Raises:
        Refusal: the request comes from a page of another site.
    """
    host = urlsplit("//" + headers.get("host", "localhost")).hostname or ""
    origin = urlsplit(headers.get("origin", ""))
    # an editor's own windows have origins such as vscode-webview://…; pages of a site have http(s)
    foreign = origin.scheme in ("http", "https") and (origin.hostname or "") not in LOOPBACK
    if host not in LOOPBACK or foreign or headers.get("origin") == "null":
        raise Refusal(403, "this server answers programs on its own machine only; ask it as localhost")


def completed(body: dict[str, Any], *, chat: bool) -> dict[str, Any]:
    """A request with what the server needs to be told, in words that it knows.

    ``null`` is taken for left out, ``max_completion_tokens`` for ``max_tokens``; text in parts is joined, and the role
    ``developer`` is ``system``, as OpenAI's newer clients send them.

    Raises:
        Refusal: it asks for what this server cannot give.
    """
    found = {key: value for key, value in body.items() if value is not None}
    if "max_completion_tokens" in found:
        found.setdefault("max_tokens", found.pop("max_completion_tokens"))
    if found.get("logprobs") not in (None, False):
        raise Refusal(400, "logprobs: this server gives none; leave it out")
    if chat:
        messages = found.get("messages")
        if not isinstance(messages, list) or not messages or not all(isinstance(each, dict) for each in messages):
            raise Refusal(400, "messages: has to be a list of at least one message")
        found["messages"] = [_message(each) for each in messages]
    return {**DEFAULTS, **found}


def _message(message: dict[str, Any]) -> dict[str, Any]:
    found = dict(message)
    if found.get("role") == "developer":
        found["role"] = "system"
    content = found.get("content")
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, dict) else None for part in content]
        if not all(isinstance(part, str) for part in parts):
            raise Refusal(400, "messages: holds a part that is no text; this model reads text only")
        found["content"] = "".join(part for part in parts if part is not None)
    return found


async def _read(receive: Receive) -> dict[str, Any]:
    raw = bytearray()
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refusal(400, "the request ended before its body")
        raw += message.get("body", b"")
        more = message.get("more_body", False)
        if len(raw) > MOST_BYTES:
            raise Refusal(413, f"the request is longer than {MOST_BYTES >> 20} MiB")
    try:
        value = json.loads(raw)
    except ValueError as error:
        raise Refusal(400, f"the request is no JSON ({error})") from error
    if not isinstance(value, dict):
        raise Refusal(400, "the request has to be a JSON object")
    return value


async def _refuse(send: Send, refusal: Refusal) -> None:
    error = {"message": refusal.message, "type": "invalid_request_error", "param": None, "code": refusal.code}
    body = json.dumps({"error": error}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
