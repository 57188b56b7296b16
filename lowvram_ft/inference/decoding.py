"""The decoding loop: several sequences at a time, continuous batching, drafts verified in the same batch.

Sequences that have finished make room for the next answer at once; answers to one prompt share its prefill, those too
that begin later, as long as the sequence of an earlier one is still there. A batch is
one pass over the weights only if the sequences in it have consecutive numbers and equally many tokens each (llama.cpp,
``llama_batch_allocr::split_equal``): gaps are filled with a token that is thrown away, and all drafts of a step have
one length, the one that is expected to give the most tokens a second.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from lowvram_ft.inference.batch_shapes import MOST_DRAFTED, BatchShapes
from lowvram_ft.inference.lookup import Acceptance, Memory, NgramIndex
from lowvram_ft.inference.native import Entry, Native
from lowvram_ft.inference.protocol import Completion, Sampling

_MARGIN = 1e-2
"""Of logits: above what rounding does to them, so that the exact comparison is left to the weights."""


@dataclass
class _Slot:
    """A sequence that is being generated."""

    prompt: int
    sample: int
    seq: int
    position: int
    rng: np.random.Generator
    began: float
    text: NgramIndex
    first_token_s: float = 0.0
    tokens: list[int] = field(default_factory=list)
    draft: list[int] = field(default_factory=list)
    match: int = 0
    n_drafted: int = 0
    n_accepted: int = 0
    n_batches: int = 0


@dataclass
class _Prefix:
    """A prompt that was read.

    Attributes:
        seqs: sequences that begin with it, in use or just finished.
        logits: after its last token, shape [vocabulary].
    """

    seqs: list[int]
    logits: npt.NDArray[np.float32]


class Decoder:
    """Answers rendered prompts with one model.

    Args:
        native: the model.
        shapes: the sizes of batches to keep to; None for one token of each sequence a batch, whatever their number.
        lookup: whether to draft from the text and from earlier answers (needs ``shapes``).
        memory: earlier answers.
        acceptance: how often drafts are right.
    """

    def __init__(
        self, native: Native, shapes: BatchShapes | None, lookup: bool, memory: Memory, acceptance: Acceptance
    ) -> None:
        self._native = native
        self._shapes = shapes
        self._lookup = lookup and shapes is not None and shapes.drafts
        self._memory = memory
        self._acceptance = acceptance
        exact = shapes is not None and shapes.drafts
        self._lanes = min(native.n_parallel, shapes.most) if exact and shapes is not None else native.n_parallel
        self._prefixes: dict[int, _Prefix] = {}
        self.n_read = 0
        """Tokens of prompts that were computed."""

    def run(self, prompts: Sequence[Sequence[int]], sampling: Sampling, n: int) -> list[list[Completion]]:
        """Answer prompts.

        Args:
            prompts: token ids of each.
            sampling: how tokens are chosen.
            n: answers a prompt.
        """
        found = dict(self.each(prompts, sampling, n))
        return [found[place] for place in range(len(prompts))]

    def each(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, n: int
    ) -> Iterator[tuple[int, list[Completion]]]:
        """The place of each prompt with its answers, as they are finished. Takes what `run` takes."""
        answers: dict[int, dict[int, Completion]] = {place: {} for place in range(len(prompts))}
        waiting = deque((place, sample) for place in range(len(prompts)) for sample in range(n))
        free = list(range(self._lanes))
        active: list[_Slot] = []
        self._prefixes.clear()
        self._native.clear()
        while waiting or active:
            while waiting and free:
                place, sample = waiting.popleft()
                active.append(self._begin(prompts[place], place, sample, free, sampling))
            for slot in [slot for slot in active if self._ended(slot, sampling)]:
                done = answers[slot.prompt]
                done[slot.sample] = self._complete(slot, len(prompts[slot.prompt]))
                active.remove(slot)
                free = sorted([*free, slot.seq])  # the lowest are taken first: gaps cost
                if len(done) == n:
                    yield slot.prompt, [done[sample] for sample in range(n)]
            if waiting and free:
                continue  # what has just ended is still there to share its prompt
            for seq in free:
                self._drop(seq)
            if active:
                self._step(active, sampling)

    def _begin(self, ids: Sequence[int], prompt: int, sample: int, free: list[int], sampling: Sampling) -> _Slot:
        """Give an answer a sequence that begins with its prompt, and choose its first token."""
        began = time.perf_counter()
        prefix = self._prefixes.get(prompt)
        if prefix is None:
            seq = free.pop(0)
            self._drop(seq)
            prefix = self._prefixes[prompt] = _Prefix([seq], self._native.read(ids, seq).copy())
            self.n_read += len(ids)
        else:
            seq = next((seq for seq in free if seq in prefix.seqs), free[0])
            free.remove(seq)
            if seq not in prefix.seqs:
                self._drop(seq)
                self._native.share(prefix.seqs[0], seq)
                prefix.seqs.append(seq)
            self._native.forget(seq, len(ids))
        rng = np.random.default_rng(sampling.stream(prompt, sample))
        slot = _Slot(prompt, sample, seq, len(ids), rng, began, NgramIndex())
        if self._lookup:
            slot.text.extend(ids)
        self._append(slot, choose(prefix.logits, sampling, slot.rng))
        slot.first_token_s = time.perf_counter() - began
        return slot

    def _drop(self, seq: int) -> None:
        """Empty a sequence."""
        self._native.forget(seq)
        for prompt, prefix in list(self._prefixes.items()):
            if seq in prefix.seqs:
                prefix.seqs.remove(seq)
                if not prefix.seqs:
                    del self._prefixes[prompt]

    def _step(self, active: Sequence[_Slot], sampling: Sampling) -> None:
        """One batch: the last token of every sequence with its draft; then the tokens that the model chooses."""
        first, last = min(slot.seq for slot in active), max(slot.seq for slot in active)
        each = self._plan(active, last - first + 1, sampling)
        by_seq = {slot.seq: slot for slot in active}
        entries: list[Entry] = []
        for seq in range(first, last + 1):
            slot = by_seq.get(seq)
            if slot is None:
                entries += [(0, i, seq, False) for i in range(each)]
                continue
            slot.draft = (slot.draft + [slot.tokens[-1]] * each)[: each - 1]
            tokens = [slot.tokens[-1], *slot.draft]
            entries += [(token, slot.position + i, seq, True) for i, token in enumerate(tokens)]
        self._native.decode(entries)
        for seq in range(first, last + 1):
            slot = by_seq.get(seq)
            if slot is None:
                self._native.forget(seq)
            else:
                self._verify(slot, (seq - first) * each, each, sampling)

    def _plan(self, active: Sequence[_Slot], n_seqs: int, sampling: Sampling) -> int:
        """Draft for every sequence; return how many tokens of each go into the next batch."""
        for slot in active:
            slot.draft, slot.match = [], 0
        if self._shapes is None:
            return 1
        room = self._shapes.most // n_seqs
        if self._lookup and room > 1:
            for slot in active:
                left = min(room - 1, sampling.max_new_tokens - len(slot.tokens) - 1, MOST_DRAFTED - 1)
                slot.draft, slot.match = self._memory.draft(slot.text, max(0, left))
        chances = [self._chances(slot) for slot in active]
        each = best_length(chances, n_seqs, self._shapes)
        for slot in active:
            slot.draft = slot.draft[: each - 1]
            slot.n_drafted += len(slot.draft)
        return each

    def _chances(self, slot: _Slot) -> list[float]:
        """Chance that the draft is right up to its first, second, … token."""
        single = [self._acceptance.chance(slot.match + place) for place in range(len(slot.draft))]
        return [float(chance) for chance in np.cumprod(single)] if single else []

    def _verify(self, slot: _Slot, row: int, each: int, sampling: Sampling) -> None:
        """Take the model's own choices as long as the draft has them, and one more."""
        slot.n_batches += 1
        n_accepted = 0
        for place in range(each):
            token = choose(self._native.logits(row + place), sampling, slot.rng)
            self._append(slot, token)
            if self._ended(slot, sampling) or place == each - 1 or token != slot.draft[place]:
                break
            n_accepted += 1
        slot.n_accepted += n_accepted
        slot.position += n_accepted + 1
        if slot.match:
            self._acceptance.learn(slot.match, len(slot.draft), n_accepted)
        if each > n_accepted + 1:
            self._native.forget(slot.seq, slot.position)

    def _append(self, slot: _Slot, token: int) -> None:
        slot.tokens.append(token)
        if self._lookup:
            slot.text.extend([token])

    def _ended(self, slot: _Slot, sampling: Sampling) -> bool:
        return self._native.is_end(slot.tokens[-1]) or len(slot.tokens) >= sampling.max_new_tokens

    def _complete(self, slot: _Slot, n_prompt: int) -> Completion:
        stopped = self._native.is_end(slot.tokens[-1])
        if self._lookup:
            self._memory.add(slot.tokens)
        return Completion(
            text=self._native.detokenize(slot.tokens[:-1] if stopped else slot.tokens),
            n_prompt_tokens=n_prompt,
            n_tokens=len(slot.tokens),
            finish="stop" if stopped else "length",
            seconds=time.perf_counter() - slot.began,
            first_token_s=slot.first_token_s,
            n_drafted=slot.n_drafted,
            n_accepted=slot.n_accepted,
            n_batches=slot.n_batches,
        )


