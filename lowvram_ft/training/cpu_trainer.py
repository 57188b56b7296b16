"""TRL's ``SFTTrainer`` with a loss of our own.

On the CPU, TRL's fused head is not there, since it needs Triton; and a head that streams from the host, or is in NF4,
is none that TRL or Unsloth know.

The head is applied to the positions that carry loss alone: a prompt of 300 tokens before a completion of 80 costs
nothing in a vocabulary of 49,152. The value is that of TRL's ``loss_type="nll"``: the summed negative log-likelihood
of the labels over the number of labels in the whole effective batch.
"""

from __future__ import annotations

from typing import Any

import torch
from trl import SFTTrainer

from lowvram_ft.data.prepared import IGNORE_INDEX
from lowvram_ft.training.processes.ddp import through_wrapper
from lowvram_ft.training.vocabulary.head_loss import head_nll
from lowvram_ft.training.vocabulary.placement import TableHead
from lowvram_ft.training.vocabulary.tables import DeviceTable


def completion_loss(
    trainer: Any,
    model: Any,
    inputs: dict[str, Any],
    return_outputs: bool = False,
    num_items_in_batch: Any = None,
) -> Any:
    """The loss of a micro-batch: ``compute_loss`` of a trainer.

    Args:
        trainer: TRL's ``SFTTrainer``, or the one that Unsloth has made of it.
        model: the PEFT model, or DDP around it.
        inputs: ``input_ids``, ``attention_mask``, ``labels``, each of shape [B, T].
        return_outputs: not supported; the logits of all positions are never made.
        num_items_in_batch: labels in the effective batch; None divides by those of this micro-batch.

    Raises:
        ValueError: ``return_outputs`` is set.
    """
    if return_outputs:
        raise ValueError("return_outputs: the logits of all positions are never made")
    mode = "train" if trainer.model.training else "eval"
    if mode == "train":
        trainer._total_train_tokens += int(trainer.accelerator.reduce(inputs["attention_mask"].sum()))
    trainer._metrics[mode]["num_tokens"] = [trainer._total_train_tokens]
    device = inputs["input_ids"].device.type
    dtype, mixed = (torch.float16, trainer.args.fp16) if trainer.args.fp16 else (torch.bfloat16, trainer.args.bf16)
    with torch.autocast(device, dtype=dtype, enabled=mixed):
        summed, count = through_wrapper(model, trainer.accelerator.unwrap_model(model), completion_nll, inputs)
    if num_items_in_batch is None:
        return summed / count.clamp(min=1)
    # the labels of all processes are counted, and DDP takes the mean of their gradients where the sum is wanted
    items = torch.as_tensor(num_items_in_batch, device=summed.device).clamp(min=1)
    return summed * trainer.accelerator.num_processes / items


class CpuSFTTrainer(SFTTrainer):  # type: ignore[misc]
    """Supervised fine-tuning where TRL's own fused head is not there: on the CPU, and with a head that is a table."""

    compute_loss = completion_loss


def completion_nll(model: Any, inputs: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Summed negative log-likelihood of the labels, and how many there are.

    Args:
        model: a ``peft.PeftModel`` around a causal language model.
        inputs: ``input_ids``, ``attention_mask``, ``labels``, each of shape [B, T].

    Returns:
        The sum (float32, scalar) and the count (scalar).
    """
    base = model.get_base_model()
    hidden = base.model(
        input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False
    ).last_hidden_state
    labels = inputs["labels"][:, 1:]
    mask = labels != IGNORE_INDEX
    head, states = base.get_output_embeddings(), hidden[:, :-1][mask]
    if isinstance(head, TableHead):
        return head.nll(states, labels[mask]), mask.sum()
    if head.weight.requires_grad or head.bias is not None:  # a head that is trained wants its own gradient
        logits = head(states)
        return torch.nn.functional.cross_entropy(logits.float(), labels[mask], reduction="sum"), mask.sum()
    return head_nll(states, labels[mask], DeviceTable(head.weight)), mask.sum()
