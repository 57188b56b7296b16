"""The reference engine: transformers + PEFT + bitsandbytes NF4, on the CPU or any GPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gguf_export import Checkpoint
from lowvram_ft.errors import ModelError
from lowvram_ft.hardware import cpu_flags, detect, has_fast_bf16
from lowvram_ft.memory.notches import Lever
from lowvram_ft.recipe import LoraSection, QuantizationSection, TrainSection
from lowvram_ft.recipe.sections import Method
from lowvram_ft.training.engines.protocol import Loaded, LoadPlan
from lowvram_ft.training.sft import build_sft_trainer

if TYPE_CHECKING:
    from datasets import Dataset


FLOAT32_SHARE = 0.5
"""Most of the free memory that weights in float32 may take."""


class ReferenceEngine:
    """Plain libraries, no kernels of their own: what a GPU result is held against."""

    name = "reference"

    def levers(self, device: str) -> frozenset[Lever]:
        """What can be given up; see `lowvram_ft.training.engines.Engine`. On the CPU there is no other place to go."""
        everywhere: frozenset[Lever] = frozenset({"checkpointing", "smaller_batch", "shorter"})
        if device == "cpu":
            return everywhere
        return everywhere | {"offload_embedding", "offload_head", "nf4_head", "nf4_embedding", "optimizer_8bit"}

    def load(self, model: Path, plan: LoadPlan, adapter: Path | None) -> Loaded:
        """Load a base model with an adapter; see `lowvram_ft.training.engines.Engine`."""
        import torch
        from peft import get_peft_model
        from transformers import set_seed

        from lowvram_ft.training.vocabulary.placement import device_map, moves_vocabulary, place_vocabulary

        device = "cuda" if torch.cuda.is_available() else "cpu"
        parts_on_host = device == "cuda" and moves_vocabulary(plan)
        dtype = compute_dtype(device)
        set_seed(plan.seed)
        where = device_map(plan) if device == "cuda" else None
        base, tokenizer = _pretrained(model, dtype, _quantization(plan.quantization, dtype, parts_on_host), where)
        place_vocabulary(base, plan, torch.device(device))
        # PEFT's prepare_model_for_kbit_training is left out: it makes float32 of embedding, head and norms, twice their
        # bytes, and of all activations between the layers. Unsloth keeps their type too; the trainer does the rest.
        if plan.quantization.load_in_4bit and device == "cpu":
            keep_weights_unpacked(base)
        if adapter is None:
            lora = plan.lora if plan.dropout else plan.lora.model_copy(update={"lora_dropout": 0.0})
            peft = get_peft_model(base, lora_config(lora))
        else:
            peft = continue_adapter(base, adapter, trainable=True, dropout=plan.dropout)
        if device == "cpu":
            from lowvram_ft.training.fused import fuse

            fuse(peft, keep_dequantized=plan.keep_dequantized)
        return Loaded(peft, tokenizer, device, dtype, plan.loss_chunk)

    def load_frozen(
        self,
        model: Path,
        quantization: QuantizationSection,
        chain: Sequence[Path],
        max_length: int,
        dtype: str | None,
    ) -> Loaded:
        """Load to answer; see `lowvram_ft.training.engines.Engine`.

        The adapter is merged into weights of 16 or 32 bits, as an export does it; beside those of 4 bits it stays. On
        the CPU those are dequantized once where there is room: bitsandbytes' kernel for it computes in bf16, where
        training did not, and what it gives depends on how many rows it is given.
        """
        import torch

        del max_length  # the cache grows as it is needed
        in_4bit = quantization.load_in_4bit
        if in_4bit and len(chain) > 1:
            raise ModelError(
                f"{chain[-1]}: was trained on another adapter, which 4 bits cannot take in; run: lowvram-ft export"
            )
        on_gpu = torch.cuda.is_available()
        device = "cuda" if on_gpu else "cpu"
        roomy = not on_gpu and _fits_in_float32(model)
        dtype = dtype or ("float32" if roomy else compute_dtype(device))
        where = {"": 0} if on_gpu else None
        found, tokenizer = _pretrained(model, dtype, _quantization(quantization, dtype, False), where)
        if in_4bit and not on_gpu:
            keep_weights_unpacked(found)
            if roomy:
                found, in_4bit = found.dequantize(), False
        for adapter in chain:
            found = continue_adapter(found, adapter, trainable=False)
            if not in_4bit:
                found = found.merge_and_unload()
        return Loaded(found.eval(), tokenizer, device, dtype)

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
        """Build the trainer; see `lowvram_ft.training.engines.Engine`."""
        if method == "dpo":
            from lowvram_ft.training.preference import build_preference_trainer

            return build_preference_trainer(loaded, train, rows, eval_rows, output_dir, callbacks)
        from lowvram_ft.training.vocabulary.placement import has_table_head

        trainer_class = None
        if loaded.device == "cpu" or has_table_head(loaded.model):
            from lowvram_ft.training.cpu_trainer import CpuSFTTrainer

            trainer_class = CpuSFTTrainer
        return build_sft_trainer(loaded, train, rows, eval_rows, output_dir, callbacks, trainer_class)


def _fits_in_float32(model: Path) -> bool:
    """Whether a model may answer in float32 on the CPU.

    A few rows at a time, it is faster than bf16 there (docs/models.md), and what a neighbour in a batch changes in the
    sums is far below what decides a token.
    """
    n_weights = sum(tensor.n_elements for tensor in Checkpoint.open(model).tensors.values())
    return 4 * n_weights <= FLOAT32_SHARE * detect().ram_available_bytes


def _pretrained(model: Path, dtype: str, quantization: Any, where: Any) -> tuple[Any, Any]:
    """A model and its tokenizer, as transformers loads them.

    Raises:
        ModelError: the folder is broken.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        found = AutoModelForCausalLM.from_pretrained(
            model, dtype=getattr(torch, dtype), quantization_config=quantization, device_map=where
        )
        return found, AutoTokenizer.from_pretrained(model)
    except Exception as error:
        if not isinstance(error, OSError | ValueError | RuntimeError | KeyError) and not is_safetensors(error):
            raise
        raise ModelError(f"{model}: cannot be loaded ({first_line(error)}); download it again") from error


