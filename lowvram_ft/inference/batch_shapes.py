"""Which batches give a token the same logits, bit for bit: then drafts and parallel sequences change no answer.

llama.cpp computes one token with other kernels than several (a cache of 512 cells is split between threads for one
token alone; weights are multiplied in groups of four rows where they were repacked; other kernels begin at eight), so
that sums are rounded otherwise, and a near-tie between two tokens may fall the other way. Which sizes agree depends on
the types in the file, the CPU and the build. The order of the sums depends on the shapes alone, not on the values:
so a probe with arbitrary tokens finds the sizes that agree, and decoding keeps to them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from lowvram_ft.inference.native import Native

MOST_DRAFTED = 8
"""Tokens of one sequence in a batch, the last chosen one and its drafts together."""
MOST_IN_A_BATCH = 16
SHALLOW, DEEP = 40, 300
"""Tokens in the cache while probing: below and above 512 cells (seen in steps of 256), where the kernels change."""
_WINDOW = 8


@dataclass(frozen=True)
class BatchShapes:
    """The sizes of batches that agree, and how long each takes.

    Attributes:
        least: fewest tokens of a batch, over all sequences together.
        most: most tokens of a batch; all sizes between the two give the same logits.
        seconds: of a batch of 1, 2, … tokens.
    """

    least: int
    most: int
    seconds: tuple[float, ...]

    @property
    def drafts(self) -> bool:
        """Whether there is room for a draft."""
        return self.most >= 2

    def cost(self, n_tokens: int) -> float:
        """Seconds of a batch."""
        return self.seconds[min(n_tokens, len(self.seconds)) - 1]

    def to_json(self) -> dict[str, Any]:
        """Every figure."""
        return asdict(self)

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> Self:
        """From `to_json`."""
        return cls(int(found["least"]), int(found["most"]), tuple(float(s) for s in found["seconds"]))


def probe(native: Native) -> BatchShapes:
    """Find the sizes that agree by decoding the same tokens in batches of every shape, twice each.

    The cache is empty afterwards.

    Args:
        native: a loaded model.

    Raises:
        GenerationError: llama.cpp fails.
    """
    agree: dict[int, bool] = {}
    seconds: dict[int, list[float]] = {}
    for depth in sorted({min(depth, native.n_ctx - _WINDOW) for depth in (SHALLOW, DEEP)}):
        native.clear()
        tokens = _tokens(depth + _WINDOW, native)
        native.read(tokens[:depth], 0)
        for seq in range(1, native.n_parallel):
            native.share(0, seq)
        reference = np.concatenate(
            [_decode(native, tokens, start, 1, 2)[0][0] for start in range(depth, depth + _WINDOW, 2)]
        )
        _cut(native, depth)
        for n_seqs, each in _shapes(native.n_parallel):
            rows, took = _decode(native, tokens, depth, n_seqs, each)
            _cut(native, depth)
            again, took_again = _decode(native, tokens, depth, n_seqs, each)
            _cut(native, depth)
            same = all(np.array_equal(r, reference[:each]) for r in (*rows, *again))
            agree[n_seqs * each] = agree.get(n_seqs * each, True) and same
            seconds.setdefault(n_seqs * each, []).extend((took, took_again))
    native.clear()
    return _shapes_that_agree(agree, seconds)


def _shapes(n_parallel: int) -> list[tuple[int, int]]:
    """(sequences, tokens of each) to try."""
    together = [
        (s, n) for s in sorted({2, 3, n_parallel}) for n in (1, 2, 4) if s <= n_parallel and s * n <= MOST_IN_A_BATCH
    ]
    between = [(s, 1) for s in range(4, n_parallel)]
    return [(1, n) for n in range(1, MOST_DRAFTED + 1)] + together + between


def _shapes_that_agree(agree: dict[int, bool], seconds: dict[int, list[float]]) -> BatchShapes:
    """The first run of sizes that agree with batches of two; one token belongs to it where it agrees as well."""
    sizes = sorted(agree)
    least = 1 if agree.get(1, True) else 2
    most = 1
    for size in sizes:
        if size >= 2 and not agree[size]:
            break
        most = size
    best = [min(seconds[size]) for size in sizes]
    steps = np.interp(np.arange(1, sizes[-1] + 1), sizes, np.maximum.accumulate(best)) if sizes else np.zeros(1)
    return BatchShapes(min(least, most), most, tuple(round(float(s), 6) for s in steps))


def _decode(
    native: Native, tokens: Sequence[int], start: int, n_seqs: int, each: int
) -> tuple[list[npt.NDArray[np.float32]], float]:
    """Logits of ``each`` tokens from ``start`` on, of every sequence; and the seconds that it took."""
    began = time.perf_counter()
    native.decode([(tokens[start + i], start + i, seq, True) for seq in range(n_seqs) for i in range(each)])
    native.logits(0)
    took = time.perf_counter() - began
    return [np.stack([native.logits(s * each + i).copy() for i in range(each)]) for s in range(n_seqs)], took


def _cut(native: Native, depth: int) -> None:
    for seq in range(native.n_parallel):
        native.forget(seq, depth)


def _tokens(n: int, native: Native) -> list[int]:
    """Arbitrary tokens, the same every time."""
    return [int(t) for t in np.random.default_rng(0).integers(0, native.n_vocab, n)]
