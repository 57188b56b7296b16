"""What the fine-tuned model itself answers: the measure that a GGUF is held against.

Written where there is torch (base + adapter, teacher-forced over held-out rows), read here without it. For
every position of a completion it keeps the ``k`` most likely tokens; what is left over is one further
outcome. The KL divergence over these ``k + 1`` outcomes is at most the one over the whole vocabulary (data
processing inequality), and equal to it with ``k`` = the vocabulary.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BrokenFileError

Int32 = NDArray[np.int32]
Float32 = NDArray[np.float32]

DEFAULT_TOP_K = 256


@dataclass(frozen=True)
class ReferenceSequence:
    """One row: prompt and completion, and the log-probabilities over the completion.

    Attributes:
        token_ids: ``[n]``: prompt, completion and end token.
        completion_start: position of the completion's first token, at least 1.
        top_ids: ``[n - completion_start, k]``: most likely tokens first. Row ``j`` is the prediction of
            ``token_ids[completion_start + j]``.
        top_logprobs: ``[n - completion_start, k]``: their natural log-probabilities.
        token_logprobs: ``[n - completion_start]``: the log-probability of the token that is really there.
        messages: the conversation that the prompt was rendered from, with the generation prompt; ``None``
            where it is not known.
        greedy_ids: ``[m]``: what the model answers by itself, always the most likely token, up to and with the end
            token; ``None`` where it was not asked.
    """

    token_ids: Int32
    completion_start: int
    top_ids: Int32
    top_logprobs: Float32
    token_logprobs: Float32
    messages: tuple[Mapping[str, str], ...] | None = None
    greedy_ids: Int32 | None = None

    @classmethod
    def from_logits(
        cls,
        token_ids: Sequence[int],
        completion_start: int,
        logits: NDArray[Any],
        messages: Sequence[Mapping[str, str]] | None = None,
        top_k: int = DEFAULT_TOP_K,
        greedy_ids: Sequence[int] | None = None,
    ) -> ReferenceSequence:
        """Build a row from a model's output.

        Args:
            token_ids: ``[n]``.
            completion_start: position of the completion's first token.
            logits: ``[n, vocabulary]`` or, for the completion alone, ``[n - completion_start, vocabulary]``
                (the outputs at positions ``completion_start - 1`` to ``n - 2``); log-probabilities do too.
            messages: the conversation of the prompt.
            top_k: how many tokens of each position to keep.
            greedy_ids: the model's own greedy answer to the prompt.

        Raises:
            ValueError: the shapes do not fit together.
        """
        ids = np.asarray(token_ids, dtype=np.int32)
        n_scored = len(ids) - completion_start
        if completion_start < 1 or n_scored < 1:
            raise ValueError(f"completion_start {completion_start} leaves nothing of {len(ids)} tokens")
        if len(logits) == len(ids):
            logits = logits[completion_start - 1 : -1]
        if logits.ndim != 2 or len(logits) != n_scored:
            raise ValueError(f"logits of shape {logits.shape} for {n_scored} completion tokens")
        logprobs = log_softmax(logits)
        k = min(top_k, logprobs.shape[1])
        order = np.argpartition(-logprobs, k - 1, axis=1)[:, :k]
        order = np.take_along_axis(
            order, np.argsort(-np.take_along_axis(logprobs, order, axis=1), axis=1, kind="stable"), axis=1
        )
        return cls(
            token_ids=ids,
            completion_start=completion_start,
            top_ids=order.astype(np.int32),
            top_logprobs=np.take_along_axis(logprobs, order, axis=1).astype(np.float32),
            token_logprobs=logprobs[np.arange(n_scored), ids[completion_start:]].astype(np.float32),
            messages=tuple(dict(message) for message in messages) if messages is not None else None,
            greedy_ids=np.asarray(greedy_ids, dtype=np.int32) if greedy_ids is not None else None,
        )


@dataclass(frozen=True)
class Reference:
    """Held-out rows as base + adapter answer them.

    Attributes:
        sequences: the rows.
    """

    sequences: tuple[ReferenceSequence, ...]

    def save(self, path: Path) -> None:
        """Write it as ``.npz``."""
        arrays: dict[str, NDArray[Any]] = {}
        messages = []
        for index, row in enumerate(self.sequences):
            arrays[f"ids_{index}"] = row.token_ids
            arrays[f"top_ids_{index}"] = row.top_ids
            arrays[f"top_logprobs_{index}"] = row.top_logprobs
            arrays[f"token_logprobs_{index}"] = row.token_logprobs
            if row.greedy_ids is not None:
                arrays[f"greedy_{index}"] = row.greedy_ids
            messages.append(list(map(dict, row.messages)) if row.messages is not None else None)
        arrays["starts"] = np.array([row.completion_start for row in self.sequences], dtype=np.int32)
        arrays["messages"] = np.frombuffer(json.dumps(messages).encode(), dtype=np.uint8)
        with path.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: Path) -> Reference:
        """Read what ``save`` wrote.

        Raises:
            BrokenFileError: the file is missing or damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as arrays:
                messages = json.loads(arrays["messages"].tobytes())
                rows = tuple(
                    ReferenceSequence(
                        token_ids=arrays[f"ids_{index}"],
                        completion_start=int(start),
                        top_ids=arrays[f"top_ids_{index}"],
                        top_logprobs=arrays[f"top_logprobs_{index}"],
                        token_logprobs=arrays[f"token_logprobs_{index}"],
                        messages=tuple(messages[index]) if messages[index] is not None else None,
                        greedy_ids=arrays.get(f"greedy_{index}"),
                    )
                    for index, start in enumerate(arrays["starts"])
                )
        except FileNotFoundError as error:
            raise BrokenFileError(f"{path}: no such file; write the reference first") from error
        except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise BrokenFileError(f"{path}: damaged reference ({error}); write it again") from error
        return cls(rows)


def log_softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    """Natural log-probabilities over the last axis, in float64."""
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=-1, keepdims=True)
    wide -= np.log(np.exp(wide).sum(axis=-1, keepdims=True))
    return wide


def kl_divergence(row: ReferenceSequence, logprobs: NDArray[np.float64]) -> NDArray[np.float64]:
    """KL(reference || model) at each completion position, in nats.

    Args:
        row: the reference.
        logprobs: ``[n - completion_start, vocabulary]`` of the model.

    Returns:
        ``[n - completion_start]``, over the kept tokens and one outcome for all others.
    """
    kept = np.take_along_axis(logprobs, row.top_ids.astype(np.int64), axis=1)
    reference = row.top_logprobs.astype(np.float64)
    divergence = (np.exp(reference) * (reference - kept)).sum(axis=1)
    if row.top_ids.shape[1] < logprobs.shape[1]:
        # Floors keep rounding of the sums from turning a vanishing remainder into a negative one.
        rest = np.clip(1.0 - np.exp(reference).sum(axis=1), 1e-9, 1.0)
        other = np.clip(1.0 - np.exp(kept).sum(axis=1), 1e-9, 1.0)
        divergence += rest * np.log(rest / other)
    return np.asarray(divergence)
