"""`fit`: the least intrusive configuration that a budget holds, and what was given up for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from lowvram_ft.errors import UsageError
from lowvram_ft.memory.plan import MemoryPlan, plan_memory
from lowvram_ft.memory.setup import GIB, Budget, TrainingSetup
from lowvram_ft.memory.shape import ModelShape

ALLOW = ("offload_embedding", "offload_layers", "smaller_batch", "shorter", "smaller_model")
"""What a recipe may allow, from what changes nothing to what trains something else.

``smaller_model`` is the caller's: it knows the recipe's fallbacks.
"""
MIN_LENGTH = 512
"""``shorter`` halves ``max_length`` down to this."""


@dataclass(frozen=True)
class Fit:
    """What `fit` chose.

    Attributes:
        setup: the configuration to train.
        plan: its plan; ``plan.fits`` is False where nothing that is allowed fits.
        steps: what was changed, in words; empty where the setup fits as it is.
        nearest: where nothing fits, the nearest thing that would, in words.
    """

    setup: TrainingSetup
    plan: MemoryPlan
    steps: tuple[str, ...]
    nearest: str | None


def fit(shape: ModelShape, setup: TrainingSetup, budget: Budget, allow: Sequence[str]) -> Fit:
    """Find the first configuration that fits, in the order of `ALLOW`.

    Placement comes first (bitwise the same training), then the micro-batch (the same effective batch),
    then the length (another training). For each length and micro-batch, the embedding moves to the host
    before any layer does, because a look-up of rows costs less than a layer each step; and of the layers
    as few as will do.

    Args:
        shape: the base model.
        setup: what is wanted; its own ``offload_layers`` is the least that is tried.
        budget: the machine.
        allow: which of `ALLOW` may be used.

    Raises:
        UsageError: ``allow`` holds an unknown word.
    """
    if unknown := [word for word in allow if word not in ALLOW]:
        raise UsageError(f"hardware.allow: unknown (got {', '.join(unknown)}); choose from {', '.join(ALLOW)}")
    chosen = _search(shape, setup, budget, allow)
    return replace(chosen, nearest=None if chosen.plan.fits else _nearest(shape, setup, budget, allow, chosen.plan))


def _search(shape: ModelShape, setup: TrainingSetup, budget: Budget, allow: Sequence[str]) -> Fit:
    """The first configuration that fits, or else the one that lacks the least."""
    best, best_plan = setup, plan_memory(shape, setup, budget)
    for candidate in _candidates(shape, setup, budget, allow):
        plan = plan_memory(shape, candidate, budget)
        if plan.fits or _excess(plan) < _excess(best_plan):
            best, best_plan = candidate, plan
        if plan.fits:
            break
    return Fit(best, best_plan, _steps(setup, best, shape), None)


def _candidates(
    shape: ModelShape, setup: TrainingSetup, budget: Budget, allow: Sequence[str]
) -> Iterator[TrainingSetup]:
    """Every configuration that is allowed, in the order in which it is preferred."""
    on_card = budget.vram_bytes is not None
    for length in _lengths(setup.max_length) if "shorter" in allow else [setup.max_length]:
        for batch in _batches(setup) if "smaller_batch" in allow else [setup.per_device_train_batch_size]:
            effective = setup.per_device_train_batch_size * setup.gradient_accumulation_steps
            base = replace(
                setup,
                max_length=length,
                per_device_train_batch_size=batch,
                gradient_accumulation_steps=effective // batch,
            )
            yield base
            if on_card and "offload_embedding" in allow and not shape.tie_word_embeddings:
                base = replace(base, offload_embedding=True)
                yield base
            if on_card and "offload_layers" in allow and setup.gradient_checkpointing:
                for layers in range(setup.offload_layers + 1, shape.num_hidden_layers + 1):
                    yield replace(base, offload_layers=layers)


def _lengths(max_length: int) -> Iterator[int]:
    yield max_length
    while max_length // 2 >= MIN_LENGTH:
        max_length //= 2
        yield max_length


def _batches(setup: TrainingSetup) -> Iterator[int]:
    """Micro-batches from the wanted one down, those that divide the effective batch."""
    effective = setup.per_device_train_batch_size * setup.gradient_accumulation_steps
    for batch in range(setup.per_device_train_batch_size, 0, -1):
        if effective % batch == 0:
            yield batch


def _excess(plan: MemoryPlan) -> int:
    """Bytes that are missing on the card and on the host."""
    return max(0, plan.peak_gpu_bytes - plan.usable_gpu_bytes) + max(0, plan.peak_host_bytes - plan.ram_bytes)


def _steps(wanted: TrainingSetup, chosen: TrainingSetup, shape: ModelShape) -> tuple[str, ...]:
    steps = []
    if chosen.max_length != wanted.max_length:
        steps.append(f"max_length {wanted.max_length} ► {chosen.max_length}: longer rows are left out")
    if chosen.per_device_train_batch_size != wanted.per_device_train_batch_size:
        steps.append(
            f"micro-batch {wanted.per_device_train_batch_size} ► {chosen.per_device_train_batch_size}, "
            f"accumulation {wanted.gradient_accumulation_steps} ► {chosen.gradient_accumulation_steps}: "
            "the same effective batch"
        )
    if chosen.offload_embedding and not wanted.offload_embedding:
        steps.append("embedding on the host: the same result")
    if chosen.offload_layers != wanted.offload_layers:
        layers = f"{chosen.offload_layers} of {shape.num_hidden_layers} layers"
        steps.append(f"{layers} on the host: the same result, slower")
    return tuple(steps)


def _nearest(shape: ModelShape, setup: TrainingSetup, budget: Budget, allow: Sequence[str], plan: MemoryPlan) -> str:
    """What would fit: something that the recipe does not allow yet, or else a larger machine."""
    more = [word for word in ALLOW if word != "smaller_model" and word not in allow]
    for word in more:
        found = _search(shape, setup, budget, (*allow, word))
        if found.plan.fits:
            return f'allow "{word}" too: {"; ".join(found.steps)}'
    found = _search(shape, setup, budget, (*allow, *more))
    if found.plan.fits:
        words = ", ".join(f'"{word}"' for word in more)
        return f"allow {words} too: {'; '.join(found.steps)}"
    parts = []
    if plan.peak_gpu_bytes > plan.usable_gpu_bytes and budget.vram_bytes is not None:
        card = budget.vram_bytes + plan.peak_gpu_bytes - plan.usable_gpu_bytes
        parts.append(f"a card of {_gib(card)}")
    if plan.peak_host_bytes > plan.ram_bytes:
        parts.append(f"{_gib(plan.peak_host_bytes)} of host memory")
    if not parts:
        parts.append(f"{_gib(plan.disk_bytes)} of free disk")
    return " and ".join(parts) + ", or a smaller model"


def _gib(n_bytes: int) -> str:
    """Rounded up, so that what is said is enough."""
    return f"{-(-n_bytes * 10 // GIB) / 10:.1f} GiB"
