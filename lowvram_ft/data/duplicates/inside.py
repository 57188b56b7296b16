"""Evaluation code anywhere in other code, or nearly so: functions and classes at any depth, short ones too.

`Contamination` compares rows by the hundred thousand, and so by sketches of their functions at the top. Here a few
thousand texts are held against a few hundred, and a text too many is refused rather than one too few: training on other
code costs nothing.

A piece of code is a module as a whole, or any function or class in it, in its normal form
(`lowvram_ft.data.duplicates.normalize`): names, layout, docstrings and annotations do not count. Of two pieces one is
the other's copy

- where their normal forms are equal, if each is a whole module, or stands at the top of one, or has at least
  `LEAST_TOKENS` tokens (below that, methods of different classes are equal by chance);
- or where the longest common subsequence of their tokens has a large share in both, ``2 LCS / (n + m)`` (the ratio of
  Ratcliff and Obershelp, with the subsequence for their matching blocks): `NEAR` or more where the shorter one has
  `ENOUGH_TOKENS`, about five lines, so that one edited, added or dropped line hides nothing; `NEAR_SHORT` or more where
  it has `LEAST_TOKENS`, so that another constant or operator does not.

Of the kit's own 230 sample rows five are near a task of its own suites by this measure (one computes what HumanEval/25
asks for), and two of 2835 functions of the standard library.

Pieces are compared token by token only where they share `_SHARED` of their runs of `_RUN` tokens. The subsequence is
counted by a machine word for 64 tokens: Hyyrö, "Bit-parallel LCS-length computation revisited", 2004.
"""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from lowvram_ft.data.duplicates.normalize import Part, normal_form
from lowvram_ft.data.syntax import parse

LEAST_TOKENS = 16
ENOUGH_TOKENS = 30
NEAR = 0.75
NEAR_SHORT = 0.9
_RUN = 3
_SHARED = 0.25
_DEFINITION = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


@dataclass(frozen=True)
class _Piece:
    """A stretch of code in its normal form.

    Attributes:
        tokens: as in `Part.tokens`.
        digest: as in `Part.digest`.
        runs: the different runs of `_RUN` tokens.
    """

    tokens: Sequence[int]
    digest: bytes
    runs: frozenset[tuple[int, ...]]


@dataclass
class _Known:
    """A piece of an evaluation task.

    Attributes:
        name: of the task.
        piece: its normal form.
        places: where each token stands, as bits.
    """

    name: str
    piece: _Piece
    places: dict[int, int] = field(default_factory=dict)

    def share_of(self, other: _Piece) -> float:
        """How much of the two pieces is common, from 0 to 1."""
        if not self.places:
            for place, token in enumerate(self.piece.tokens):
                self.places[token] = self.places.get(token, 0) | 1 << place
        length = len(self.piece.tokens)
        every = (1 << length) - 1
        row = every
        for token in other.tokens:
            match = row & self.places.get(token, 0)
            row = (row + match | row - match) & every
        return 2 * (length - row.bit_count()) / (length + len(other.tokens))


class Inside:
    """Finds the code of tasks inside of other code, and code that was cut out of a task.

    Args:
        tasks: name and code of each. Code that does not parse is passed over: it is no code that a test could run.
    """

    def __init__(self, tasks: Iterable[tuple[str, str]]) -> None:
        self._digests: dict[bytes, str] = {}
        self._known: list[_Known] = []
        self._by_run: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
        for name, code in tasks:
            for piece in _pieces(code):
                if piece.digest in self._digests:
                    continue
                self._digests[piece.digest] = name
                if len(piece.tokens) >= LEAST_TOKENS:
                    for run in piece.runs:
                        self._by_run[run].append(len(self._known))
                    self._known.append(_Known(name, piece))

    def found(self, code: str) -> str | None:
        """The name of a task that the code holds, or is a part of, or nearly so; None where there is none."""
        for piece in _pieces(code):
            name = self._digests.get(piece.digest) or self._near(piece)
            if name is not None:
                return name
        return None

    def _near(self, piece: _Piece) -> str | None:
        if len(piece.tokens) < LEAST_TOKENS:
            return None
        shared: Counter[int] = Counter()
        for run in piece.runs:
            shared.update(self._by_run.get(run, ()))
        for number, count in shared.most_common():
            known = self._known[number]
            lengths = len(known.piece.tokens), len(piece.tokens)
            near = NEAR if min(lengths) >= ENOUGH_TOKENS else NEAR_SHORT
            if 2 * min(lengths) < near * sum(lengths) or count < _SHARED * min(len(piece.runs), len(known.piece.runs)):
                continue
            if known.share_of(piece) >= near:
                return known.name
        return None


def _pieces(code: str) -> Iterator[_Piece]:
    """The module, what is defined at its top, and all that is long enough of what is defined below."""
    tree = parse(code)
    if tree is None:
        return
    form = normal_form(tree)
    for part in (form.whole, *form.parts):
        if part.tokens:
            yield _piece(part)
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    at_the_top = set(map(id, tree.body))
    for node in ast.walk(tree):
        if isinstance(node, _DEFINITION) and id(node) not in at_the_top:
            part = normal_form(ast.Module([*imports, node], [])).whole
            if len(part.tokens) >= LEAST_TOKENS:
                yield _piece(part)


def _piece(part: Part) -> _Piece:
    tokens = part.tokens
    runs = zip(*(tokens[start:] for start in range(_RUN)), strict=False)
    return _Piece(tokens, part.digest, frozenset(runs))
