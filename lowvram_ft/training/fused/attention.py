"""Causal attention over rows that are padded on the right, in blocks of queries.

A padded position comes after every real one of its row, so the causal mask alone keeps it out of sight: no other mask
is needed, and a block of queries reads no key that comes after it. The keys of a group of query heads are read once
for the group. Scores and softmax are in float32, the probabilities in the type of the values, as PyTorch's own
kernel for the CPU has it (``aten/src/ATen/native/cpu/FlashAttentionKernel.cpp``).
"""

from __future__ import annotations

from typing import Any

import torch

BLOCK = 128
"""Queries of a block."""


class CausalAttention(torch.autograd.Function):  # type: ignore[misc]
    """``softmax(scale q k^T + causal) v`` for grouped query heads."""

    @staticmethod
    def forward(ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
        """Shapes: ``q`` [B, H, T, D], ``k`` and ``v`` [B, J, T, D] with H a multiple of J; returns [B, H, T, D]."""
        batch, heads, length, width = q.shape
        shared = k.shape[1]
        with torch.autocast(q.device.type, enabled=False):
            queries = q.reshape(batch * shared, heads // shared, length, width)
            keys, values = (t.reshape(batch * shared, length, width) for t in (k, v))
            out = torch.empty_like(queries)
            kept = []
            wants = any(ctx.needs_input_grad[:3])
            scaled = keys.float() * scale
            for start in range(0, length, BLOCK):
                stop = min(start + BLOCK, length)
                block = queries[:, :, start:stop]
                rows = block.reshape(batch * shared, -1, width)
                scores = torch.bmm(rows.float(), scaled[:, :stop].transpose(1, 2))
                _mask_future(scores.view(*block.shape[:3], stop), start)
                weights = torch.softmax(scores, dim=-1).to(v.dtype)
                out[:, :, start:stop] = torch.bmm(weights, values[:, :stop]).view(block.shape)
                if wants:
                    kept.append(weights)
        ctx.save_for_backward(queries, keys, values, out, *kept)
        ctx.scale, ctx.q_shape, ctx.k_shape = scale, q.shape, k.shape
        return out.view(batch, heads, length, width)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        """The gradients of a softmax of products (Dao et al. 2022, appendix B.2), block by block."""
        queries, keys, values, out, *kept = ctx.saved_tensors
        pairs, group, length, width = queries.shape
        grad = grad.reshape(queries.shape)
        delta = (grad.float() * out.float()).sum(-1, keepdim=True)
        dq = torch.empty_like(queries)
        dk, dv = torch.zeros_like(keys, dtype=torch.float32), torch.zeros_like(values, dtype=torch.float32)
        values_t = values.transpose(1, 2)
        for weights, start in zip(kept, range(0, length, BLOCK), strict=True):
            stop = min(start + BLOCK, length)
            block = (pairs, group * (stop - start), width)
            do = grad[:, :, start:stop].reshape(block)
            dv[:, :stop] += torch.bmm(weights.transpose(1, 2), do)
            ds = torch.bmm(do, values_t[:, :, :stop]).float()
            ds.sub_(delta[:, :, start:stop].reshape(pairs, -1, 1)).mul_(weights).mul_(ctx.scale)
            ds = ds.to(queries.dtype)
            dq[:, :, start:stop] = torch.bmm(ds, keys[:, :stop]).view(pairs, group, stop - start, width)
            dk[:, :stop] += torch.bmm(ds.transpose(1, 2), queries[:, :, start:stop].reshape(block))
        return dq.view(ctx.q_shape), dk.to(keys.dtype).view(ctx.k_shape), dv.to(values.dtype).view(ctx.k_shape), None


def _mask_future(scores: torch.Tensor, start: int) -> None:
    """Hide from each query of a block the keys after it; ``scores`` is [..., queries, keys], both from ``start`` on."""
    diagonal = scores[..., start:]
    size = diagonal.shape[-1]
    future = torch.full((size, size), -torch.inf, device=scores.device).triu_(1)
    diagonal += future
