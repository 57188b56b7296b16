"""An engine whose memory runs out where a test wants it: in a phase, at the n-th operation of its n-th call."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lowvram_ft.memory.notches import Lever
from lowvram_ft.training.engines import Loaded, LoadPlan
from lowvram_ft.training.engines.reference import ReferenceEngine

PHASES = ("load", "forward", "backward", "optimizer", "evaluation")


def out_of_memory() -> None:
    """What torch raises."""
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.\nGPU 0 has a total capacity of ...")


class FailAt(TorchDispatchMode):
    """Whatever torch is asked to do, the n-th time something happens."""

    def __init__(self, operation: int, action: Callable[[], None]) -> None:
        super().__init__()
        self._left, self._action = operation, action

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._left -= 1
        if self._left == -1:
            self._action()
        return func(*args, **(kwargs or {}))


@dataclass
class Fault:
    """Where memory runs out, or something else happens, once.

    Attributes:
        phase: one of `PHASES`.
        call: in which call of the phase, from 0; forward and backward are called once a micro-batch.
        operation: at which of the operations that torch does in that call, from 0.
        action: what happens there.
    """

    phase: str
    call: int = 0
    operation: int = 10
    action: Callable[[], None] = out_of_memory
    happened: bool = False


@dataclass
class FaultyEngine:
    """The reference engine with faults; counts calls from the first load on.

    Attributes:
        faults: what is to happen.
        loads: how often a model was loaded.
        alive: at each load, how many models of earlier loads were still in memory.
    """

    faults: Sequence[Fault] = ()
    name: str = "reference"
    loads: int = 0
    alive: list[int] = field(default_factory=list)
    _engine: ReferenceEngine = field(default_factory=ReferenceEngine)
    _calls: dict[str, int] = field(default_factory=dict)
    _models: list[Any] = field(default_factory=list)

    def levers(self, device: str) -> frozenset[Lever]:
        return self._engine.levers(device)

    def load(self, model: Path, plan: LoadPlan, adapter: Path | None) -> Loaded:
        self.alive.append(sum(model() is not None for model in self._models))
        self.loads += 1
        with self._fault("load"):
            loaded = self._engine.load(model, plan, adapter)
        self._models.append(weakref.ref(loaded.model))
        return loaded

    def trainer(self, *arguments: Any) -> Any:
        trainer = self._engine.trainer(*arguments)
        compute_loss, evaluate = trainer.compute_loss, trainer.evaluate
        backward, create_optimizer = trainer.accelerator.backward, trainer.create_optimizer
        trainer.compute_loss = self._in("forward", compute_loss, lambda: trainer.model.training)
        trainer.accelerator.backward = self._in("backward", backward)
        trainer.evaluate = self._in("evaluation", evaluate)

        def with_fault(*given: Any, **named: Any) -> Any:
            optimizer = create_optimizer(*given, **named)
            optimizer.step = self._in("optimizer", optimizer.step)
            return optimizer

        trainer.create_optimizer = with_fault
        return trainer

    def _in(self, phase: str, call: Callable[..., Any], when: Callable[[], bool] = lambda: True) -> Callable[..., Any]:
        def wrapped(*given: Any, **named: Any) -> Any:
            if not when():
                return call(*given, **named)
            with self._fault(phase):
                return call(*given, **named)

        return wrapped

    @contextmanager
    def _fault(self, phase: str) -> Iterator[None]:
        number = self._calls.get(phase, 0)
        self._calls[phase] = number + 1
        for fault in self.faults:
            if not fault.happened and (fault.phase, fault.call) == (phase, number):
                fault.happened = True
                with FailAt(fault.operation, fault.action):
                    yield
                return
        yield
