"""`Search`: everything that fits a budget within the first class that has something, the best first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain
from math import inf, log

from lowvram_ft.memory import space
from lowvram_ft.memory.cards import Card, card_of_size
from lowvram_ft.memory.levers import Change, changes_between
from lowvram_ft.memory.plan import MemoryPlan, card_peak, fillable, plan_memory
from lowvram_ft.memory.setup import Budget, TrainingSetup
from lowvram_ft.memory.shape import ModelShape
from lowvram_ft.memory.speed import StepTime, step_time
from lowvram_ft.memory.terms import layer_payload_bytes

SAME_SPEED = 0.02
"""Speeds that are this close to the fastest count as one: the time model cannot tell them apart."""


@dataclass(frozen=True)
class Candidate:
    """A configuration with its plan.

    Attributes:
        setup: the configuration.
        plan: what it needs.
        changes: what makes it of the one that was wanted.
        time: what the time model says; None without a card.
    """

    setup: TrainingSetup
    plan: MemoryPlan
    changes: tuple[Change, ...]
    time: StepTime | None

    @property
    def level(self) -> int:
        """The heaviest class of its levers; 0 where nothing was changed."""
        return max((change.level for change in self.changes), default=0)


@dataclass(frozen=True)
class Search:
    """The search for one model, setup and budget.

    Attributes:
        shape: the base model.
        wanted: the setup that is wanted.
        budget: the machine.
        card: whose speed counts; None for one of the budget's size.
    """

    shape: ModelShape
    wanted: TrainingSetup
    budget: Budget
    card: Card | None

    def run(self, allow: Sequence[str]) -> list[Candidate]:
        """Everything that fits within the first class that has something, the best first; empty where nothing does."""
        least = space.least_setups(self.wanted, self.shape, allow, on_card=self._on_card)
        if not any(self._fits_card(setup) for setup in (self.wanted, *least)):
            return []
        for trained in space.trained(self.wanted, allow):
            for numerics in space.numerics(trained, self.shape, allow, on_card=self._on_card):
                options = [options for base in numerics if (options := self._in_expectation(base, allow))]
                if options:
                    return _by_preference(list(chain.from_iterable(options)))
        return []

    def candidate(self, setup: TrainingSetup) -> Candidate:
        """A setup with its plan and its time."""
        return self._timed(setup, _plan(self.shape, setup, self.budget))

    def _timed(self, setup: TrainingSetup, plan: MemoryPlan) -> Candidate:
        time = None
        if self.budget.vram_bytes is not None:
            time = step_time(self.shape, setup, self.budget, self.card or card_of_size(self.budget.vram_bytes))
        return Candidate(setup, plan, changes_between(self.wanted, setup, self.shape), time)

    def closest(self, allow: Sequence[str]) -> Candidate:
        """Where nothing fits: the setup that lacks the least, of everything that may be pulled at once."""
        least = space.least_setups(self.wanted, self.shape, allow, on_card=self._on_card)
        return min((self.candidate(setup) for setup in (self.wanted, *least)), key=lambda each: _excess(each.plan))

    def with_more_slots(self, found: Candidate, allow: Sequence[str]) -> Candidate:
        """The same with one layer more fetched ahead, for one more on the host if it must.

        A cushion against a bus that is busy with other things, which the time model cannot see.
        """
        slots, layers = found.setup.slot_layers + 1, found.setup.offload_layers
        if "offload_layers" not in allow or layers < slots or found.time is None:
            return found
        for more in (layers, min(layers + 1, self.shape.num_hidden_layers)):
            each = self.candidate(replace(found.setup, slot_layers=slots, offload_layers=more))
            if each.plan.fits and each.time and each.time.tok_per_s >= (1.0 - SAME_SPEED) * found.time.tok_per_s:
                return each
        return found

    @property
    def _on_card(self) -> bool:
        return self.budget.vram_bytes is not None

    def _in_expectation(self, base: TrainingSetup, allow: Sequence[str]) -> list[Candidate]:
        """What fits of the first class, else of the second: each micro-batch, the loss in chunks if it must."""
        if found := self._placed(base, allow):
            return found
        *_, least = space.batches(base, allow)
        if not any(self._may_fit(setup, allow) for setup in (least, *space.chunked(least, allow))):
            return []  # nor does a larger one
        found = []
        for batch in space.batches(base, allow):
            for setup in (batch, *space.chunked(batch, allow)):
                if here := self._placed(setup, allow):
                    found += here
                    break
        return found

    def _placed(self, base: TrainingSetup, allow: Sequence[str]) -> list[Candidate]:
        """Everything of the first class that fits, each placement with as few layers on the host as will do."""
        if not self._may_fit(base, allow):
            return []
        if self._on_card and not self._fits_beside(base):
            return []  # nothing that moves to the host makes more room there
        placements = space.placements(base, self.shape, allow, on_card=self._on_card)
        found = (self._fewest_layers(setup, allow) for setup in placements)
        return [candidate for candidate in found if candidate is not None]

    def _may_fit(self, base: TrainingSetup, allow: Sequence[str]) -> bool:
        """Whether the card holds the setup with everything of the first class pulled at once."""
        layers = base.offload_layers
        if self._on_card and "offload_layers" in allow:
            layers = self.shape.num_hidden_layers
        smallest = space.all_placed(base, self.shape, allow, on_card=self._on_card)
        return any(self._fits_card(space.with_layers(setup, layers)) for setup in (smallest, base))

    def _fits_card(self, setup: TrainingSetup) -> bool:
        if self._on_card:
            return _card_peak(self.shape, setup) <= fillable(self.budget.usable_gpu_bytes)
        return _plan(self.shape, setup, self.budget).fits

    def _fits_beside(self, setup: TrainingSetup) -> bool:
        """Whether host and disk hold what is beside the card."""
        plan = _plan(self.shape, setup, self.budget)
        return plan.fits or (
            plan.peak_host_bytes <= plan.ram_bytes
            and (self.budget.disk_bytes is None or plan.disk_bytes <= self.budget.disk_bytes)
        )

    def _fewest_layers(self, setup: TrainingSetup, allow: Sequence[str]) -> Candidate | None:
        """The setup with the fewest layers on the host with which it fits; None where none does."""
        plan = _plan(self.shape, setup, self.budget)
        if plan.fits:
            return self._timed(setup, plan)
        total = self.shape.num_hidden_layers
        if not self._on_card or "offload_layers" not in allow or not setup.gradient_checkpointing:
            return None
        if plan.missing_gpu_bytes <= 0:
            return None  # the host or the disk is short: more on the host does not help
        over, a_layer = plan.missing_gpu_bytes, layer_payload_bytes(self.shape, setup)
        layers = setup.offload_layers + over // a_layer  # every layer frees at the most its weights
        while layers < total:
            layers += 1
            there = replace(setup, offload_layers=layers)
            plan = _plan(self.shape, there, self.budget)
            if plan.fits:
                return self._timed(there, plan)
            over = plan.missing_gpu_bytes
            if over <= 0:
                return None
            layers += (over - 1) // a_layer
        return None


_plan = lru_cache(maxsize=512)(plan_memory)
_card_peak = lru_cache(maxsize=4096)(card_peak)
"""A search comes to the same setups by many ways."""


def _by_preference(found: Sequence[Candidate]) -> list[Candidate]:
    """Lightest class first (no lever is as good as the first), then those that are about the fastest, then by speed.

    Among those within `SAME_SPEED` of the fastest: least traffic on the bus, in steps of a tenth, since what has less
    to hide is safer than a model can say; then largest micro-batch, fewest levers, fewest layers on the host. Without
    a card there is no time model: least computed twice, then.
    """
    fastest = max((each.time.tok_per_s for each in found if each.time is not None), default=0.0)

    def key(each: Candidate) -> tuple[float, ...]:
        level, setup, time = max(each.level, 1), each.setup, each.time
        tie = (-setup.per_device_train_batch_size, len(each.changes), setup.offload_layers)
        if time is None:
            return (level, setup.gradient_checkpointing, *tie)
        slower = fastest / time.tok_per_s if time.tok_per_s < (1.0 - SAME_SPEED) * fastest else 1.0
        busy = round(log(time.bus_s) / 0.1) if time.bus_s else -inf
        return (level, slower, busy, *tie, -time.tok_per_s)

    return sorted(found, key=key)


def _excess(plan: MemoryPlan) -> int:
    """Bytes that are missing on the card and on the host."""
    return max(0, plan.missing_gpu_bytes) + max(0, plan.peak_host_bytes - plan.ram_bytes)
