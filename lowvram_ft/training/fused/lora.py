"""A LoRA linear layer as one autograd function: PEFT's sums, without its copies.

For one layer ``y = x W^T + b + s (x * m / (1 - p)) A^T B^T`` (Hu et al. 2021, equation 3, with PEFT's dropout on the
input), PEFT keeps three tensors of the size of ``x`` for the backward pass, two of them in float32, and goes over the
output four times. Here ``x`` is kept once for all layers that read it, with one mask of 16 bits an element, and the
low-rank product is added by the matrix product that makes it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from lowvram_ft.training.fused.dropout import apply_bits, keep_bits, keep_scale

Weight = Callable[[], torch.Tensor]


class LoraLinear(torch.autograd.Function):  # type: ignore[misc]
    """``y = x W^T + bias + scale (x * mask) A^T B^T``; gradients for ``x``, ``A`` and ``B``. ``W`` is frozen."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        a: torch.Tensor,
        b: torch.Tensor,
        weight: Weight,
        bias: torch.Tensor | None,
        scale: float,
        p: float,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        """Shapes: ``x`` [..., K], ``a`` [r, K], ``b`` [M, r], ``weight()`` [M, K]; returns [..., M] in ``dtype``."""
        with torch.autocast(x.device.type, enabled=False):
            flat = x.reshape(-1, x.shape[-1]).to(dtype)
            bits = keep_bits(flat.shape, p) if p else None
            scale = scale * keep_scale(p) if p else scale
            low = (flat if bits is None else apply_bits(flat, bits)) @ a.to(dtype).t()
            y = torch.nn.functional.linear(flat, weight().to(dtype), None if bias is None else bias.to(dtype))
            y.addmm_(low, b.to(dtype).t(), alpha=scale)
        ctx.save_for_backward(flat, bits, low, a, b)
        ctx.weight, ctx.scale, ctx.shape, ctx.x_dtype = weight, scale, x.shape, x.dtype
        return y.view(*x.shape[:-1], y.shape[-1])

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        """The chain rule, in the type of the forward pass; the gradients of ``a`` and ``b`` in theirs."""
        flat, bits, low, a, b = ctx.saved_tensors
        dtype = flat.dtype
        dy = grad.reshape(-1, grad.shape[-1]).to(dtype)
        dlow = (dy @ b.to(dtype)).mul_(ctx.scale)
        masked = flat if bits is None else apply_bits(flat, bits)
        da = (dlow.t() @ masked).to(a.dtype) if ctx.needs_input_grad[1] else None
        db = (dy.t() @ low).to(b.dtype).mul_(ctx.scale) if ctx.needs_input_grad[2] else None
        dx = None
        if ctx.needs_input_grad[0]:
            dx = dy @ ctx.weight().to(dtype)
            if bits is None:
                dx.addmm_(dlow, a.to(dtype))
            else:
                dx += apply_bits(dlow @ a.to(dtype), bits)
            dx = dx.to(ctx.x_dtype).view(ctx.shape)
        return dx, da, db, None, None, None, None, None
