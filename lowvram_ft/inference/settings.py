"""How llama.cpp is to run a file on this machine, and what was found out about the two, kept in the user's cache."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from lowvram_ft.errors import MachineError, RunDirectoryError
from lowvram_ft.hardware import cache_dir, cpu_count, cpu_facts
from lowvram_ft.run_dir import read_json, write_json

KvType = Literal["f16", "q8_0", "q4_0"]


@dataclass(frozen=True)
class KvFormat:
    """A type that keys and values may be kept in.

    Attributes:
        ggml_type: its number (``ggml.h``, enum ggml_type).
        bits: of an element, its share of the block's scale included.
    """

    ggml_type: int
    bits: float


KV_TYPES: dict[KvType, KvFormat] = {"f16": KvFormat(1, 16), "q8_0": KvFormat(8, 8.5), "q4_0": KvFormat(2, 4.5)}
"""llama.cpp takes a quantized V only with flash attention, which it turns on by itself where it can."""
_EDGE_BYTES = 1 << 20


@dataclass(frozen=True)
class EngineSettings:
    """Settings of llama.cpp that change how fast it is.

    Attributes:
        n_threads: for decoding; None for every CPU of this process.
        n_threads_batch: for reading prompts; None as above.
        n_gpu_layers: layers on the GPU, the output counted as one; None for what fits into its free memory (see
            `lowvram_ft.inference.gpu_layers`). Without a GPU build it has no effect.
        kv_type: what keys and values are kept in. With several threads a token by itself gets the logits that it
            gets in a batch past 512 cells only where this is not ``f16``.
        repack: whether llama.cpp may rearrange weights for this CPU when it loads them. Faster for some types, but
            with other sums for batches of four rows and more.
    """

    n_threads: int | None = None
    n_threads_batch: int | None = None
    n_gpu_layers: int | None = None
    kv_type: KvType = "f16"
    repack: bool = True

    def to_json(self) -> dict[str, Any]:
        """Every setting."""
        return asdict(self)


class TunedCache:
    """What was measured for one file on this machine.

    A file that cannot be read counts as absent: everything in it can be measured again.

    Args:
        path: the GGUF. Its size and its first and last MiB stand for it: reading 4 GB would take longer than tuning.
        folder: the cache; the user's own by default.
    """

    def __init__(self, path: Path, folder: Path | None = None) -> None:
        key = hashlib.sha256(repr((machine(), fingerprint(path))).encode()).hexdigest()[:32]
        self.path = (folder or cache_dir()) / "decoding" / f"{key}.json"

    def settings(self) -> EngineSettings | None:
        """The settings that were the fastest; None where it was not tuned."""
        found = self._read().get("settings")
        try:
            return None if found is None else EngineSettings(**found)
        except TypeError:  # written by another version
            return None

    def keep_settings(self, settings: EngineSettings) -> None:
        """Keep the fastest settings."""
        self._write(settings=settings.to_json())

    def probed(self, key: str) -> dict[str, Any] | None:
        """What a probe found (see `lowvram_ft.inference.batch_shapes`); None where there was none."""
        found = self._read().get("probed", {}).get(key)
        return found if isinstance(found, dict) else None

    def keep_probed(self, key: str, found: dict[str, Any]) -> None:
        """Keep what a probe found."""
        self._write(probed={**self._read().get("probed", {}), key: found})

    def _read(self) -> dict[str, Any]:
        try:
            found = read_json(self.path) if self.path.is_file() else {}
        except (OSError, RunDirectoryError):
            return {}
        return found if isinstance(found, dict) else {}

    def _write(self, **changes: Any) -> None:
        with suppress(MachineError):  # a cache that cannot be written: it is measured again next time
            write_json(self.path, {"machine": machine(), **self._read(), **changes})


def machine() -> dict[str, Any]:
    """What measurements depend on beside the file."""
    model, flags = cpu_facts(Path("/proc/cpuinfo"))
    return {
        "cpu": model,
        "cpu_flags": list(flags),
        "cpu_count": cpu_count(),
        "llama_cpp_python": metadata.version("llama-cpp-python"),
    }


def fingerprint(path: Path) -> str:
    """A hash of a file's size and of its first and last MiB."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        digest.update(file.read(_EDGE_BYTES))
        file.seek(max(0, size - _EDGE_BYTES))
        digest.update(file.read(_EDGE_BYTES))
    return digest.hexdigest()
