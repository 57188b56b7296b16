"""The protocol that every way of running a model follows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, runtime_checkable

from lowvram_ft.errors import PromptTooLong


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen.

    Attributes:
        temperature: 0 is greedy.
        min_p: least probability of a token, as a share of the most likely one's (arXiv:2407.01082).
        max_new_tokens: most tokens of an answer, the end token included.
        seed: of the sampler; answer ``i`` of prompt ``p`` depends on (seed, p, i) alone, ``p`` being its place.
        seeds: one for each prompt, in their order: answer ``i`` of a prompt depends on (its own, i) alone then,
            wherever the prompt stands and whatever is asked beside it. Empty for ``seed``.
        first: number of the first answer to each prompt; those before it are not wanted again.
    """

    temperature: float = 0.0
    min_p: float = 0.05
    max_new_tokens: int = 384
    seed: int = 0
    seeds: tuple[int, ...] = ()
    first: int = 0

    def stream(self, prompt: int, answer: int) -> tuple[int, int, int]:
        """What the draws for an answer hang on.

        Args:
            prompt: its place.
            answer: its place among those that are wanted, from 0.
        """
        seed, place = (self.seeds[prompt], 0) if self.seeds else (self.seed, prompt)
        return seed, place, self.first + answer


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


Answered = Callable[[int, list[Completion] | PromptTooLong], None]
"""Gets the place of a prompt, and its answers or why there are none."""


@runtime_checkable
class AnswersEach(Protocol):
    """A `Generator` that hands each prompt's answers over as soon as they are finished."""

    n_prompt_tokens_read: int | None
    """Tokens of prompts that were computed so far: one that several answers share counts once. None where it is not
    known."""

    def generate_each(self, prompts: Sequence[str], sampling: Sampling, n: int, answered: Answered) -> None:
        """Answer prompts; a prompt that is too long does not keep the others from being answered.

        Args:
            prompts: user messages.
            sampling: how tokens are chosen.
            n: answers a prompt.
            answered: called once for each prompt, in the order in which they are finished.

        Raises:
            GenerationError: the model fails.
        """
        ...


def answer_each(model: Generator, prompts: Sequence[str], sampling: Sampling, n: int, answered: Answered) -> None:
    """`AnswersEach.generate_each` with any model; one that answers only whole lists is asked for one prompt at a time.

    Args:
        model: the model.
        prompts: user messages.
        sampling: how tokens are chosen; where they are drawn, with a seed for each prompt.
        n: answers a prompt.
        answered: called once for each prompt.

    Raises:
        GenerationError: the model fails.
    """
    if isinstance(model, AnswersEach):
        model.generate_each(prompts, sampling, n, answered)
        return
    for place, prompt in enumerate(prompts):
        alone = replace(sampling, seeds=sampling.seeds[place : place + 1])
        try:
            found: list[Completion] | PromptTooLong = model.generate([prompt], alone, n)[0]
        except PromptTooLong as problem:
            found = problem
        answered(place, found)


def percentile(values: Sequence[float], share: float) -> float:
    """The nearest-rank percentile: the smallest value with at least ``share`` of all values at or below it.

    Args:
        values: at least one.
        share: above 0, at most 1.
    """
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered) - 1e-9) - 1)]  # 0.55 * 100 is above 55
