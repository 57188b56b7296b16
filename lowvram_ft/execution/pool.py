"""A pool of sandboxed servers: started when needed, lent to one job at a time, replaced when a job spoils them."""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from lowvram_ft.errors import DataError, MachineError
from lowvram_ft.execution import sandbox
from lowvram_ft.execution.beside import check_beside
from lowvram_ft.execution.limits import Limits, child_environment, tasks_of_this_user
from lowvram_ft.execution.sandbox import bubblewrap
from lowvram_ft.execution.variation import USUAL
from lowvram_ft.execution.workspace import HOME, TEMPORARY, remove_tree

_BOOTSTRAP = "import sys; sys.path.insert(0, sys.argv[1]); from lowvram_ft.execution.server import main; main()"
_PACKAGE_ROOT = Path(__file__).resolve().parents[2]
_START_S = 60.0
_PATIENCE_S = 15.0
"""How much longer than its limits a server may be silent before it is given up."""
UNSANDBOXED = "code that a model wrote runs WITHOUT A SANDBOX: it can read, change and send whatever you can"
_JOBS_A_SERVER = 2000
"""A server is replaced after so many jobs, whatever they did."""

Answer = dict[str, Any]


class ServerLost(Exception):
    """A server ended, or was silent for too long, in the middle of a job."""


