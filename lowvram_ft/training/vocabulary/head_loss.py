"""The negative log-likelihood of labels from the last hidden states, with one pass over the head and no logits kept.

The head's rows arrive in slices (`lowvram_ft.training.vocabulary.tables`). For each position, the largest logit so far
``m``, the sum ``l`` of ``exp(z - m)`` and the weighted sum ``a`` of the head's rows with the same weights are carried
from slice to slice, rescaled where ``m`` grows, as attention does it over keys (Milakov and Gimelshein, "Online
normalizer calculation for softmax", 2018; Dao et al., "FlashAttention", 2022). At the end, with z_y the label's logit,

    nll = m + log l - z_y        d nll / d hidden = a / l + (exp(z_y - m) / l - 1) W_y

so that the gradient is there when the loss is, and a head that comes from the host crosses the bus once a micro-batch
where a backward pass of its own would fetch it again. The label's own row is left out of ``a`` and added at the end in
float32: its weight less one is tiny for a confident model, and would drown in the rounding of 16-bit weights.

Memory, for N positions, H hidden, slices of S rows, c bytes a value: N S (c + 4 + c) for a slice's logits and weights,
N H (4 + c) for the sums and the labels' rows, and the slices themselves.
"""

from __future__ import annotations

from typing import Any

import torch

from lowvram_ft.training.vocabulary.tables import Table


def head_nll(hidden: torch.Tensor, labels: torch.Tensor, head: Table) -> torch.Tensor:
    """Summed negative log-likelihood of labels.

    Args:
        hidden: hidden states that the head is applied to, shape [N, H].
        labels: the token that each is to predict, shape [N]; none is ignored.
        head: the output head, frozen, of shape [V, H].

    Returns:
        The sum over N, float32, scalar. Its gradient flows into ``hidden`` alone.
    """
    return head_nlls(hidden, labels, head).sum()


def head_nlls(hidden: torch.Tensor, labels: torch.Tensor, head: Table) -> torch.Tensor:
    """The negative log-likelihood of each label, in place of their sum; see `head_nll`.

    Returns:
        Shape [N], float32. The gradient of each with respect to its own hidden state is kept, whatever weight it gets.
    """
    each: torch.Tensor = _HeadNll.apply(hidden, labels, head)
    return each


class _HeadNll(torch.autograd.Function):  # type: ignore[misc]
    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, labels: torch.Tensor, head: Table) -> torch.Tensor:
        wants_gradient = hidden.requires_grad
        states = hidden.detach().to(head.dtype)
        each, gradient = _one_pass(states, labels, head, wants_gradient)
        if gradient is not None:
            ctx.save_for_backward(gradient.to(hidden.dtype))
        return each

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream.to(gradient.dtype)[:, None], None, None


def _one_pass(
    states: torch.Tensor, labels: torch.Tensor, head: Table, wants_gradient: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The values, shape [N], and their gradients by ``states`` in float32 where they are wanted; shape [N, H]."""
    n, width = states.shape
    largest = torch.full((n, 1), -torch.inf, device=states.device)
    total = torch.zeros((n, 1), device=states.device)
    of_label = torch.zeros((n, 1), device=states.device)
    weighted = torch.zeros((n, width), device=states.device) if wants_gradient else None
    own_rows = torch.empty((n, width), dtype=states.dtype, device=states.device) if wants_gradient else None
    for start, rows in head.slices():
        logits = (states @ rows.T).float()
        inside = ((labels >= start) & (labels < start + len(rows))).nonzero()[:, 0]
        columns = labels[inside] - start
        of_label[inside, 0] = logits[inside, columns]
        grown = torch.maximum(largest, logits.amax(dim=1, keepdim=True))
        shrink = torch.exp(largest - grown)
        logits.sub_(grown).exp_()
        total = total * shrink + logits.sum(dim=1, keepdim=True)
        largest = grown
        if weighted is not None and own_rows is not None:
            logits[inside, columns] = 0.0
            weighted.mul_(shrink).add_(logits.to(states.dtype) @ rows)
            own_rows[inside] = rows[columns]
        del logits  # or this slice's would still be there while the next one's are made
    each = (largest + total.log() - of_label)[:, 0]
    if weighted is None or own_rows is None:
        return each, None
    weighted.div_(total)
    return each, weighted.addcmul_(torch.exp(of_label - largest) / total - 1.0, own_rows.float())
