"""The protocol that every way of running a model follows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen.

    Attributes:
        temperature: 0 is greedy.
        min_p: least probability of a token, as a share of the most likely one's (arXiv:2407.01082).
        max_new_tokens: most tokens of an answer, the end token included.
        seed: of the sampler; answer ``i`` of prompt ``p`` depends on (seed, p, i) alone.
    """

    temperature: float = 0.0
    min_p: float = 0.05
    max_new_tokens: int = 384
    seed: int = 0


@dataclass(frozen=True)
class Completion:
    """One answer.

    Attributes:
        text: the answer, without the end token.
        n_prompt_tokens: tokens of the rendered prompt.
        n_tokens: tokens of the answer, the end token included.
        finish: ``stop`` where the model ended by itself, ``length`` where it was cut off.
        seconds: wall time of the whole answer; of its batch, where several were generated together.
        first_token_s: seconds to the first token.
        n_drafted: tokens that prompt lookup guessed.
        n_accepted: how many of them were right.
        n_batches: batches that were decoded after the first token; 0 where it is not known.
    """

    text: str
    n_prompt_tokens: int
    n_tokens: int
    finish: Literal["stop", "length"]
    seconds: float
    first_token_s: float
    n_drafted: int = 0
    n_accepted: int = 0
    n_batches: int = 0


class Generator(Protocol):
    """A model that answers prompts."""

    name: str
    """What to call the model in reports: a file name, a hub id."""

    def generate(self, prompts: Sequence[str], sampling: Sampling, n: int = 1) -> list[list[Completion]]:
        """Answer prompts.

        Args:
            prompts: user messages; each is rendered in the model's own chat format.
            sampling: how tokens are chosen.
            n: answers a prompt.

        Returns:
            One list of ``n`` answers for each prompt, in the order of the prompts.

        Raises:
            PromptTooLong: a prompt and its answer do not fit into the context.
            GenerationError: the model fails.
        """
        ...

    def close(self) -> None:
        """Free the model."""
        ...


def percentile(values: Sequence[float], share: float) -> float:
    """The nearest-rank percentile: the smallest value with at least ``share`` of all values at or below it.

    Args:
        values: at least one.
        share: above 0, at most 1.
    """
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered) - 1e-9) - 1)]  # 0.55 * 100 is above 55
