"""Which model writes the tests."""

from __future__ import annotations

from pathlib import Path

from lowvram_ft.inference import Generator, opening
from lowvram_ft.inference.exports import given_or_newest


def open_model(
    model: str | Path | None, n_ctx: int, *, n_parallel: int | None = 1, concurrency: int | None = None
) -> Generator:
    """Open the model that writes the tests.

    Args:
        model: see `lowvram_ft.inference.opening.choose_model`; None for that of
            ``LOWVRAM_FT_MODEL``, else the newest export under ``runs/``.
        n_ctx: context in tokens.
        n_parallel: sequences at a time of a GGUF; None for as many as fit into 1 GiB of KV cache.
        concurrency: requests at a time to an address; 4 by default.

    Raises:
        UsageError: none was given, and none was exported here.
        ModelError: it cannot be loaded.
        GenerationError: no server answers at its address.
    """
    chosen = given_or_newest(model)
    return opening.open_model(chosen, n_ctx=n_ctx, n_parallel=n_parallel, concurrency=concurrency)
