"""Latency of a GGUF on this machine: one prompt at a time, as a user meets it, and the gate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lowvram_ft.errors import UsageError
from lowvram_ft.hardware import peak_rss_bytes
from lowvram_ft.inference import Completion, Generator, Sampling, percentile
from lowvram_ft.inference.llama import LlamaCpp
from lowvram_ft.progress import Progress
from lowvram_ft.recipe import BenchSection

WARM_UP_TOKENS = 8


@dataclass(frozen=True)
class BenchResult:
    """Latency over prompts.

    Attributes:
        model: name of the file.
        prompts: how many were timed.
        prompt_tokens: mean tokens of a prompt.
        new_tokens: mean tokens of an answer.
        first_token_s_p50: median seconds to the first token (the prefill).
        first_token_s_p95: 95th percentile of the same.
        prefill_tok_per_s: median tokens of a prompt read in a second.
        decode_tok_per_s: median tokens a second after the first.
        file_s_p50: median seconds for a whole test file.
        file_s_p95: 95th percentile of the same, nearest rank.
        cut_off: answers that reached ``max_new_tokens``.
        gate_s: the gate.
        gate_met: whether ``file_s_p95`` is at most the gate.
        decoding: ``lookup``, or ``unpadded`` where drafts are not expected to pay.
        tokens_per_batch: mean tokens that one pass over the weights gave; 1 without drafts.
        settings: llama.cpp's settings; None where the model does not say.
        memory: ``model_bytes`` (the file, mapped), ``kv_cache_bytes``, ``peak_rss_bytes`` of this process (None where
            the system does not say).
        file_s: seconds for each whole test file, in the order of the prompts, to the millisecond.
        first_token_s: seconds to the first token of each.
    """

    model: str
    prompts: int
    prompt_tokens: float
    new_tokens: float
    first_token_s_p50: float
    first_token_s_p95: float
    prefill_tok_per_s: float
    decode_tok_per_s: float
    file_s_p50: float
    file_s_p95: float
    cut_off: int
    gate_s: float
    gate_met: bool
    decoding: str = ""
    tokens_per_batch: float = 1.0
    settings: dict[str, Any] | None = None
    memory: dict[str, int | None] | None = None
    file_s: tuple[float, ...] = ()
    first_token_s: tuple[float, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Every figure."""
        return asdict(self)


def to_time(prompts: Sequence[str], section: BenchSection) -> list[str]:
    """The prompts that are timed: the first ``max_prompts``.

    Raises:
        UsageError: there is none.
    """
    chosen = list(prompts)[: section.max_prompts]
    if not chosen:
        raise UsageError("bench: no prompt to time; give a suite that has tasks")
    return chosen


def bench(
    model: Path, prompts: Sequence[str], section: BenchSection, progress: Progress, *, n_ctx: int = 2048
) -> BenchResult:
    """Time whole answers, one after the other, after a warm-up.

    Every answer gets drafts from its own prompt alone, as the first one of a day does.

    Args:
        model: a GGUF.
        prompts: user messages; the first ``max_prompts`` are used.
        section: the gate and the limits.
        progress: where a person reads how far it is.
        n_ctx: context in tokens.

    Raises:
        UsageError: there is no prompt.
        ModelError: the file cannot be loaded.
        GenerationError: llama.cpp fails.
    """
    chosen = to_time(prompts, section)
    generator = LlamaCpp(model, n_ctx=n_ctx, n_parallel=1)
    try:
        answers = _answers(generator, chosen, section, progress)
        return summarize(
            generator.name,
            answers,
            section.gate_s,
            decoding=generator.resolved(),
            settings=generator.settings.to_json() | {"n_gpu_layers": generator.native.n_gpu_layers},
            memory={
                "model_bytes": model.stat().st_size,
                "kv_cache_bytes": generator.native.kv_bytes(generator.settings),
                "peak_rss_bytes": peak_rss_bytes(),
            },
        )
    finally:
        generator.close()


def bench_server(
    generator: Generator,
    prompts: Sequence[str],
    section: BenchSection,
    progress: Progress,
    decoding: str = "server",
) -> BenchResult:
    """Time whole answers of a model that runs in another process, one after the other, after a warm-up.

    Args:
        generator: the model.
        prompts: user messages; the first ``max_prompts`` are used.
        section: the gate and the limits.
        progress: where a person reads how far it is.
        decoding: what to call the way that it decodes.

    Raises:
        UsageError: there is no prompt.
        GenerationError: the server fails.
    """
    chosen = to_time(prompts, section)
    answers = _answers(generator, chosen, section, progress)
    return summarize(generator.name, answers, section.gate_s, decoding=decoding)


def _answers(
    generator: Generator, prompts: Sequence[str], section: BenchSection, progress: Progress
) -> list[Completion]:
    """Whole answers, one prompt at a time, after a warm-up."""
    generator.generate(prompts[:1], Sampling(max_new_tokens=WARM_UP_TOKENS))
    sampling = Sampling(max_new_tokens=section.max_new_tokens)
    answers: list[Completion] = []
    for number, prompt in enumerate(prompts, 1):
        if isinstance(generator, LlamaCpp):
            generator.forget()
        answers.append(generator.generate([prompt], sampling)[0][0])
        progress.step("bench", number, len(prompts), f"{answers[-1].seconds:.1f} s a file")
    return answers


def summarize(
    model: str,
    answers: Sequence[Completion],
    gate_s: float,
    *,
    decoding: str = "",
    settings: dict[str, Any] | None = None,
    memory: dict[str, int | None] | None = None,
) -> BenchResult:
    """Percentiles over answers.

    Args:
        model: name of the file.
        answers: at least one.
        gate_s: seconds for a whole file at the 95th percentile.
        decoding: how they were decoded.
        settings: llama.cpp's settings.
        memory: bytes; see `BenchResult`.
    """
    files = [answer.seconds for answer in answers]
    first = [answer.first_token_s for answer in answers]
    p95 = percentile(files, 0.95)
    decode = [rate for answer in answers if (rate := decode_rate(answer)) is not None]
    batches = sum(a.n_batches for a in answers)
    return BenchResult(
        model=model,
        prompts=len(answers),
        prompt_tokens=sum(a.n_prompt_tokens for a in answers) / len(answers),
        new_tokens=sum(a.n_tokens for a in answers) / len(answers),
        first_token_s_p50=percentile(first, 0.5),
        first_token_s_p95=percentile(first, 0.95),
        prefill_tok_per_s=percentile([a.n_prompt_tokens / max(a.first_token_s, 1e-9) for a in answers], 0.5),
        decode_tok_per_s=percentile(decode, 0.5) if decode else 0.0,
        file_s_p50=percentile(files, 0.5),
        file_s_p95=p95,
        cut_off=sum(a.finish == "length" for a in answers),
        gate_s=gate_s,
        gate_met=p95 <= gate_s,
        decoding=decoding,
        tokens_per_batch=sum(a.n_tokens - 1 for a in answers) / batches if batches else 1.0,
        settings=settings,
        memory=memory,
        file_s=tuple(round(seconds, 3) for seconds in files),
        first_token_s=tuple(round(seconds, 3) for seconds in first),
    )


def decode_rate(answer: Completion) -> float | None:
    """Tokens a second after the first; None of an answer of one token, and of one that came in one piece."""
    seconds = answer.seconds - answer.first_token_s
    return (answer.n_tokens - 1) / seconds if answer.n_tokens > 1 and seconds > 0 else None
