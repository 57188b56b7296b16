"""A model that answers by what its prompt holds, for tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from lowvram_ft.inference import Completion, Sampling

Answer = str | Sequence[str] | Callable[[str], str]


class ByPrompt:
    """Answers each prompt with what stands for the first phrase that the prompt holds.

    Args:
        answers: phrase to the answer, to several that are given one after the other (the last again and again), or to
            a function of the prompt.
        on_prompt: called with the number of each prompt, from 1, before it is answered.
    """

    name = "scripted"

    def __init__(self, answers: Mapping[str, Answer], on_prompt: Callable[[int], None] | None = None) -> None:
        self.answers = answers
        self.on_prompt = on_prompt
        self.prompts: list[str] = []
        self.closed = 0
        self._given: dict[str, int] = {}

    def generate(self, prompts: Sequence[str], sampling: Sampling, n: int = 1) -> list[list[Completion]]:
        """One answer for each prompt."""
        return [[Completion(self._answer(prompt), 10, 20, "stop", 0.5, 0.1) for _ in range(n)] for prompt in prompts]

    def _answer(self, prompt: str) -> str:
        self.prompts.append(prompt)
        if self.on_prompt is not None:
            self.on_prompt(len(self.prompts))
        phrase = next((phrase for phrase in self.answers if phrase in prompt), None)
        if phrase is None:
            return "I do not know this code."
        found = self.answers[phrase]
        if isinstance(found, str):
            return found
        if callable(found):
            return found(prompt)
        number = self._given.get(phrase, 0)
        self._given[phrase] = number + 1
        return found[min(number, len(found) - 1)]

    def close(self) -> None:
        """Count it."""
        self.closed += 1
