"""Chat completions over HTTP: one request at a time, asked again where a failure may pass.

Answers are streamed, so that silence is told from slowness. A stream that stops in the middle is asked for again in one
piece: llama-cpp-python's server ends a stream when another request comes (``interrupt_requests``), and tells of a
prompt that is too long in no stream.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from lowvram_ft.errors import GenerationError, LowvramError, ModelError, PromptTooLong
from lowvram_ft.inference import chat_answer
from lowvram_ft.inference.chat_answer import BrokenReplyError, EventStream, RefusedError, Reply
from lowvram_ft.inference.endpoint import KEY_VARIABLE, Endpoint
from lowvram_ft.inference.retrying import LONGEST_WAIT_S, PASSING, PassingError, Pause, Policy, retry_after_s

if TYPE_CHECKING:
    import httpx

CONNECT_S = 10.0
OPTIONAL = ("n", "seed", "min_p", "top_p", "top_k", "repeat_penalty", "repetition_penalty", "stream_options")
"""Parameters that a server may refuse, and that an answer can be had without."""

_TOO_LONG = re.compile(
    r"context_length_exceeded|exceed_context_size|exceeds? the available context|exceed context window|maximum context"
)
"""What OpenAI, vLLM, llama-server and llama-cpp-python say of a prompt that does not fit. Ollama cuts it instead."""


class _AskedTooMuchError(Exception):
    """The server does not take a parameter, which is left out from now on."""


@dataclass(frozen=True)
class TimedReply:
    """A whole reply.

    Attributes:
        reply: what it says.
        first_token_s: seconds from the request to the first text.
        seconds: to the end.
    """

    reply: Reply
    first_token_s: float
    seconds: float


class ChatClient:
    """What is known of a server, for all requests to it.

    Args:
        endpoint: its address.
        key: sent as a bearer token; None for none.
        policy: how often to ask again, and when an answer is too slow.
    """

    def __init__(self, endpoint: Endpoint, key: str | None, policy: Policy) -> None:
        self.endpoint = endpoint
        self.left_out: set[str] = set()
        self._key = key
        self._policy = policy
        self._pause = Pause()
        self._reached = False
        self._in_one_piece = False
        self._limit = "max_tokens"
        self._tls: ssl.SSLContext | None = None

    def connections(self) -> httpx.AsyncClient:
        """Connections for one call; to be closed after it."""
        import httpx

        if self._tls is None:  # reads every certificate: only where it is needed, and once
            needed = self.endpoint.url.startswith("https:")
            self._tls = httpx.create_ssl_context() if needed else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        return httpx.AsyncClient(
            base_url=self.endpoint.url + "/",
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            timeout=httpx.Timeout(None, connect=CONNECT_S),
            limits=httpx.Limits(max_connections=None),
            verify=self._tls,
            trust_env=not self.endpoint.is_local,
        )

    async def models(self, http: httpx.AsyncClient) -> list[str] | None:
        """The models of the server; None where it does not tell.

        Raises:
            GenerationError: nothing answers.
            ModelError: it wants a key.
        """
        import httpx

        try:
            async with asyncio.timeout(self._policy.timeout_s):
                response = await http.get("models")
        except (httpx.RequestError, TimeoutError) as error:
            raise self._unreachable(error) from error
        self._reached = True
        if response.status_code in (401, 403):
            raise self._wants_key(response.status_code)
        try:
            value = response.json() if response.status_code == 200 else None
        except ValueError:
            return None
        entries = value.get("data") if isinstance(value, dict) else None
        if not isinstance(entries, list):
            return None
        return [entry["id"] for entry in entries if isinstance(entry, dict) and isinstance(entry.get("id"), str)]

    async def ask(self, http: httpx.AsyncClient, gate: asyncio.Semaphore, body: dict[str, Any]) -> TimedReply:
        """Send a request until it is answered.

        Args:
            http: from `connections`.
            gate: lets so many through at a time.
            body: the parameters, without ``stream``.

        Raises:
            GenerationError: the server refuses, or fails too often.
            ModelError: it has no such model, or wants a key.
        """
        attempt, n_silent, whole = 0, 0, False
        while True:
            try:
                async with gate:
                    while (left := self._pause.left_s()) > 0:
                        await asyncio.sleep(left)
                    return await self._try(http, body, whole or self._in_one_piece)
            except _AskedTooMuchError:
                continue
            except PassingError as failure:
                n_silent += failure.silent
                if attempt >= self._policy.retries or n_silent > 1:
                    raise self._given_up(failure, attempt + 1) from failure
                if (failure.wait_s or 0.0) > LONGEST_WAIT_S:
                    raise GenerationError(
                        f"{self.endpoint.url}: asks to wait {failure.wait_s:.0f} s ({failure}); try again then"
                    ) from failure
                self._pause.extend(failure.wait_s or 0.0)
                whole = failure.cut and not whole
                await asyncio.sleep(self._policy.delay_s(attempt if failure.wait_s is None else 0))
            attempt += 1

    async def _try(self, http: httpx.AsyncClient, body: dict[str, Any], whole: bool) -> TimedReply:
        import httpx

        sent = {key: value for key, value in body.items() if key not in self.left_out}
        sent[self._limit] = sent.pop("max_tokens")
        if not whole:
            sent["stream"] = True
            if "stream_options" not in self.left_out:
                sent["stream_options"] = {"include_usage": True}
        began = time.perf_counter()
        try:
            async with asyncio.timeout(self._policy.timeout_s) as deadline:
                async with http.stream("POST", "chat/completions", json=sent) as response:
                    self._reached = True
                    if response.status_code != 200:
                        await self._refused(http, response, sent)
                    return await self._read(response, deadline, began)
        except TimeoutError as error:
            raise PassingError(f"no token for {self._policy.timeout_s:g} s", silent=True) from error
        except httpx.RequestError as error:
            if not self._reached:
                raise self._unreachable(error) from error
            why = self._scrubbed(str(error)) or type(error).__name__
            raise PassingError(f"the connection was dropped ({why})", cut=not whole) from error
        except BrokenReplyError as error:
            self._in_one_piece |= error.ended and not whole
            raise PassingError(self._scrubbed(str(error)), cut=not whole) from error
        except RefusedError as error:
            said = self._scrubbed(str(error))
            kind = PromptTooLong if _TOO_LONG.search(said) else GenerationError
            raise kind(f"{self.endpoint.url}: refuses ({said})") from error

    async def _read(self, response: httpx.Response, deadline: asyncio.Timeout, began: float) -> TimedReply:
        """A reply, as a stream or in one piece, whatever was asked for."""
        streamed = response.headers.get("content-type", "").startswith("text/event-stream")
        events, reply, whole = EventStream(), Reply(), bytearray()
        first_s: float | None = None
        n_bytes = 0
        async for chunk in response.aiter_bytes():
            n_bytes += len(chunk)
            if n_bytes > chat_answer.MOST_BYTES:
                raise BrokenReplyError(f"the reply is longer than {chat_answer.MOST_BYTES >> 20} MiB")
            if not streamed:
                whole += chunk
                continue
            for data in events.feed(chunk):
                reply.add_event(data)
                deadline.reschedule(asyncio.get_running_loop().time() + self._policy.timeout_s)
            if first_s is None and any(choice.text for choice in reply.choices.values()):
                first_s = time.perf_counter() - began
            if reply.done:
                break
        if not streamed:
            reply.add_whole(whole.decode("utf-8", errors="replace"))
        elif not reply.done:
            for data in events.rest():
                reply.add_event(data)
        reply.whole()
        seconds = time.perf_counter() - began
        return TimedReply(reply, first_s if first_s is not None else seconds, seconds)

    async def _refused(self, http: httpx.AsyncClient, response: httpx.Response, sent: dict[str, Any]) -> NoReturn:
        """Raise what a status code other than 200 comes to."""
        status, url = response.status_code, self.endpoint.url
        text = self._scrubbed((await response.aread()).decode("utf-8", errors="replace"))
        said = f"{status}: {chat_answer.words_of(text) or response.reason_phrase}"
        if status in PASSING and "insufficient_quota" not in text:
            raise PassingError(said, wait_s=retry_after_s(response.headers.get("retry-after")))
        if status in (401, 403):
            raise self._wants_key(status)
        if status in (400, 422):
            self._leave_out(text, sent)
            kind = PromptTooLong if _TOO_LONG.search(text) else GenerationError
            raise kind(f"{url}: refuses the request ({said}); shorten the code, or raise the server's context")
        if status == 404:
            raise await self._missing(http, said, sent["model"])
        if 300 <= status < 400:
            raise GenerationError(f"{url}: has moved (to {response.headers.get('location')}); give that address")
        raise GenerationError(f"{url}: does not answer ({said}); check the address, which often ends in /v1")

    def _leave_out(self, text: str, sent: dict[str, Any]) -> None:
        """Find the parameter that an error is about, and ask without it.

        Raises:
            _AskedTooMuchError: one was found.
        """
        if self._limit == "max_tokens" and "max_completion_tokens" in text:
            self._limit = "max_completion_tokens"
            raise _AskedTooMuchError
        blamed = chat_answer.parameter_of(text)
        for name in OPTIONAL:
            word = rf"\b{name}\b" if len(name) > 1 else rf"[\"'`]{name}[\"'`]"
            if name in sent and (name == blamed or re.search(word, text)):
                self.left_out.add(name)
                raise _AskedTooMuchError

    async def _missing(self, http: httpx.AsyncClient, said: str, model: str) -> LowvramError:
        """The error for 404: no such model, or no such interface."""
        names = await self.models(http)
        if names is None:
            todo = "check the address, which often ends in /v1"
            return GenerationError(f"{self.endpoint.url}: speaks no OpenAI chat completions ({said}); {todo}")
        known = ", ".join(names) or "none"
        return ModelError(f"{self.endpoint.url}: has no model {model} (it has: {known}); name one of them, or add it")

    def _given_up(self, failure: PassingError, attempts: int) -> GenerationError:
        todo = "look into the server's log" if self.endpoint.is_local else "try again later"
        times = f"{attempts} times" if attempts > 1 else "once"
        return GenerationError(f"{self.endpoint.url}: does not answer (asked {times}; at last: {failure}); {todo}")

    def _unreachable(self, error: Exception) -> GenerationError:
        why = self._scrubbed(str(error)) or type(error).__name__
        todo = "start the server, for example: ollama serve" if self.endpoint.is_local else "check the address"
        return GenerationError(f"{self.endpoint.url}: cannot be reached ({why}); is it running? {todo}")

    def _wants_key(self, status: int) -> ModelError:
        if self._key:
            return ModelError(f"{self.endpoint.url}: refuses the key in {KEY_VARIABLE} ({status}); check it")
        return ModelError(f"{self.endpoint.url}: wants a key ({status}); put it into the environment as {KEY_VARIABLE}")

    def _scrubbed(self, text: str) -> str:
        """A server may repeat what it was sent."""
        return text.replace(self._key, "***") if self._key else text
