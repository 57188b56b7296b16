"""Bytes of what comes and goes in a step: saved tensors, workspace, logits.

The eager formulas were derived from, and are tested against, what autograd really saves and
allocates for transformers + PEFT, and those of the CPU engine what it does for that; the fused ones
follow the tensors that Unsloth's autograd functions save, and hold no measurement yet.
"""

from __future__ import annotations

from lowvram_ft.memory.setup import TrainingSetup
from lowvram_ft.memory.shape import Linear, ModelShape
from lowvram_ft.memory.weights import slice_rows

LOSS_BYTES = 12
"""Bytes of one logit at the peak of the loss, beside the logit itself: its log-softmax and two gradients
on the way back, all float32 (transformers ``ForCausalLMLoss``; measured)."""


ATTENTION_BLOCK = 128
"""Queries of a block in the CPU engine's attention (``lowvram_ft.training.fused.attention.BLOCK``)."""


def checkpoint_bytes(shape: ModelShape, setup: TrainingSetup) -> int:
    """Bytes of the hidden states that checkpointing keeps: one a layer.

    Source: Chen et al., Training Deep Nets with Sublinear Memory Cost (2016), with a segment a layer.
    """
    return shape.num_hidden_layers * setup.tokens * shape.hidden_size * setup.compute_dtype_bytes


def saved_layer_bytes(shape: ModelShape, setup: TrainingSetup, *, on_gpu: bool) -> int:
    """Bytes that one decoder layer saves for its backward, its input left out.

    A token, with c the compute dtype's bytes:

    - norms: the float32 input and a float32 scale, twice (fused: the 16-bit input); q/k norm alike;
    - attention through SDPA, which never forms the scores: q, k, v and output, and a float32
      log-sum-exp a head. With more than one sequence there is a padding mask, for which transformers
      repeats k and v to all heads, and which SDPA keeps as c bytes for every pair of positions;
    - MLP: gate, its SiLU, and up, c*3I (fused with LoRA: gate and up, c*2I);
    - LoRA: see `_lora_input_bytes`, and A's output.

    Source: transformers ``modeling_llama.py`` and ``integrations/sdpa_attention.py``, PEFT
    ``tuners/lora/layer.py``; unsloth ``kernels/fast_lora.py`` for the fused form.
    """
    if setup.kernels == "cpu":
        return _saved_on_cpu_bytes(shape, setup)
    c, padded = setup.compute_dtype_bytes, setup.sequences > 1
    fused_lora = setup.kernels == "fused" and setup.lora_dropout == 0
    norms = _norms_token_bytes(shape, c if setup.kernels == "fused" else 4)
    kv = shape.attention_width if padded else shape.key_value_width
    attention = 2 * c * (shape.attention_width + kv) + 4 * shape.num_attention_heads
    mlp = c * shape.intermediate_size * (2 if fused_lora else 3)
    lora = 2 * c * shape.hidden_size if fused_lora else _lora_token_bytes(shape, setup, on_gpu=on_gpu)
    mask = c * setup.tokens * setup.max_length if padded else 0
    return setup.tokens * (norms + attention + mlp + lora) + mask


def _norms_token_bytes(shape: ModelShape, value: int) -> int:
    """Bytes a token that two norms of the hidden state save, and q/k norm: their input, and a float32 scale each."""
    norms = 2 * (value * shape.hidden_size + 4)
    if shape.qk_norm:
        norms += value * (shape.attention_width + shape.key_value_width)
        norms += 4 * (shape.num_attention_heads + shape.num_key_value_heads)
    return norms


def _saved_on_cpu_bytes(shape: ModelShape, setup: TrainingSetup) -> int:
    """Bytes that one decoder layer saves under the CPU engine's functions, its input left out.

    A token, with c the compute dtype's bytes:

    - norms as in eager;
    - attention: q and output, c (A + A), k and v, c (K + K); of one sequence, the output is what o_proj reads. Its
      probabilities are kept, c bytes for each query head, query, and key up to the end of the query's block of B:
      about c (S + B) / 2 for each head with S tokens a sequence;
    - MLP: gate, its SiLU, and up, c 3I;
    - LoRA: the input of each group of layers that read the same, c (H + A + H + I); A's output, c r a layer; with
      dropout, a mask of 2 bytes a value of each layer's input.

    Source: ``lowvram_ft/training/fused``; held against what autograd keeps (tests).
    """
    c, sequences = setup.compute_dtype_bytes, setup.sequences
    targets = [linear for linear in shape.linears if linear.name in setup.target_modules]
    read = {_reads(linear.name): linear.in_features for linear in targets}
    own_output = sequences > 1 or "attention" not in read
    attention = (1 + own_output) * shape.attention_width + 2 * shape.key_value_width
    values = attention + 3 * shape.intermediate_size + sum(read.values()) + setup.r * len(targets)
    masks = 2 * sum(linear.in_features for linear in targets) if setup.lora_dropout else 0
    scores = c * sequences * _kept_scores(shape, setup)
    return setup.tokens * (_norms_token_bytes(shape, 4) + c * values + masks) + scores


def _reads(name: str) -> str:
    """Which of a layer's tensors a linear layer reads: those that read the same one keep it once."""
    groups = {"o_proj": "attention", "down_proj": "mlp", "gate_proj": "second norm", "up_proj": "second norm"}
    return groups.get(name, "first norm")


