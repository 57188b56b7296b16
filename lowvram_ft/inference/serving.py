"""A GGUF behind llama-cpp-python's OpenAI-compatible server, set up so that its answers are those of this process.

The server has one model and answers one request at a time; the others wait. What it is told, and why:

- ``interrupt_requests`` is off: by default it breaks a stream off as soon as another request comes.
- The chat template is the file's own; by default a few well-known ones are replaced by llama-cpp-python's own versions.
- Flash attention is on, as llama.cpp chooses by itself; off by default, sums are rounded otherwise.
- ``logits_all`` is off: it reserves n_ctx x vocabulary x 4 bytes, 2.5 GB for Qwen2.5 at 4096 tokens.
- Settings come from here alone: by default each is also read from an environment variable of its bare name (``SEED``).
- CORS is off: by default any page in a browser may read what it answers.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from lowvram_ft.errors import GenerationError, MissingExtraError, ModelError, Terminated, UsageError
from lowvram_ft.hardware import cpu_count
from lowvram_ft.inference.endpoint import KEY_VARIABLE, LOOPBACK, api_key
from lowvram_ft.inference.llama import LlamaCpp
from lowvram_ft.inference.native import N_BATCH, check_gguf, gpu_layers, library
from lowvram_ft.inference.serving_requests import Refusal, Requests, gone
from lowvram_ft.inference.settings import KV_TYPES, EngineSettings
from lowvram_ft.stopping import sigterm_raises

N_CTX_STEP = 256
"""llama.cpp rounds a context up to this, and llama-cpp-python's own buffers do not."""
STOPPING_S = 30
"""Most that Ctrl-C waits for a prompt that is being read."""


@dataclass(frozen=True)
class Served:
    """A server that listens.

    Attributes:
        url: for ``--model`` and for editors; with ``/v1``.
        model: the name it has there.
        file: the GGUF.
        n_ctx: context in tokens.
        needs_key: whether requests need the key in ``LOWVRAM_FT_API_KEY``.
        is_open: whether other machines can reach it.
    """

    url: str
    model: str
    file: str
    n_ctx: int
    needs_key: bool
    is_open: bool

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        return asdict(self)


