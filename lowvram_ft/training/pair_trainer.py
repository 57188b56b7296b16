"""TRL's ``DPOTrainer`` with a loss of our own, which knows the reference from the disk and makes no logits.

TRL's own keeps a copy of the adapter as the reference and runs it in each step, takes the mean over each micro-batch
(so that accumulation over micro-batches that differ in size weighs pairs differently), and needs Triton for its fused
head. The values are those of TRL's at a micro-batch of one pair.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.nn.functional import logsigmoid
from trl import DPOTrainer

from lowvram_ft.recipe.sections import LossType
from lowvram_ft.training.log_probs import completion_log_probs, computing_in
from lowvram_ft.training.processes.ddp import through_wrapper


class PairTrainer(DPOTrainer):  # type: ignore[misc]
    """Preference training on pairs that are rendered already, with reference log-probabilities beside them.

    Where Unsloth was imported first, the class below is the one that it has rewritten.

    Attributes:
        loss_chunk: completion tokens whose logits exist at a time; None for all.
        compute_dtype: what is computed in, by torch's name; that of the references. Not read from the arguments, which
            Unsloth changes.
    """

    loss_is_scaled_for_ga = True  # read by TRL and by transformers from 5.19 on: the loss is a share of the step's mean
    loss_chunk: int | None = None
    compute_dtype = "float32"

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        """Pairs come with their tokens."""
        return dataset

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: Any = None) -> tuple[Any, Any]:
        """The micro-batches of a step, and how many pairs they hold in all processes.

        Whoever has patched the trainer counts labels, of which pairs have none.
        """
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        count = sum(int(_is_pair(batch["completion_mask"]).sum()) for batch in batches)
        pairs = torch.tensor(count, device=self.args.device)
        return batches, self.accelerator.reduce(pairs) if self.accelerator.num_processes > 1 else pairs

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The share of a micro-batch in the mean over the pairs of its step; alone, the mean over its own.

        Args:
            model: the PEFT model, or DDP around it.
            inputs: what TRL's collator makes of B pairs: ``input_ids``, ``attention_mask`` and ``completion_mask``,
                each of shape [2 B, T], winners first; ``ref_chosen_logps`` and ``ref_rejected_logps``, shape [B].
            return_outputs: not supported; the logits of all positions are never made.
            num_items_in_batch: pairs of the step.

        Raises:
            ValueError: ``return_outputs`` is set.
        """
        if return_outputs:
            raise ValueError("return_outputs: the logits of all positions are never made")
        args, masks = self.args, inputs["completion_mask"]
        inner = self.accelerator.unwrap_model(model)
        with computing_in(self.compute_dtype, masks.device):
            found = through_wrapper(model, inner, completion_log_probs, inputs, self.loss_chunk)
        references = torch.cat([inputs["ref_chosen_logps"], inputs["ref_rejected_logps"]]).to(found)
        ratios, lengths = found - references, masks[:, 1:].sum(dim=1)
        losses = preference_losses(args.loss_type[0], args.beta, ratios, lengths)
        for kind, weight in zip(args.loss_type[1:], (args.loss_weights or [1.0])[1:], strict=True):
            assert kind == "sft", kind
            losses = losses + weight * winners_nll(found, lengths)
        real = _is_pair(masks)
        self._note(inputs, ratios.detach(), found.detach(), real)
        summed = (losses * real).sum()
        if num_items_in_batch is None:
            return summed / real.sum().clamp(min=1)
        # the pairs of all processes are counted, and DDP takes the mean of their gradients where the sum is wanted
        items = torch.as_tensor(num_items_in_batch, device=summed.device).clamp(min=1)
        return summed * self.accelerator.num_processes / items

    def _note(
        self, inputs: Mapping[str, torch.Tensor], ratios: torch.Tensor, found: torch.Tensor, real: torch.Tensor
    ) -> None:
        """Count tokens, and keep TRL's measures for the log."""
        mode = "train" if self.model.training else "eval"
        if mode == "train":
            self._total_train_tokens += int(self.accelerator.reduce(inputs["attention_mask"].sum()))
        self._metrics[mode]["num_tokens"] = [self._total_train_tokens]
        chosen, rejected = (self.args.beta * part for part in ratios.chunk(2))
        measures = {
            "rewards/chosen": chosen,
            "rewards/rejected": rejected,
            "rewards/margins": chosen - rejected,
            "rewards/accuracies": (chosen > rejected).float(),
            "logps/chosen": found.chunk(2)[0],
            "logps/rejected": found.chunk(2)[1],
        }
        if self.accelerator.num_processes > 1:
            measures = {name: self.accelerator.gather(values) for name, values in measures.items()}
            real = self.accelerator.gather(real)
        for name, values in measures.items():
            self._metrics[mode][name] += values[real].tolist()


def preference_losses(kind: LossType, beta: float, ratios: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """The loss of each pair.

    Args:
        kind: ``sigmoid`` (Rafailov et al. 2023, equation 7), ``ipo`` (Azar et al. 2023, equation 17, with ratios by
            token, as TRL has it after its authors), ``sigmoid_norm`` (the first, with ratios by token).
        beta: how strongly the model is held near the reference.
        ratios: log-probabilities of completions less those under the reference, winners first, shape [2 B].
        lengths: tokens of the completions, shape [2 B].

    Returns:
        Shape [B].
    """
    if kind != "sigmoid":
        ratios = ratios / lengths.clamp(min=1)
    chosen, rejected = ratios.chunk(2)
    margin = chosen - rejected
    if kind == "ipo":
        return (margin - 1 / (2 * beta)) ** 2
    losses: torch.Tensor = -logsigmoid(beta * margin)
    return losses


def winners_nll(found: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """The mean negative log-likelihood of each winner's tokens.

    Args:
        found: log-probabilities of completions, winners first, shape [2 B].
        lengths: their tokens, shape [2 B].

    Returns:
        Shape [B].
    """
    return -(found / lengths.clamp(min=1)).chunk(2)[0]


def _is_pair(completion_mask: torch.Tensor) -> torch.Tensor:
    """Which of a micro-batch are pairs, shape [B]: those that only keep processes in step have no completion."""
    return completion_mask.chunk(2)[0].any(dim=1)
