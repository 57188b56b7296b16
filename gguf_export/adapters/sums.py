"""The sum of a base's rows and the product of two factors, the same on every machine.

In float32 the last bit of a product depends on the processor, on how many threads share the work, and on how many rows
are multiplied at once: BLAS sums in another order, with or without fused multiplication. A file made of such sums is
another one on the next machine. In float64 what the order changes lies 29 bits below the last bit of a float32.
"""

from __future__ import annotations

import numpy as np

from ..checkpoints.shards import Float32

_CHUNK_VALUES = 1 << 17
"""Values that are held in float64 at once: 1 MiB stays in the cache of a core, and takes no longer than float32."""


def add_product(values: Float32, b: Float32, a: Float32, scale: float, magnitude: Float32 | None = None) -> Float32:
    """``values + scale * b @ a``, summed in float64 and rounded once; ``values`` is overwritten.

    Args:
        values: ``[rows, in]``.
        b: ``[rows, r]``.
        a: ``[r, in]``.
        scale: what the product is multiplied with.
        magnitude: DoRA's, ``[rows]``: each row of the sum gets this length before it is rounded.
    """
    wide, step = a.astype(np.float64), max(1, _CHUNK_VALUES // a.shape[1])
    for start in range(0, len(values), step):
        chunk = slice(start, start + step)
        total = b[chunk].astype(np.float64) @ wide
        total *= scale
        total += values[chunk]
        if magnitude is not None:
            with np.errstate(divide="ignore", invalid="ignore"):
                total *= (magnitude[chunk] / np.linalg.norm(total, axis=1))[:, None]
        values[chunk] = total
    return values
