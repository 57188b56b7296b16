"""The decoding loop: several sequences at a time, continuous batching, drafts verified in the same batch.

Sequences that have finished make room for the next prompt at once; answers to one prompt share its prefill. A batch is
one pass over the weights only if the sequences in it have consecutive numbers and equally many tokens each (llama.cpp,
``llama_batch_allocr::split_equal``): gaps are filled with a token that is thrown away, and all drafts of a step have
one length, the one that is expected to give the most tokens a second.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from lowvram_ft.inference.batch_shapes import MOST_DRAFTED, BatchShapes
from lowvram_ft.inference.lookup import Acceptance, Memory, NgramIndex
from lowvram_ft.inference.native import Entry, Native
from lowvram_ft.inference.protocol import Completion, Sampling


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

    def run(self, prompts: Sequence[Sequence[int]], sampling: Sampling, n: int) -> list[list[Completion]]:
        """Answer prompts.

        Args:
            prompts: token ids of each.
            sampling: how tokens are chosen.
            n: answers a prompt; at most as many as there are sequences share a prefill.
        """
        answers: list[list[Completion | None]] = [[None] * n for _ in prompts]
        waiting = deque(requests(len(prompts), n, self._lanes))
        free = list(range(self._lanes))
        active: list[_Slot] = []
        self._native.clear()
        while waiting or active:
            while waiting and len(waiting[0][1]) <= len(free):
                prompt, samples = waiting.popleft()
                active += self._prefill(prompts[prompt], prompt, samples, free, sampling)
            for slot in [slot for slot in active if self._ended(slot, sampling)]:
                answers[slot.prompt][slot.sample] = self._complete(slot, len(prompts[slot.prompt]))
                self._native.forget(slot.seq)
                active.remove(slot)
                free = sorted([*free, slot.seq])  # the lowest are taken first: gaps cost
            if active:
                self._step(active, sampling)
        return [[answer for answer in row if answer is not None] for row in answers]

    def _prefill(
        self, ids: Sequence[int], prompt: int, samples: Sequence[int], free: list[int], sampling: Sampling
    ) -> list[_Slot]:
        """Read a prompt into one sequence, share it with the others, and choose the first token of each."""
        began = time.perf_counter()
        slots = []
        for sample in samples:
            rng = np.random.default_rng([sampling.seed, prompt, sample])
            slot = _Slot(prompt, sample, free.pop(0), len(ids), rng, began, NgramIndex())
            if self._lookup:
                slot.text.extend(ids)
            slots.append(slot)
        first = slots[0].seq
        logits = self._native.read(ids, first)
        for slot in slots:
            if slot.seq != first:
                self._native.share(first, slot.seq)
            self._append(slot, choose(logits, sampling, slot.rng))
            slot.first_token_s = time.perf_counter() - began
        return slots

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
        if sampling.temperature > 0 or self._shapes is None:
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
    scaled = (logits - logits.max()) / sampling.temperature
    weights = np.exp(scaled)
    weights[weights < sampling.min_p] = 0.0  # the most likely token has weight 1
    total = np.cumsum(weights, dtype=np.float64)
    return int(np.searchsorted(total, rng.random() * total[-1], side="right"))


def requests(n_prompts: int, n: int, n_parallel: int) -> list[tuple[int, list[int]]]:
    """(prompt, its samples) in groups that fit into the parallel sequences together."""
    step = min(n, n_parallel)
    return [
        (prompt, list(range(start, min(start + step, n)))) for prompt in range(n_prompts) for start in range(0, n, step)
    ]
