"""Several processes for one run, as ``torchrun`` and ``accelerate launch`` start them.

The gradients are torch's own affair (``DistributedDataParallel``, through the trainer). What is here is for everything
before and after: one process makes the plan and the prepared set, one writes the run directory, one prints. They talk
through the launcher's key-value store, for two reasons. A collective (``torch.distributed.barrier``) has a time limit
of minutes, meant for a card that hangs, while verifying 40,000 rows takes hours; and it needs a process group, which
the trainer makes much later. A file in the run directory could do, but one of an earlier start looks the same.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from types import FrameType
from typing import Any, Protocol

from lowvram_ft.errors import LowvramError, MachineError, Terminated, TrainingError
from lowvram_ft.hardware import Hardware

POLL_S = (0.01, 0.5)
"""Seconds between two looks for what another process says: at first, and at last."""
FAILED = "failed"
"""The key that the first process to fail counts up."""


class Store(Protocol):
    """What is used of ``torch.distributed.Store``."""

    def set(self, key: str, value: str) -> None:
        """Write a value."""

    def get(self, key: str) -> bytes:
        """Read one that is there."""
        ...

    def check(self, keys: list[str]) -> bool:
        """Whether all of them are there."""
        ...

    def add(self, key: str, amount: int) -> int:
        """Count up, and say how far it is now."""
        ...


@dataclass
class Ranks:
    """This process among those of its run.

    Attributes:
        rank: its number; 0 leads.
        world_size: how many there are.
        local_rank: its number on this machine, which is also that of its card.
        local_world_size: how many there are on this machine.
        node: the number of this machine.
        store: where they talk; None for a process alone.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    node: int = 0
    store: Store | None = None
    _said: int = field(default=0, repr=False)

    @property
    def leads(self) -> bool:
        """Whether this process writes the run directory, prints, exports and evaluates."""
        return self.rank == 0

    def share(self, make: Callable[[], Any]) -> Any:
        """Let the leader make a value, and give it to all.

        Every process has to come here, in the same order of calls.

        Args:
            make: called in the leader alone; what it gives must be a JSON value.

        Raises:
            TrainingError: another process has failed.
        """
        if self.store is None:
            return make()
        key = self._next_key()
        if self.leads:
            value = make()
            self.store.set(key, json.dumps(value))
            return value
        return json.loads(self._wait_for(key))

    def gather(self, value: Any) -> list[Any]:
        """A JSON value of each process, by rank, given to all. It is a barrier, too.

        Raises:
            TrainingError: another process has failed.
        """
        if self.store is None:
            return [value]
        key = self._next_key()
        self.store.set(f"{key}/{self.rank}", json.dumps(value))
        return [json.loads(self._wait_for(f"{key}/{rank}")) for rank in range(self.world_size)]

    @contextmanager
    def first(self) -> Iterator[None]:
        """One process of each machine goes in first, and the others after it: they find made what it has made.

        Raises:
            TrainingError: another process has failed.
        """
        if self.store is None:
            yield
            return
        key = f"{self._next_key()}/{self.node}"
        if self.local_rank != 0:
            self._wait_for(key)
            yield
            return
        yield
        self.store.set(key, "null")

    def claims_failure(self) -> bool:
        """Whether this process is the first to fail: it tells the user why, and the others keep silent."""
        if self.store is None:
            return True
        try:
            return self.store.add(FAILED, 1) == 1
        except RuntimeError:  # the process that held the store is gone, and has told why
            return False

    @contextmanager
    def noticing_losses(self) -> Iterator[None]:
        """Say it in the kit's words where another process goes away while this one waits for its gradients.

        Raises:
            TrainingError: it has.
        """
        try:
            yield
        except RuntimeError as error:
            if self.store is None or not _is_lost_peer(error):
                raise
            raise self.left_alone() from error

    def end_training(self) -> None:
        """Take the trainer's process group down: from here on the leader works alone, and the others end."""
        if self.store is None:
            return
        import torch.distributed
        from accelerate.state import AcceleratorState

        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
            AcceleratorState._reset_state(reset_partial_state=True)

    def _next_key(self) -> str:
        self._said += 1
        return f"said/{self._said}"

    def _wait_for(self, key: str) -> bytes:
        assert self.store is not None
        pause, longest = POLL_S
        try:
            while not self.store.check([key]):
                if self.store.check([FAILED]):
                    raise self.left_alone()
                time.sleep(pause)
                pause = min(2 * pause, longest)
            return self.store.get(key)
        except RuntimeError as error:  # torch.distributed.DistError: the process that held the store is gone
            raise self.left_alone() from error

    def left_alone(self) -> TrainingError:
        """The error of a process that cannot go on because another one has ended."""
        return TrainingError(
            "another process of this run has ended; why stands above (if nothing does, the system has killed it, as "
            "where memory is short), and the same command continues"
        )


