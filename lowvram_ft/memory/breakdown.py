"""The terms of a plan, group by group: what takes memory, where, by which formula."""

from __future__ import annotations

from lowvram_ft.memory import activations
from lowvram_ft.memory.setup import CUDA_CONTEXT_BYTES, GIB, Budget, TrainingSetup
from lowvram_ft.memory.shape import ModelShape
from lowvram_ft.memory.terms import Place, Term, layer_linear_bytes, lora_tensors, optimizer_bytes

PROCESS_BYTES: dict[Place, int] = {"gpu": 2 * GIB, "host": 3 * GIB // 4}
"""Host memory of Python with torch, transformers, TRL and datasets, by the device that trains.

On a CPU build of torch 2.13 on Linux 0.5 GiB is resident after the imports, and a quarter is room for
threads and batches; with CUDA's libraries an assumption.
"""

CHECKPOINTS_KEPT = 2
"""Checkpoints of the adapter and its optimizer on disk at a time."""

Q4_K_M_BITS = 4.9
"""Bits a weight of a Q4_K_M file: Q4_K has 4.5 and Q6_K, for some tensors, 6.5625 (llama.cpp
``ggml-common.h`` and ``llama-quant.cpp``)."""

_NF4_SOURCE = "QLoRA section 3; bitsandbytes functional.quantize_4bit"
_DTYPE_SOURCE = "transformers modeling files: these stay in the compute dtype"


def weight_terms(shape: ModelShape, setup: TrainingSetup, device: Place, offload_layers: int) -> list[Term]:
    """Frozen weights, on the device and on the host, and what loading them takes for a moment."""
    a_layer = layer_linear_bytes(shape, setup)
    how = "NF4 bytes of the 7 linears" if setup.load_in_4bit else f"{setup.compute_dtype_bytes} bytes a weight"
    source = _NF4_SOURCE if setup.load_in_4bit else _DTYPE_SOURCE
    c, layers = setup.compute_dtype_bytes, shape.num_hidden_layers
    resident = layers - offload_layers
    rest = layers * (shape.n_layer_norm + shape.n_layer_bias) + shape.hidden_size
    table = shape.n_embedding * c
    away = setup.offload_embedding and device == "gpu" and not shape.tie_word_embeddings
    terms = [
        Term("decoder weights", device, resident * a_layer, f"{resident} layers x {a_layer} ({how})", source),
        Term("norms and biases", device, rest * c, f"{rest} values x {c}", _DTYPE_SOURCE),
        Term(
            "offloaded embedding" if away else "embedding",
            "host" if away else device,
            table,
            f"{shape.vocab_size} x {shape.hidden_size} x {c}",
            _DTYPE_SOURCE,
        ),
        Term(
            "head",
            device,
            shape.n_head * c,
            "0: the embedding itself (tied)"
            if shape.tie_word_embeddings
            else f"{shape.vocab_size} x {shape.hidden_size} x {c}",
            _DTYPE_SOURCE,
        ),
    ]
    if offload_layers:
        slots = min(setup.slot_layers, offload_layers)
        terms += [
            Term(
                "layer slots",
                device,
                slots * a_layer,
                f"{slots} slots x {a_layer}",
                "one layer computes, the next arrives",
            ),
            Term(
                "offloaded layers",
                "host",
                offload_layers * a_layer,
                f"{offload_layers} layers x {a_layer} ({how})",
                source,
            ),
        ]
    largest = max(shape.n_embedding, *(linear.n_weights for linear in shape.linears))
    terms.append(
        Term(
            "loader",
            device,
            largest * c,
            f"largest weight, {largest} x {c}",
            "transformers core_model_loading.py: a weight arrives in 16 bits and is quantized on its device",
        )
    )
    return terms


def adapter_terms(shape: ModelShape, setup: TrainingSetup, device: Place) -> list[Term]:
    """What is trained: LoRA weights, gradients, optimizer state and its workspace."""
    sizes = lora_tensors(shape, setup)
    n, value = sum(sizes), setup.lora_dtype_bytes
    resident, paged = optimizer_bytes(sizes, setup.optimizer)
    if device == "host":  # bitsandbytes pages nothing on the CPU
        resident, paged = resident + paged, 0
    state_source = (
        "torch optim/adamw.py"
        if setup.optimizer == "adamw_torch"
        else "bitsandbytes optim/optimizer.py, Optimizer2State.init_state"
    )
    terms = [
        Term(
            "LoRA weights",
            device,
            n * value,
            f"{len(sizes) // 2} pairs, r {setup.r}: sum of r x (in + out) = {n} x {value}",
            "LoRA section 4.1; PEFT autocast_adapter_dtype",
        ),
        Term("gradients", device, n * value, f"{n} x {value}", "one of each trainable value, in its dtype"),
        Term("optimizer state", device, resident, f"{setup.optimizer} over {n} values", state_source),
    ]
    if paged:
        terms.append(Term("paged optimizer state", "host", paged, f"moments of {n} values", state_source))
    if setup.optimizer == "adamw_torch":
        # Values are updated together on the card (foreach) and one tensor after the other on the CPU.
        together = n if device == "gpu" else max(sizes, default=0)
        terms.append(
            Term(
                "optimizer workspace",
                device,
                together * 4,
                f"{together} x 4",
                "torch optim/adamw.py: foreach takes about the size of the parameters more",
            )
        )
    return terms


def activation_terms(shape: ModelShape, setup: TrainingSetup, device: Place) -> list[Term]:
    """What comes and goes within a step."""
    a_layer = activations.saved_layer_bytes(shape, setup, on_gpu=device == "gpu")
    layers, tokens, c = shape.num_hidden_layers, setup.tokens, setup.compute_dtype_bytes
    saved_source = "tensors saved by autograd in transformers + PEFT"
    if setup.kernels == "fused":
        saved_source = "tensors saved by unsloth kernels/fast_lora.py, rms_layernorm.py"
    terms = []
    if setup.gradient_checkpointing:
        kept = activations.checkpoint_bytes(shape, setup)
        one = kept // layers
        text = f"{layers} layers x {tokens} tokens x {shape.hidden_size} x {setup.compute_dtype_bytes}"
        chen = "Chen et al. 2016, a segment a layer"
        if setup.offload_activations and device == "gpu":
            near = min(2, layers)
            terms.append(Term("activations", device, near * one, f"{near} of {layers} layers x {one}", chen))
            terms.append(Term("offloaded activations", "host", kept, text, chen))
        else:
            terms.append(Term("activations", device, kept, text, chen))
        terms.append(Term("recomputed layer", device, a_layer, f"{tokens} tokens x {a_layer // tokens}", saved_source))
    else:
        terms.append(
            Term(
                "activations",
                device,
                layers * a_layer,
                f"{layers} layers x {tokens} tokens x {a_layer // tokens}",
                saved_source,
            )
        )
    chunk = min(setup.loss_chunk or tokens, tokens)
    terms += [
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
            f"largest weight x {setup.compute_dtype_bytes}",
            "bitsandbytes autograd/_functions.py, MatMul4Bit.backward",
        ),
        Term(
            "loss",
            device,
            activations.loss_bytes(shape, setup),
            f"{chunk} tokens x {shape.vocab_size} logits x {c + activations.LOSS_BYTES}"
            + ("" if chunk == tokens else ", and the last hidden states with their gradient"),
            "transformers ForCausalLMLoss; measured",
        ),
    ]
    return terms


