"""Log-probabilities of whole completions: logits exist for the completions' tokens alone, and a few at a time.

The head is applied in slices of the vocabulary (`lowvram_ft.training.vocabulary.head_loss`), which keeps no logits, and
where the plan says so to so many tokens at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from lowvram_ft.training.vocabulary.head_loss import head_nlls
from lowvram_ft.training.vocabulary.placement import TableHead
from lowvram_ft.training.vocabulary.tables import DeviceTable


def completion_log_probs(model: Any, inputs: Mapping[str, torch.Tensor], chunk: int | None) -> torch.Tensor:
    """The log-probability of each sequence's completion, given its prompt.

    Args:
        model: a ``peft.PeftModel`` around a causal language model.
        inputs: ``input_ids``, ``attention_mask`` and ``completion_mask`` (1 for the completion's tokens), each of shape
            [B, T].
        chunk: tokens whose logits exist at a time; None for all. A head that comes from the host, or is dequantized,
            does so once for all.

    Returns:
        The sum over the completion's tokens, float32, shape [B]; 0 where there are none.
    """
    base = model.get_base_model()
    hidden = base.model(
        input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False
    ).last_hidden_state
    mask = inputs["completion_mask"][:, 1:].bool()
    states, labels = hidden[:, :-1][mask], inputs["input_ids"][:, 1:][mask]
    head = base.get_output_embeddings()
    size = len(states) if chunk is None or isinstance(head, TableHead) else chunk
    of_labels = _of_labels(head)
    parts = [of_labels(states[at : at + size], labels[at : at + size]) for at in range(0, len(states), max(1, size))]
    # through a dense table: a sum by index is done in any order on a card
    dense = torch.zeros(mask.shape, dtype=torch.float32, device=states.device)
    if parts:
        dense = dense.masked_scatter(mask, torch.cat(parts))
    return dense.sum(dim=1)


def computing_in(dtype: str, device: torch.device) -> torch.autocast:
    """What a model computes in: ``float32`` is without autocast, whatever is around it.

    Args:
        dtype: as `lowvram_ft.training.engines.Loaded` names it.
        device: where.
    """
    mixed = dtype != "float32"
    return torch.autocast(device.type, dtype=getattr(torch, dtype) if mixed else None, enabled=mixed)


def _of_labels(head: Any) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Log-probabilities of labels from the states before them: shapes [N, H] and [N] to [N]."""
    if isinstance(head, TableHead):
        return lambda states, labels: -head.nlls(states, labels)
    if head.weight.requires_grad or head.bias is not None:  # one that is trained wants its own gradient
        return lambda states, labels: torch.utils.checkpoint.checkpoint(
            _through_logits, head, states, labels, use_reentrant=False
        )
    return lambda states, labels: -head_nlls(states, labels, DeviceTable(head.weight))


def _through_logits(head: Any, states: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return -torch.nn.functional.cross_entropy(head(states).float(), labels, reduction="none")