class Server:
    """One server process inside the sandbox, and its private folder.

    Args:
        layer: the sandbox.
        root: folder with the rest of the package under test; visible inside.
        hash_seed: its ``PYTHONHASHSEED``.
        start: calls a function in a thread that lives as long as this process does: the kernel ends a server
            when the thread that started it ends.

    Raises:
        MachineError: it cannot be started.
    """

    def __init__(
        self,
        layer: sandbox.Layer,
        root: Path | None,
        hash_seed: int,
        start: Callable[[Callable[[], Any]], Any],
    ) -> None:
        self.layer = layer
        self.kind = (root, hash_seed)
        self.jobs = 0
        self.errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self.outside = None if layer == "bubblewrap" else Path(tempfile.mkdtemp(prefix="lowvram-ft-")).resolve()
        folder = self.outside or bubblewrap.FOLDER
        arguments = [sys.executable, "-P", "-s", "-B", "-c", _BOOTSTRAP, str(_PACKAGE_ROOT)]
        readable = sandbox.readable_paths()
        try:
            command = bubblewrap.command(readable, root, arguments) if layer == "bubblewrap" else arguments
            self.process: subprocess.Popen[bytes] = start(
                lambda: subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=self.errors,
                    cwd="/",
                    env=child_environment(folder / HOME, folder / TEMPORARY, hash_seed),
                    start_new_session=True,
                )
            )
        except OSError as error:
            self._clean_up()
            raise MachineError(f"execution: {sys.executable}: cannot be started ({error})") from error
        setup = {
            "layer": layer,
            "folder": str(folder),
            "root": None if root is None else str(root),
            "parent": None if layer == "bubblewrap" else os.getpid(),
            "tasks": tasks_of_this_user(),
            "readable": [str(path) for path in readable],
        }
        try:
            self.write(setup)
            self.read(_START_S)
        except ServerLost:
            self.stop()
            raise MachineError(f"execution: {sys.executable}: cannot run tests ({self._last_words()})") from None

    def write(self, question: object) -> None:
        """Send a line."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(question).encode() + b"\n")
            self.process.stdin.flush()

    def read(self, patience_s: float) -> Answer:
        """The next answer.

        Raises:
            ServerLost: there is none, or it does not come in time.
        """
        assert self.process.stdout is not None
        descriptor = self.process.stdout.fileno()
        poll = select.poll()  # select refuses descriptors from 1024 on, and training may have many open
        poll.register(descriptor, select.POLLIN)
        while b"\n" not in self._rest:
            if not poll.poll(1000 * patience_s):
                raise ServerLost("silent")
            chunk = os.read(descriptor, 1 << 16)
            if not chunk:
                raise ServerLost("ended")
            self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\n")
        answer: Answer = json.loads(line)
        return answer

    _rest = b""

    def stop(self) -> None:
        """End the process and all that it started, and remove its folder."""
        if self.layer != "bubblewrap" and self.process.poll() is None:
            # politely, so that it can end what its jobs left behind; inside bubblewrap, the kernel does
            with contextlib.suppress(ProcessLookupError):
                self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=6.0)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()
        self._clean_up()

    def _last_words(self) -> str:
        return self._said or "no message"

    _said = ""

    def _clean_up(self) -> None:
        if not self.errors.closed:
            self.errors.seek(0)
            lines = self.errors.read().decode(errors="replace").split("\n")
            self._said = next((line for line in reversed(lines) if line.strip()), "")
            self.errors.close()
        if self.outside is not None:
            remove_tree(self.outside)


class Pool:
    """Servers, as many as jobs run at a time.

    Args:
        layer: the sandbox; None for the strongest that this machine has.

    Raises:
        MachineError: there is no sandbox here, and it was not allowed to go without.
    """

    def __init__(self, layer: sandbox.Layer | None = None) -> None:
        self.layer = layer or sandbox.choose()
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="lowvram-ft-sandbox")
        self._lock = threading.Lock()
        self._idle: list[Server] = []
        self._busy: set[Server] = set()
        self._most = 1
        self.replaced = 0
        if self.layer == "rlimits":
            warnings.warn(UNSANDBOXED, UnsandboxedWarning, stacklevel=2)

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @contextlib.contextmanager
    def server(self, root: Path | None, hash_seed: int = USUAL.hash_seed) -> Iterator[Server]:
        """Lend a server that sees ``root`` and hashes strings with ``hash_seed``.

        It is stopped when the block fails or its job spoilt it.

        Raises:
            MachineError: it cannot be started.
        """
        server = self._take(root, hash_seed)
        try:
            yield server
        except BaseException:
            self._drop(server)
            raise
        if server.jobs >= _JOBS_A_SERVER or server.process.poll() is not None:
            self._drop(server)
        else:
            with self._lock:
                self._busy.discard(server)
                self._idle.append(server)

    def stop_busy(self) -> None:
        """Kill the servers that are lent; whoever waits for them sees them lost."""
        with self._lock:
            busy = list(self._busy)
        for server in busy:
            with contextlib.suppress(ProcessLookupError):
                server.process.terminate() if server.layer != "bubblewrap" else server.process.kill()

    def close(self) -> None:
        """Stop every server."""
        self.stop_busy()
        with self._lock:
            idle, self._idle = self._idle, []
        for server in idle:
            server.stop()
        self._starter.shutdown(wait=False)

    def _take(self, root: Path | None, hash_seed: int) -> Server:
        with self._lock:
            alike = [server for server in self._idle if server.kind == (root, hash_seed)]
            server = alike[-1] if alike else None
            if server is not None:
                self._idle.remove(server)
                self._busy.add(server)
            self._most = max(self._most, len(self._busy) + (server is None))
            over = len(self._idle) + len(self._busy) + (server is None) - self._most
            surplus, self._idle = (self._idle[:over], self._idle[over:]) if over > 0 else ([], self._idle)
        for other in surplus:
            other.stop()
        if server is None or server.process.poll() is not None:
            if server is not None:
                self._drop(server)
            server = Server(self.layer, root, hash_seed, lambda call: self._starter.submit(call).result())
            with self._lock:
                self._busy.add(server)
        return server

    def _drop(self, server: Server) -> None:
        with self._lock:
            self._busy.discard(server)
            self.replaced += 1
        server.stop()


class UnsandboxedWarning(UserWarning):
    """Code that a model wrote runs without a sandbox."""


@dataclasses.dataclass(frozen=True)
class Question:
    """What a job asks: see `lowvram_ft.execution.executor.run_tests`.

    Raises:
        DataError: the module's name is a path; a file cannot lie beside the test.
    """

    code: str
    module: str
    test: str
    limits: Limits
    selected: Sequence[str] | None
    mutants: bool
    max_mutants: int | None
    order: int | None = USUAL.order
    hash_seed: int = USUAL.hash_seed
    beside: Mapping[str, str] | None = None
    only: Collection[int] | None = None

    def __post_init__(self) -> None:
        if not self.module or set("/\\\0") & set(self.module):
            raise DataError(f"module: {self.module!r} is no name of a module; give one such as pkg.mod")
        check_beside(self.beside or {})

    def to_json(self) -> dict[str, Any]:
        """As a server reads it. What could not be asked for once is left out where it is not: old answers stay good."""
        question = {
            **{field.name: getattr(self, field.name) for field in dataclasses.fields(self)},
            "limits": dataclasses.asdict(self.limits),
            "selected": None if self.selected is None else list(self.selected),
            "beside": dict(self.beside or {}) or None,
            "only": None if self.only is None else sorted(self.only),
        }
        return {key: value for key, value in question.items() if value is not None or key not in ("beside", "only")}


def patience_s(limits: Limits) -> float:
    """How long a server may be silent in a job."""
    return limits.wall_s + _PATIENCE_S


_default: Pool | None = None
_default_lock = threading.Lock()


def default_pool() -> Pool:
    """The pool of this process, made at the first call and closed at its end.

    Raises:
        MachineError: there is no sandbox here, and it was not allowed to go without.
    """
    global _default
    with _default_lock:
        if _default is None:
            if not hasattr(os, "fork"):
                raise MachineError("execution: needs a Unix system; on Windows, run it inside WSL")
            _default = Pool()
            atexit.register(close_default_pool)
        return _default


def close_default_pool() -> None:
    """Stop the servers of this process; the next job starts new ones."""
    global _default
    with _default_lock:
        pool, _default = _default, None
    if pool is not None:
        pool.close()
