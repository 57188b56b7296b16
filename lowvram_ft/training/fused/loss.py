"""The negative log-likelihood behind the output head, in slices of positions, with its gradient made on the way.

PyTorch's own chain (product, float32, ``cross_entropy``) keeps the logits of all positions twice in float32 and goes
over them six times: 49,152 entries a position. The head is frozen, so the gradient of a slice can be made while its
logits are in the cache, and nothing of them stays.
"""

from __future__ import annotations

from typing import Any

import torch

POSITIONS = 256
"""Positions whose logits exist at a time."""


class HeadNll(torch.autograd.Function):
    """Summed negative log-likelihood of labels under ``hidden @ weight.T``; a gradient for ``hidden`` alone."""

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, dtype: torch.dtype
    ) -> torch.Tensor:
        """Shapes: ``hidden`` [N, K], ``weight`` [V, K], ``labels`` [N], none ignored; returns a float32 scalar."""
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        wants = ctx.needs_input_grad[0]
        gradient = torch.empty(hidden.shape, dtype=dtype, device=hidden.device) if wants else None
        with torch.autocast(hidden.device.type, enabled=False):
            weight = weight.to(dtype)
            for start in range(0, len(labels), POSITIONS):
                part = slice(start, start + POSITIONS)
                label = labels[part, None]
                logits = (hidden[part].to(dtype) @ weight.t()).float()
                normalizer = torch.logsumexp(logits, dim=1, keepdim=True)
                total += (normalizer - logits.gather(1, label)).sum()
                if gradient is not None:
                    logits.sub_(normalizer).exp_()
                    logits.scatter_add_(1, label, logits.new_full(label.shape, -1.0))
                    torch.mm(logits.to(dtype), weight, out=gradient[part])
        ctx.save_for_backward(gradient)
        ctx.hidden_dtype = hidden.dtype
        return total

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        """What the forward pass made, times what comes from above."""
        (gradient,) = ctx.saved_tensors
        return (gradient * grad).to(ctx.hidden_dtype), None, None, None


def head_nll(head: Any, hidden: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Summed negative log-likelihood of labels behind an output head.

    Args:
        head: ``torch.nn.Linear``; where it is trained or has a bias, PyTorch's own chain is used.
        hidden: [N, K].
        labels: [N]; none of them is ignored.

    Returns:
        float32, a scalar.
    """
    if type(head) is not torch.nn.Linear or head.weight.requires_grad or head.bias is not None:
        return torch.nn.functional.cross_entropy(head(hidden).float(), labels, reduction="sum")
    autocast = torch.is_autocast_enabled(hidden.device.type)
    dtype = torch.get_autocast_dtype(hidden.device.type) if autocast else hidden.dtype
    total: torch.Tensor = HeadNll.apply(hidden, head.weight, labels, dtype)
    return total
