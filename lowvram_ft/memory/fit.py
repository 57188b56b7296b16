"""`fit`: the fastest configuration that a budget holds, in the order of what it does to the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil

from lowvram_ft.errors import UsageError
from lowvram_ft.memory.cards import Card
from lowvram_ft.memory.levers import ALLOW, LEVERS, Change
from lowvram_ft.memory.plan import HEADROOM, MemoryPlan
from lowvram_ft.memory.search import Candidate, Search
from lowvram_ft.memory.setup import GIB, Budget, TrainingSetup
from lowvram_ft.memory.shape import ModelShape
from lowvram_ft.memory.speed import StepTime


@dataclass(frozen=True)
class Fit:
    """What `fit` chose.

    Attributes:
        setup: the configuration to train.
        plan: its plan; ``plan.fits`` is False where nothing that is allowed fits.
        changes: the levers that were pulled; empty where the setup fits as it is.
        time: what the time model says of it; None without a card.
        runner_up: the next best that fits with other levers, if there is one.
        nearest: where nothing fits, the nearest thing that would, in words; None if it was not asked for.
    """

    setup: TrainingSetup
    plan: MemoryPlan
    changes: tuple[Change, ...]
    time: StepTime | None
    runner_up: Candidate | None
    nearest: str | None

    @property
    def steps(self) -> tuple[str, ...]:
        """What was changed, in words."""
        return tuple(change.text for change in self.changes)


def fit(
    shape: ModelShape,
    setup: TrainingSetup,
    budget: Budget,
    allow: Sequence[str],
    card: Card | None = None,
    *,
    explain: bool = True,
) -> Fit:
    """Find the configuration that fits and is fastest, in the order of `levers.CLASSES`.

    Every combination of what a class allows is planned, each with as few layers on the host as will do; of those that
    fit, the one that the time model finds fastest is taken, and among equals the one with the least traffic on the bus.
    A class is tried only where none before it fits; within the third and fourth, fewer changes before more.

    Args:
        shape: the base model.
        setup: what is wanted; its own ``offload_layers`` is the least that is tried.
        budget: the machine.
        allow: which of `levers.ALLOW` may be used. ``smaller_model`` is the caller's: it knows the fallbacks.
        card: whose speed counts; by default one of the budget's size.
        explain: whether to look for the nearest that would fit, where nothing does.

    Raises:
        UsageError: ``allow`` holds an unknown word.
    """
    if unknown := [word for word in allow if word not in LEVERS]:
        raise UsageError(f"hardware.allow: unknown (got {', '.join(unknown)}); choose from {', '.join(ALLOW)}")
    return _fit(shape, setup, budget, tuple(word for word in ALLOW if word in allow), card, explain)


@lru_cache(maxsize=64)
def _fit(
    shape: ModelShape,
    setup: TrainingSetup,
    budget: Budget,
    allow: tuple[str, ...],
    card: Card | None,
    explain: bool,
) -> Fit:
    search = Search(shape, setup, budget, card)
    found = search.run(allow)
    if found:
        best, *others = found
        best = search.with_more_slots(best, allow)
        return Fit(best.setup, best.plan, best.changes, best.time, _runner_up(best, others), None)
    closest = search.closest(allow)
    nearest = _nearest(search, allow, closest.plan) if explain else None
    return Fit(closest.setup, closest.plan, closest.changes, closest.time, None, nearest)


def _runner_up(best: Candidate, others: Sequence[Candidate]) -> Candidate | None:
    """The next best that does without a lever of the best one: the same ones and more would be no other way."""
    own = {change.lever for change in best.changes}
    return next((each for each in others if own - {change.lever for change in each.changes}), None)


def _nearest(search: Search, allow: Sequence[str], plan: MemoryPlan) -> str:
    """What would fit: something that the recipe does not allow yet, or else a larger machine."""
    words = _fewest_words(search, allow)
    if words:
        changes = search.run((*allow, *words))[0].changes
        named = ", ".join(f'"{word}"' for word in words)
        return f"allow {named} too: {'; '.join(change.text for change in changes)}"
    budget, parts = search.budget, []
    if plan.missing_gpu_bytes > 0 and budget.vram_bytes is not None:
        card = budget.vram_bytes + ceil(plan.missing_gpu_bytes / (1.0 - HEADROOM))
        parts.append(f"a card of {_gib(card)}")
    if plan.peak_host_bytes > plan.ram_bytes:
        parts.append(f"{_gib(plan.peak_host_bytes)} of host memory")
    if not parts:
        parts.append(f"{_gib(plan.disk_bytes)} of free disk")
    return " and ".join(parts) + ", or a smaller model"


def _fewest_words(search: Search, allow: Sequence[str]) -> list[str]:
    """Words that have to be allowed besides: the first that is enough alone, else several that are all needed."""
    more = [word for word in ALLOW if word != "smaller_model" and word not in allow]
    if not more or not search.run((*allow, *more)):
        return []
    for word in more:
        if search.run((*allow, word)):
            return [word]
    needed = [change.lever for change in search.run((*allow, *more))[0].changes if change.lever in more]
    for word in sorted(needed, key=lambda word: -LEVERS[word]):
        without = [other for other in needed if other != word]
        if search.run((*allow, *without)):
            needed = without
    return needed


def _gib(n_bytes: int) -> str:
    """Rounded up, so that what is said is enough."""
    return f"{-(-n_bytes * 10 // GIB) / 10:.1f} GiB"
