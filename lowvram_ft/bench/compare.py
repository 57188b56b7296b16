"""Ways of decoding beside each other: the same greedy prompts, how fast, and how many texts are the same."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lowvram_ft.bench.latency import WARM_UP_TOKENS, to_time
from lowvram_ft.inference import Completion, Sampling
from lowvram_ft.inference.llama import Decoding, LlamaCpp
from lowvram_ft.inference.settings import EngineSettings, KvType
from lowvram_ft.progress import Progress
from lowvram_ft.recipe import BenchSection


@dataclass(frozen=True)
class Way:
    """One way of decoding, measured.

    Attributes:
        name: for people.
        decoding: see `lowvram_ft.inference.llama.Decoding`.
        n_parallel: sequences at a time.
        kv_type: type of the KV cache.
        tok_per_s: new tokens a second, reading the prompts included.
        seconds: of all prompts.
        speed_up: ``tok_per_s`` as a multiple of the first way's.
        tokens_per_batch: tokens that a sequence got from one pass over the weights.
        accepted: share of the drafted tokens that were right; None without drafts.
        same_text: prompts whose answer is the first way's, to the letter.
        prompts: how many there were.
        kv_cache_bytes: of all sequences.
    """

    name: str
    decoding: str
    n_parallel: int
    kv_type: str
    tok_per_s: float
    seconds: float
    speed_up: float
    tokens_per_batch: float
    accepted: float | None
    same_text: int
    prompts: int
    kv_cache_bytes: int

    def to_json(self) -> dict[str, Any]:
        """Every figure."""
        return asdict(self)


WAYS: tuple[tuple[str, Decoding, int | None, KvType], ...] = (
    ("one token at a time", "unpadded", 1, "f16"),
    ("plain, exact sizes", "plain", 1, "f16"),
    ("prompt lookup", "lookup", 1, "f16"),
    ("in parallel", "plain", None, "f16"),
    ("in parallel, prompt lookup", "lookup", None, "f16"),
    ("KV cache in q8_0", "unpadded", 1, "q8_0"),
    ("KV cache in q4_0", "unpadded", 1, "q4_0"),
)
"""Name, decoding, sequences (None for as many as fit), type of the KV cache."""


def compare(
    model: Path, prompts: Sequence[str], section: BenchSection, progress: Progress, *, n_ctx: int = 2048
) -> Iterator[Way]:
    """Measure every one of `WAYS`, one after the other; each is yielded as soon as it is known.

    Args:
        model: a GGUF.
        prompts: user messages; the first ``max_prompts`` are used.
        section: the limits.
        progress: where a person reads how far it is.
        n_ctx: context in tokens.

    Raises:
        UsageError: there is no prompt.
        ModelError: the file cannot be loaded.
        GenerationError: llama.cpp fails.
    """
    chosen = to_time(prompts, section)
    sampling = Sampling(max_new_tokens=section.max_new_tokens)
    first: tuple[list[str], float] | None = None
    tuned = LlamaCpp.tuned_settings(model) or EngineSettings()
    for number, (name, decoding, n_parallel, kv_type) in enumerate(WAYS):
        progress.step("compare", number, len(WAYS), name)
        settings = replace(tuned, kv_type=kv_type)
        generator = LlamaCpp(model, n_ctx=n_ctx, n_parallel=n_parallel, settings=settings, decoding=decoding)
        try:
            generator.generate(chosen[:1], Sampling(max_new_tokens=WARM_UP_TOKENS))
            answers, seconds = timed(generator, chosen, sampling)
            way = _way(name, generator, answers, seconds, first)
        finally:
            generator.close()
        first = first or ([answer.text for answer in answers], way.tok_per_s)
        yield way
    progress.step("compare", len(WAYS), len(WAYS))


def timed(generator: LlamaCpp, prompts: Sequence[str], sampling: Sampling) -> tuple[list[Completion], float]:
    """Answer prompts; the answers and the seconds that all took together."""
    generator.forget()
    began = time.perf_counter()
    answers = [row[0] for row in generator.generate(prompts, sampling)]
    return answers, time.perf_counter() - began


def _way(
    name: str,
    generator: LlamaCpp,
    answers: Sequence[Completion],
    seconds: float,
    first: tuple[list[str], float] | None,
) -> Way:
    n_tokens = sum(answer.n_tokens for answer in answers)
    drafted, batches = sum(a.n_drafted for a in answers), sum(a.n_batches for a in answers)
    rate = n_tokens / seconds
    texts, base = first or ([answer.text for answer in answers], rate)
    return Way(
        name=name,
        decoding=generator.decoding,
        n_parallel=generator.n_parallel,
        kv_type=generator.settings.kv_type,
        tok_per_s=rate,
        seconds=seconds,
        speed_up=rate / base,
        tokens_per_batch=(n_tokens - len(answers)) / batches if batches else 1.0,
        accepted=sum(a.n_accepted for a in answers) / drafted if drafted else None,
        same_text=sum(answer.text == text for answer, text in zip(answers, texts, strict=True)),
        prompts=len(answers),
        kv_cache_bytes=generator.native.kv_bytes(generator.settings),
    )
