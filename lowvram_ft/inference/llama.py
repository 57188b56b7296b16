"""A GGUF in process, through llama-cpp-python: parallel sequences, and prompt-lookup decoding where it is exact."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from lowvram_ft import rendering
from lowvram_ft.errors import ModelError, PromptTooLong
from lowvram_ft.inference.batch_shapes import BatchShapes, probe
from lowvram_ft.inference.decoding import Decoder
from lowvram_ft.inference.lookup import Acceptance, Memory
from lowvram_ft.inference.native import MAX_PARALLEL, Native
from lowvram_ft.inference.protocol import Answered, Completion, Sampling
from lowvram_ft.inference.settings import EngineSettings, TunedCache

PROBE_VERSION = 1
TOKENS_A_BATCH = (1.0, 1.56, 1.89, 2.13, 2.30, 2.42, 2.51, 2.56)
"""Tokens that a batch of 1, 2, … tokens yields with drafts, on the held-out prompts; see docs/bench.md."""
Decoding = Literal["auto", "lookup", "plain", "unpadded"]
"""``auto``: ``lookup`` for several sequences, and for one where it is expected to pay, else ``unpadded``.
``lookup``: drafts. ``plain``: no drafts, in the same sizes of batches, so that the text is the same. ``unpadded``: one
token of each sequence a batch, as llama.cpp by itself does it; where two tokens are nearly as likely, the text may
differ."""


class LlamaCpp:
    """A GGUF, loaded by llama.cpp.

    Answers are the same alone, beside others and with drafts: which sizes of batches agree bit for bit is probed at the
    first greedy answer, or the first that is drawn beside others, once a file and machine, and kept in the user's
    cache.

    Args:
        path: the file.
        n_ctx: context of each sequence, in tokens.
        n_parallel: sequences at a time; chosen so that their KV caches stay under 1 GiB by default.
        settings: how llama.cpp is to run; by default what was tuned for this file and machine, else all CPUs.
        decoding: how answers are computed; those that are drawn never with drafts.
        most_parallel: most sequences at a time that are chosen.

    Raises:
        ModelError: the file is missing or no whole GGUF, or has no chat template.
        MachineError: llama-cpp-python is not installed, or does not load.
        GenerationError: there is no memory for the context.
    """

    def __init__(
        self,
        path: Path,
        *,
        n_ctx: int = 2048,
        n_parallel: int | None = None,
        settings: EngineSettings | None = None,
        decoding: Decoding = "auto",
        most_parallel: int = MAX_PARALLEL,
    ) -> None:
        self._cache = TunedCache(path) if path.is_file() else None
        self.settings = settings or self.tuned_settings(path) or EngineSettings()
        self.native = Native(path, n_ctx, n_parallel, self.settings, most_parallel)
        self.name = path.name
        self.n_ctx = n_ctx
        self.decoding = decoding
        self._memory = Memory()
        self._acceptance = Acceptance()
        self._shapes: BatchShapes | None = None
        self.n_prompt_tokens_read = 0
        self.chat = self._chat_format(path)

    @staticmethod
    def tuned_settings(path: Path) -> EngineSettings | None:
        """What ``lowvram-ft bench --tune`` found for this file and machine; None where it was not run."""
        return TunedCache(path).settings() if path.is_file() else None

    @property
    def n_parallel(self) -> int:
        """Sequences at a time."""
        return self.native.n_parallel

    def close(self) -> None:
        """Free the model and its context."""
        self.native.close()

    def tokenize(self, text: str) -> list[int]:
        """Text to token ids by llama.cpp's own tokenizer: special tokens recognized, none added."""
        return self.native.tokenize(text)

    def detokenize(self, tokens: Sequence[int]) -> str:
        """Token ids to text."""
        return self.native.detokenize(tokens)

    def generate(self, prompts: Sequence[str], sampling: Sampling, n: int = 1) -> list[list[Completion]]:
        """Answer prompts; see `lowvram_ft.inference.Generator`."""
        return self.generate_from_ids([list(self.chat.render(p).input_ids) for p in prompts], sampling, n)

    def generate_from_ids(self, prompts: Sequence[list[int]], sampling: Sampling, n: int = 1) -> list[list[Completion]]:
        """Answer prompts that are rendered already.

        Args:
            prompts: token ids of each.
            sampling: how tokens are chosen.
            n: answers a prompt, which share its prefill.
        """
        for number, ids in enumerate(prompts):
            problem = self._too_long(number, ids, sampling)
            if problem is not None:
                raise problem
        found = dict(self._decode(prompts, sampling, n))
        return [found[place] for place in range(len(prompts))]

    def generate_each(self, prompts: Sequence[str], sampling: Sampling, n: int, answered: Answered) -> None:
        """Answer prompts one after the other; see `lowvram_ft.inference.protocol.AnswersEach`."""
        rendered = [list(self.chat.render(prompt).input_ids) for prompt in prompts]
        fitting = []
        for place, ids in enumerate(rendered):
            problem = self._too_long(place, ids, sampling)
            if problem is None:
                fitting.append(place)
            else:
                answered(place, problem)
        own = replace(sampling, seeds=tuple(sampling.seeds[place] for place in fitting if sampling.seeds))
        for number, answers in self._decode([rendered[place] for place in fitting], own, n):
            answered(fitting[number], answers)

    def _too_long(self, place: int, ids: Sequence[int], sampling: Sampling) -> PromptTooLong | None:
        if len(ids) + sampling.max_new_tokens <= self.n_ctx:
            return None
        return PromptTooLong(
            f"prompt {place + 1}: has {len(ids)} tokens, and {sampling.max_new_tokens} more are to follow "
            f"(the context is {self.n_ctx}); shorten the code, or raise n_ctx"
        )

    def _decode(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, n: int
    ) -> Iterator[tuple[int, list[Completion]]]:
        """The place of each prompt with its answers, as they are finished."""
        if not prompts:
            return
        if sampling.temperature <= 0:
            decoding = self.resolved()
        else:  # a draft is right too seldom to pay; and what is alone is alone whatever else is asked
            decoding = "unpadded" if self.n_parallel == 1 or self.decoding == "unpadded" else "plain"
        shapes = self.shapes() if decoding != "unpadded" else None
        decoder = Decoder(self.native, shapes, decoding == "lookup", self._memory, self._acceptance)
        for answers in decoder.each(prompts, sampling, n):
            self.n_prompt_tokens_read += decoder.n_read
            decoder.n_read = 0
            yield answers

    def resolved(self) -> Decoding:
        """What ``auto`` comes to for greedy answers with this file on this machine."""
        if self.decoding != "auto":
            return self.decoding
        shapes = self.shapes()
        return "lookup" if shapes.drafts and (self.n_parallel > 1 or pays(shapes)) else "unpadded"

    def forget(self) -> None:
        """Forget earlier answers: the next one gets drafts from its own prompt alone."""
        self._memory.clear()

    def shapes(self) -> BatchShapes:
        """The sizes of batches that agree; probed where the cache does not know."""
        if self._shapes is None:
            key = hashlib.sha256(repr((PROBE_VERSION, self.settings, self.n_parallel, self.n_ctx)).encode()).hexdigest()
            found = self._cache.probed(key[:16]) if self._cache is not None else None
            self._shapes = BatchShapes.from_json(found) if found is not None else probe(self.native)
            if found is None and self._cache is not None:
                self._cache.keep_probed(key[:16], self._shapes.to_json())
        return self._shapes

    def _chat_format(self, path: Path) -> rendering.ChatFormat:
        template = self.native.metadata("tokenizer.chat_template")
        if template is None:
            self.close()
            raise ModelError(f"{path}: holds no chat template; export it again from an instruct model")
        lib, vocab = self.native.lib, self.native.vocab
        special = {}
        for name, token in (("bos_token", lib.llama_vocab_bos(vocab)), ("eos_token", lib.llama_vocab_eos(vocab))):
            if token >= 0:
                special[name] = self.detokenize([token])
        ends = [self.detokenize([t]) for t in range(self.native.n_vocab) if self.native.is_end(t)]
        return rendering.make(template, special, ends, self.tokenize)


def pays(shapes: BatchShapes) -> bool:
    """Whether drafts are expected to be faster than one token at a time, for one sequence.

    A batch of two costs nearly two single ones where arithmetic is what limits, and nearly one where memory is.
    """
    sizes = range(max(2, shapes.least), min(shapes.most, len(TOKENS_A_BATCH)) + 1)
    return any(shapes.cost(size) / TOKENS_A_BATCH[size - 1] < shapes.cost(1) for size in sizes)
