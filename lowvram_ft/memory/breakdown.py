"""The terms of what is trained and of what comes and goes, group by group: where, how much, by which formula."""

from __future__ import annotations

from lowvram_ft.memory import activations
from lowvram_ft.memory.setup import CUBLAS_WORKSPACE_BYTES, TrainingSetup
from lowvram_ft.memory.shape import ModelShape
from lowvram_ft.memory.terms import Place, Term, lora_tensors, optimizer_bytes
from lowvram_ft.memory.weights import head_place, slice_rows

SMALLEST_OFFLOADED_ROW = 512
"""Tokens below which Unsloth checkpoints on the card even where it was asked to offload."""


def adapter_terms(shape: ModelShape, setup: TrainingSetup, device: Place) -> list[Term]:
    """What is trained: LoRA weights, gradients, optimizer state and its workspace."""
    sizes = lora_tensors(shape, setup)
    n, value = sum(sizes), setup.lora_dtype_bytes
    terms = [
        Term(
            "LoRA weights",
            device,
            n * value,
            f"{len(sizes) // 2} pairs, r {setup.r}: sum of r x (in + out) = {n} x {value}",
            "LoRA section 4.1; PEFT autocast_adapter_dtype",
        ),
        Term("gradients", device, n * value, f"{n} x {value}", "one of each trainable value, in its dtype"),
    ]
    return terms + _optimizer_terms(setup, device, sizes) + _kept_terms(n * value, device)


def _kept_terms(n_bytes: int, device: Place) -> list[Term]:
    """What the host holds of the trained weights so that they are not lost."""
    text = "the trained weights at the lowest validation loss"
    best = Term("best weights", "host", n_bytes, text, "lowvram_ft.training.recovery.saving")
    if device == "host":  # a checkpoint is written from where they are
        return [best]
    text = "the trained weights on their way to a checkpoint"
    return [best, Term("checkpoint copy", "host", n_bytes, text, "safetensors torch.py, _flatten_as_ptr")]


def _optimizer_terms(setup: TrainingSetup, device: Place, sizes: list[int]) -> list[Term]:
    n = sum(sizes)
    resident, paged = optimizer_bytes(sizes, setup.optimizer)
    if device == "host":  # bitsandbytes pages nothing on the CPU
        resident, paged = resident + paged, 0
    torch_source = "torch optim/adamw.py"
    source = (
        torch_source
        if setup.optimizer == "adamw_torch"
        else "bitsandbytes optim/optimizer.py, Optimizer2State.init_state"
    )
    text = f"{setup.optimizer} over {n} values"
    if setup.offload_optimizer and device == "gpu":
        copies = 2 * n * setup.lora_dtype_bytes
        return [
            Term("offloaded optimizer state", "host", resident + paged, text, source),
            Term(
                "optimizer copies", "host", copies, f"weights and gradients, 2 x {n} x {setup.lora_dtype_bytes}", source
            ),
        ]
    terms = [Term("optimizer state", device, resident, text, source)]
    if paged:
        terms.append(Term("paged optimizer state", "host", paged, f"moments of {n} values", source))
    if setup.optimizer == "adamw_torch":
        # Values are updated together on the card (foreach) and one tensor after the other on the CPU.
        together = n if device == "gpu" else max(sizes, default=0)
        how = f"{torch_source}: foreach takes about the size of the parameters more"
        terms.append(Term("optimizer workspace", device, together * 4, f"{together} x 4", how))
    return terms


