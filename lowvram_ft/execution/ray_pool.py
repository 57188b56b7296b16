"""Judging on the workers of a Ray cluster. Ray is imported here alone, and only when it is asked for."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lowvram_ft.errors import MachineError, MissingExtraError
from lowvram_ft.execution.cache import judge_versions
from lowvram_ft.execution.place import Mutants, Told, judged_by
from lowvram_ft.execution.pool import Question
from lowvram_ft.execution.ray_cluster import CONNECT_S, TRIES, connected, environment, first_line, quiet, read_address
from lowvram_ft.execution.verdict import Verdict
from lowvram_ft.execution.worker import pack, unpack, version_problem, work

_MOST_PLACES = 512
"""Each takes a thread of this process that waits."""


@contextlib.contextmanager
def judged_at(
    address: str | None, said: Callable[[str], None] = lambda _: None, do: Callable[[str], str] = work
) -> Iterator[None]:
    """Have every job of this process done on the workers of a Ray cluster until the block ends.

    The workers need the kit installed, in the same version, with the same pytest, coverage, cosmic-ray and parso, and
    the same Python but for its last number: what they have is asked before the first job, and checked with each.

    Args:
        address: see `read_address`; None leaves everything as it is.
        said: told in a line what there is.
        do: does a job on a worker.

    Raises:
        UsageError: the address is none.
        MissingExtraError: ray is not installed.
        MachineError: there is no cluster, it does not answer in time, or its workers cannot judge as this machine does.
    """
    if address is None:
        yield
        return
    place = read_address(address)
    with environment(place):
        try:
            import ray
        except ModuleNotFoundError as error:
            raise MissingExtraError("--ray: the package ray", "ray") from error
        with quiet(), connected(ray, place):
            pool = RayPool(ray, place.text, do)
            said(f"ray: {place.text}: {pool.places} jobs at a time on {len(pool.nodes)} node(s)")
            with judged_by(pool):
                yield


class RayPool:
    """The workers of the cluster that this process is connected to; see `lowvram_ft.execution.place.Elsewhere`.

    Args:
        ray: the package.
        address: for messages.
        do: does a job on a worker.

    Raises:
        MachineError: no node has a CPU for jobs, or one judges with other versions.
    """

    def __init__(self, ray: Any, address: str, do: Callable[[str], str] = work) -> None:
        self._ray, self._address = ray, address
        self._work = ray.remote(num_cpus=1, max_retries=TRIES - 1)(do)
        self._lock = threading.Lock()
        self._running: set[Any] = set()
        self._roots: dict[Path, str | None] = {}
        self.nodes = {
            node["NodeID"]: f"{node['NodeManagerAddress']} ({node['NodeManagerHostname']})"
            for node in ray.nodes()
            if node["Alive"] and node["Resources"].get("CPU", 0) >= 1
        }
        cpus = sum(int(node["Resources"]["CPU"]) for node in ray.nodes() if node["NodeID"] in self.nodes)
        if not self.nodes:
            raise MachineError(
                f"--ray {address}: no node has a CPU for jobs; start one with: ray start --address=HOST:PORT"
            )
        self.places = min(cpus, _MOST_PLACES)
        for node, theirs in self._asked(_versions_there()).items():
            problem = version_problem(theirs, judge_versions())
            if problem is not None:
                raise MachineError(f"--ray {address}: node {node}: it has {problem}; install the same versions there")

    def ask(self, question: Question, root: Path | None, mutants: Mutants) -> Told:
        """Have a job done by a worker, up to `TRIES` times where it brings its worker down.

        Raises:
            MachineError: the worker cannot do it, or the cluster is gone.
        """
        errors = self._ray.exceptions
        reference = None
        try:
            reference = self._work.remote(pack(question, root, mutants))
            with self._lock:
                self._running.add(reference)
            return unpack(self._ray.get(reference))
        except (errors.WorkerCrashedError, errors.NodeDiedError, errors.OutOfMemoryError) as error:
            log = f"E   the test file brought down its worker, {TRIES} times ({first_line(error)})"
            return Verdict("killed", (), 0, log, None, 0.0), None, False
        except errors.TaskCancelledError as error:
            raise MachineError(f"--ray {self._address}: a job was cancelled; run the command again") from error
        except (errors.RayError, ConnectionError) as error:
            raise MachineError(
                f"--ray {self._address}: a job was lost ({first_line(error)}); look at the cluster with `ray status`, "
                "then run the command again: what was judged is kept"
            ) from error
        finally:
            with self._lock:
                self._running.discard(reference)

    def root_problem(self, root: Path) -> str | None:
        """Why a node cannot read a folder; None where all can. A folder is asked for once."""
        folder = root.resolve()
        with self._lock:
            if folder in self._roots:
                return self._roots[folder]
        missing = [node for node, there in self._asked(_folder_there(str(folder))).items() if not there]
        problem = f"{folder} is not on {', '.join(missing)}: put it there, at the same path" if missing else None
        with self._lock:
            self._roots[folder] = problem
        return problem

    def stop_busy(self) -> None:
        """Cancel every job that runs or waits; its worker is ended, and with it the servers that it started."""
        with self._lock:
            running = list(self._running)
        for reference in running:
            with contextlib.suppress(self._ray.exceptions.RayError, ConnectionError, ValueError):  # it has just ended
                self._ray.cancel(reference, force=True)

    def _asked(self, question: Callable[[], Any]) -> dict[str, Any]:
        """What each node answers."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

        ask = self._ray.remote(num_cpus=0, max_retries=TRIES - 1)(question)
        try:
            told = [ask.options(scheduling_strategy=On(node, soft=False)).remote() for node in self.nodes]
            return dict(zip(self.nodes.values(), self._ray.get(told, timeout=CONNECT_S), strict=True))
        except (self._ray.exceptions.RayError, ConnectionError) as error:
            raise MachineError(
                f"--ray {self._address}: its nodes do not answer ({first_line(error)}); look at them with `ray status`"
            ) from error


# Functions inside of functions travel by their code, and not by their names: a node may have no kit, or another one.


def _versions_there() -> Callable[[], dict[str, str]]:
    def versions() -> dict[str, str]:
        import importlib.metadata
        import platform

        try:
            from lowvram_ft.execution.cache import judge_versions

            return judge_versions()
        except (ImportError, importlib.metadata.PackageNotFoundError):
            return {"python": platform.python_version()}

    return versions


def _folder_there(path: str) -> Callable[[], bool]:
    def is_folder() -> bool:
        import os

        return os.path.isdir(path)

    return is_folder
