"""The checks that need llama.cpp; runs in the child process, see ``child.py``."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..workers import cpu_count
from .reference import Reference, ReferenceSequence, kl_divergence, log_softmax

_BATCH = 256
_SMALL_BYTES = 32 << 20


class Model:
    """A GGUF loaded in llama.cpp on the CPU, with float32 attention so that only the weights are measured.

    Args:
        llama_cpp: the module, its log silenced.
        path: the GGUF.
        n_ctx: the longest sequence.
    """

    def __init__(self, llama_cpp: Any, path: str, n_ctx: int) -> None:
        self._lib = llama_cpp
        llama_cpp.llama_backend_init()
        model_params = llama_cpp.llama_model_default_params()
        model_params.n_gpu_layers = 0
        self._model = llama_cpp.llama_model_load_from_file(path.encode(), model_params)
        if not self._model:
            raise RuntimeError("llama.cpp could not load the file")
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = n_ctx
        params.n_batch = params.n_ubatch = _BATCH
        # Threads wait for each other after every operation: on a tiny model that is all they would do.
        small = os.path.getsize(path) < _SMALL_BYTES
        params.n_threads = params.n_threads_batch = 1 if small else cpu_count()
        # Flash attention sums in 16 bits, which shows beside a float32 reference.
        params.type_k = params.type_v = llama_cpp.GGML_TYPE_F32
        if hasattr(params, "flash_attn_type"):
            params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self._context = llama_cpp.llama_init_from_model(self._model, params)
        if not self._context:
            raise RuntimeError("llama.cpp could not make a context")
        self._vocab = llama_cpp.llama_model_get_vocab(self._model)
        self.n_vocab = llama_cpp.llama_vocab_n_tokens(self._vocab)

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a text, special tokens recognized, none added."""
        data = text.encode()
        room = len(data) + 8
        ids = (self._lib.llama_token * room)()
        n_ids = self._lib.llama_tokenize(self._vocab, data, len(data), ids, room, False, True)
        if n_ids < 0:
            raise RuntimeError("llama.cpp could not tokenize a text")
        return list(ids[:n_ids])

    def piece(self, token: int) -> bytes:
        """The bytes of one token."""
        buffer = ctypes.create_string_buffer(512)
        length = self._lib.llama_token_to_piece(self._vocab, token, buffer, 512, 0, True)
        return buffer.raw[: max(0, length)]

    def ends_answer(self, token: int) -> bool:
        """Whether llama.cpp stops at this token."""
        return bool(self._lib.llama_vocab_is_eog(self._vocab, token))

    def forget(self, position: int = 0) -> None:
        """Empty the cache from a position on."""
        self._lib.llama_memory_seq_rm(self._lib.llama_get_memory(self._context), 0, position, -1)

    def logits(self, ids: Sequence[int], position: int, first: int) -> NDArray[np.float32]:
        """Append tokens and return the logits of ``ids[first:]``.

        Args:
            ids: the tokens, standing at ``position`` and after.
            position: how many tokens are in the cache.
            first: the index in ``ids`` of the first output that is wanted.

        Returns:
            float32 ``[len(ids) - first, n_vocab]``.
        """
        rows = []
        batch = self._lib.llama_batch_init(_BATCH, 0, 1)
        try:
            for start in range(0, len(ids), _BATCH):
                part = ids[start : start + _BATCH]
                batch.n_tokens = len(part)
                for index, token in enumerate(part):
                    batch.token[index] = token
                    batch.pos[index] = position + start + index
                    batch.n_seq_id[index] = 1
                    batch.seq_id[index][0] = 0
                    batch.logits[index] = start + index >= first
                if self._lib.llama_decode(self._context, batch) != 0:
                    raise RuntimeError("llama.cpp could not evaluate a prompt")
                for index in range(max(0, first - start), len(part)):
                    pointer = self._lib.llama_get_logits_ith(self._context, index)
                    rows.append(np.ctypeslib.as_array(pointer, shape=(self.n_vocab,)).copy())
        finally:
            self._lib.llama_batch_free(batch)
        return np.stack(rows)


