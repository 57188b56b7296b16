"""Finding a Ray cluster, or starting one, within a time that a person waits; and leaving nothing of it behind."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import os
import re
import secrets
import shutil
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lowvram_ft.errors import MachineError, UsageError

TRIES = 3
"""A job that brings down its worker so many times is given up; it reads as ``killed``."""
CONNECT_S = 45.0
"""For Ray to connect, and for its nodes to say what they have. After 60 s, Ray would end this process."""
_ANSWER_S = 10.0
"""For whatever listens at an address to be there at all."""
_STORE_BYTES = 80 << 20
"""Ray's least is 75 MB; a job and its answer are some kilobytes."""
_SOCKET_PATH_CHARS = 40
"""Of the folder of a local cluster: the paths of its sockets may have 107, and Ray adds about 65."""
_ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_task_oom_retries": str(TRIES - 1)}


@dataclasses.dataclass(frozen=True)
class Address:
    """Where a cluster is.

    Attributes:
        text: as the user gave it, for messages.
        ray: what ``ray.init`` takes.
        workers: of a cluster to be started in this process; None for one that runs.
        endpoint: host and port that something has to listen at; None where Ray finds them itself.
    """

    text: str
    ray: str
    workers: int | None = None
    endpoint: tuple[str, int] | None = None


def read_address(text: str) -> Address:
    """Read an address: ``local[:N]``, ``auto``, ``ray://HOST:PORT`` or ``HOST:PORT``.

    Raises:
        UsageError: it is none of these.
    """
    if text == "auto":
        return Address(text, "auto")
    if found := re.fullmatch(r"local(?::([1-9]\d{0,3}))?", text):
        return Address(text, "local", int(found[1] or os.cpu_count() or 1))
    if text.partition(":")[0] != "local" and (
        found := re.fullmatch(r"(?:ray://)?([\w.-]+|\[[\da-fA-F:.]+\]):(\d{1,5})", text)
    ):
        return Address(text, text, endpoint=(found[1].strip("[]"), int(found[2])))
    raise UsageError(f"--ray: no such address ({text}); give local[:WORKERS], auto, ray://HOST:10001 or HOST:6379")


@contextlib.contextmanager
def connected(ray: Any, place: Address) -> Iterator[None]:
    """Connected to a cluster, or to one that is started here and ended with the block.

    Raises:
        MachineError: it cannot be, or not in time.
    """
    if ray.is_initialized():
        raise MachineError(f"--ray {place.text}: this process is connected to Ray already; call ray.shutdown() first")
    if place.endpoint is not None:
        try:
            socket.create_connection(place.endpoint, _ANSWER_S).close()
        except OSError as error:
            raise MachineError(
                f"--ray {place.text}: nothing answers there ({error}); start a cluster on that machine with "
                "`ray start --head`, or judge on this one with --ray local"
            ) from error
    options: dict[str, Any] = {"address": place.ray, "log_to_driver": False}
    folder = _short_folder() if place.workers is not None else None
    if folder is not None:
        options |= {
            "num_cpus": place.workers,
            "include_dashboard": False,
            "object_store_memory": _STORE_BYTES,
            "_temp_dir": str(folder),
        }
    left = threading.Event()
    try:
        _begin(lambda: ray.init(logging_level=logging.ERROR, configure_logging=False, **options), place, left)
        yield
    finally:
        ray.shutdown()
        left.set()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _begin(connect: Callable[[], Any], place: Address, left: threading.Event) -> None:
    """Connect in a thread: Ray takes longer than a person waits, and in the main thread takes SIGTERM for itself.

    The thread stays until ``left`` is set: the kernel ends Ray's processes with the thread that started them.

    Raises:
        MachineError: it fails, or takes longer.
    """
    failed: list[BaseException] = []
    done = threading.Event()

    def attempt() -> None:
        try:
            connect()
        except BaseException as error:
            failed.append(error)
        done.set()
        left.wait()

    threading.Thread(target=attempt, name="lowvram-ft-ray", daemon=True).start()
    if not done.wait(CONNECT_S):
        raise MachineError(
            f"--ray {place.text}: no cluster answers within {CONNECT_S:.0f} s; HOST:PORT works on its own nodes "
            "alone, elsewhere give ray://HOST:10001; look at it with `ray status`"
        )
    if failed:
        raise MachineError(
            f"--ray {place.text}: cannot be used ({first_line(failed[0])}); start a cluster with `ray start --head`, "
            "with the same versions of Ray and Python, or judge on this machine with --ray local"
        ) from failed[0]


@contextlib.contextmanager
def environment(place: Address) -> Iterator[None]:
    """What Ray reads when it starts: no statistics, few words, and a token that is not left in the home folder."""
    wanted = {name: value for name, value in _ENVIRONMENT.items() if name not in os.environ}
    if place.workers is not None and not any(name.startswith("RAY_AUTH_") for name in os.environ):
        wanted["RAY_AUTH_TOKEN"] = _token()
    os.environ.update(wanted)
    try:
        yield
    finally:
        if "RAY_AUTH_TOKEN" in wanted:
            os.environ.pop("RAY_AUTH_MODE", None)  # Ray sets it, for what it starts
        for name in wanted:
            os.environ.pop(name, None)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Ray says nothing below an error, and what it says of lost workers goes to stderr: stdout is for results."""
    logger = logging.getLogger("ray")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        logger.setLevel(level)


@functools.cache
def _token() -> str:
    """One a process: Ray reads it once."""
    return secrets.token_hex(32)


def _short_folder() -> Path:
    base = tempfile.gettempdir()
    return Path(tempfile.mkdtemp(prefix="lvft-ray-", dir=base if len(base) <= _SOCKET_PATH_CHARS - 20 else "/tmp"))


def first_line(error: BaseException) -> str:
    """What an error of Ray says, without its explanations."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
