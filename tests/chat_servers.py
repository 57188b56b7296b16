"""Servers of OpenAI's chat completions for tests: a scripted one, and a proxy that injects faults before a real one."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Behaviour = Callable[["Request"], None]
"""What a server does with a request for an answer."""


@dataclass
class Request:
    """One that has come in.

    Attributes:
        body: its parameters.
        headers: by their names in small letters.
        began: ``time.monotonic()``.
        handler: to answer with.
    """

    body: dict[str, Any]
    headers: dict[str, str]
    began: float
    handler: BaseHTTPRequestHandler

    def answer(self, status: int, body: str | bytes, kind: str = "application/json", **headers: str) -> None:
        """Send a whole response; ``Retry_After`` becomes ``Retry-After``."""
        data = body.encode() if isinstance(body, str) else body
        self.handler.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **headers}.items():
            self.handler.send_header(name.replace("_", "-"), value)
        self.handler.end_headers()
        self.handler.wfile.write(data)

    def stream(self, *events: Any, gap_s: float = 0.0, end: bool = True) -> None:
        """Send a stream of events, each as JSON or as it is; without its proper end if not ``end``."""
        self.handler.send_response(200)
        self.handler.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.handler.send_header("Transfer-Encoding", "chunked")
        self.handler.end_headers()
        for event in events:
            text = event if isinstance(event, str) else f"data: {json.dumps(event)}\n\n"
            data = text.encode()
            self.handler.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
            self.handler.wfile.flush()
            time.sleep(gap_s)
        if end:
            self.handler.wfile.write(b"0\r\n\r\n")
        else:
            self.drop()

    def drop(self) -> None:
        """Close the connection without another word."""
        self.handler.close_connection = True
        self.handler.connection.shutdown(socket.SHUT_RDWR)

    def says(self, *texts: str, finish: str = "stop", usage: bool = True, **more: Any) -> None:
        """Answer as a server does that follows the protocol, as a stream where one is asked for."""
        counts = {"prompt_tokens": 7, "completion_tokens": sum(len(text.split()) for text in texts) + 1}
        if not self.body.get("stream"):
            choices = [
                {"index": i, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
                for i, text in enumerate(texts)
            ]
            self.answer(200, json.dumps({"choices": choices} | ({"usage": counts} if usage else {})))
            return
        events: list[Any] = []
        for i, text in enumerate(texts):
            events.append(chunk(i, role="assistant", content=""))
            events += [chunk(i, content=piece) for piece in text.splitlines(keepends=True)]
            events.append(chunk(i, finish=finish))
        if usage and (self.body.get("stream_options") or {}).get("include_usage"):
            events.append({"choices": [], "usage": counts})
        self.stream(*events, "data: [DONE]\n\n", **more)


def chunk(index: int = 0, finish: str | None = None, **delta: str) -> dict[str, Any]:
    """One piece of a stream."""
    return {"object": "chat.completion.chunk", "choices": [{"index": index, "delta": delta, "finish_reason": finish}]}


@dataclass
class Server:
    """A running server.

    Attributes:
        url: its address, with ``/v1``.
        requests: those for an answer, in the order in which they came.
        models: what ``/v1/models`` lists; a status code instead is its answer.
        most_at_once: the most requests for an answer that were open at the same time; one of them may just have been
            answered, so this can be one more for each than a client had open.
    """

    url: str = ""
    requests: list[Request] = field(default_factory=list)
    models: list[str] | int = field(default_factory=lambda: ["tiny"])
    most_at_once: int = 0
    model_requests: list[dict[str, str]] = field(default_factory=list)
    _open: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)


@contextmanager
def serving(behaviour: Behaviour | Sequence[Behaviour]) -> Iterator[Server]:
    """A server that does with each request what ``behaviour`` says; of several, one each, the last for all others."""
    server = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            """Nothing on stderr."""

        def do_GET(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            server.model_requests.append(headers)
            request = Request({}, headers, 0.0, self)
            if isinstance(server.models, int):
                request.answer(server.models, "{}")
            else:
                request.answer(200, json.dumps({"data": [{"id": name, "object": "model"} for name in server.models]}))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = Request(body, headers, time.monotonic(), self)
            with server._lock:
                number = len(server.requests)
                server.requests.append(request)
                server._open += 1
                server.most_at_once = max(server.most_at_once, server._open)
            try:
                chosen = behaviour if callable(behaviour) else behaviour[min(number, len(behaviour) - 1)]
                chosen(request)
            except OSError:
                self.close_connection = True  # the client went away, as some tests want it
            finally:
                with server._lock:
                    server._open -= 1

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http_server:
        http_server.daemon_threads = True
        http_server.block_on_close = False
        server.url = f"http://127.0.0.1:{http_server.server_port}/v1"
        thread = threading.Thread(target=http_server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            http_server.shutdown()
            thread.join()


def forward(port: int) -> Behaviour:
    """Pass requests on to a real server on this machine, and its bytes back as they come."""

    def pass_on(request: Request) -> None:
        with _forwarded(port, request) as response:
            request.handler.send_response(response.status)
            request.handler.send_header("Content-Type", response.headers["Content-Type"])
            request.handler.send_header("Connection", "close")
            request.handler.end_headers()
            request.handler.close_connection = True
            while data := response.read1(4096):
                request.handler.wfile.write(data)
                request.handler.wfile.flush()

    return pass_on


def cut_after(port: int, share: float) -> Behaviour:
    """Pass a request on, and close the connection after a share of the response's body."""

    def pass_on(request: Request) -> None:
        with _forwarded(port, request) as response:
            data = response.read()
        request.handler.send_response(response.status)
        request.handler.send_header("Content-Type", response.headers["Content-Type"])
        request.handler.send_header("Content-Length", str(len(data)))
        request.handler.end_headers()
        request.handler.wfile.write(data[: int(len(data) * share)])
        request.handler.wfile.flush()
        request.drop()

    return pass_on


@contextmanager
def _forwarded(port: int, request: Request) -> Iterator[http.client.HTTPResponse]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        headers = {"Content-Type": "application/json"}
        if "authorization" in request.headers:
            headers["Authorization"] = request.headers["authorization"]
        connection.request("POST", "/v1/chat/completions", json.dumps(request.body), headers)
        yield connection.getresponse()
    finally:
        connection.close()
