"""What is settled before the server sees a request, against applications of the test's own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from lowvram_ft.inference.serving_requests import DEFAULTS, Refusal, Requests, completed, gone, refuse_strangers

HELLO = [{"role": "user", "content": "hello"}]


def ask(
    app: Any,
    body: bytes = b"{}",
    *,
    check: Callable[[dict[str, Any]], None] = lambda body: None,
    headers: tuple[tuple[bytes, bytes], ...] = (),
    key: str | None = None,
    stopping: bool = False,
) -> list[dict[str, Any]]:
    """What is sent in answer to one chat request, whose client then goes."""
    sent: list[dict[str, Any]] = []
    events = [{"type": "http.request", "body": body, "more_body": False}, {"type": "http.disconnect"}]

    async def receive() -> dict[str, Any]:
        return events.pop(0)

    async def send(message: Any) -> None:
        sent.append(dict(message))

    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": list(headers)}
    guard = Requests(app, check, loopback_only=True, key=key, stopping=lambda: stopping, name="mine")
    asyncio.run(guard(scope, receive, send))
    return sent


def passed_on(body: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
    """The bodies that the server gets to see."""
    seen: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raw = (await receive())["body"]
        assert dict(scope["headers"])[b"content-length"] == str(len(raw)).encode()
        seen.append(json.loads(raw))

    ask(app, json.dumps(body).encode(), **more)
    return seen


def test_a_client_that_says_nothing_gets_the_greedy_choice_without_a_penalty() -> None:
    assert passed_on({"messages": HELLO}) == [{"model": "mine", **DEFAULTS, "messages": HELLO}]
    assert DEFAULTS["temperature"] == 0 and DEFAULTS["repeat_penalty"] == 1


def test_what_a_client_says_stays() -> None:
    body = {"model": "theirs", "messages": HELLO, "temperature": 0.7, "top_p": 0.9, "top_k": 20, "repeat_penalty": 1.2}
    assert passed_on(body) == [body]


def test_words_of_newer_clients_are_put_into_the_servers() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    found = completed(
        {
            "messages": [{"role": "developer", "content": "brief"}, {"role": "user", "content": parts}],
            "max_completion_tokens": 7,
            "temperature": None,
            "stop": None,
        },
        chat=True,
    )
    assert found == {
        **DEFAULTS,
        "messages": [{"role": "system", "content": "brief"}, {"role": "user", "content": "ab"}],
        "max_tokens": 7,
    }


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{", "no JSON"),
        (b"[]", "a JSON object"),
        (b"{}", "messages"),
        (b'{"messages": []}', "at least one"),
        (b'{"messages": ["hello"]}', "messages"),
        (b'{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}', "no text"),
        (b'{"messages": [{"role": "user", "content": "x"}], "logprobs": true}', "logprobs"),
    ],
)
def test_what_cannot_be_given_is_a_clean_400(body: bytes, words: str) -> None:
    async def never(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("was passed on")

    start, rest = ask(never, body)
    assert start["status"] == 400
    assert words in json.loads(rest["body"])["error"]["message"]


def test_a_conversation_that_the_model_cannot_be_given_is_refused_before_a_stream_begins() -> None:
    def check(body: dict[str, Any]) -> None:
        raise Refusal(400, "too long", "context_length_exceeded")

    async def never(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("was passed on")

    start, rest = ask(never, json.dumps({"messages": HELLO, "stream": True}).encode(), check=check)
    assert start["status"] == 400
    assert json.loads(rest["body"])["error"]["code"] == "context_length_exceeded"


def test_a_request_without_the_key_goes_to_the_server_untouched() -> None:
    """It refuses it; nothing is computed for it here."""
    assert passed_on_raw(None) == b"not even JSON"
    assert passed_on_raw(b"Bearer wrong") == b"not even JSON"
    with pytest.raises(IndexError):  # the right one: refused here, because it is no JSON
        passed_on_raw(b"Bearer right")


def passed_on_raw(authorization: bytes | None) -> bytes:
    seen: list[bytes] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append((await receive())["body"])

    ask(app, b"not even JSON", key="right", headers=((b"authorization", authorization),) if authorization else ())
    return seen[0]


def test_the_server_is_told_when_the_client_has_gone() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        told = gone.get()
        assert told is not None
        assert (await receive())["type"] == "http.disconnect"
        assert told.is_set()
        await send({"type": "seen"})

    assert ask(app, json.dumps({"messages": HELLO}).encode()) == [{"type": "seen"}]


@pytest.mark.parametrize("stopping", [True, False])
def test_an_error_is_kept_quiet_only_where_nobody_is_there(stopping: bool) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("broken")

    if stopping:
        assert ask(app, json.dumps({"messages": HELLO}).encode(), stopping=True) == []
    else:
        with pytest.raises(RuntimeError, match="broken"):
            ask(app, json.dumps({"messages": HELLO}).encode())


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"host": "127.0.0.1:8080"},
        {"host": "localhost:8080", "origin": "http://localhost:3000"},
        {"host": "[::1]:8080", "origin": "http://[::1]:9"},
        {"host": "127.0.0.1", "origin": "vscode-webview://0a1b"},
    ],
)
def test_programs_of_this_machine_may_ask(headers: dict[str, str]) -> None:
    refuse_strangers(headers)


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "127.0.0.1:8080", "origin": "https://evil.example"},
        {"host": "127.0.0.1:8080", "origin": "http://localhost.evil.example"},
        {"host": "127.0.0.1:8080", "origin": "null"},
        {"host": "evil.example:8080"},
        {"host": "localhost.evil.example"},
    ],
)
def test_pages_of_other_sites_may_not(headers: dict[str, str]) -> None:
    with pytest.raises(Refusal) as refused:
        refuse_strangers(headers)
    assert refused.value.status == 403
