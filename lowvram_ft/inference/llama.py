"""A GGUF in process, through llama-cpp-python: several sequences at a time, continuous batching.

Sequences that have finished make room for the next prompt at once; answers to one prompt share its prefill.
"""

from __future__ import annotations

import ctypes
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lowvram_ft import rendering
from lowvram_ft.errors import GenerationError, MachineError, ModelError
from lowvram_ft.hardware import cpu_count
from lowvram_ft.inference.protocol import Completion, Sampling

KV_CACHE_BYTES = 1 << 30
"""Most memory that the KV caches of parallel sequences may take together."""
N_BATCH = 512
MAX_PARALLEL = 8
KV_ELEMENT_BYTES = 2
"""llama.cpp keeps keys and values in f16."""


@dataclass
class _Slot:
    """A sequence that is being generated."""

    prompt: int
    sample: int
    seq: int
    position: int
    rng: np.random.Generator
    began: float
    first_token_s: float = 0.0
    tokens: list[int] = field(default_factory=list)
    logits_at: int = -1


class LlamaCpp:
    """A GGUF, loaded by llama.cpp.

    Args:
        path: the file.
        n_ctx: context of each sequence, in tokens.
        n_parallel: sequences at a time; chosen so that their KV caches stay under 1 GiB by default.
        n_gpu_layers: layers on the GPU; -1 for all. Without a GPU build it has no effect.
        n_threads: CPU threads; all by default.

    Raises:
        ModelError: the file is missing or no whole GGUF.
        MachineError: llama-cpp-python is not installed, or does not load.
        GenerationError: llama.cpp cannot load it.
    """

    def __init__(
        self,
        path: Path,
        *,
        n_ctx: int = 2048,
        n_parallel: int | None = None,
        n_gpu_layers: int = -1,
        n_threads: int | None = None,
    ) -> None:
        if not path.is_file():
            raise ModelError(f"{path}: no such file; give a GGUF")
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise ModelError(f"{path}: is not a GGUF; give one, for example from: lowvram-ft export")
        llama_cpp = _library()
        self.name = path.name
        self._lib: Any = llama_cpp
        self._model: Any = None
        self._context: Any = None
        _quiet(llama_cpp)
        llama_cpp.llama_backend_init()
        parameters = llama_cpp.llama_model_default_params()
        parameters.n_gpu_layers = n_gpu_layers if n_gpu_layers >= 0 else 999
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
        if not self._model:
            raise ModelError(f"{path}: llama.cpp cannot load it (truncated, or a newer format); export it again")
        self._vocab = llama_cpp.llama_model_get_vocab(self._model)
        self._n_vocab = llama_cpp.llama_vocab_n_tokens(self._vocab)
        self.n_ctx = n_ctx
        self.n_parallel = n_parallel or self._affordable()
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx = n_ctx * self.n_parallel
        settings.n_batch = N_BATCH
        settings.n_ubatch = N_BATCH
        settings.n_seq_max = self.n_parallel
        settings.n_threads = settings.n_threads_batch = n_threads or cpu_count()
        self._context = llama_cpp.llama_init_from_model(self._model, settings)
        if not self._context:
            self.close()
            raise GenerationError(f"{path}: no memory for a context of {settings.n_ctx} tokens; lower export.n_ctx")
        self._batch = llama_cpp.llama_batch_init(N_BATCH, 0, 1)
        self.chat = self._chat_format(path)

    def close(self) -> None:
        """Free the model and its context."""
        if self._context:
            self._lib.llama_batch_free(self._batch)
            self._lib.llama_free(self._context)
            self._context = None
        if self._model:
            self._lib.llama_model_free(self._model)
            self._model = None

    def tokenize(self, text: str) -> list[int]:
        """Text to token ids by llama.cpp's own tokenizer: special tokens recognized, none added."""
        raw = text.encode()
        size = len(raw) + 8
        tokens = (ctypes.c_int32 * size)()
        count = self._lib.llama_tokenize(self._vocab, raw, len(raw), tokens, size, False, True)
        if count < 0:
            raise GenerationError(f"{self.name}: the text cannot be tokenized ({-count} tokens)")
        return list(tokens[:count])

    def detokenize(self, tokens: Sequence[int]) -> str:
        """Token ids to text."""
        buffer = ctypes.create_string_buffer(256)
        pieces = []
        for token in tokens:
            size = self._lib.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, True)
            pieces.append(buffer.raw[: max(size, 0)])
        return b"".join(pieces).decode("utf-8", errors="replace")

    def generate(self, prompts: Sequence[str], sampling: Sampling, n: int = 1) -> list[list[Completion]]:
        """Answer prompts; see `lowvram_ft.inference.Generator`."""
        return self.generate_from_ids([list(self.chat.render(p).input_ids) for p in prompts], sampling, n)

    def generate_from_ids(self, prompts: Sequence[list[int]], sampling: Sampling, n: int = 1) -> list[list[Completion]]:
        """Answer prompts that are rendered already.

        Args:
            prompts: token ids of each.
            sampling: how tokens are chosen.
            n: answers a prompt; at most ``n_parallel`` share a prefill.
        """
        for number, ids in enumerate(prompts):
            if len(ids) + sampling.max_new_tokens > self.n_ctx:
                raise GenerationError(
                    f"prompt {number + 1}: has {len(ids)} tokens, and {sampling.max_new_tokens} more are to follow "
                    f"(the context is {self.n_ctx}); shorten the code, or raise n_ctx"
                )
        answers: list[list[Completion | None]] = [[None] * n for _ in prompts]
        waiting = deque(_requests(len(prompts), n, self.n_parallel))
        free = list(range(self.n_parallel))[::-1]
        active: list[_Slot] = []
        memory = self._lib.llama_get_memory(self._context)
        self._lib.llama_memory_clear(memory, True)
        while waiting or active:
            while waiting and len(waiting[0][1]) <= len(free):
                prompt, samples = waiting.popleft()
                active += self._prefill(prompts[prompt], prompt, samples, free, sampling)
            self._advance(active, sampling)
            for slot in [slot for slot in active if self._ended(slot, sampling)]:
                answers[slot.prompt][slot.sample] = self._complete(slot, len(prompts[slot.prompt]))
                self._lib.llama_memory_seq_rm(memory, slot.seq, -1, -1)
                free.append(slot.seq)
                active.remove(slot)
            if active:
                self._decode_next(active)
        return [[answer for answer in row if answer is not None] for row in answers]

    def _prefill(
        self, ids: list[int], prompt: int, samples: Sequence[int], free: list[int], sampling: Sampling
    ) -> list[_Slot]:
        """Read a prompt into one sequence, share it with the others, and choose the first token of each."""
        began = time.perf_counter()
        slots = [
            _Slot(prompt, s, free.pop(), len(ids), np.random.default_rng([sampling.seed, prompt, s]), began)
            for s in samples
        ]
        first = slots[0].seq
        for start in range(0, len(ids), N_BATCH):
            part = ids[start : start + N_BATCH]
            last = start + len(part) == len(ids)
            self._run([(t, start + i, first, last and i == len(part) - 1) for i, t in enumerate(part)])
        memory = self._lib.llama_get_memory(self._context)
        logits = self._logits(len(ids[start:]) - 1)
        for slot in slots:
            if slot.seq != first:
                self._lib.llama_memory_seq_cp(memory, first, slot.seq, -1, -1)
            slot.tokens.append(choose(logits, sampling, slot.rng))
            slot.first_token_s = time.perf_counter() - began
        return slots

    def _advance(self, active: Sequence[_Slot], sampling: Sampling) -> None:
        """Choose the next token of every sequence that was decoded in the last step."""
        for slot in active:
            if slot.logits_at >= 0:
                slot.tokens.append(choose(self._logits(slot.logits_at), sampling, slot.rng))
                slot.logits_at = -1

    def _decode_next(self, active: Sequence[_Slot]) -> None:
        self._run([(slot.tokens[-1], slot.position, slot.seq, True) for slot in active])
        for index, slot in enumerate(active):
            slot.position += 1
            slot.logits_at = index

    def _ended(self, slot: _Slot, sampling: Sampling) -> bool:
        return self._is_end(slot.tokens[-1]) or len(slot.tokens) >= sampling.max_new_tokens

    def _is_end(self, token: int) -> bool:
        return bool(self._lib.llama_vocab_is_eog(self._vocab, token))

    def _complete(self, slot: _Slot, n_prompt: int) -> Completion:
        stopped = self._is_end(slot.tokens[-1])
        return Completion(
            text=self.detokenize(slot.tokens[:-1] if stopped else slot.tokens),
            n_prompt_tokens=n_prompt,
            n_tokens=len(slot.tokens),
            finish="stop" if stopped else "length",
            seconds=time.perf_counter() - slot.began,
            first_token_s=slot.first_token_s,
        )

    def _run(self, entries: Sequence[tuple[int, int, int, bool]]) -> None:
        """Decode one batch of (token, position, sequence, whether its logits are wanted)."""
        batch = self._batch
        batch.n_tokens = len(entries)
        for i, (token, position, seq, wanted) in enumerate(entries):
            batch.token[i] = token
            batch.pos[i] = position
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = seq
            batch.logits[i] = wanted
        code = self._lib.llama_decode(self._context, batch)
        if code != 0:
            raise GenerationError(f"{self.name}: llama.cpp could not decode (code {code}); lower export.n_ctx")

    def _logits(self, index: int) -> npt.NDArray[np.float32]:
        pointer = self._lib.llama_get_logits_ith(self._context, index)
        return np.ctypeslib.as_array(pointer, shape=(self._n_vocab,))

    def _affordable(self) -> int:
        """Sequences whose KV caches fit into `KV_CACHE_BYTES`; at least 1."""
        lib, model = self._lib, self._model
        head = lib.llama_model_n_embd(model) // max(lib.llama_model_n_head(model), 1)
        per_token = 2 * KV_ELEMENT_BYTES * lib.llama_model_n_layer(model) * lib.llama_model_n_head_kv(model) * head
        return int(max(1, min(MAX_PARALLEL, KV_CACHE_BYTES // max(per_token * self.n_ctx, 1))))

    def _chat_format(self, path: Path) -> rendering.ChatFormat:
        template = self._metadata("tokenizer.chat_template")
        if template is None:
            raise ModelError(f"{path}: holds no chat template; export it again from an instruct model")
        special = {}
        for name, token in (
            ("bos_token", self._lib.llama_vocab_bos(self._vocab)),
            ("eos_token", self._lib.llama_vocab_eos(self._vocab)),
        ):
            if token >= 0:
                special[name] = self.detokenize([token])
        ends = [self.detokenize([t]) for t in range(self._n_vocab) if self._is_end(t)]
        return rendering.make(template, special, ends, self.tokenize)

    def _metadata(self, key: str) -> str | None:
        size = self._lib.llama_model_meta_val_str(self._model, key.encode(), ctypes.create_string_buffer(1), 1)
        if size < 0:
            return None
        buffer = ctypes.create_string_buffer(size + 1)
        self._lib.llama_model_meta_val_str(self._model, key.encode(), buffer, len(buffer))
        return buffer.value.decode("utf-8", errors="replace")


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


def _requests(n_prompts: int, n: int, n_parallel: int) -> list[tuple[int, list[int]]]:
    """(prompt, its samples) in groups that fit into the parallel sequences together."""
    step = min(n, n_parallel)
    return [
        (prompt, list(range(start, min(start + step, n)))) for prompt in range(n_prompts) for start in range(0, n, step)
    ]


def _library() -> Any:
    """llama-cpp-python's module.

    Raises:
        MachineError: it is not installed, or its shared library does not load.
    """
    try:
        import llama_cpp
    except (ImportError, OSError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise MachineError(
            f"llama-cpp-python: cannot be loaded ({reason}); install it with: pip install llama-cpp-python, "
            "and see: lowvram-ft doctor"
        ) from error
    return llama_cpp


_silent: Any = None


def _quiet(lib: Any) -> None:
    """Keep llama.cpp from writing to stderr; errors come back as return codes."""
    global _silent
    if _silent is None:
        _silent = lib.llama_log_callback(lambda *_: None)
        lib.llama_log_set(_silent, ctypes.c_void_p(0))
