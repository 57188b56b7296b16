"""llama.cpp through llama-cpp-python's plain bindings: a model, a context, a batch, and nothing that decides."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lowvram_ft.errors import GenerationError, MachineError, ModelError
from lowvram_ft.hardware import cpu_count, detect
from lowvram_ft.inference.gpu_layers import layers_that_fit, parts_of
from lowvram_ft.inference.settings import KV_TYPES, EngineSettings

KV_CACHE_BYTES = 1 << 30
"""Most memory that the KV caches of parallel sequences may take together."""
N_BATCH = 512
"""Tokens of a prompt that are read at once."""
MAX_PARALLEL = 8
SPARE_CELLS = 32
"""Cells of a sequence's cache beyond its context: drafts may reach over the end."""

Entry = tuple[int, int, int, bool]
"""Token, position, sequence, whether its logits are wanted."""


class Native:
    """A loaded GGUF with a context for several sequences.

    Each sequence has a cache of its own (llama.cpp's ``kv_unified`` is off): the sums of one do not depend on where
    the others' cells lie. llama.cpp computes such a batch in one pass only if the sequences' numbers follow each
    other and all have equally many tokens; see `lowvram_ft.inference.decoding`.

    Args:
        path: the file.
        n_ctx: context of each sequence, in tokens.
        n_parallel: sequences; chosen so that their KV caches stay under 1 GiB where it is None.
        settings: threads, layers on the GPU, type of the KV cache.
        most_parallel: most sequences that are chosen.

    Raises:
        ModelError: the file is missing or no whole GGUF.
        MachineError: llama-cpp-python is not installed, or does not load.
        GenerationError: there is no memory for the context.
    """

    def __init__(
        self,
        path: Path,
        n_ctx: int,
        n_parallel: int | None,
        settings: EngineSettings,
        most_parallel: int = MAX_PARALLEL,
    ) -> None:
        check_gguf(path)
        self.lib: Any = library()
        self.name = path.name
        self.n_ctx = n_ctx
        self._model: Any = None
        self._context: Any = None
        _quiet(self.lib)
        self.lib.llama_backend_init()
        self.n_gpu_layers = gpu_layers(self.lib, path, settings, n_ctx, n_parallel, most_parallel)
        self._model = self._load(path, settings)
        self.vocab = self.lib.llama_model_get_vocab(self._model)
        self.n_vocab = self.lib.llama_vocab_n_tokens(self.vocab)
        self.n_parallel = n_parallel or self._affordable(settings, most_parallel)
        self._context = self._make_context(settings)
        if not self._context:
            self.close()
            raise GenerationError(
                f"{path}: no memory for {self.n_parallel} contexts of {n_ctx} tokens; lower export.n_ctx"
            )
        self._batch = self.lib.llama_batch_init(N_BATCH, 0, 1)
        self._memory = self.lib.llama_get_memory(self._context)

    def close(self) -> None:
        """Free the model and its context."""
        if self._context:
            self.lib.llama_batch_free(self._batch)
            self.lib.llama_free(self._context)
            self._context = None
        if self._model:
            self.lib.llama_model_free(self._model)
            self._model = None

    def tokenize(self, text: str) -> list[int]:
        """Text to token ids by llama.cpp's own tokenizer: special tokens recognized, none added."""
        raw = text.encode()
        size = len(raw) + 8
        tokens = (ctypes.c_int32 * size)()
        count = self.lib.llama_tokenize(self.vocab, raw, len(raw), tokens, size, False, True)
        if count < 0:
            raise GenerationError(f"{self.name}: the text cannot be tokenized ({-count} tokens)")
        return list(tokens[:count])

    def detokenize(self, tokens: Sequence[int]) -> str:
        """Token ids to text."""
        buffer = ctypes.create_string_buffer(256)
        pieces = []
        for token in tokens:
            size = self.lib.llama_token_to_piece(self.vocab, token, buffer, len(buffer), 0, True)
            pieces.append(buffer.raw[: max(size, 0)])
        return b"".join(pieces).decode("utf-8", errors="replace")

    def is_end(self, token: int) -> bool:
        """Whether a token ends an answer."""
        return bool(self.lib.llama_vocab_is_eog(self.vocab, token))

    def decode(self, entries: Sequence[Entry]) -> None:
        """Compute one batch.

        Raises:
            GenerationError: llama.cpp fails.
        """
        batch = self._batch
        batch.n_tokens = len(entries)
        for i, (token, position, seq, wanted) in enumerate(entries):
            batch.token[i] = token
            batch.pos[i] = position
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = seq
            batch.logits[i] = wanted
        code = self.lib.llama_decode(self._context, batch)
        if code != 0:
            raise GenerationError(f"{self.name}: llama.cpp could not decode (code {code}); lower export.n_ctx")

    def read(self, tokens: Sequence[int], seq: int) -> npt.NDArray[np.float32]:
        """Read a prompt into an empty sequence, in pieces of `N_BATCH`.

        Returns:
            The logits after its last token, shape [vocabulary]; valid until the next batch.
        """
        for start in range(0, len(tokens), N_BATCH):
            part = tokens[start : start + N_BATCH]
            end = len(tokens) - 1 - start
            self.decode([(token, start + i, seq, i == end) for i, token in enumerate(part)])
        return self.logits(len(part) - 1)

    def logits(self, index: int) -> npt.NDArray[np.float32]:
        """The logits of entry ``index`` of the last batch, shape [vocabulary]; valid until the next batch."""
        pointer = self.lib.llama_get_logits_ith(self._context, index)
        return np.ctypeslib.as_array(pointer, shape=(self.n_vocab,))

    def clear(self) -> None:
        """Empty every sequence."""
        self.lib.llama_memory_clear(self._memory, True)

    def forget(self, seq: int, position: int = 0) -> None:
        """Drop a sequence's tokens from a position on."""
        self.lib.llama_memory_seq_rm(self._memory, seq, position, -1)

    def share(self, source: int, target: int) -> None:
        """Copy a sequence's cache to another, which has to be empty."""
        self.lib.llama_memory_seq_cp(self._memory, source, target, -1, -1)

    def kv_bytes(self, settings: EngineSettings) -> int:
        """Bytes of the KV caches of all sequences."""
        return self._kv_bytes_per_token(settings) * (self.n_ctx + SPARE_CELLS) * self.n_parallel

    def set_threads(self, n_threads: int, n_threads_batch: int) -> None:
        """Change how many threads decode, and how many read prompts."""
        self.lib.llama_set_n_threads(self._context, n_threads, n_threads_batch)

    def metadata(self, key: str) -> str | None:
        """A value of the file's header as text; None where it has no such key."""
        size = self.lib.llama_model_meta_val_str(self._model, key.encode(), ctypes.create_string_buffer(1), 1)
        if size < 0:
            return None
        buffer = ctypes.create_string_buffer(size + 1)
        self.lib.llama_model_meta_val_str(self._model, key.encode(), buffer, len(buffer))
        return buffer.value.decode("utf-8", errors="replace")

    def _load(self, path: Path, settings: EngineSettings) -> Any:
        parameters = self.lib.llama_model_default_params()
        parameters.n_gpu_layers = self.n_gpu_layers
        parameters.use_extra_bufts = settings.repack
        model = self.lib.llama_model_load_from_file(str(path).encode(), parameters)
        if not model:
            raise ModelError(f"{path}: llama.cpp cannot load it (truncated, or a newer format); export it again")
        return model

    def _make_context(self, settings: EngineSettings) -> Any:
        parameters = self.lib.llama_context_default_params()
        parameters.n_ctx = (self.n_ctx + SPARE_CELLS) * self.n_parallel
        parameters.n_batch = N_BATCH
        parameters.n_ubatch = N_BATCH
        parameters.n_seq_max = self.n_parallel
        parameters.n_threads = settings.n_threads or cpu_count()
        parameters.n_threads_batch = settings.n_threads_batch or cpu_count()
        parameters.type_k = parameters.type_v = KV_TYPES[settings.kv_type].ggml_type
        return self.lib.llama_init_from_model(self._model, parameters)

    def _kv_bytes_per_token(self, settings: EngineSettings) -> int:
        lib, model = self.lib, self._model
        own = self.metadata(f"{self.metadata('general.architecture')}.attention.key_length")
        head = int(own) if own else lib.llama_model_n_embd(model) // max(lib.llama_model_n_head(model), 1)
        width = lib.llama_model_n_head_kv(model) * head
        return int(2 * lib.llama_model_n_layer(model) * width * KV_TYPES[settings.kv_type].bits / 8)

    def _affordable(self, settings: EngineSettings, most: int) -> int:
        return affordable(self._kv_bytes_per_token(settings) * self.n_ctx, most)