def run_checks(request: dict[str, Any], say: Callable[..., None], llama_cpp: Any) -> None:
    """Load, tokenize, answer and, with a reference, score; report each stage."""
    reference = Reference.load(Path(request["reference"])) if request.get("reference") else None
    longest = max((_length(row) for row in reference.sequences), default=0) if reference else 0
    n_ctx = max(longest, len(request.get("prompt", "").encode()) + request.get("n_predict", 0), _BATCH) + 8
    say(begin="load")
    model = Model(llama_cpp, request["model"], n_ctx)
    say(stage="load", n_vocab=model.n_vocab)
    say(begin="tokenize")
    pieces = [b"".join(map(model.piece, model.tokenize(text))) for text in request.get("probes", ())]
    ids = [model.tokenize(text) for text in request.get("texts", ())]
    say(stage="tokenize", ids=ids, pieces=[piece.hex() for piece in pieces])
    if request.get("prompt"):
        say(begin="answer")
        _answer(model, request["prompt"], request["n_predict"], say)
    if reference is not None:
        say(begin="reference")
        _score(model, reference, say)


def _length(row: ReferenceSequence) -> int:
    """The longest sequence that scoring a row needs."""
    greedy = 0 if row.greedy_ids is None else len(row.greedy_ids)
    return max(len(row.token_ids), row.completion_start + greedy)


def _answer(model: Model, prompt: str, n_predict: int, say: Callable[..., None]) -> None:
    ids = model.tokenize(prompt)
    outputs = model.logits(ids, 0, len(ids) - 1)
    answer, end = _continue(model, int(outputs[-1].argmax()), len(ids), n_predict)
    text = b"".join(map(model.piece, answer)).decode(errors="replace")
    say(stage="answer", n_prompt=len(ids), n_tokens=len(answer), end=end, text=text)


def _continue(model: Model, token: int, position: int, n_predict: int) -> tuple[list[int], int]:
    """The greedy answer that starts with ``token``, and the token that ended it, -1 for none."""
    answer: list[int] = []
    while len(answer) < n_predict:
        if model.ends_answer(token):
            return answer, token
        answer.append(token)
        if len(answer) < n_predict:
            token = int(model.logits([token], position, 0)[-1].argmax())
            position += 1
    return answer, -1


def _score(model: Model, reference: Reference, say: Callable[..., None]) -> None:
    n_tokens, n_agreeing, divergence, own, theirs = 0, 0, 0.0, 0.0, 0.0
    end, reference_end = 0.0, 0.0
    starts: list[float] = []
    for row in reference.sequences:
        model.forget()
        ids = [int(token) for token in row.token_ids]
        # The last token predicts nothing that is scored.
        logprobs = log_softmax(model.logits(ids[:-1], 0, row.completion_start - 1))
        scored = np.arange(len(logprobs))
        best = logprobs.argmax(axis=1)
        n_tokens += len(logprobs)
        n_agreeing += int((best == row.top_ids[:, 0]).sum())
        divergence += float(kl_divergence(row, logprobs).sum())
        own -= float(logprobs[scored, row.token_ids[row.completion_start :]].sum())
        theirs -= float(row.token_logprobs.sum())
        end += float(logprobs[-1, ids[-1]])
        reference_end += float(row.token_logprobs[-1])
        if row.greedy_ids is not None and len(row.greedy_ids):
            starts.append(_same_start(model, row, int(best[0])))
    say(
        stage="reference",
        n_tokens=n_tokens,
        kl=divergence / n_tokens,
        top1_agreement=n_agreeing / n_tokens,
        perplexity=float(np.exp(own / n_tokens)),
        reference_perplexity=float(np.exp(theirs / n_tokens)),
        end_logprob=end / len(reference.sequences),
        reference_end_logprob=reference_end / len(reference.sequences),
        n_greedy=len(starts),
        n_greedy_same=sum(share == 1 for share in starts),
        greedy_start=float(np.mean(starts)) if starts else 0.0,
    )


def _same_start(model: Model, row: ReferenceSequence, first: int) -> float:
    """The share of the reference's greedy answer that this one starts with; the prompt is in the cache."""
    model.forget(row.completion_start)
    expected = [int(token) for token in row.greedy_ids] if row.greedy_ids is not None else []
    answer, end = _continue(model, first, row.completion_start, len(expected))
    found = [*answer, end] if end >= 0 else answer
    same = next((index for index, token in enumerate(expected) if found[index : index + 1] != [token]), len(expected))
    return same / len(expected)
