"""The unsloth engine: fused 4-bit kernels and gradient checkpointing on a CUDA GPU.

This is the one module with an effect at import: Unsloth patches transformers, trl and peft, and has to come before
them. Parts of it are AGPL: it is called, never copied.
"""

from __future__ import annotations

import unsloth  # noqa: F401

# isort: split

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import set_seed
from trl import SFTTrainer
from unsloth import FastLanguageModel

from lowvram_ft.errors import MachineError, ModelError, RecipeError
from lowvram_ft.memory.notches import Lever
from lowvram_ft.recipe import LoraSection, QuantizationSection, TrainSection
from lowvram_ft.recipe.sections import Method
from lowvram_ft.training.cpu_trainer import completion_loss
from lowvram_ft.training.engines.protocol import Loaded, LoadPlan
from lowvram_ft.training.engines.reference import (
    ReferenceEngine,
    compute_dtype,
    does_not_fit,
    first_line,
    is_safetensors,
)
from lowvram_ft.training.preference import build_preference_trainer
from lowvram_ft.training.processes.ddp import own_card
from lowvram_ft.training.sft import build_sft_trainer
from lowvram_ft.training.vocabulary.placement import has_table_head, place_vocabulary

if TYPE_CHECKING:
    from datasets import Dataset


class UnslothEngine:
    """Unsloth's loader and trainer, under the same rows, masks and checkpoints as the reference engine."""

    name = "unsloth"

    def levers(self, device: str) -> frozenset[Lever]:
        """What can be given up; see `lowvram_ft.training.engines.Engine`. Its CPU backend can move nothing."""
        everywhere: frozenset[Lever] = frozenset({"checkpointing", "smaller_batch", "shorter"})
        if device == "cpu":
            return everywhere
        here: frozenset[Lever] = frozenset({"offload_head", "nf4_head", "nf4_embedding", "offload_activations"})
        return everywhere | here | {"offload_layers", "offload_embedding", "optimizer_8bit", "chunked_loss"}

    def load(self, model: Path, plan: LoadPlan, adapter: Path | None) -> Loaded:
        """Load a base model with an adapter; see `lowvram_ft.training.engines.Engine`."""
        _require_known(plan.quantization)
        on_gpu = torch.cuda.is_available()
        dtype = compute_dtype("cuda" if on_gpu else "cpu")
        # "unsloth" is checkpointing with the hidden states on the host
        checkpointing: str | bool = "unsloth" if plan.offload_activations and on_gpu else plan.gradient_checkpointing
        set_seed(plan.seed)
        try:
            base, tokenizer = FastLanguageModel.from_pretrained(
                model_name=str(model),
                max_seq_length=plan.max_length,
                dtype=None if on_gpu else getattr(torch, dtype),
                load_in_4bit=plan.quantization.load_in_4bit,
                use_gradient_checkpointing=checkpointing,
                **(_placement(plan) if on_gpu else {}),
            )
        except torch.OutOfMemoryError as error:
            raise MachineError(
                f"{model}: does not fit on the card while loading; see: lowvram-ft plan RECIPE"
            ) from error
        except Exception as error:
            if not isinstance(error, OSError | ValueError | RuntimeError | KeyError) and not is_safetensors(error):
                raise
            raise ModelError(f"{model}: Unsloth cannot load it ({first_line(error)}); download it again") from error
        place_vocabulary(base, plan, torch.device("cuda" if on_gpu else "cpu"))  # Unsloth cannot move the head
        lora = plan.lora if adapter is None else _section_of(adapter)
        if not plan.dropout:
            lora = lora.model_copy(update={"lora_dropout": 0.0})
        peft = FastLanguageModel.get_peft_model(
            base,
            r=lora.r,
            lora_alpha=lora.lora_alpha,
            lora_dropout=lora.lora_dropout,
            target_modules=list(lora.target_modules),
            use_rslora=lora.use_rslora,
            bias="none",
            use_gradient_checkpointing=checkpointing,
            random_state=plan.seed,
            max_seq_length=plan.max_length,
            **({"prefetch_depth": plan.slot_layers - 1} if plan.offload_layers and on_gpu else {}),
        )
        if plan.loss_chunk is not None and on_gpu:
            bound_loss(plan.loss_chunk, base.config.vocab_size)
        if adapter is not None:
            _load_adapter(peft, adapter)
        return Loaded(peft, tokenizer, "cuda" if on_gpu else "cpu", dtype, plan.loss_chunk)

    def load_frozen(
        self,
        model: Path,
        quantization: QuantizationSection,
        chain: Sequence[Path],
        max_length: int,
        dtype: str | None,
    ) -> Loaded:
        """Load to answer; see `lowvram_ft.training.engines.Engine`. The adapter stays beside the base's weights.

        A chain, and a type that was asked for, are the reference engine's: Unsloth merges nothing in place.
        """
        if len(chain) > 1 or dtype is not None:
            return ReferenceEngine().load_frozen(model, quantization, chain, max_length, dtype)
        plan = LoadPlan(
            quantization=quantization,
            lora=_section_of(chain[0]),
            max_length=max_length,
            gradient_checkpointing=False,
            offload_layers=0,
            offload_embedding=False,
            vram_bytes=None,
            seed=0,
        )
        loaded = self.load(model, plan, chain[0])
        FastLanguageModel.for_inference(loaded.model)
        return loaded

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
        """Build the trainer; see `lowvram_ft.training.engines.Engine`.

        ``trl.SFTTrainer`` and ``trl.DPOTrainer`` are those that Unsloth has rewritten, since they were imported after
        it.
        """
        if method == "dpo":
            return build_preference_trainer(loaded, train, rows, eval_rows, output_dir, callbacks)
        trainer_class = TableSFTTrainer if has_table_head(loaded.model) else SFTTrainer
        return build_sft_trainer(loaded, train, rows, eval_rows, output_dir, callbacks, trainer_class)