def compute_dtype(device: str) -> str:
    """The type to compute in: bf16 where the device has it in hardware, else float32."""
    if device == "cuda":
        import torch

        return "bfloat16" if torch.cuda.is_bf16_supported() else "float16"
    return "bfloat16" if has_fast_bf16(cpu_flags()) else "float32"


def lora_config(section: LoraSection) -> Any:
    """The recipe's section as PEFT's ``LoraConfig``."""
    from peft import LoraConfig

    return LoraConfig(
        r=section.r,
        lora_alpha=section.lora_alpha,
        lora_dropout=section.lora_dropout,
        target_modules=list(section.target_modules),
        use_rslora=section.use_rslora,
        bias="none",
        task_type="CAUSAL_LM",
    )


def continue_adapter(base: Any, adapter: Path, *, trainable: bool, dropout: bool = True) -> Any:
    """Put an adapter on a base model.

    Args:
        base: the model.
        adapter: a PEFT folder.
        trainable: whether it is to be trained on.
        dropout: whether its dropout is at work while it is trained.

    Raises:
        ModelError: it is missing, broken, or belongs to another base model.
    """
    from peft import PeftConfig, PeftModel

    if not (adapter / "adapter_config.json").is_file():
        raise ModelError(f"{adapter}: is not a PEFT adapter (no adapter_config.json); give an adapter folder")
    try:
        config = PeftConfig.from_pretrained(str(adapter))
        if not dropout:
            config.lora_dropout = 0.0
        model = PeftModel.from_pretrained(base, str(adapter), is_trainable=trainable, config=config)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise does_not_fit(adapter, first_line(error)) from error
    except Exception as error:
        if not is_safetensors(error):
            raise
        raise ModelError(f"{adapter}: broken weights ({first_line(error)}); train or copy it again") from error
    _require_same_layers(model, adapter)
    return model


def does_not_fit(adapter: Path, why: str) -> ModelError:
    """The error for an adapter of another base model."""
    return ModelError(f"{adapter}: does not fit this base model ({why}); use the base model it was trained on")


def _require_same_layers(model: Any, adapter: Path) -> None:
    """Refuse an adapter that leaves layers of the base model out, or has some for layers that are not there.

    PEFT only warns of either, and goes on with what is left.

    Raises:
        ModelError: it does.
    """
    from peft import get_peft_model_state_dict
    from safetensors import safe_open

    path = adapter / "adapter_model.safetensors"
    if not path.is_file():
        return  # an adapter in PyTorch's own format, which PEFT has read
    with safe_open(path, framework="pt") as file:
        given = {key for key in file.keys() if "lora_" in key}  # noqa: SIM118 - it is no mapping
    wanted = {key for key in get_peft_model_state_dict(model, save_embedding_layers=False) if "lora_" in key}
    if wanted - given:
        raise does_not_fit(adapter, f"it has no {min(wanted - given)}")
    if given - wanted:
        raise does_not_fit(adapter, f"the model has no place for {min(given - wanted)}")


def keep_weights_unpacked(model: Any) -> None:
    """Switch off bitsandbytes' CPU repacking of 4-bit weights.

    At the first forward without gradients, bitsandbytes repacks a ``Linear4bit`` for its AVX512-BF16 kernel, and never
    unpacks it: after one evaluation the backward pass reads packed bytes as if they were not, and is silently wrong.
    """
    import bitsandbytes as bnb

    for module in model.modules():
        if isinstance(module, bnb.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False


def _quantization(section: QuantizationSection, dtype: str, parts_on_host: bool) -> Any:
    if not section.load_in_4bit:
        return None
    import torch
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=section.bnb_4bit_quant_type,
        bnb_4bit_use_double_quant=section.bnb_4bit_use_double_quant,
        bnb_4bit_compute_dtype=getattr(torch, dtype),
        llm_int8_enable_fp32_cpu_offload=parts_on_host,  # "fp32" in name only: they keep their type
    )


def is_safetensors(error: BaseException) -> bool:
    """Whether a file of weights is truncated or damaged: an exception of a class that is no ``ValueError``."""
    return type(error).__name__ == "SafetensorError"


def first_line(error: BaseException) -> str:
    """What an exception says, short enough for one line."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
