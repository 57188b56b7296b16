"""The terms of a machine: what is taken whatever is trained, what the host holds besides, and what goes to disk."""

from __future__ import annotations

from lowvram_ft.memory.setup import CUDA_CONTEXT_BYTES, GIB, MIB, Budget, TrainingSetup
from lowvram_ft.memory.shape import ModelShape
from lowvram_ft.memory.terms import Place, Term, lora_tensors

PROCESS_BYTES: dict[Place, int] = {"gpu": 2 * GIB, "host": 3 * GIB // 4}
"""Host memory of Python with torch, transformers, TRL and datasets, by the device that trains.

On a CPU build of torch 2.13 on Linux 0.5 GiB is resident after the imports, and a quarter is room for
threads and batches; with CUDA's libraries an assumption.
"""

CHECKPOINTS_KEPT = 2
"""Whole checkpoints on disk (``lowvram_ft.training.recovery.checkpoints.KEPT``); one more while it is written."""

Q4_K_M_BITS = 4.9
"""Bits a weight of a Q4_K_M file: Q4_K has 4.5 and Q6_K, for some tensors, 6.5625 (llama.cpp
``ggml-common.h`` and ``llama-quant.cpp``)."""

DATA_SET_BYTES = 64 * MIB
"""Rows of the prepared set that are in memory at a time. Assumption: Arrow files are mapped, so that what was read may
be dropped again; the index and the batches that the loader has ready are a few MiB."""

SLAB_BYTES = 16 * MIB
"""What the merge holds of a tensor at a time (``gguf_export/checkpoints/weights.py``)."""

_IN_A_CHECKPOINT = (
    *("LoRA weights", "optimizer state", "paged optimizer state", "offloaded optimizer state"),
    "best weights",
)


def q4_k_m_bytes(shape: ModelShape) -> int:
    """Bytes of the exported file."""
    return int(shape.n_parameters * Q4_K_M_BITS / 8)


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


def host_terms(shape: ModelShape, setup: TrainingSetup, device: Place) -> list[Term]:
    """What the host holds while it loads, reads rows, and merges."""
    c = setup.compute_dtype_bytes
    largest = max(shape.n_embedding, *(linear.n_weights for linear in shape.linears))
    terms = [Term("data set", "host", DATA_SET_BYTES, "mapped Arrow files, index and batches", "assumption")]
    if device == "gpu":
        text = f"largest weight, {largest} x {c}, on its way to the card"
        terms.append(Term("host loader", "host", largest * c, text, "transformers core_model_loading.py"))
    cache = 2 * shape.num_hidden_layers * shape.key_value_width * setup.n_ctx * 2
    text = f"2 x {shape.num_hidden_layers} layers x {shape.key_value_width} x {setup.n_ctx} tokens x 2"
    terms += [
        Term("GGUF", "host", q4_k_m_bytes(shape), f"{shape.n_parameters} values x {Q4_K_M_BITS}/8", "as the export"),
        Term("KV cache", "host", cache, text, "llama.cpp llama-kv-cache.cpp: float16 keys and values"),
    ]
    n = sum(lora_tensors(shape, setup))
    merged = 4 * SLAB_BYTES + 4 * n
    quantized = 8 * largest
    terms.append(
        Term(
            "merge",
            "host",
            max(merged, quantized),
            f"the larger of 4 x {SLAB_BYTES} + {n} x 4, and largest tensor {largest} x 8 while it is quantized",
            "gguf_export/checkpoints/weights.py; llama.cpp llama-quant.cpp, f32_conv_buf and work",
        )
    )
    return terms


def disk_terms(shape: ModelShape, setup: TrainingSetup, terms: list[Term]) -> list[Term]:
    """What a run downloads and writes: the base, checkpoints of the adapter, a merged file and its Q4_K_M.

    Beside them: the exports that rounds of preferences begin with, and those of stages that are evaluated.
    """
    trained = sum(term.bytes for term in terms if term.name in _IN_A_CHECKPOINT)
    n = shape.n_parameters
    more = setup.more_ggufs
    policies = Term(
        "more GGUFs", "disk", more * q4_k_m_bytes(shape), f"{more} x {n} values x {Q4_K_M_BITS}/8", "as export"
    )
    return [
        *([policies] if more else []),
        Term("download", "disk", 2 * n, f"{n} values x 2", "16-bit safetensors"),
        Term(
            "checkpoints",
            "disk",
            (CHECKPOINTS_KEPT + 1) * trained,
            f"({CHECKPOINTS_KEPT} + 1 being written) x {trained} (adapter, optimizer, best weights)",
            "lowvram_ft.training.recovery.checkpoints",
        ),
        Term(
            "export",
            "disk",
            2 * n + q4_k_m_bytes(shape),
            f"{n} values x (2 + {Q4_K_M_BITS}/8)",
            "a 16-bit GGUF and the Q4_K_M made from it; llama.cpp llama-quant.cpp",
        ),
    ]