def machine_terms(budget: Budget, device: Place) -> list[Term]:
    """What is taken whatever is trained."""
    terms = [
        Term(
            "process",
            "host",
            PROCESS_BYTES[device],
            "Python and its libraries",
            "measured after the imports on Linux, and room" if device == "host" else "assumption",
        ),
        Term("system", "host", budget.system_bytes, f"share on {budget.platform}", "assumption"),
    ]
    if device == "gpu":
        terms += [
            Term("CUDA context", "gpu", CUDA_CONTEXT_BYTES, "per process", "assumption for a 4 GiB card"),
            Term("display", "gpu", budget.display_bytes, f"desktop on {budget.platform}", "assumption"),
        ]
    return terms


def disk_terms(shape: ModelShape, terms: list[Term]) -> list[Term]:
    """What a run downloads and writes: the base, checkpoints of the adapter, a merged file and its Q4_K_M."""
    trained = sum(
        term.bytes for term in terms if term.name in ("LoRA weights", "optimizer state", "paged optimizer state")
    )
    n = shape.n_parameters
    return [
        Term("download", "disk", 2 * n, f"{n} values x 2", "16-bit safetensors"),
        Term(
            "checkpoints",
            "disk",
            CHECKPOINTS_KEPT * trained,
            f"{CHECKPOINTS_KEPT} x {trained} (adapter and optimizer)",
            "transformers Trainer, save_total_limit",
        ),
        Term(
            "export",
            "disk",
            2 * n + int(n * Q4_K_M_BITS / 8),
            f"{n} values x (2 + {Q4_K_M_BITS}/8)",
            "a 16-bit GGUF and the Q4_K_M made from it; llama.cpp llama-quant.cpp",
        ),
    ]
