"""What the search goes through: setups of each class of `levers.CLASSES`, from one that is wanted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations, product

from lowvram_ft.memory.setup import TrainingSetup
from lowvram_ft.memory.shape import ModelShape

MIN_LENGTH = 512
"""``shorter`` halves ``max_length`` down to this."""
MIN_RANK = 8
"""``smaller_rank`` halves ``r`` down to this."""
LOSS_CHUNK = 256
"""Tokens whose logits exist at a time with ``chunked_loss``."""


def with_layers(setup: TrainingSetup, layers: int) -> TrainingSetup:
    """The setup with so many layers on the host, none where nothing is checkpointed."""
    return replace(setup, offload_layers=layers if setup.gradient_checkpointing else 0)


def placements(base: TrainingSetup, shape: ModelShape, allow: Sequence[str], *, on_card: bool) -> list[TrainingSetup]:
    """Every combination of the first class but for the number of layers; the unchanged setup first."""
    switches = [[dict[str, object]()]]
    if "checkpointing" in allow and base.keep_dequantized:
        switches.append([{}, {"keep_dequantized": False}])
    if "checkpointing" in allow and not (base.offload_layers or base.offload_activations):
        other = not base.gradient_checkpointing
        switches.append([{}, {"gradient_checkpointing": other}])
    if on_card:
        switches += [[{}, pulled] for pulled in _moves(base, shape, allow)]
    found = []
    for choice in product(*switches):
        setup = replace(base, **{key: value for part in choice for key, value in part.items()})  # type: ignore[arg-type]
        if setup.gradient_checkpointing or not setup.offload_activations:
            found.append(setup)
    return found


def all_placed(base: TrainingSetup, shape: ModelShape, allow: Sequence[str], *, on_card: bool) -> TrainingSetup:
    """Everything of the first class pulled at once: what needs the least of the card."""
    pulled: dict[str, object] = {}
    if on_card:
        pulled = {key: value for part in _moves(base, shape, allow) for key, value in part.items()}
    if "checkpointing" in allow:
        pulled |= {"gradient_checkpointing": True, "keep_dequantized": False}
    return replace(base, **pulled)  # type: ignore[arg-type]


def _moves(base: TrainingSetup, shape: ModelShape, allow: Sequence[str]) -> list[dict[str, object]]:
    """What each word moves off the card; words that would move nothing here are left out."""
    moves: list[dict[str, object]] = []
    tied = shape.tie_word_embeddings
    in_nf4 = base.nf4_embedding or base.head == "nf4"
    if tied and {"offload_embedding", "offload_head"} <= set(allow) and base.head == "device" and not in_nf4:
        moves.append({"offload_embedding": True, "head": "host"})  # one table: both or neither
    if not tied and "offload_embedding" in allow and not (base.offload_embedding or base.nf4_embedding):
        moves.append({"offload_embedding": True})
    if not tied and "offload_head" in allow and base.head == "device":
        moves.append({"head": "host"})
    if "offload_optimizer" in allow and not base.offload_optimizer:
        if base.optimizer == "adamw_8bit":
            moves.append({"optimizer": "paged_adamw_8bit"})
        elif base.optimizer == "adamw_torch":
            moves.append({"offload_optimizer": True})
    checkpoints = base.gradient_checkpointing or "checkpointing" in allow
    if "offload_activations" in allow and checkpoints and not base.offload_activations:
        moves.append({"offload_activations": True})
    return moves


def batches(base: TrainingSetup, allow: Sequence[str]) -> Iterator[TrainingSetup]:
    """The setup, and if it is allowed each smaller micro-batch that divides the effective batch."""
    yield base
    if "smaller_batch" not in allow:
        return
    for batch in range(base.per_device_train_batch_size - 1, 0, -1):
        if base.effective_batch % batch == 0:
            yield replace(
                base,
                per_device_train_batch_size=batch,
                gradient_accumulation_steps=base.effective_batch // batch,
            )


def chunked(base: TrainingSetup, allow: Sequence[str]) -> list[TrainingSetup]:
    """The setup with the loss over `LOSS_CHUNK` tokens at a time, if that is allowed and fewer than now."""
    smaller = base.tokens if base.loss_chunk is None else base.loss_chunk
    return [replace(base, loss_chunk=LOSS_CHUNK)] if "chunked_loss" in allow and smaller > LOSS_CHUNK else []


def numerics(
    base: TrainingSetup, shape: ModelShape, allow: Sequence[str], *, on_card: bool
) -> Iterator[list[TrainingSetup]]:
    """Setups of the third class, those with as many changes together: first none, then one, and so on.

    They save memory of a card, and are not used without one.
    """
    pulled: list[dict[str, object]] = []
    allow = allow if on_card else ()
    if "optimizer_8bit" in allow and base.optimizer == "adamw_torch":
        pulled.append({"optimizer": "adamw_8bit"})
    if "nf4_head" in allow and base.head != "nf4" and not shape.tie_word_embeddings:
        pulled.append({"head": "nf4"})
    if "nf4_embedding" in allow and not base.nf4_embedding:
        pulled.append({"nf4_embedding": True, "offload_embedding": False})
    for count in range(len(pulled) + 1):
        chosen = combinations(pulled, count)
        yield [replace(base, **{k: v for part in parts for k, v in part.items()}) for parts in chosen]  # type: ignore[arg-type]


def trained(base: TrainingSetup, allow: Sequence[str]) -> Iterator[TrainingSetup]:
    """Setups of the fourth class, from no change on: shorter rows before a smaller rank, one before both."""
    ranks = list(_halved(base.r, MIN_RANK)) if "smaller_rank" in allow else [base.r]
    lengths = list(_halved(base.max_length, MIN_LENGTH)) if "shorter" in allow else [base.max_length]
    for rank in ranks:
        for length in lengths:
            yield replace(base, max_length=length, r=rank)


def _halved(value: int, least: int) -> Iterator[int]:
    yield value
    while value // 2 >= least:
        value //= 2
        yield value


def least_setups(
    wanted: TrainingSetup, shape: ModelShape, allow: Sequence[str], *, on_card: bool
) -> Iterator[TrainingSetup]:
    """Setups with everything pulled that may be, as many layers on the host as there are or only some."""
    *_, smallest = trained(wanted, allow)
    for setups in numerics(smallest, shape, allow, on_card=on_card):
        for rounded in setups:
            *_, batch = batches(rounded, allow)
            for setup in (batch, *chunked(batch, allow)):
                least = all_placed(setup, shape, allow, on_card=on_card)
                yield setup
                yield least
                if on_card and "offload_layers" in allow and least.gradient_checkpointing:
                    yield with_layers(least, shape.num_hidden_layers)