def serve(
    path: Path, name: str, *, host: str, port: int, n_ctx: int, n_threads: int | None, told: Callable[[Served], None]
) -> None:
    """Serve a GGUF until Ctrl-C or SIGTERM.

    Args:
        path: the file.
        name: of the model, as clients see it.
        host: address to listen on.
        port: 0 for a free one.
        n_ctx: context in tokens; rounded up to a multiple of 256.
        n_threads: for decoding and for reading prompts; None for what was tuned, else all CPUs.
        told: called when the model is loaded and requests are answered.

    Raises:
        MissingExtraError: the server's packages are not installed.
        UsageError: the address cannot be listened on, or is open to others and there is no key.
        ModelError: the file is no GGUF, or has no chat template.
        GenerationError: there is no memory for the context.
        KeyboardInterrupt: Ctrl-C.
        Terminated: SIGTERM.
    """
    _need_packages()
    check_gguf(path)
    key = api_key()
    if host not in LOOPBACK and key is None:
        raise UsageError(
            f"--host: {host} is open to other machines, and there is no key; put one into the environment as "
            f"{KEY_VARIABLE}, or listen on 127.0.0.1"
        )
    n_ctx = -(-n_ctx // N_CTX_STEP) * N_CTX_STEP
    with listen(host, port) as listening, sigterm_raises():
        running: list[Any] = []
        with contextlib.redirect_stdout(sys.stderr):  # where the server's own notes belong
            app = _app(path, name, n_ctx, n_threads, host, key, lambda: bool(running) and bool(running[0].should_exit))
            running.append(_server(app))
        shown = f"[{host}]" if ":" in host else host
        url = f"http://{shown}:{listening.getsockname()[1]}/v1"
        with _signals_end(running[0]):
            told(Served(url, name, str(path), n_ctx, needs_key=key is not None, is_open=host not in LOOPBACK))
            with contextlib.redirect_stdout(sys.stderr):
                running[0].run(sockets=[listening])


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens: the port is ours before the model is loaded, and early requests wait.

    Raises:
        UsageError: it cannot be had.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[
            0
        ]
    except (socket.gaierror, UnicodeError) as error:
        raise UsageError(f"--host: {host} is no address of this machine ({error}); give 127.0.0.1") from error
    found = socket.socket(family, kind)
    try:
        if os.name == "posix":  # a port whose last connections are still closing; on Windows it would be shared
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen()
    except OSError as error:
        found.close()
        why = error.strerror or str(error)
        raise UsageError(
            f"--port: {host}:{port} cannot be listened on ({why}); end what runs there, or give another --port "
            "(0 takes a free one)"
        ) from error
    return found


def _app(
    path: Path, name: str, n_ctx: int, n_threads: int | None, host: str, key: str | None, stopping: Callable[[], bool]
) -> Any:
    """The server's application with the model loaded, behind `Requests`."""
    from fastapi.middleware.cors import CORSMiddleware
    from llama_cpp.server import app as server

    settings = LlamaCpp.tuned_settings(path) or EngineSettings()
    try:
        with _without("CONFIG_FILE"):  # read by the server, which would then serve something else
            app = server.create_app(
                server_settings=server.ServerSettings.model_construct(api_key=key, interrupt_requests=False),
                model_settings=[_model_settings(path, name, n_ctx, n_threads, settings)],
            )
    except ValueError as error:
        if "context" in str(error):
            raise GenerationError(f"{path}: no memory for a context of {n_ctx} tokens; lower --n-ctx") from error
        raise ModelError(f"{path}: llama.cpp cannot load it ({error}); export it again") from error
    app.user_middleware[:] = [each for each in app.user_middleware if each.cls is not CORSMiddleware]
    llama = server._llama_proxy()
    if "tokenizer.chat_template" not in llama.metadata:
        raise ModelError(f"{path}: holds no chat template; export it again from an instruct model")
    llama.generate = repeatable(llama, stopping)
    check = _conversation_check(llama, n_ctx)
    return Requests(app, check, loopback_only=host in LOOPBACK, key=key, stopping=stopping, name=name)


def _model_settings(path: Path, name: str, n_ctx: int, n_threads: int | None, settings: EngineSettings) -> Any:
    """llama-cpp-python's settings of a model; ``model_construct`` reads no environment variables."""
    from llama_cpp.server.settings import ModelSettings

    kv_type = KV_TYPES[settings.kv_type].ggml_type
    return ModelSettings.model_construct(
        model=str(path),
        model_alias=name,
        n_gpu_layers=gpu_layers(library(), path, settings, n_ctx, 1, 1),
        n_ctx=n_ctx,
        n_batch=N_BATCH,
        n_ubatch=N_BATCH,
        n_threads=n_threads or settings.n_threads or cpu_count(),
        n_threads_batch=n_threads or settings.n_threads_batch or cpu_count(),
        type_k=kv_type,
        type_v=kv_type,
        flash_attn=True,
        chat_format="chat_template.default",
        logits_all=False,
        use_mlock=False,
        verbose=False,
    )


def repeatable(llama: Any, stopping: Callable[[], bool]) -> Callable[..., Iterator[int]]:
    """``Llama.generate`` whose answers do not depend on what was asked before, and that ends when nobody waits.

    The original goes on from any prefix that the cache has. The rest of the prompt is then read in batches of other
    sizes, and what was generated before was never read in a batch: sums are rounded otherwise, and where two tokens are
    nearly as likely the answer is another one. Kept are only whole batches that were read as part of a prompt: their
    keys and values are what reading them again would give.
    """
    from fastapi import HTTPException

    original = llama.generate
    n_read = 0

    def generate(tokens: Sequence[int], *args: Any, **more: Any) -> Iterator[int]:
        nonlocal n_read
        before = [int(token) for token in llama.input_ids[: min(llama.n_tokens, n_read)]]
        keep = min(_common(before, tokens), len(tokens) - 1) // N_BATCH * N_BATCH
        llama.n_tokens = keep
        n_read = len(tokens)
        client = gone.get()
        for token in original(tokens, *args, **more):
            if stopping():
                raise HTTPException(503, "the server ends; ask another one")
            if client is not None and client.is_set():
                raise HTTPException(499, "the client has gone")
            yield token

    return generate


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two sequences have in common from their start."""
    for place, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return place
    return min(len(first), len(second))


def _conversation_check(llama: Any, n_ctx: int) -> Callable[[dict[str, Any]], None]:
    """What the model cannot be given is refused before a stream begins: afterwards the server can only break it off."""
    import jinja2
    from llama_cpp.llama_chat_format import Jinja2ChatFormatter

    def text_of(token: int) -> str:
        return "" if token == -1 else str(llama._model.token_get_text(token))

    formatter = Jinja2ChatFormatter(
        llama.metadata["tokenizer.chat_template"], text_of(llama.token_eos()), text_of(llama.token_bos())
    )

    def check(body: dict[str, Any]) -> None:
        given = {name: body.get(name) for name in ("messages", "functions", "function_call", "tools", "tool_choice")}
        try:
            text = formatter(**given).prompt
        except (ValueError, TypeError, jinja2.TemplateError) as error:
            raise Refusal(400, f"messages: the model's chat template refuses them ({error})") from error
        n_tokens = len(llama.tokenize(text.encode(), add_bos=False, special=True))
        if n_tokens >= n_ctx:
            raise Refusal(
                400,
                f"This model's maximum context length is {n_ctx} tokens, and the messages have {n_tokens}; shorten "
                "them, or start the server with a larger --n-ctx",
                "context_length_exceeded",
            )

    return check


def _server(app: Any) -> Any:
    import uvicorn

    return uvicorn.Server(
        uvicorn.Config(
            app,
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=STOPPING_S,
        )
    )


@contextlib.contextmanager
def _signals_end(server: Any) -> Iterator[None]:
    """Ctrl-C and SIGTERM let the server end by itself, also before it listens for them; they are raised afterwards.

    Raised at once, one that comes while the event loop starts would leave a coroutine that nobody awaits. While the
    server runs it has handlers of its own; what they caught it sends again at its end.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        del frame
        caught.append(number)
        server.should_exit = True

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if caught:
        raise Terminated if caught[0] == signal.SIGTERM else KeyboardInterrupt


def _need_packages() -> None:
    library()
    try:
        import llama_cpp.server.app  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("lowvram-ft serve", "serve") from error


@contextlib.contextmanager
def _without(variable: str) -> Iterator[None]:
    value = os.environ.pop(variable, None)
    try:
        yield
    finally:
        if value is not None:
            os.environ[variable] = value