def best_length(chances: Sequence[Sequence[float]], n_seqs: int, shapes: BatchShapes) -> int:
    """How many tokens of each sequence to decode at once: the number with the most expected tokens a second.

    Args:
        chances: of each sequence's draft, the chance that it is right up to its first, second, … token.
        n_seqs: sequences in the batch, with those that are only filled in.
        shapes: sizes that agree, and their cost.

    Returns:
        At least 1; the batch keeps within ``shapes`` wherever it can.
    """
    longest = 1 + max((len(row) for row in chances), default=0)
    possible = [each for each in range(1, max(longest, shapes.least) + 1) if fits(each * n_seqs, shapes)]
    if not possible:
        return 1

    def rate(each: int) -> float:
        expected = sum(1 + sum(row[: each - 1]) for row in chances)
        return expected / max(shapes.cost(each * n_seqs), 1e-9)

    return max(possible, key=rate)


def fits(n_tokens: int, shapes: BatchShapes) -> bool:
    """Whether a batch of so many tokens gives the logits that every other one within ``shapes`` gives."""
    return shapes.least <= n_tokens <= shapes.most


def choose(logits: npt.NDArray[np.float32], sampling: Sampling, rng: np.random.Generator) -> int:
    """Choose a token: greedy at temperature 0, else temperature and min-p (arXiv:2407.01082).

    Args:
        logits: shape [vocabulary].
        sampling: how to choose.
        rng: used only when the temperature is above 0.
    """
    if sampling.temperature <= 0:
        return int(np.argmax(logits))
    highest = logits.max()
    near = np.arange(len(logits))
    if sampling.min_p > 0:  # of all others the exponential need not be known, and takes 50 times as long
        near = np.flatnonzero(logits >= highest + sampling.temperature * math.log(sampling.min_p) - _MARGIN)
    weights = np.exp((logits[near] - highest) / sampling.temperature)
    weights[weights < sampling.min_p] = 0.0  # the most likely token has weight 1
    total = np.cumsum(weights, dtype=np.float64)
    return int(near[np.searchsorted(total, rng.random() * total[-1], side="right")])