def activation_terms(shape: ModelShape, setup: TrainingSetup, device: Place) -> list[Term]:
    """What comes and goes within a step."""
    saved_source = "tensors saved by autograd in transformers + PEFT"
    if setup.kernels == "fused":
        saved_source = "tensors saved by unsloth kernels/fast_lora.py, rms_layernorm.py"
    elif setup.kernels == "cpu":
        saved_source = "tensors saved by lowvram_ft.training.fused; measured"
    tokens, c = setup.tokens, setup.compute_dtype_bytes
    inputs = tokens * (3 * 8 + 2 * shape.head_dim * c)
    terms = [
        Term(
            "inputs",
            device,
            inputs,
            f"{tokens} tokens x (3 x 8 + 2 x {shape.head_dim} x {c})",
            "ids, labels, mask; RoPE",
        ),
        *_saved_terms(shape, setup, device, saved_source),
        Term(
            "workspace",
            device,
            activations.workspace_bytes(shape, setup),
            f"{tokens} tokens, inside the MLP of one layer",
            "measured on transformers + PEFT" if setup.kernels == "eager" else saved_source,
        ),
        Term(
            "dequantized weight",
            device,
            activations.dequantized_bytes(shape, setup),
            f"largest weight x {c}",
            "bitsandbytes autograd/_functions.py, MatMul4Bit.backward",
        ),
        _loss_term(shape, setup, device),
    ]
    if device == "gpu":
        text = "2 threads x (2 x 4096 + 8 x 16) KiB"
        terms.append(Term("cuBLAS workspace", device, CUBLAS_WORKSPACE_BYTES, text, "PyTorch, CUDA semantics"))
    return terms


def _saved_terms(shape: ModelShape, setup: TrainingSetup, device: Place, source: str) -> list[Term]:
    """What is kept from the forward pass to the backward pass."""
    a_layer = activations.saved_layer_bytes(shape, setup, on_gpu=device == "gpu")
    layers, tokens = shape.num_hidden_layers, setup.tokens
    if not setup.gradient_checkpointing:
        text = f"{layers} layers x {tokens} tokens x {a_layer // tokens}"
        return [Term("activations", device, layers * a_layer, text, source)]
    kept = activations.checkpoint_bytes(shape, setup)
    one = kept // layers
    text = f"{layers} layers x {tokens} tokens x {shape.hidden_size} x {setup.compute_dtype_bytes}"
    chen = "Chen et al. 2016, a segment a layer"
    recomputed = Term("recomputed layer", device, a_layer, f"{tokens} tokens x {a_layer // tokens}", source)
    if not activations_leave(setup, device):
        return [Term("activations", device, kept, text, chen), recomputed]
    near = min(2, layers)
    return [
        Term("activations", device, near * one, f"{near} of {layers} layers x {one}", chen),
        Term("offloaded activations", "host", kept, text, chen),
        recomputed,
    ]


def activations_leave(setup: TrainingSetup, device: Place) -> bool:
    """Whether checkpointed hidden states really go to the host."""
    too_short = setup.kernels == "fused" and setup.max_length < SMALLEST_OFFLOADED_ROW
    return setup.offload_activations and setup.gradient_checkpointing and device == "gpu" and not too_short


def _loss_term(shape: ModelShape, setup: TrainingSetup, device: Place) -> Term:
    tokens, c = setup.tokens, setup.compute_dtype_bytes
    on_device = head_place(shape, setup, device) == "device"
    if setup.compares_pairs and on_device:
        chunk = min(setup.loss_chunk or tokens, tokens)
        text = (
            f"{chunk} of {tokens} tokens x ({slice_rows(shape)} logits x {c + 4} + {shape.hidden_size} x {3 * c + 4})"
        )
        return Term(
            "loss",
            device,
            activations.pair_loss_bytes(shape, setup) + activations.last_norm_bytes(shape, setup),
            f"{text}, and the last hidden states with their gradient",
            "lowvram_ft.training.log_probs; measured",
        )
    if not on_device or setup.kernels == "cpu":
        norm = activations.last_norm_bytes(shape, setup) if setup.kernels == "cpu" or setup.compares_pairs else 0
        text = f"{tokens} tokens x ({slice_rows(shape)} logits x {c + 4} + {shape.hidden_size} x {3 * c + 4})"
        return Term(
            "loss",
            device,
            activations.sliced_loss_bytes(shape, setup) + norm,
            text + (f" + {tokens} x {shape.hidden_size} x {4 + c} (last norm)" if norm else ""),
            "lowvram_ft.training.vocabulary.head_loss; measured",
        )
    chunk = min(setup.loss_chunk or tokens, tokens)
    return Term(
        "loss",
        device,
        activations.loss_bytes(shape, setup),
        f"{chunk} tokens x {shape.vocab_size} logits x {c + activations.LOSS_BYTES}"
        + ("" if chunk == tokens else ", and the last hidden states with their gradient"),
        "transformers ForCausalLMLoss; measured",
    )