def _kept_scores(shape: ModelShape, setup: TrainingSetup) -> int:
    """Probabilities of one sequence in one layer: each block of queries sees the keys up to its own end."""
    length = setup.max_length
    ends = (min(start + ATTENTION_BLOCK, length) for start in range(0, length, ATTENTION_BLOCK))
    blocks = (min(ATTENTION_BLOCK, length - start) for start in range(0, length, ATTENTION_BLOCK))
    return shape.num_attention_heads * sum(queries * keys for queries, keys in zip(blocks, ends, strict=True))


def _lora_token_bytes(shape: ModelShape, setup: TrainingSetup, *, on_gpu: bool) -> int:
    targets = [linear for linear in shape.linears if linear.name in setup.target_modules]
    outputs = setup.r * setup.lora_dtype_bytes * len(targets)
    return outputs + sum(_lora_input_bytes(linear, setup, on_gpu=on_gpu) for linear in targets)


def _lora_input_bytes(linear: Linear, setup: TrainingSetup, *, on_gpu: bool) -> int:
    """Bytes a token of what is saved as the input of LoRA's A.

    PEFT casts the input to A's dtype, a new copy for each module. Dropout saves its output and a mask
    (a byte on the card; torch's CPU path keeps the noise in the values' own dtype).
    """
    value = setup.lora_dtype_bytes
    if setup.lora_dropout:
        value += 1 if on_gpu else setup.lora_dtype_bytes
    return value * linear.in_features


def workspace_bytes(shape: ModelShape, setup: TrainingSetup) -> int:
    """Bytes of the gradients that pass through one layer in backward, at their peak inside the MLP.

    A token, with c and l the bytes of the compute and the LoRA dtype: (2c + l) I + (2c + 2l) H. Fused
    kernels keep the compute dtype and write in place: 3c I + 2c H. On the CPU 2c I + 2c H, and with dropout twice the
    first, for the masked input and the masked gradient.

    Source: measured with torch's profiler on transformers + PEFT (tests); the fused form after unsloth
    ``kernels/fast_lora.py``.
    """
    c, adapter = setup.compute_dtype_bytes, setup.lora_dtype_bytes
    if setup.kernels == "fused" and setup.lora_dropout == 0:
        return setup.tokens * (3 * c * shape.intermediate_size + 2 * c * shape.hidden_size)
    if setup.kernels == "cpu":
        inner = (4 if setup.lora_dropout else 2) * c * shape.intermediate_size
        return setup.tokens * (inner + 2 * c * shape.hidden_size)
    inner = (2 * c + adapter) * shape.intermediate_size
    return setup.tokens * (inner + (2 * c + 2 * adapter) * shape.hidden_size)


def dequantized_bytes(shape: ModelShape, setup: TrainingSetup) -> int:
    """Bytes of the largest weight, written out in the compute dtype for one product; of those that are not kept so.

    Source: bitsandbytes ``autograd/_functions.py``, ``MatMul4Bit.backward``.
    """
    if not setup.load_in_4bit:
        return 0
    kept = setup.target_modules if setup.keep_dequantized else ()
    sizes = (linear.n_weights for linear in shape.linears if linear.name not in kept)
    return max(sizes, default=0) * setup.compute_dtype_bytes


def loss_bytes(shape: ModelShape, setup: TrainingSetup) -> int:
    """Bytes of the logits that exist at a time, with the gradients of the loss over them.

    In chunks, the final hidden states and their gradient outlive the chunk.
    """
    a_token = shape.vocab_size * (setup.compute_dtype_bytes + LOSS_BYTES)
    if setup.loss_chunk is None or setup.loss_chunk >= setup.tokens:
        return setup.tokens * a_token
    hidden = 2 * setup.tokens * shape.hidden_size * setup.compute_dtype_bytes
    return setup.loss_chunk * a_token + hidden


def sliced_loss_bytes(shape: ModelShape, setup: TrainingSetup) -> int:
    """Bytes of the loss over a head that is read in slices, the slices themselves left out.

    With S rows a slice, for each position: a slice's logits in the compute dtype and in float32, S (c + 4); the sums in
    float32, what is added to them, and the labels' own rows, H (4 + 2c); and the hidden states themselves, H c.

    Source: ``lowvram_ft.training.vocabulary.head_loss`` (measured with torch's profiler).
    """
    c = setup.compute_dtype_bytes
    return setup.tokens * (slice_rows(shape) * (c + 4) + shape.hidden_size * (3 * c + 4))


def pair_loss_bytes(shape: ModelShape, setup: TrainingSetup) -> int:
    """Bytes of the log-probabilities of pairs over a head on the device, if every token counted.

    As over a head in slices, for so many tokens at a time as are in a chunk; the states before all labels and their
    gradients, c each, outlive it.

    Source: ``lowvram_ft.training.log_probs``; measured.
    """
    if setup.loss_chunk is None or setup.loss_chunk >= setup.tokens:
        return sliced_loss_bytes(shape, setup)
    c = setup.compute_dtype_bytes
    a_chunk = setup.loss_chunk * (slice_rows(shape) * (c + 4) + shape.hidden_size * (3 * c + 4))
    return a_chunk + 2 * setup.tokens * shape.hidden_size * c


def last_norm_bytes(shape: ModelShape, setup: TrainingSetup) -> int:
    """Bytes of the last norm's input in float32, and of its output, of which the labelled positions are a copy.

    Source: transformers ``modeling_llama.py``, ``LlamaRMSNorm``; ``lowvram_ft.training.cpu_trainer``; measured.
    """
    return setup.tokens * shape.hidden_size * (4 + setup.compute_dtype_bytes)
