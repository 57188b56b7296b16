"""Which model writes the tests."""

from __future__ import annotations

from pathlib import Path

from lowvram_ft.errors import UsageError
from lowvram_ft.inference.llama import LlamaCpp

RUNS = Path("runs")


def newest_export(runs: Path = RUNS) -> Path | None:
    """The GGUF that a run under ``runs`` exported last; the ones of base models do not count."""
    found = [path for path in runs.glob("*/export/*.gguf") if not path.name.startswith("base-")]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def open_model(model: Path | None, n_ctx: int) -> LlamaCpp:
    """Open a GGUF.

    Args:
        model: the file; None for the newest export under ``runs/``.
        n_ctx: context in tokens.

    Raises:
        UsageError: none was given, and none was exported here.
        ModelError: it cannot be loaded.
    """
    path = model or newest_export()
    if path is None:
        raise UsageError("--model: no export under runs/; give a GGUF, or make one with: lowvram-ft demo")
    return LlamaCpp(path, n_ctx=n_ctx, n_parallel=1)
