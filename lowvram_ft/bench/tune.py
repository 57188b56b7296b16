"""The fastest settings of llama.cpp for a file on this machine: threads, and whether weights are repacked."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lowvram_ft.errors import UsageError
from lowvram_ft.hardware import cpu_count
from lowvram_ft.inference.llama import LlamaCpp
from lowvram_ft.inference.settings import EngineSettings, TunedCache
from lowvram_ft.progress import Progress

DECODED = 24
REPEATS = 3


@dataclass(frozen=True)
class Trial:
    """One setting, measured; the best of `REPEATS`.

    Attributes:
        n_threads: threads of both.
        repack: whether weights were rearranged for this CPU.
        prefill_s: seconds to read the prompt.
        decode_s: seconds for `DECODED` tokens, one at a time.
    """

    n_threads: int
    repack: bool
    prefill_s: float
    decode_s: float

    def to_json(self) -> dict[str, Any]:
        """Every figure."""
        return asdict(self)


def tune(model: Path, prompt: str, progress: Progress, *, n_ctx: int = 2048) -> tuple[EngineSettings, list[Trial]]:
    """Try the settings, keep the fastest for this file and machine, and return them.

    Args:
        model: a GGUF.
        prompt: a user message of usual length.
        progress: where a person reads how far it is.
        n_ctx: context in tokens.

    Raises:
        UsageError: the prompt does not fit into the context.
        ModelError: the file cannot be loaded.
        GenerationError: llama.cpp fails.
    """
    counts = thread_counts(cpu_count())
    trials: list[Trial] = []
    for repack in (True, False):
        generator = LlamaCpp(model, n_ctx=n_ctx, n_parallel=1, settings=EngineSettings(repack=repack))
        try:
            ids = list(generator.chat.render(prompt).input_ids)
            if len(ids) + DECODED > n_ctx:
                raise UsageError(f"bench: the prompt has {len(ids)} tokens, the context {n_ctx}; raise --n-ctx")
            for count in counts:
                generator.native.set_threads(count, count)
                trials.append(Trial(count, repack, *_best(generator, ids)))
                progress.step("tune", len(trials), 2 * len(counts), f"{count} threads")
        finally:
            generator.close()
    best = fastest(trials)
    TunedCache(model).keep_settings(best)
    return best, trials


def thread_counts(n_cpus: int) -> list[int]:
    """Numbers of threads to try: all CPUs, three quarters, a half, a quarter.

    More is slower where hyper-threads share a core's arithmetic, or where other programs run.
    """
    return sorted({max(1, round(n_cpus * share)) for share in (0.25, 0.5, 0.75, 1.0)})


def fastest(trials: Sequence[Trial], answer_tokens: int = 128) -> EngineSettings:
    """The settings with the least time for one file: a prompt as it was timed, and an answer.

    Args:
        trials: at least one.
        answer_tokens: tokens of a usual answer.
    """

    def seconds(repack: bool) -> float:
        mine = [trial for trial in trials if trial.repack is repack]
        return min(t.prefill_s for t in mine) + min(t.decode_s for t in mine) * answer_tokens / DECODED

    repack = min({trial.repack for trial in trials}, key=lambda choice: (seconds(choice), not choice))
    mine = [trial for trial in trials if trial.repack is repack]
    return EngineSettings(
        n_threads=min(mine, key=lambda t: t.decode_s).n_threads,
        n_threads_batch=min(mine, key=lambda t: t.prefill_s).n_threads,
        repack=repack,
    )


def _best(generator: LlamaCpp, ids: Sequence[int]) -> tuple[float, float]:
    times = [_run(generator, ids) for _ in range(REPEATS)]
    return min(prefill for prefill, _ in times), min(decode for _, decode in times)


def _run(generator: LlamaCpp, ids: Sequence[int]) -> tuple[float, float]:
    """Seconds to read a prompt, and for `DECODED` tokens after it."""
    native = generator.native
    native.clear()
    began = time.perf_counter()
    native.read(ids, 0)
    read = time.perf_counter()
    for i in range(DECODED):
        native.decode([(ids[i % len(ids)], len(ids) + i, 0, True)])
        native.logits(0)
    return read - began, time.perf_counter() - read