def check_gguf(path: Path) -> None:
    """Refuse what is no GGUF at all, before llama.cpp is loaded.

    Raises:
        ModelError: it is missing, or something else.
    """
    if not path.is_file():
        raise ModelError(f"{path}: no such file; give a GGUF")
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ModelError(f"{path}: is not a GGUF; give one, for example from: lowvram-ft export")


def gpu_layers(
    lib: Any, path: Path, settings: EngineSettings, n_ctx: int, n_parallel: int | None, most_parallel: int
) -> int:
    """Layers of a file that go on the GPU: what the settings say, else what fits into its free memory."""
    if not lib.llama_supports_gpu_offload():
        return 0
    if settings.n_gpu_layers is not None:
        return settings.n_gpu_layers
    gpus = detect().gpus
    if not gpus:
        return 0
    parts = parts_of(path)
    bits = KV_TYPES[settings.kv_type].bits
    n_seqs = n_parallel or affordable(parts.kv_bytes_per_token(bits) * len(parts.layer_bytes) * n_ctx, most_parallel)
    return layers_that_fit(gpus[0].free_bytes, parts, (n_ctx + SPARE_CELLS) * n_seqs, bits)


def affordable(kv_bytes: int, most: int = MAX_PARALLEL) -> int:
    """Sequences whose KV caches of so many bytes fit into `KV_CACHE_BYTES`; at least 1, at most ``most``."""
    return max(1, min(most, KV_CACHE_BYTES // max(kv_bytes, 1)))


def library() -> Any:
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
