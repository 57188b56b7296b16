"""The protocol of an engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from lowvram_ft.memory.notches import Lever
from lowvram_ft.memory.setup import Head
from lowvram_ft.recipe import LoraSection, QuantizationSection, TrainSection
from lowvram_ft.recipe.sections import Method

if TYPE_CHECKING:
    from datasets import Dataset

PEAK = "peak"
"""Beside the names of terms in `LoadPlan.planned_bytes`: the most that torch reserves on the card."""


@dataclass(frozen=True)
class LoadPlan:
    """How a model is loaded: the recipe's sections, and what the memory plan decided.

    Attributes:
        quantization: how the frozen weights are held.
        lora: the adapter to make, where none is continued.
        max_length: most tokens of a row.
        gradient_checkpointing: recompute activations in the backward pass.
        offload_layers: decoder layers kept in host memory while training (Unsloth only).
        offload_embedding: keep the embedding in host memory.
        vram_bytes: most memory that may be reserved on the card; None for all of it.
        seed: of the adapter's initial weights.
        head: where the output head is; see `lowvram_ft.memory.TrainingSetup`.
        nf4_embedding: hold the embedding in NF4, with the head where they are tied.
        slot_layers: layers' worth of card memory that offloaded ones pass through; one more than are fetched ahead.
        offload_activations: keep checkpointed hidden states in host memory.
        loss_chunk: tokens whose logits exist at a time; None for all. Not with a head in slices.
        keep_dequantized: hold 4-bit weights in the compute type besides (the reference engine on a CPU).
        dropout: whether the adapter's dropout is at work; False is without, whatever the adapter was made with.
        planned_bytes: what the memory plan says of each of its terms on the device that trains, and of its peak.
        budget_bytes: its peak: of the card, or without one of this process; None where nothing was planned.
    """

    quantization: QuantizationSection
    lora: LoraSection
    max_length: int
    gradient_checkpointing: bool
    offload_layers: int
    offload_embedding: bool
    vram_bytes: int | None
    seed: int
    head: Head = "device"
    nf4_embedding: bool = False
    slot_layers: int = 2
    offload_activations: bool = False
    loss_chunk: int | None = None
    keep_dequantized: bool = False
    dropout: bool = True
    planned_bytes: Mapping[str, int] = field(default_factory=dict)
    budget_bytes: int | None = None


@dataclass(frozen=True)
class Loaded:
    """A model with its adapter, ready to train or to answer.

    Attributes:
        model: a ``peft.PeftModel``.
        tokenizer: a ``transformers.PreTrainedTokenizerFast``.
        device: ``"cuda"`` or ``"cpu"``.
        dtype: the compute type, as PyTorch names it: ``"bfloat16"``, ``"float32"``, …
        loss_chunk: labels of pairs whose logits exist at a time; None for all. See `LoadPlan`.
    """

    model: Any
    tokenizer: Any
    device: str
    dtype: str
    loss_chunk: int | None = None


class Engine(Protocol):
    """Loads a model, and builds the trainer for it. Preference training needs the same load, so they are apart."""

    name: str

    def levers(self, device: str) -> frozenset[Lever]:
        """What this engine can give up when memory runs out.

        Args:
            device: ``"cuda"`` or ``"cpu"``.
        """
        ...

    def load(self, model: Path, plan: LoadPlan, adapter: Path | None) -> Loaded:
        """Load a base model with a new adapter, or with one to continue.

        Args:
            model: folder in the hub's layout.
            plan: how.
            adapter: PEFT folder to continue; None makes a new one from ``plan.lora``.

        Raises:
            ModelError: the folder is broken, or the adapter belongs to another base model.
            MachineError: the model does not fit.
        """
        ...

    def load_frozen(
        self,
        model: Path,
        quantization: QuantizationSection,
        chain: Sequence[Path],
        max_length: int,
        dtype: str | None,
    ) -> Loaded:
        """Load a base model with its adapter to answer, not to train.

        Args:
            model: folder in the hub's layout.
            quantization: how its weights are held.
            chain: PEFT folders, first trained first; each was trained on the ones before, merged.
            max_length: most tokens of a prompt and its answer.
            dtype: to compute in; None for what training takes here.

        Raises:
            ModelError: the folder is broken, an adapter does not fit, or a chain is asked for on 4 bits.
            MachineError: the model does not fit.
        """
        ...

    def trainer(
        self,
        method: Method,
        loaded: Loaded,
        train: TrainSection,
        rows: Dataset,
        eval_rows: Dataset | None,
        output_dir: Path,
        callbacks: Sequence[Any],
    ) -> Any:
        """Build the trainer.

        Args:
            method: what to train; ``rft`` is ``sft`` on other rows.
            loaded: from `load`.
            train: the recipe's section.
            rows: ``input_ids`` and ``labels`` of each training row, shape [T]; -100 where no loss falls. For ``dpo``,
                pairs with their reference log-probabilities (`lowvram_ft.data.prepared_pairs.for_trainer`).
            eval_rows: the same for the validation loss; None for none.
            output_dir: for checkpoints.
            callbacks: of type ``transformers.TrainerCallback``.

        Returns:
            A ``trl.SFTTrainer``; for ``dpo`` a ``trl.DPOTrainer``.
        """
        ...
