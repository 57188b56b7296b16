"""TRL's ``SFTTrainer`` with a loss that runs without Triton: on the CPU, TRL's own fused head is not there.

The head is applied to the positions that carry loss alone: a prompt of 300 tokens before a completion of 80 costs
nothing in a vocabulary of 49,152. The value is that of TRL's ``loss_type="nll"``: the summed negative log-likelihood
of the labels over the number of labels in the whole effective batch.
"""

from __future__ import annotations

from typing import Any

import torch
from trl import SFTTrainer

from lowvram_ft.data.prepared import IGNORE_INDEX
from lowvram_ft.training.ddp import through_wrapper
from lowvram_ft.training.fused import head_nll
from lowvram_ft.training.placement import TableHead


class CpuSFTTrainer(SFTTrainer):  # type: ignore[misc]
    """Supervised fine-tuning on the CPU."""

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The loss of a micro-batch.

        Args:
            model: the PEFT model, or DDP around it.
            inputs: ``input_ids``, ``attention_mask``, ``labels``, each of shape [B, T].
            return_outputs: not supported; the logits of all positions are never made.
            num_items_in_batch: labels in the effective batch; None divides by those of this micro-batch.

        Raises:
            ValueError: ``return_outputs`` is set.
        """
        if return_outputs:
            raise ValueError("return_outputs: the logits of all positions are never made")
        mode = "train" if self.model.training else "eval"
        if mode == "train":
            self._total_train_tokens += int(self.accelerator.reduce(inputs["attention_mask"].sum()))
        self._metrics[mode]["num_tokens"] = [self._total_train_tokens]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.args.bf16):
            summed, count = through_wrapper(model, self.accelerator.unwrap_model(model), completion_nll, inputs)
        if num_items_in_batch is None:
            return summed / count.clamp(min=1)
        # the labels of all processes are counted, and DDP takes the mean of their gradients where the sum is wanted
        return summed * self.accelerator.num_processes / torch.as_tensor(num_items_in_batch).clamp(min=1)


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
    return head_nll(head, states, labels[mask]), mask.sum()
