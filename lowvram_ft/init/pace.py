"""How fast a base model would learn and answer: estimates to choose by. A run and `bench` say what is true.

Training on a card is the time model's (`lowvram_ft.memory.speed`). On a CPU, and for answers, the figures are
assumptions with their reason beside them.
"""

from __future__ import annotations

from lowvram_ft.hardware import Hardware, has_fast_bf16
from lowvram_ft.inference.gpu_layers import Parts, layers_that_fit
from lowvram_ft.init.machine import card_of
from lowvram_ft.memory.cards import card_of_size
from lowvram_ft.memory.setup import DISPLAY_BYTES
from lowvram_ft.memory.shape import ModelShape

BF16_FLOPS_PER_CPU = 85e9
"""On 2 CPUs with AVX512-BF16: 324 tokens/s x 4 x 135M operations / 2 (``benchmarks/results/training.json``)."""
FLOAT32_FLOPS_PER_CPU = 25e9
"""Assumption for AVX2, where two CPUs are mostly the two threads of one core."""
HOST_BYTES_PER_S = 16e9
"""What reading weights reaches. The demo's export: 109 tokens/s x 0.14 GB on 2 CPUs (``benchmarks/results/demo.json``);
a laptop with two channels of DDR4 has three times as much on paper."""
CARD_SHARE = 0.7
"""Of a card's bandwidth that decoding reaches. Assumption."""
ANSWER_TOKENS = 256
"""Of a test file with several tests; the gate's own limit is ``bench.max_new_tokens``. Assumption."""
KV_BITS = 16.0


def cpu_tok_per_s(shape: ModelShape, machine: Hardware) -> float:
    """Tokens a second of training on the CPU.

    2 operations a weight forwards and 2 back: frozen weights have no gradient of their own.
    """
    each = BF16_FLOPS_PER_CPU if has_fast_bf16(machine.cpu_flags) else FLOAT32_FLOPS_PER_CPU
    return machine.cpu_count * each / (4 * shape.n_parameters)


def answer_s(shape: ModelShape, machine: Hardware, *, bits: float, n_ctx: int) -> float:
    """Seconds of an answer of `ANSWER_TOKENS`: every token reads all weights once, on the card or from the host.

    Args:
        shape: the base model.
        machine: where it answers; a card holds as many layers as fit.
        bits: of a weight in the GGUF.
        n_ctx: of its context.
    """
    layers = shape.num_hidden_layers
    layer = shape.n_layer * bits / 8
    head = shape.n_embedding * bits / 8
    on_card = 0
    if machine.gpus:
        parts = Parts(
            layer_bytes=(int(layer),) * layers,
            output_bytes=int(head),
            n_head_kv=shape.key_value_width,
            head_dim=1,
            n_vocab=shape.vocab_size,
            n_embd=shape.hidden_size,
            n_ff=shape.intermediate_size,
        )
        free = machine.gpus[0].total_bytes - DISPLAY_BYTES[machine.platform]
        on_card = layers_that_fit(free, parts, n_ctx, KV_BITS)
    there = 0.0
    if on_card:
        card = card_of(machine) or card_of_size(machine.gpus[0].total_bytes)
        there = (head + (on_card - 1) * layer) / (card.memory_bytes_per_s * CARD_SHARE)
    left = layers - max(0, on_card - 1)
    host = (left * layer + (0 if on_card else head)) / HOST_BYTES_PER_S
    return ANSWER_TOKENS * (there + host)