class TableSFTTrainer(SFTTrainer):  # type: ignore[misc]
    """Unsloth's trainer with our loss: its own reads ``lm_head.weight``, which a head that is a table has not."""

    compute_loss = completion_loss


def _placement(plan: LoadPlan) -> dict[str, Any]:
    """What of the model stays in host memory, as the memory plan decided."""
    placement: dict[str, Any] = {}
    if plan.offload_layers:
        limit = {own_card(): f"{plan.vram_bytes / 2**30:.2f}GiB"} if plan.vram_bytes else None
        placement["offload_layers"] = plan.offload_layers
        placement["device_map_planner_kwargs"] = {
            "batch_size": 1,
            "lora_rank": plan.lora.r,
            "prefetch_depth": plan.slot_layers - 1,
            **({"max_memory": limit} if limit else {}),
        }
    if plan.offload_embedding:
        placement["offload_embedding"] = True
    return placement


def bound_loss(tokens: int, vocab_size: int) -> None:
    """Let Unsloth's fused loss make float32 logits of so many tokens at a time; it sizes them from the whole card.

    It reads ``UNSLOTH_LOGPROB_CHUNK_GB`` when it is imported, and a plan is known later: what it has read is changed.
    """
    from unsloth_zoo.fused_losses import chunked_logprob, fused_linear

    for module in (chunked_logprob, fused_linear):
        module._CHUNK_GB = tokens * vocab_size * getattr(module, "_BYTES_PER_LOGIT", 4) / 2**30


def _section_of(adapter: Path) -> LoraSection:
    """The LoRA settings that an adapter was made with.

    Raises:
        ModelError: it is missing or broken.
    """
    path = adapter / "adapter_config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        return LoraSection(
            r=config["r"],
            lora_alpha=config["lora_alpha"],
            lora_dropout=float(config["lora_dropout"]),
            target_modules=tuple(config["target_modules"]),
            use_rslora=config.get("use_rslora", False),
        )
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{path}: is not a PEFT adapter ({error}); give an adapter folder") from error


def _load_adapter(peft: Any, adapter: Path) -> None:
    """Put an adapter's weights into a model that was made with its settings.

    Raises:
        ModelError: they are broken, or belong to another base model.
    """
    try:
        outcome = set_peft_model_state_dict(peft, load_file(str(adapter / "adapter_model.safetensors")))
    except Exception as error:
        if is_safetensors(error) or isinstance(error, OSError):
            raise ModelError(f"{adapter}: broken weights ({first_line(error)}); train or copy it again") from error
        if not isinstance(error, RuntimeError | ValueError | KeyError):
            raise
        raise does_not_fit(adapter, first_line(error)) from error
    missing = sorted(key for key in outcome.missing_keys if "lora_" in key)
    if missing:
        raise does_not_fit(adapter, f"it has no {missing[0]}")
    if outcome.unexpected_keys:
        raise does_not_fit(adapter, f"the model has no place for {min(outcome.unexpected_keys)}")


def _require_known(section: QuantizationSection) -> None:
    """Unsloth chooses the 4-bit format by itself: refuse what it would pass over in silence.

    Raises:
        RecipeError: the recipe asks for another one.
    """
    if not section.load_in_4bit:
        return
    use = 'change it, or set hardware.engine = "reference"'
    problems = []
    if section.bnb_4bit_quant_type != "nf4":
        got = section.bnb_4bit_quant_type
        problems.append(f'quantization.bnb_4bit_quant_type: Unsloth knows "nf4" alone (got "{got}"); {use}')
    if not section.bnb_4bit_use_double_quant:
        problems.append(f"quantization.bnb_4bit_use_double_quant: Unsloth always has it (got false); {use}")
    if problems:
        raise RecipeError(problems)
