"""The terms of what is frozen: decoder layers, embedding and head, wherever they are kept."""

from __future__ import annotations

from lowvram_ft.memory.setup import HEAD_SLICE_ROWS, Head, TrainingSetup
from lowvram_ft.memory.shape import ModelShape
from lowvram_ft.memory.terms import Place, Term, layer_payload_bytes, layer_statistics_bytes, nf4_bytes

_NF4_SOURCE = "QLoRA section 3; bitsandbytes functional.quantize_4bit"
_DTYPE_SOURCE = "transformers modeling files: these stay in the compute dtype"
_SWAP_SOURCE = "unsloth_zoo/block_swap.py"


def weight_terms(shape: ModelShape, setup: TrainingSetup, device: Place, offload_layers: int) -> list[Term]:
    """Frozen weights, on the device and on the host, and what loading them takes for a moment."""
    return [
        *_decoder_terms(shape, setup, device, offload_layers),
        *_kept_terms(shape, setup, device),
        *_table_terms(shape, setup, device),
        _loader_term(shape, setup, device),
    ]


def embedding_place(shape: ModelShape, setup: TrainingSetup, device: Place) -> Head:
    """Where the embedding is: ``device``, ``host`` or ``nf4`` (on the device).

    A tied embedding is the head too: one table, in NF4 if either is, and on the host only with the head.
    """
    if setup.nf4_embedding or (shape.tie_word_embeddings and setup.head == "nf4"):
        return "nf4"
    if device == "host":
        return "device"
    if shape.tie_word_embeddings:
        return setup.head
    return "host" if setup.offload_embedding else "device"


def head_place(shape: ModelShape, setup: TrainingSetup, device: Place) -> Head:
    """Where the head is; see `embedding_place`."""
    if shape.tie_word_embeddings:
        return embedding_place(shape, setup, device)
    return "device" if setup.head == "host" and device == "host" else setup.head


def table_bytes(shape: ModelShape, setup: TrainingSetup, where: Head) -> int:
    """Bytes of an embedding or a head that is kept there. NF4 tables are double-quantized."""
    if where == "nf4":
        return nf4_bytes(shape.n_embedding, double_quant=True)
    return shape.n_embedding * setup.compute_dtype_bytes


def kept_dequantized_bytes(shape: ModelShape, setup: TrainingSetup) -> int:
    """Bytes of the 4-bit weights that are held in the compute dtype besides.

    Source: ``lowvram_ft.training.fused.fuse``: those under LoRA.
    """
    if not (setup.keep_dequantized and setup.load_in_4bit):
        return 0
    a_layer = sum(linear.n_weights for linear in shape.linears if linear.name in setup.target_modules)
    return shape.num_hidden_layers * a_layer * setup.compute_dtype_bytes


def slice_rows(shape: ModelShape) -> int:
    """Rows of the vocabulary in a slice of the head."""
    return min(HEAD_SLICE_ROWS, shape.vocab_size)


def _decoder_terms(shape: ModelShape, setup: TrainingSetup, device: Place, offload_layers: int) -> list[Term]:
    payload, statistics = layer_payload_bytes(shape, setup), layer_statistics_bytes(shape, setup)
    how = "NF4 bytes of the 7 linears" if setup.load_in_4bit else f"{setup.compute_dtype_bytes} bytes a weight"
    source = _NF4_SOURCE if setup.load_in_4bit else _DTYPE_SOURCE
    c, layers = setup.compute_dtype_bytes, shape.num_hidden_layers
    resident = layers - offload_layers
    a_layer = payload + statistics
    rest = layers * (shape.n_layer_norm + shape.n_layer_bias) + shape.hidden_size
    terms = [
        Term("decoder weights", device, resident * a_layer, f"{resident} layers x {a_layer} ({how})", source),
        Term("norms and biases", device, rest * c, f"{rest} values x {c}", _DTYPE_SOURCE),
    ]
    if not offload_layers:
        return terms
    slots = min(setup.slot_layers, offload_layers)
    terms += [
        Term("layer slots", device, slots * payload, f"{slots} slots x {payload}", f"{_SWAP_SOURCE}: depth + 1 slots"),
        Term("offloaded layers", "host", offload_layers * payload, f"{offload_layers} layers x {payload}", source),
    ]
    if statistics:
        text = f"absmax and tables of {offload_layers} layers x {statistics}"
        where = f"{_SWAP_SOURCE}: parameters are swapped, quant_state stays"
        terms.append(Term("offloaded layers' statistics", device, offload_layers * statistics, text, where))
    return terms


