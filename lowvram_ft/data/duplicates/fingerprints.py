"""Exact and near duplicates among training rows, and rows that contain evaluation code.

Two pieces of code are **exact** duplicates if their normal forms (`lowvram_ft.data.duplicates.normalize`) are equal,
and **near** ones if the sets of their shingles, three tokens in a row of the normal form, have a Jaccard similarity of
about `THRESHOLD` or more. Code of fewer than `MIN_SHINGLES` different shingles is told by its exact form alone: there,
one token more or less is a different function (``is_even`` and ``is_odd``), not a duplicate.

The similarity is estimated from `NUM_PERM` min-hashes (Broder, "On the resemblance and containment of documents",
1997), of each of which four bits are kept: b-bit minwise hashing (Li and König, 2010, theorem 1). Two such values agree
with probability ``p = s + (1 - s) / 16`` at similarity s, so ``s`` is estimated as ``(agreeing - 1/16) / (15/16)``,
with a standard deviation of ``sqrt(p (1 - p) / NUM_PERM) / (15/16)``: 0.026 at s = 0.8.

Which rows are compared at all is told by locality-sensitive hashing (Leskovec, Rajaraman and Ullman, *Mining of Massive
Datasets*, section 3.4.2): those that agree in all `ROWS_PER_BAND` values of one of `BANDS` bands, so with probability
``1 - (1 - p^r)^b``. Both together (`detection_probability`) give the S-curve

    similarity  0.65   0.70   0.75   0.78   0.80   0.85   0.90
    found       0.000  0.002  0.130  0.483  0.764  0.997  1.000

A code of `MIN_SHINGLES` shingles of which one token differs has a similarity of 0.87, one with a short statement more
about 0.8: that is what a near duplicate means here. Code that does the mirror image of other code, step by step, counts
as its near duplicate where it is long (``bisect_left`` and ``bisect_right``).

A fingerprint is a pure function of the code, small, and the same in every process; only the index has state.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from lowvram_ft.data.duplicates.hash_table import U32, HashTable, Places
from lowvram_ft.data.duplicates.mapped_array import MappedArray
from lowvram_ft.data.duplicates.normalize import Part, normal_form
from lowvram_ft.data.syntax import parse

SHINGLE = 3
"""Tokens in a shingle."""
MIN_SHINGLES = 42
"""Code with fewer different shingles has no near duplicates."""
NUM_PERM = 256
"""Min-hashes a piece of code."""
SKETCH_BYTES = NUM_PERM // 2
BANDS = 16
ROWS_PER_BAND = 6
THRESHOLD = 0.78
"""Least estimated similarity of near duplicates."""

_BITS = 4
_VALUES = 1 << _BITS
_SEED = 1
_BATCH = 1024
_MULTIPLIERS = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9], dtype=np.uint64)
_LOW_BITS = np.uint64(0x1111111111111111)


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What is kept of a piece of code to compare it by.

    Attributes:
        digest: of its normal form, 16 bytes.
        sketch: four bits of each min-hash, `SKETCH_BYTES` bytes; empty where the code is too short for near duplicates.
        parts: the functions and classes at its top, where it has more than one statement there.
    """

    digest: bytes
    sketch: bytes
    parts: tuple[Fingerprint, ...] = ()


@dataclass(frozen=True, slots=True)
class Match:
    """An earlier row that a row repeats.

    Attributes:
        row: number of the earlier row: how many came before it.
        similarity: estimated Jaccard similarity, at most 1; exactly 1.0 for an exact duplicate.
        exact: whether the normal forms are equal.
    """

    row: int
    similarity: float
    exact: bool


def fingerprint(code: str | ast.Module) -> Fingerprint | None:
    """The fingerprint of a row's code; None where it does not parse, or nothing in it counts.

    Args:
        code: the code, or its syntax tree, which is not changed.
    """
    tree = parse(code) if isinstance(code, str) else code
    if tree is None:
        return None
    form = normal_form(tree)
    if not form.whole.tokens:
        return None
    return Fingerprint(
        form.whole.digest, sketch(form.whole), tuple(Fingerprint(p.digest, sketch(p)) for p in form.parts)
    )


