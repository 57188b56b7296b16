"""Merging an adapter into its base, rows of a tensor at a time.

``merged_rows`` is the one place where weights are added and rounded: every export reads from it.
"""

from __future__ import annotations

from typing import get_args

import numpy as np

from .adapters.adapter import Adapter
from .checkpoints.weights import DTYPES, ROUNDED, Checkpoint, Float32, Rounding
from .errors import ExportError, UnsupportedError
from .families.architectures import TensorPlan


def merged_rows(
    checkpoint: Checkpoint, adapter: Adapter | None, name: str, rows: slice | None, rounding: Rounding
) -> Float32:
    """Rows of one merged tensor, rounded. Several threads may call it at a time.

    Args:
        checkpoint: the base.
        adapter: what is added; ``None`` for the base alone.
        name: the tensor's name in the checkpoint.
        rows: which rows; all of them when ``None``.
        rounding: the type that the values are rounded to.

    Returns:
        float32 ``[rows, ...]``; every value is one of the rounding's type.

    Raises:
        ExportError: a value is not finite, or becomes so by rounding.
    """
    values = checkpoint.read(name, rows)
    changed = adapter is not None and adapter.changes(name)
    if adapter is not None and changed:
        values = adapter.apply(name, values, rows)
    rounded = values
    if changed or DTYPES.get(checkpoint.tensors[name].dtype) != ROUNDED[rounding]:
        with np.errstate(over="ignore"):
            rounded = values.astype(ROUNDED[rounding]).astype(np.float32)
    if not np.isfinite(rounded).all():
        whose = "the base or its adapter holds" if not np.isfinite(values).all() else "rounding produced"
        raise ExportError(
            f"{checkpoint.folder}: {name}: {whose} values that are not finite (rounding {rounding}); "
            "use rounding bf16, or look at the training run: it may have diverged"
        )
    return rounded


def planned_rows(
    checkpoint: Checkpoint, adapter: Adapter | None, plan: TensorPlan, rows: slice, rounding: Rounding
) -> Float32:
    """Rows of one tensor of a GGUF, merged and rounded, in the checkpoint's order; see `merged_rows`.

    Of a stack of experts, ``[experts, ...]``, a row is an expert.
    """
    if not plan.stacked:
        return merged_rows(checkpoint, adapter, plan.source, rows, rounding)
    return np.stack([merged_rows(checkpoint, adapter, source, None, rounding) for source in plan.stacked[rows]])


def require_rounding(rounding: str) -> None:
    """Check the name of a rounding.

    Raises:
        UnsupportedError: it is not known.
    """
    if rounding not in ROUNDED:
        known = ", ".join(get_args(Rounding))
        raise UnsupportedError(f"rounding: unknown type {rounding!r}; use one of {known}")