def _kept_terms(shape: ModelShape, setup: TrainingSetup, device: Place) -> list[Term]:
    n_bytes = kept_dequantized_bytes(shape, setup)
    if not n_bytes:
        return []
    c = setup.compute_dtype_bytes
    text = f"4-bit weights under LoRA, written out once: {n_bytes // c} x {c}"
    return [Term("dequantized copies", device, n_bytes, text, "lowvram_ft.training.fused.fuse")]


def _table_terms(shape: ModelShape, setup: TrainingSetup, device: Place) -> list[Term]:
    """Embedding and head, and the slices in which a head that is not there in 16 bits is read."""
    embedding, head = embedding_place(shape, setup, device), head_place(shape, setup, device)
    terms = [_table_term(shape, setup, device, "embedding", embedding)]
    if shape.tie_word_embeddings:
        terms.append(Term("head", device, 0, "0: the embedding itself (tied)", _DTYPE_SOURCE))
    else:
        terms.append(_table_term(shape, setup, device, "head", head))
    if head != "device":
        buffers, rows = (2 if head == "host" else 1), slice_rows(shape)
        n_bytes = buffers * rows * shape.hidden_size * setup.compute_dtype_bytes
        how = "one at work, one arriving" if head == "host" else "written out for a product"
        text = f"{buffers} x {rows} rows x {shape.hidden_size} x {setup.compute_dtype_bytes} ({how})"
        terms.append(Term("head slices", device, n_bytes, text, "lowvram_ft.training.vocabulary.tables"))
    return terms + _tables_while_loading(shape, setup, device, embedding, head)


def _table_term(shape: ModelShape, setup: TrainingSetup, device: Place, name: str, where: Head) -> Term:
    n_bytes, size = table_bytes(shape, setup, where), f"{shape.vocab_size} x {shape.hidden_size}"
    if where == "nf4":
        return Term(name, device, n_bytes, f"{size} in NF4 with double quantization", _NF4_SOURCE)
    text = f"{size} x {setup.compute_dtype_bytes}"
    if where == "host":
        return Term(f"offloaded {name}", "host", n_bytes, text, _DTYPE_SOURCE)
    return Term(name, device, n_bytes, text, _DTYPE_SOURCE)


def _tables_while_loading(
    shape: ModelShape, setup: TrainingSetup, device: Place, embedding: Head, head: Head
) -> list[Term]:
    """16-bit tables that Unsloth's loader puts on the card before they move to the host or are quantized.

    transformers' loader puts them on the host at once, by the reference engine's ``device_map``.
    """
    if setup.kernels != "fused" or device == "host":
        return []
    moved = [embedding] if shape.tie_word_embeddings else [embedding, head]
    count = sum(where != "device" for where in moved)
    if not count:
        return []
    table = table_bytes(shape, setup, "device")
    source = "unsloth_zoo/device_map_planner.py, plan_block_swap: the load itself still holds it on the card"
    return [Term("tables while loading", device, count * table, f"{count} x {table}", source)]


def _loader_term(shape: ModelShape, setup: TrainingSetup, device: Place) -> Term:
    """A weight arrives in 16 bits, one at a time while it is quantized on the fly."""
    c = setup.compute_dtype_bytes
    largest = max(linear.n_weights for linear in shape.linears)
    if not setup.load_in_4bit:
        return Term("loader", device, 0, "0: weights stay as they arrive", "transformers core_model_loading.py")
    if "nf4" in (embedding_place(shape, setup, device), head_place(shape, setup, device)):
        largest = max(largest, slice_rows(shape) * shape.hidden_size)
    return Term(
        "loader",
        device,
        largest * c,
        f"largest weight that is quantized, {largest} x {c}",
        "transformers core_model_loading.py: on-the-fly quantization loads one weight after the other",
    )