def shingles(part: Part) -> U32:
    """32-bit hashes of the different shingles of a piece of code, sorted."""
    tokens = np.frombuffer(part.tokens, dtype=np.uint64)
    count = max(len(tokens) - SHINGLE + 1, 0)
    mixed = np.zeros(count, dtype=np.uint64)
    for place, multiplier in enumerate(_MULTIPLIERS):
        mixed += tokens[place : place + count] * multiplier
    mixed ^= mixed >> np.uint64(29)
    mixed *= _MULTIPLIERS[0]
    return np.unique((mixed >> np.uint64(32)).astype(np.uint32))


def detection_probability(similarity: float, threshold: float = THRESHOLD) -> float:
    """How likely a pair of this Jaccard similarity is found: the S-curve.

    That the bands are among the min-hashes that are counted, and so not independent of the count, is left out.
    """
    agree = similarity + (1 - similarity) / _VALUES
    compared = 1 - (1 - agree**ROWS_PER_BAND) ** BANDS
    least = _least_agreeing(threshold)
    enough: float = sum(
        math.comb(NUM_PERM, k) * agree**k * (1 - agree) ** (NUM_PERM - k) for k in range(least, NUM_PERM + 1)
    )
    return float(compared * enough)


def _least_agreeing(threshold: float) -> int:
    return math.ceil(NUM_PERM * (threshold + (1 - threshold) / _VALUES))


@cache
def _minhash() -> Any:
    """An empty MinHash, whose permutations all others share. Imported here, since it brings scipy along."""
    from datasketch import MinHash

    return MinHash(num_perm=NUM_PERM, seed=_SEED, hashfunc=int, scheme="affine32")


def sketch(part: Part) -> bytes:
    """Four bits of each min-hash of a piece of code, `SKETCH_BYTES` bytes; empty where it is too short."""
    if len(part.tokens) < MIN_SHINGLES:
        return b""
    found = shingles(part)
    if len(found) < MIN_SHINGLES:
        return b""
    minhash = _minhash().copy()
    for start in range(0, len(found), _BATCH):  # bounds the memory that very long code takes
        minhash.update_batch(found[start : start + _BATCH].tolist())
    # The high bits of a minimum are zeros; a multiplication brings the others to the top.
    bits = (minhash.hashvalues * np.uint32(0x9E3779B1)) >> np.uint32(32 - _BITS)
    packed: npt.NDArray[np.uint8] = (bits[0::2] | (bits[1::2] << np.uint32(4))).astype(np.uint8)
    return packed.tobytes()


@dataclass(frozen=True, slots=True)
class _Found:
    """What looking a fingerprint up showed: its match, and where it would go."""

    match: Match | None
    digest_place: Places
    band_places: Places | None


class _Rows:
    """Fingerprints without their parts, and which of them is most like another one."""

    def __init__(self) -> None:
        self.count = 0
        self._digests = MappedArray(np.uint64)
        self._digest_table = HashTable(1, lambda _, n: self._digests.values[:n].astype(np.uint32))
        self._sketches = MappedArray(np.uint8, (SKETCH_BYTES,))
        self._owners = MappedArray(np.uint32)
        self._sketched = 0
        self._band_table = HashTable(BANDS, lambda band, n: _band_key(self._sketches.values[:n], band))

    @property
    def nbytes(self) -> int:
        arrays = self._digests.nbytes + self._sketches.nbytes + self._owners.nbytes
        return arrays + self._digest_table.nbytes + self._band_table.nbytes

    def find(self, wanted: Fingerprint) -> _Found:
        """The row that is equal, or else the most similar one of at least `THRESHOLD`; the earliest of several."""
        digest = _short_digest(wanted)
        _, rows, digest_place = self._digest_table.look_up(digest.astype(np.uint32))
        equal = rows[self._digests.values[rows] == digest[0]]
        if len(equal):
            return _Found(Match(int(equal.min()), 1.0, True), digest_place, None)
        if not wanted.sketch:
            return _Found(None, digest_place, None)
        sketch = np.frombuffer(wanted.sketch, dtype=np.uint8)
        _, near, places = self._band_table.look_up(_band_keys(sketch))
        return _Found(self._nearest(sketch, near), digest_place, places)

    def _nearest(self, sketch: npt.NDArray[np.uint8], candidates: U32) -> Match | None:
        if not len(candidates):
            return None
        near = np.sort(candidates)  # so that the earliest of several equals is met first; repeats do no harm
        differ = self._sketches.values[near].view(np.uint64) ^ sketch.view(np.uint64)
        differ |= differ >> np.uint64(2)
        differ |= differ >> np.uint64(1)
        agreeing = NUM_PERM - np.bitwise_count(differ & _LOW_BITS).sum(axis=1, dtype=np.int64)
        best = int(agreeing.argmax())
        if agreeing[best] < _LEAST_AGREEING:
            return None
        similarity = (float(agreeing[best]) / NUM_PERM - 1 / _VALUES) / (1 - 1 / _VALUES)
        return Match(int(self._owners.values[near[best]]), similarity, False)

    def add(self, row: Fingerprint, found: _Found) -> int:
        """Remember a row; its place here, from 0.

        Args:
            row: not an exact duplicate of one that is here.
            found: what `find` said of it, with nothing added since.
        """
        number = self.count
        self._digests.make_room(number)
        self._digests.values[number] = _short_digest(row)[0]
        self._digest_table.insert(found.digest_place)
        self.count += 1
        if found.band_places is not None:
            place = self._sketched
            self._owners.make_room(place)
            self._sketches.make_room(place)
            self._sketches.values[place] = np.frombuffer(row.sketch, dtype=np.uint8)
            self._owners.values[place] = number
            self._sketched += 1
            self._band_table.insert(found.band_places)
        return number


