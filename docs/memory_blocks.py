"""What makes the generated blocks of memory.md: plans of every base model, the levers, the cards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from lowvram_ft.memory import (
    CARDS,
    CLASSES,
    DEFAULT_ALLOW,
    LEVERS,
    Budget,
    Change,
    Fit,
    ModelShape,
    TrainingSetup,
    find_card,
    fit,
    step_time,
)
from lowvram_ft.memory.cards import card_of_size
from lowvram_ft.memory.for_recipe import UNSLOTH_LOSS_CHUNK
from lowvram_ft.models import known_models, resolve

GIB, MIB = 1 << 30, 1 << 20
SIZES_GIB = (4, 6, 8)
LENGTHS = (512, 1024, 2048, 4096)
RAM = 16 * GIB
ABOUT: Mapping[str, str] = {
    "checkpointing": "computes activations again in the backward pass, or keeps all where they fit",
    "offload_embedding": "embedding in host memory: the rows that are looked up cross the bus",
    "offload_head": "16-bit head in host memory: it passes through the card in slices of the vocabulary",
    "offload_optimizer": "8-bit optimizer state in paged memory, which moves to the host where the card is full",
    "offload_activations": "checkpointed hidden states in host memory",
    "offload_layers": "as few frozen decoder layers as will do in host memory: they stream through two or three slots",
    "smaller_batch": "a smaller micro-batch with more accumulation: the same effective batch",
    "chunked_loss": "logits of 256 tokens at a time",
    "optimizer_8bit": "`adamw_torch` becomes `adamw_8bit`",
    "nf4_embedding": "embedding in NF4 (with the head where they are tied)",
    "nf4_head": "head in NF4, where it is a tensor of its own",
    "shorter": "halves `train.max_length`, down to 512: longer rows are left out",
    "smaller_rank": "halves `lora.r`, down to 8, at the same `lora_alpha / r`",
    "smaller_model": "takes the next of `model.fallbacks`",
}
"""What each word does."""

Table = Callable[[Sequence[str], Sequence[Sequence[str]]], str]


def wanted(max_length: int) -> TrainingSetup:
    """Stage A's settings at a length."""
    return TrainingSetup(lora_dropout=0.05, max_length=max_length, kernels="fused", loss_chunk=UNSLOTH_LOSS_CHUNK)


def plans_block(table: Table) -> str:
    """Every base model at every size and length: what fits, what was given up, the peak, the predicted speed."""
    head = ("base model", "tokens", "fits", "given up", "peak MiB", "tokens/s", "of resident")
    parts = []
    for size in SIZES_GIB:
        usable = Budget(size * GIB, RAM).usable_gpu_bytes // MIB
        card = card_of_size(size * GIB)
        parts.append(
            f"### {size} GiB card\n\n{usable:,} MiB for torch; speeds predicted for {card.name}.\n\n"
            + table(head, list(_plans(size)))
        )
    return "\n".join(parts)


def _plans(size: int) -> Iterator[tuple[str, ...]]:
    for name in known_models():
        shape = ModelShape.from_config(resolve(name).config or {})
        for length in LENGTHS:
            found = fit(shape, wanted(length), Budget(size * GIB, RAM), DEFAULT_ALLOW)
            yield (f"`{name.split('/')[-1]}`", str(length), *_row(found, shape))


def _row(found: Fit, shape: ModelShape) -> tuple[str, ...]:
    if not found.plan.fits:
        return "no", f"nearest: {found.nearest}", f"{found.plan.peak_gpu_bytes // MIB:,}", "", ""
    assert found.time is not None
    given = ", ".join(_short(change, found, shape) for change in found.changes) or "nothing"
    share = f"{found.time.resident_share:.0%}" if found.time.bus_s else ""
    return "yes", given, f"{found.plan.peak_gpu_bytes // MIB:,}", f"{found.time.tok_per_s:,.0f}", share


def _short(change: Change, found: Fit, shape: ModelShape) -> str:
    if change.lever == "offload_layers":
        return f"{found.setup.offload_layers} of {shape.num_hidden_layers} layers"
    if change.lever == "checkpointing":
        return "checkpointing on" if found.setup.gradient_checkpointing else "checkpointing off"
    return change.lever.removeprefix("offload_")


def levers_block(table: Table) -> str:
    """Every word of ``hardware.allow``: its class, whether it is allowed by default, what it does."""
    rows = [
        (f"`{word}`", CLASSES[level - 1], "yes" if word in DEFAULT_ALLOW else "", ABOUT[word])
        for word, level in LEVERS.items()
    ]
    return table(("word", "class", "by default", "what it does"), rows)


def cards_block(table: Table) -> str:
    """The cards that the time model knows."""
    rows = [
        (
            card.name,
            f"{card.vram_bytes // GIB}",
            f"{card.memory_bytes_per_s / 1e9:,.0f}",
            f"{card.bus_bytes_per_s / 1e9:.1f}",
            f"{card.flops_per_s / 1e12:.1f}",
            card.source,
        )
        for card in CARDS
    ]
    return table(("card", "GiB", "memory GB/s", "bus GB/s", "16-bit TFLOP/s", "source"), rows)


def anchor_block(table: Table) -> str:
    """What the time model says where somebody else has published a measurement."""
    shape = ModelShape.from_config(resolve("Qwen/Qwen2.5-Coder-7B-Instruct").config or {})
    rows = []
    for name in ("RTX 3050 6GB", "RTX 3050 6GB Laptop"):
        seconds = []
        for again in (True, False):
            setup = TrainingSetup(
                max_length=512,
                gradient_accumulation_steps=1,
                gradient_checkpointing=again,
                kernels="fused",
                loss_chunk=UNSLOTH_LOSS_CHUNK,
            )
            seconds.append(f"{step_time(shape, setup, Budget(6 * GIB, RAM), find_card(name)).step_s:.2f} s")
        rows.append((name, *seconds))
    return table(("card", "predicted, checkpointed", "predicted, without"), rows)
