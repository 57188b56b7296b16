"""Latency of a GGUF on this machine: one prompt at a time, as a user meets it, and the gate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lowvram_ft.errors import UsageError
from lowvram_ft.inference import Completion, Sampling, percentile
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
        decode_tok_per_s: median tokens a second after the first.
        file_s_p50: median seconds for a whole test file.
        file_s_p95: 95th percentile of the same, nearest rank.
        cut_off: answers that reached ``max_new_tokens``.
        gate_s: the gate.
        gate_met: whether ``file_s_p95`` is at most the gate.
    """

    model: str
    prompts: int
    prompt_tokens: float
    new_tokens: float
    first_token_s_p50: float
    decode_tok_per_s: float
    file_s_p50: float
    file_s_p95: float
    cut_off: int
    gate_s: float
    gate_met: bool

    def to_json(self) -> dict[str, Any]:
        """Every figure."""
        return asdict(self)


def bench(
    model: Path, prompts: Sequence[str], section: BenchSection, progress: Progress, *, n_ctx: int = 2048
) -> BenchResult:
    """Time whole answers, one after the other, after a warm-up.

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
    chosen = list(prompts)[: section.max_prompts]
    if not chosen:
        raise UsageError("bench: no prompt to time; give a suite that has tasks")
    generator = LlamaCpp(model, n_ctx=n_ctx, n_parallel=1)
    try:
        generator.generate(chosen[:1], Sampling(max_new_tokens=WARM_UP_TOKENS))
        sampling = Sampling(max_new_tokens=section.max_new_tokens)
        answers: list[Completion] = []
        for number, prompt in enumerate(chosen, 1):
            answers.append(generator.generate([prompt], sampling)[0][0])
            progress.step("bench", number, len(chosen), f"{answers[-1].seconds:.1f} s a file")
    finally:
        generator.close()
    return summarize(generator.name, answers, section.gate_s)


def summarize(model: str, answers: Sequence[Completion], gate_s: float) -> BenchResult:
    """Percentiles over answers.

    Args:
        model: name of the file.
        answers: at least one.
        gate_s: seconds for a whole file at the 95th percentile.
    """
    files = [answer.seconds for answer in answers]
    p95 = percentile(files, 0.95)
    decode = [
        (answer.n_tokens - 1) / (answer.seconds - answer.first_token_s) for answer in answers if answer.n_tokens > 1
    ]
    return BenchResult(
        model=model,
        prompts=len(answers),
        prompt_tokens=sum(a.n_prompt_tokens for a in answers) / len(answers),
        new_tokens=sum(a.n_tokens for a in answers) / len(answers),
        first_token_s_p50=percentile([a.first_token_s for a in answers], 0.5),
        decode_tok_per_s=percentile(decode, 0.5) if decode else 0.0,
        file_s_p50=percentile(files, 0.5),
        file_s_p95=p95,
        cut_off=sum(a.finish == "length" for a in answers),
        gate_s=gate_s,
        gate_met=p95 <= gate_s,
    )