class DuplicateIndex:
    """Finds rows that repeat an earlier row. It takes at most about 300 bytes a row, and less for short code.

    Args:
        keep_near: also remember rows that are near duplicates of an earlier one, and compare later rows with them: for
            a caller who keeps such rows, in the group of the earlier one. A caller who drops them leaves it off. Exact
            duplicates are never remembered twice.
    """

    def __init__(self, keep_near: bool = False) -> None:
        self._rows = _Rows()
        self._keep_near = keep_near
        self._seen = 0
        self._numbers = MappedArray(np.uint32)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return self._rows.nbytes + self._numbers.nbytes

    def add(self, row: Fingerprint) -> Match | None:
        """Compare the next row with the earlier ones, and remember it where it is new.

        Returns:
            The earlier row that it repeats, by its number: rows count from 0 in the order of the calls, duplicates
            included. None where it is new.
        """
        number = self._seen
        self._seen += 1
        looked_up = self._rows.find(row)
        found = looked_up.match
        if found is None or (self._keep_near and not found.exact):
            place = self._rows.add(row, looked_up)
            self._numbers.make_room(place)
            self._numbers.values[place] = number
        return None if found is None else Match(int(self._numbers.values[found.row]), found.similarity, found.exact)


class Contamination:
    """Finds rows that contain the code of an evaluation task, as a whole or as one of several functions.

    Args:
        tasks: id and code of every task. Each function or class at the top of a task's code is looked for on its own,
            its helpers too.
    """

    def __init__(self, tasks: Iterable[tuple[str, str]]) -> None:
        self._rows = _Rows()
        self._ids: list[str] = []
        for name, code in tasks:
            found = fingerprint(code)
            for piece in () if found is None else (found, *found.parts):
                looked_up = self._rows.find(piece)
                if looked_up.match is None or not looked_up.match.exact:
                    self._rows.add(piece, looked_up)
                    self._ids.append(name)

    def found(self, row: Fingerprint) -> str | None:
        """The id of a task whose code the row contains; None where there is none."""
        for piece in (row, *row.parts):
            match = self._rows.find(piece).match
            if match is not None:
                return self._ids[match.row]
        return None


_LEAST_AGREEING = _least_agreeing(THRESHOLD)


def _short_digest(row: Fingerprint) -> npt.NDArray[np.uint64]:
    """64 bits: among 300,000 rows, two different ones share them with a probability of 2e-9."""
    return np.frombuffer(row.digest, dtype=np.uint64, count=1)


def _band_key(sketches: npt.NDArray[np.uint8], band: int) -> U32:
    """24 bits, the `ROWS_PER_BAND` values of one band, for each of several sketches; shape [n]."""
    start = band * ROWS_PER_BAND // 2
    low, middle, high = (sketches[:, start + place].astype(np.uint32) for place in range(3))
    key: U32 = low | middle << np.uint32(8) | high << np.uint32(16)
    return key


def _band_keys(sketch: npt.NDArray[np.uint8]) -> U32:
    """The keys of all bands of one sketch; shape [BANDS]."""
    parts = sketch[: BANDS * ROWS_PER_BAND // 2].reshape(BANDS, 3).astype(np.uint32)
    keys: U32 = parts[:, 0] | parts[:, 1] << np.uint32(8) | parts[:, 2] << np.uint32(16)
    return keys
