"""The decoding loop on a model that is a function of what each of its sequences holds, against a loop of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowvram_ft.inference import Sampling
from lowvram_ft.inference.batch_shapes import BatchShapes
from lowvram_ft.inference.decoding import Decoder, choose
from lowvram_ft.inference.lookup import Acceptance, Memory

N_VOCAB = 12
END = 11
FREE = BatchShapes(1, 16, (1.0,) * 16)
PADDED = BatchShapes(2, 16, (1.0,) * 16)


def logits_after(tokens: Sequence[int]) -> np.ndarray:
    seed = int.from_bytes(hashlib.sha256(bytes(tokens)).digest()[:8], "big")
    return np.random.default_rng(seed).normal(size=N_VOCAB).astype(np.float32)


class Cells:
    """A model whose sequences hold tokens by position, and that refuses what llama.cpp refuses."""

    def __init__(self, n_parallel: int) -> None:
        self.n_parallel = n_parallel
        self.held: list[list[int]] = [[] for _ in range(n_parallel)]
        self.rows: list[np.ndarray] = []
        self.n_read = 0
        self.sizes: list[int] = []

    def clear(self) -> None:
        self.held = [[] for _ in range(self.n_parallel)]

    def forget(self, seq: int, position: int = 0) -> None:
        del self.held[seq][position:]

    def share(self, source: int, target: int) -> None:
        assert not self.held[target]
        self.held[target] = list(self.held[source])

    def read(self, tokens: Sequence[int], seq: int) -> np.ndarray:
        assert not self.held[seq]
        self.held[seq] = list(tokens)
        self.n_read += len(tokens)
        return logits_after(tokens)

    def decode(self, entries) -> None:
        self.rows = []
        self.sizes.append(len(entries))
        seqs = [seq for _, _, seq, _ in entries]
        assert sorted(seqs) == seqs
        assert set(seqs) == set(range(min(seqs), max(seqs) + 1)), "a gap costs a pass over the weights"
        assert len({seqs.count(seq) for seq in seqs}) == 1, "llama.cpp splits such a batch"
        for token, position, seq, wanted in entries:
            assert position == len(self.held[seq])
            self.held[seq].append(token)
            self.rows.append(logits_after(self.held[seq]) if wanted else np.zeros(N_VOCAB, np.float32))

    def logits(self, index: int) -> np.ndarray:
        return self.rows[index]

    def is_end(self, token: int) -> bool:
        return token == END

    def detokenize(self, tokens: Sequence[int]) -> str:
        return " ".join(map(str, tokens))


def by_itself(ids: Sequence[int], stream: tuple[int, int], sample: int, sampling: Sampling) -> list[int]:
    """One answer, token by token."""
    rng = np.random.default_rng([*stream, sample])
    tokens: list[int] = []
    while len(tokens) < sampling.max_new_tokens and (not tokens or tokens[-1] != END):
        tokens.append(choose(logits_after([*ids, *tokens]), sampling, rng))
    return tokens


def decoder(cells: Cells, shapes: BatchShapes | None) -> Decoder:
    return Decoder(cells, shapes, False, Memory(), Acceptance())


PROMPTS = st.lists(st.lists(st.integers(0, 10), min_size=1, max_size=9), min_size=1, max_size=6)


@settings(deadline=None, max_examples=60)
@given(PROMPTS, st.integers(1, 7), st.integers(1, 9), st.sampled_from([None, FREE, PADDED]), st.booleans())
def test_every_answer_is_the_one_that_the_model_gives_by_itself(prompts, n, n_parallel, shapes, own_seeds) -> None:
    seeds = tuple(range(100, 100 + len(prompts))) if own_seeds else ()
    sampling = Sampling(temperature=1.3, min_p=0.01, max_new_tokens=8, seed=3, seeds=seeds)
    cells = Cells(n_parallel)
    made = decoder(cells, shapes)
    found = made.run(prompts, sampling, n)
    assert [len(row) for row in found] == [n] * len(prompts)
    for place, (ids, row) in enumerate(zip(prompts, found, strict=True)):
        stream = (seeds[place], 0) if seeds else (3, place)
        for sample, answer in enumerate(row):
            tokens = by_itself(ids, stream, sample, sampling)
            text = tokens[:-1] if tokens[-1] == END else tokens
            assert (answer.text, answer.n_tokens) == (cells.detokenize(text), len(tokens))
    assert made.n_read == cells.n_read
    if shapes is PADDED:
        assert min(cells.sizes, default=2) >= 2


@pytest.mark.parametrize("n", [4, 16, 50])
def test_a_prompt_is_read_once_however_many_answers_there_are(n: int) -> None:
    cells = Cells(4)
    decoder(cells, FREE).run([[1, 2, 3], [4, 5]], Sampling(temperature=1.0, max_new_tokens=20), n)
    assert cells.n_read == 5


def test_a_sequence_that_has_ended_makes_room_at_once() -> None:
    prompts = [[n] for n in range(10)]
    sampling = Sampling(temperature=1.0, max_new_tokens=30)
    cells = Cells(4)
    found = decoder(cells, FREE).run(prompts, sampling, 3)
    tokens = sum(answer.n_tokens - 1 for row in found for answer in row)
    longest = max(answer.n_tokens for row in found for answer in row)
    assert len(cells.sizes) <= tokens / 4 + longest


def test_answers_are_handed_over_as_they_are_finished() -> None:
    prompts = [[n] for n in range(8)]
    cells = Cells(2)
    steps = [
        (place, len(cells.sizes))
        for place, _ in decoder(cells, FREE).each(prompts, Sampling(temperature=1.0, max_new_tokens=20), 2)
    ]
    assert sorted(place for place, _ in steps) == list(range(8))
    assert steps[0][1] < len(cells.sizes) / 2


def test_an_answer_with_a_seed_of_its_prompt_hangs_on_no_place() -> None:
    prompts = [[1, 2], [3], [4, 5, 6]]
    sampling = Sampling(temperature=1.3, max_new_tokens=10, seeds=(7, 8, 9))
    there = decoder(Cells(3), FREE).run(prompts, sampling, 4)
    back = decoder(Cells(5), FREE).run(prompts[::-1], Sampling(temperature=1.3, max_new_tokens=10, seeds=(9, 8, 7)), 4)
    assert [[a.text for a in row] for row in there] == [[a.text for a in row] for row in back[::-1]]
    placed = [decoder(Cells(3), FREE).run(each, Sampling(temperature=1.3, max_new_tokens=10), 4) for each in
              (prompts, prompts[::-1])]  # fmt: skip
    assert [[a.text for a in row] for row in placed[0]] != [[a.text for a in row] for row in placed[1][::-1]]