def from_environment(environ: Mapping[str, str] = os.environ) -> Ranks:
    """Read who we are from the variables that ``torchrun`` and ``accelerate launch`` set. Connects to nothing.

    Source: ``torch.distributed.run``, "Environment Variables".

    Raises:
        MachineError: a variable is missing or is no number.
    """
    if environ.get("WORLD_SIZE", "1") == "1":
        return Ranks()
    try:
        ranks = Ranks(
            rank=int(environ["RANK"]),
            world_size=int(environ["WORLD_SIZE"]),
            local_rank=int(environ["LOCAL_RANK"]),
            local_world_size=int(environ.get("LOCAL_WORLD_SIZE", environ["WORLD_SIZE"])),
            node=int(environ.get("GROUP_RANK", "0")),
        )
    except (KeyError, ValueError) as error:
        raise MachineError(
            f"WORLD_SIZE={environ['WORLD_SIZE']}: the variables of a start in several processes are not whole "
            f"({type(error).__name__}: {error}); start with torchrun --nproc_per_node N -m lowvram_ft …"
        ) from error
    if not 0 <= ranks.rank < ranks.world_size:
        raise MachineError(f"RANK={ranks.rank}: is not below WORLD_SIZE={ranks.world_size}; start with torchrun")
    return ranks


@cache
def here() -> Ranks:
    """This process, connected with the others where there are others.

    Raises:
        MachineError: the launcher's variables are not whole, or the others cannot be reached.
    """
    ranks = from_environment()
    if ranks.world_size == 1:
        return ranks
    import torch.distributed

    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:  # the launcher's way to end all of them: one says so
        signal.signal(signal.SIGTERM, _on_sigterm)
    # cards are numbered as NVML numbers them, so that the plan of a card is that card's
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    try:
        store, _, _ = next(torch.distributed.rendezvous("env://"))
    except (RuntimeError, ValueError) as error:
        raise MachineError(
            f"the other processes cannot be reached ({str(error).splitlines()[0]}); "
            "check MASTER_ADDR and MASTER_PORT, or start with torchrun"
        ) from error
    return replace(ranks, store=torch.distributed.PrefixStore("lowvram-ft", store))


def _on_sigterm(number: int, frame: FrameType | None) -> None:
    del number, frame
    raise Terminated


def _is_lost_peer(error: RuntimeError) -> bool:
    """Whether torch says that another process does not answer. Gloo has no class of error for it."""
    import torch.distributed

    words = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "gloo/transport", "NCCL")
    return isinstance(error, torch.distributed.DistError) or any(word in str(error) for word in words)


def told_elsewhere() -> bool:
    """Whether another process of this run has failed before this one, and has told the user why.

    Asked by a process that is about to end.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return False
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it ends already, and is not to be cut off
    try:
        return not here().claims_failure()
    except LowvramError:  # nobody to ask
        return False


def own_part(hardware: Hardware, ranks: Ranks) -> Hardware:
    """What of a machine is this process's: its card, and its share of the memory.

    Raises:
        MachineError: there are more processes than cards.
    """
    if ranks.world_size == 1:
        return hardware
    gpus = hardware.gpus
    if gpus and ranks.local_world_size > len(gpus):
        raise MachineError(
            f"no card for each process ({ranks.local_world_size} processes for {len(gpus)} GPUs); "
            f"start {len(gpus)}: torchrun --nproc_per_node {len(gpus)} -m lowvram_ft …"
        )
    return replace(
        hardware,
        gpus=(gpus[ranks.local_rank],) if gpus else (),
        ram_total_bytes=hardware.ram_total_bytes // ranks.local_world_size,
        ram_available_bytes=hardware.ram_available_bytes // ranks.local_world_size,
    )
