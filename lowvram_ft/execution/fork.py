"""Fork a limited child, read what it reports, and leave nothing of it behind."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import select
import signal
import time
from collections.abc import Callable
from typing import Any, NoReturn, Protocol

from lowvram_ft.execution.limits import Limits, count_descendants, kill_children, limit_this_process

_MAX_RECORD_BYTES = 16 << 20
_POLL_S = 0.05 if hasattr(os, "pidfd_open") else 0.005

Send = Callable[[dict[str, Any]], None]


class Task(Protocol):
    """What a forked child does with the session of pytest that it finds itself in; called by its hooks.

    Attributes:
        alarm: entered around each phase of a test.
    """

    alarm: Any

    def begin(self, session: Any) -> None:
        """Before anything is collected."""

    def collected(self, items: list[Any]) -> None:
        """All tests are known; those taken out are not run."""

    def collection_finished(self) -> None:
        """The test file is imported, or is not to be."""

    def collect_report(self, report: Any) -> None:
        """A file or class is collected, or failed to be."""

    def internal_error(self, excinfo: Any) -> None:
        """Something that pytest does not catch."""

    def test_begins(self, nodeid: str) -> None:
        """A test begins."""

    def plugin_added(self) -> None:
        """A plugin was registered after the session was handed over."""

    def raised(self, item: Any, call: Any) -> None:
        """A phase of a test has ended, with an exception or without."""

    def reported(self, report: Any, call: Any) -> None:
        """A phase of a test has its report; ``call`` is None where pytest made it without running one."""

    def finish(self, session: Any, exit_code: int) -> NoReturn:
        """The session ends, and this process with it."""


class Forked(BaseException):
    """Raised in a fresh child, to leave the server's frames for the session's.

    Attributes:
        task: what the child does next.
    """

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task


class Poisoned(Exception):
    """A child left something that this process cannot clear away, so that no other job may follow."""


@dataclasses.dataclass(frozen=True)
class ForkEnd:
    """How a fork ended.

    Attributes:
        records: what it reported, in order; only lines that carry the run's secret.
        output: the first bytes of what it printed.
        status: as ``os.waitpid`` has it.
        timed_out: whether it was killed because its time was up.
        crowded: whether it was killed because it had more processes than its limits allow.
        begun_s: when it was forked, by the monotonic clock.
        duration_s: from fork to end.
    """

    records: list[dict[str, Any]]
    output: str
    status: int
    timed_out: bool
    crowded: bool
    begun_s: float
    duration_s: float

    @property
    def ending(self) -> str:
        """How it ended, in words."""
        if self.crowded:
            return "too many processes"
        if os.WIFSIGNALED(self.status):
            number = os.WTERMSIG(self.status)
            return f"signal {signal.Signals(number).name if number in list(signal.Signals) else number}"
        return f"exit code {os.WEXITSTATUS(self.status)}"


@dataclasses.dataclass(frozen=True)
class Confinement:
    """What holds every fork of a server.

    Attributes:
        private: descriptors of the server that no fork may hold.
        restrict: called in each fork, last: takes its rights away for good.
        tasks: threads that this user has outside, which the kernel counts as well.
        null: a descriptor that swallows what is written.
    """

    private: tuple[int, ...]
    restrict: Callable[[], None]
    tasks: int
    null: int


def run_in_fork(task: Callable[[Send], Task], limits: Limits, confinement: Confinement) -> ForkEnd:
    """Run ``task`` in a fork under ``limits``, in which `Forked` is raised.

    Args:
        task: gets a function that reports a record; reports of anybody else, also of the fork's own
            forks, do not count.
        limits: what the fork may use; it is killed after ``limits.wall_s``.
        confinement: what else holds it.

    Raises:
        Forked: in the fork.
        Poisoned: some of its processes cannot be killed.
    """
    secret = os.urandom(16).hex()
    record_reader, record_writer = os.pipe()
    output_reader, output_writer = os.pipe()
    begin = time.monotonic()
    pid = os.fork()
    if pid == 0:
        try:
            become_child(limits, output_writer, confinement, (record_reader, output_reader, output_writer))
            child = Forked(task(_sender(secret, record_writer)))
        except BaseException:
            os._exit(70)
        raise child
    os.close(record_writer)
    os.close(output_writer)
    sinks = {record_reader: bytearray(), output_reader: bytearray()}
    caps = {record_reader: _MAX_RECORD_BYTES, output_reader: limits.output_bytes}
    end = wait_for(pid, limits.wall_s, limits.processes, sinks, caps)
    for reader in sinks:
        os.close(reader)
    lines = bytes(sinks[record_reader]).decode(errors="replace").splitlines()
    records = [_record(line, secret) for line in lines if line.startswith(secret)]
    return ForkEnd(
        records=[record for record in records if record is not None],
        output=bytes(sinks[output_reader]).decode(errors="replace"),
        status=end.status,
        timed_out=end.timed_out,
        crowded=end.crowded,
        begun_s=begin,
        duration_s=time.monotonic() - begin,
    )


def become_child(
    limits: Limits,
    output: int,
    confinement: Confinement,
    also_private: tuple[int, ...] = (),
    cpu_s: float | None = None,
) -> None:
    """Turn a fresh fork into a limited child whose output goes to ``output``."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.dup2(output, 1)
    os.dup2(output, 2)
    for descriptor in (*confinement.private, *also_private):
        os.close(descriptor)
    limit_this_process(limits, confinement.tasks, cpu_s)
    confinement.restrict()


