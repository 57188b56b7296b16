"""A model behind an OpenAI-compatible URL: Ollama, vLLM, llama-server, llama-cpp-python's server, a hosted one."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Sequence
from typing import Any

from lowvram_ft.errors import ModelError, PromptTooLong
from lowvram_ft.inference.chat_answer import Choice, Reply
from lowvram_ft.inference.chat_client import ChatClient, TimedReply
from lowvram_ft.inference.endpoint import api_key, parse_endpoint
from lowvram_ft.inference.interruptible import all_or_none, run_interruptible
from lowvram_ft.inference.protocol import Answered, Completion, Sampling
from lowvram_ft.inference.retrying import Policy

CONCURRENCY = 4
NEUTRAL = {"top_p": 1.0, "top_k": 0, "repeat_penalty": 1.0, "repetition_penalty": 1.0}
"""What servers do to the model's choice by default, switched off. A penalty changes greedy text too: llama-cpp-python's
server has one of 1.1, vLLM takes the one in ``generation_config.json``."""


class OpenAICompatible:
    """A model on a server that speaks OpenAI's chat completions.

    The server renders the prompt in the model's own chat format. A key is read from the environment variable
    ``LOWVRAM_FT_API_KEY``, and neither kept in a file nor told in an error.

    Args:
        url: for example ``http://localhost:11434``, with ``#model`` or without.
        model: its name there; may be left out where the server has one model only.
        concurrency: requests at a time.
        policy: how often to ask again, and when an answer is too slow.

    Raises:
        UsageError: the URL cannot be used.
        ModelError: the server has several models to choose from, or wants a key.
        GenerationError: nothing answers.
    """

    def __init__(
        self, url: str, *, model: str | None = None, concurrency: int = CONCURRENCY, policy: Policy | None = None
    ) -> None:
        endpoint = parse_endpoint(url)
        self._client = ChatClient(endpoint, api_key(), policy or Policy())
        self._concurrency = concurrency
        self.model = self._chosen(model or endpoint.model)
        self.name = f"{self.model} at {endpoint.url}"
        self.n_prompt_tokens_read: int | None = None

    @property
    def left_out(self) -> frozenset[str]:
        """Parameters that the server has refused, and that are not sent any more."""
        return frozenset(self._client.left_out)

    def close(self) -> None:
        """Nothing is kept open between calls."""

    def generate(self, prompts: Sequence[str], sampling: Sampling, n: int = 1) -> list[list[Completion]]:
        """Answer prompts; see `lowvram_ft.inference.Generator`.

        Times are those of the attempt that succeeded, with any time in the server's queue. Tokens are as the server
        counts them; where it does not, the pieces of the stream are counted, and ``n_prompt_tokens`` is 0. Of several
        answers in one reply, each gets its share of the server's count.
        """
        return run_interruptible(lambda: self._answer_all(prompts, sampling, n))

    def generate_each(self, prompts: Sequence[str], sampling: Sampling, n: int, answered: Answered) -> None:
        """Answer prompts side by side; see `lowvram_ft.inference.protocol.AnswersEach`.

        ``answered`` is called in a thread of its own, by one prompt at a time.
        """
        run_interruptible(lambda: self._answer_all(prompts, sampling, n, answered))

    async def _answer_all(
        self, prompts: Sequence[str], sampling: Sampling, n: int, answered: Answered | None = None
    ) -> list[list[Completion]]:
        gate = asyncio.Semaphore(self._concurrency)
        async with self._client.connections() as http:

            async def ask(number: int, sample: int, n: int) -> list[Completion]:
                body = self._body(prompts[number], sampling, request_seed(*sampling.stream(number, sample)), n)
                return completions(await self._client.ask(http, gate, body))

            async def row(number: int) -> list[Completion]:
                """Several in one request, which shares the prompt; one by one where the server gives fewer."""
                found: list[Completion] = []
                if n > 1 and "n" not in self._client.left_out:
                    found = await ask(number, 0, n)
                    if len(found) < n:
                        self._client.left_out.add("n")
                more = await all_or_none(ask(number, sample, 1) for sample in range(len(found), n))
                return [*found[:n], *(answers[0] for answers in more)]

            async def handed_over(number: int) -> list[Completion]:
                if answered is None:
                    return await row(number)
                try:
                    found: list[Completion] | PromptTooLong = await row(number)
                except PromptTooLong as problem:
                    found = problem
                answered(number, found)
                return []

            return await all_or_none(handed_over(number) for number in range(len(prompts)))

    def _body(self, prompt: str, sampling: Sampling, seed: int, n: int) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "seed": seed,
            **NEUTRAL,
        }
        if sampling.temperature > 0:
            body["min_p"] = sampling.min_p
        return body | ({"n": n} if n > 1 else {})

    def _chosen(self, model: str | None) -> str:
        """The model to ask for; also the first word with the server, before any work is done."""

        async def listed() -> list[str] | None:
            async with self._client.connections() as http:
                return await self._client.models(http)

        names = run_interruptible(listed)
        if model is not None:
            return model
        if names is None or len(names) != 1:
            known = f"it has: {', '.join(names)}" if names else "it lists none"
            raise ModelError(f"{self._client.endpoint.url}: which model? ({known}); add #NAME to the address")
        return names[0]


def request_seed(seed: int, prompt: int, sample: int) -> int:
    """A seed of 31 bits, which every server takes, for answer ``sample`` of prompt ``prompt``."""
    return zlib.crc32(f"{seed}/{prompt}/{sample}".encode()) & 0x7FFFFFFF


def completions(timed: TimedReply) -> list[Completion]:
    """The answers of a reply."""
    reply = timed.reply
    choices = reply.whole()
    return [
        Completion(
            text=choice.text,
            n_prompt_tokens=reply.n_prompt_tokens or 0,
            n_tokens=_n_tokens(reply, choice, choices),
            # what a filter ended is not whole either
            finish="length" if choice.finish in ("length", "content_filter") else "stop",
            seconds=timed.seconds,
            first_token_s=timed.first_token_s,
        )
        for choice in choices
    ]


def _n_tokens(reply: Reply, choice: Choice, choices: Sequence[Choice]) -> int:
    if reply.n_tokens is None:
        return choice.n_pieces + (choice.finish == "stop")
    if len(choices) == 1:
        return reply.n_tokens
    return round(reply.n_tokens * choice.n_pieces / max(1, sum(other.n_pieces for other in choices)))
