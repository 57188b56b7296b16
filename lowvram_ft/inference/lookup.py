"""Prompt-lookup decoding: what follows the same tokens earlier in the text is a guess at what follows now.

A test file repeats the names and calls of the code under test and of the tests before. The guesses (drafts) are
verified by the model in one batch, which costs little more than one token, because a batch reads the weights once.
Idea: https://github.com/apoorvumang/prompt-lookup-decoding; what is ours is the choice of the length.
"""

from __future__ import annotations

from collections.abc import Sequence

MAX_NGRAM = 8
MOST_REMEMBERED = 8192
"""Tokens of earlier answers that are kept for drafts."""
_PRIOR = (0.45, 0.5, 0.65, 0.7, 0.8, 0.8, 0.8, 0.87)
"""How often a drafted token was right after a match of 1, 2, … tokens, on 32 answers of the demo's model."""
_PRIOR_WEIGHT = 8.0


class NgramIndex:
    """Where each n-gram of a text was last followed by another token."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self._ends: list[dict[tuple[int, ...], int]] = [{} for _ in range(MAX_NGRAM)]

    def extend(self, tokens: Sequence[int]) -> None:
        """Add tokens to the end of the text."""
        for token in tokens:
            end = len(self.tokens)
            for n in range(1, min(MAX_NGRAM, end) + 1):
                self._ends[n - 1][tuple(self.tokens[end - n : end])] = end
            self.tokens.append(token)

    def find(self, tail: Sequence[int]) -> tuple[int, int]:
        """The latest place after the longest n-gram that ends ``tail``.

        Args:
            tail: the last tokens of a text; at most `MAX_NGRAM` of them count.

        Returns:
            The position of the token that followed, and the length of the n-gram; (0, 0) where there is none.
        """
        for n in range(min(MAX_NGRAM, len(tail)), 0, -1):
            position = self._ends[n - 1].get(tuple(tail[len(tail) - n :]))
            if position is not None:
                return position, n
        return 0, 0


class Acceptance:
    """How often a drafted token is right, by the length of the match before it; learnt while decoding.

    A right token makes the match one longer, so that one row of chances serves a draft of any length.
    """

    def __init__(self) -> None:
        self._right = [share * _PRIOR_WEIGHT for share in _PRIOR]
        self._seen = [_PRIOR_WEIGHT] * MAX_NGRAM

    def chance(self, match: int) -> float:
        """Chance that the token after a match of so many tokens is right."""
        row = min(match, MAX_NGRAM) - 1
        return self._right[row] / self._seen[row]

    def learn(self, match: int, n_drafted: int, n_accepted: int) -> None:
        """Count a verified draft; tokens after the first wrong one say nothing.

        Args:
            match: length of the match that the draft came from.
            n_drafted: tokens of the draft.
            n_accepted: how many of them were right, from the first on.
        """
        for place in range(min(n_drafted, n_accepted + 1)):
            row = min(match + place, MAX_NGRAM) - 1
            self._seen[row] += 1
            self._right[row] += place < n_accepted


class Memory:
    """Earlier answers of the same model: the next test file is likely to begin and to be laid out as they were."""

    def __init__(self) -> None:
        self._index = NgramIndex()

    def add(self, tokens: Sequence[int]) -> None:
        """Remember an answer; where there are too many, those before it are dropped."""
        if len(self._index.tokens) + len(tokens) > MOST_REMEMBERED:
            self._index = NgramIndex()
        self._index.extend(tokens)

    def clear(self) -> None:
        """Forget them all."""
        self._index = NgramIndex()

    def draft(self, own: NgramIndex, most: int) -> tuple[list[int], int]:
        """The likely continuation of a text, from itself, or from an earlier answer where the match is longer.

        Args:
            own: the text: prompt and answer so far.
            most: tokens at the most.

        Returns:
            The draft, empty where nothing matches, and the length of the match.
        """
        tail = own.tokens[-MAX_NGRAM:]
        source, (position, match) = own, own.find(tail)
        place, longer = self._index.find(tail)
        if longer > match:
            source, position, match = self._index, place, longer
        return source.tokens[position : position + most] if match else [], match