@dataclasses.dataclass(frozen=True)
class ChildEnd:
    """How a child ended: its wait status, whether it was killed and why, and the CPU time that it used."""

    status: int
    timed_out: bool
    crowded: bool
    cpu_s: float


def wait_for(
    pid: int,
    wall_s: float,
    processes: int,
    sinks: dict[int, bytearray] | None = None,
    caps: dict[int, int] | None = None,
) -> ChildEnd:
    """Wait for a child and read its pipes meanwhile; kill it when ``wall_s`` are over, and its orphans.

    Raises:
        Poisoned: some of them cannot be killed.
    """
    sinks, caps = sinks or {}, caps or {}
    deadline = time.monotonic() + wall_s
    handle = os.pidfd_open(pid) if hasattr(os, "pidfd_open") else None
    open_pipes = set(sinks)
    timed_out = crowded = False
    next_count = time.monotonic() + _POLL_S
    while True:
        ended, status, usage = os.wait4(pid, os.WNOHANG)
        if ended:
            break
        now = time.monotonic()
        if now >= next_count:
            crowded = count_descendants(processes + 1) > processes
            next_count = time.monotonic() + _POLL_S
        if crowded or now >= deadline:
            timed_out = not crowded
            os.kill(pid, signal.SIGKILL)
            _, status, usage = os.wait4(pid, 0)
            break
        waiting = [*open_pipes, *([] if handle is None else [handle])]
        for reader in select.select(waiting, [], [], min(deadline - now, _POLL_S))[0]:
            if reader != handle and not _drain(reader, sinks[reader], caps[reader]):
                open_pipes.discard(reader)
    if handle is not None:
        os.close(handle)
    if not kill_children():
        raise Poisoned("processes that cannot be killed")
    for reader in open_pipes:
        os.set_blocking(reader, False)
        with contextlib.suppress(BlockingIOError):
            while _drain(reader, sinks[reader], caps[reader]):
                pass
    return ChildEnd(status, timed_out, crowded, usage.ru_utime + usage.ru_stime)


def _drain(reader: int, sink: bytearray, cap: int) -> bool:
    """Read once, keep up to ``cap`` bytes in all; whether the other end is open."""
    chunk = os.read(reader, 1 << 16)
    sink += chunk[: max(0, cap - len(sink))]
    return bool(chunk)


def _sender(secret: str, writer: int) -> Send:
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
