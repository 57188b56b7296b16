"""Fork a limited child, read what it reports, and leave nothing of it behind."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import select
import signal
import time
from collections.abc import Callable, Sequence
from typing import Any

from lowvram_ft.execution.limits import Limits, kill_children, limit_this_process

_MAX_RECORD_BYTES = 16 << 20
_POLL_S = 0.25 if hasattr(os, "pidfd_open") else 0.005


@dataclasses.dataclass(frozen=True)
class ForkEnd:
    """How a fork ended.

    Attributes:
        records: what it reported, in order; only lines that carry the run's secret.
        output: the first bytes of what it printed.
        status: as ``os.waitpid`` has it.
        timed_out: whether it was killed because its time was up.
        duration_s: from fork to end.
    """

    records: list[dict[str, Any]]
    output: str
    status: int
    timed_out: bool
    duration_s: float

    @property
    def ending(self) -> str:
        """How it ended, in words."""
        if os.WIFSIGNALED(self.status):
            number = os.WTERMSIG(self.status)
            return f"signal {signal.Signals(number).name if number in list(signal.Signals) else number}"
        return f"exit code {os.WEXITSTATUS(self.status)}"


def run_in_fork(
    body: Callable[[Callable[[dict[str, Any]], None]], None], limits: Limits, private: Sequence[int]
) -> ForkEnd:
    """Run ``body`` in a fork under ``limits``.

    Args:
        body: gets a function that reports a record; reports of anybody else, also of the fork's own
            forks, do not count.
        limits: what the fork may use; it is killed after ``limits.wall_s``.
        private: descriptors that the fork must not hold.
    """
    secret = os.urandom(16).hex()
    record_reader, record_writer = os.pipe()
    output_reader, output_writer = os.pipe()
    begin = time.monotonic()
    pid = os.fork()
    if pid == 0:
        try:
            become_child(limits, output_writer, [*private, record_reader, output_reader, output_writer])
            body(_sender(secret, record_writer))
        finally:
            os._exit(70)
    os.close(record_writer)
    os.close(output_writer)
    sinks = {record_reader: bytearray(), output_reader: bytearray()}
    caps = {record_reader: _MAX_RECORD_BYTES, output_reader: limits.output_bytes}
    status, timed_out, _ = wait_for(pid, limits.wall_s, sinks, caps)
    for reader in sinks:
        os.close(reader)
    lines = bytes(sinks[record_reader]).decode(errors="replace").splitlines()
    records = [_record(line, secret) for line in lines if line.startswith(secret)]
    return ForkEnd(
        records=[record for record in records if record is not None],
        output=bytes(sinks[output_reader]).decode(errors="replace"),
        status=status,
        timed_out=timed_out,
        duration_s=time.monotonic() - begin,
    )


def become_child(limits: Limits, output: int, private: Sequence[int], cpu_s: float | None = None) -> None:
    """Turn a fresh fork into a limited child whose output goes to ``output``."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.dup2(output, 1)
    os.dup2(output, 2)
    for descriptor in private:
        os.close(descriptor)
    limit_this_process(limits, cpu_s)


def wait_for(
    pid: int, wall_s: float, sinks: dict[int, bytearray] | None = None, caps: dict[int, int] | None = None
) -> tuple[int, bool, float]:
    """Wait for a child and read its pipes meanwhile; kill it when ``wall_s`` are over, and its orphans.

    Returns:
        The wait status, whether time was up, and the CPU time that the child used.
    """
    sinks, caps = sinks or {}, caps or {}
    deadline = time.monotonic() + wall_s
    handle = os.pidfd_open(pid) if hasattr(os, "pidfd_open") else None
    open_pipes = set(sinks)
    timed_out = False
    while True:
        ended, status, usage = os.wait4(pid, os.WNOHANG)
        if ended:
            break
        left = deadline - time.monotonic()
        if left <= 0:
            timed_out = True
            os.kill(pid, signal.SIGKILL)
            _, status, usage = os.wait4(pid, 0)
            break
        waiting = [*open_pipes, *([] if handle is None else [handle])]
        for reader in select.select(waiting, [], [], min(left, _POLL_S))[0]:
            if reader != handle and not _drain(reader, sinks[reader], caps[reader]):
                open_pipes.discard(reader)
    if handle is not None:
        os.close(handle)
    kill_children()
    for reader in open_pipes:
        os.set_blocking(reader, False)
        with contextlib.suppress(BlockingIOError):
            while _drain(reader, sinks[reader], caps[reader]):
                pass
    return status, timed_out, usage.ru_utime + usage.ru_stime


def _drain(reader: int, sink: bytearray, cap: int) -> bool:
    """Read once, keep up to ``cap`` bytes in all; whether the other end is open."""
    chunk = os.read(reader, 1 << 16)
    sink += chunk[: max(0, cap - len(sink))]
    return bool(chunk)


def _sender(secret: str, writer: int) -> Callable[[dict[str, Any]], None]:
    owner, getpid, write, dumps = os.getpid(), os.getpid, os.write, json.dumps

    def send(record: dict[str, Any]) -> None:
        if getpid() != owner:
            return
        data = f"{secret}{dumps(record)}\n".encode()
        while data:
            data = data[write(writer, data) :]

    return send


def _record(line: str, secret: str) -> dict[str, Any] | None:
    try:
        record = json.loads(line.removeprefix(secret))
    except ValueError:
        return None
    return record if isinstance(record, dict) and "kind" in record else None
