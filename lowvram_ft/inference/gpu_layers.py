"""How many layers of a GGUF fit on the card: from the file's header and the card's free memory, without loading it.

llama.cpp puts the output on the card first, then the layers from the last to the first (``llama_model::load_tensors``:
``i_gpu_start = n_layer + 1 - n_gpu_layers``), each with its part of the KV cache. The figures are predictions.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lowvram_ft.errors import ModelError

CONTEXT_BYTES = 512 << 20
"""Kept free for the CUDA context, cuBLAS and fragmentation."""
N_UBATCH = 512
_F32 = 4


@dataclass(frozen=True)
class Parts:
    """What a GGUF is made of.

    Attributes:
        layer_bytes: weights of each layer.
        output_bytes: of the output head and the last norm; of a tied one, the embedding's.
        n_head_kv: heads of keys and values.
        head_dim: elements of a head.
        n_vocab: tokens of the vocabulary.
        n_embd: hidden size.
        n_ff: size of the feed-forward network.
    """

    layer_bytes: tuple[int, ...]
    output_bytes: int
    n_head_kv: int
    head_dim: int
    n_vocab: int
    n_embd: int
    n_ff: int

    def kv_bytes_per_token(self, bits: float) -> int:
        """Bytes of the keys and values of one token in one layer, at so many bits an element."""
        return int(2 * self.n_head_kv * self.head_dim * bits / 8)

    def compute_bytes(self) -> int:
        """Activations of one batch of `N_UBATCH` tokens: logits, hidden state, and the feed-forward network's."""
        return N_UBATCH * (self.n_vocab + 4 * self.n_embd + 3 * self.n_ff) * _F32


def layers_that_fit(free_bytes: int, parts: Parts, n_cells: int, kv_bits: float) -> int:
    """The most ``n_gpu_layers`` that fit.

    Args:
        free_bytes: free on the card before anything is loaded.
        parts: of the file.
        n_cells: tokens that the KV cache holds, over all sequences.
        kv_bits: bits of an element of the KV cache.

    Returns:
        0 (nothing on the card) to the number of layers + 1 (all, with the output).
    """
    left = free_bytes - CONTEXT_BYTES - parts.compute_bytes() - parts.output_bytes
    if left < 0:
        return 0
    each_cache = parts.kv_bytes_per_token(kv_bits) * n_cells
    n_layers = 1
    for weights in reversed(parts.layer_bytes):
        left -= weights + each_cache
        if left < 0:
            break
        n_layers += 1
    return n_layers


def parts_of(path: Path) -> Parts:
    """Read a GGUF's header.

    Raises:
        ModelError: a fact is missing.
    """
    import gguf

    reader = gguf.GGUFReader(path)
    facts = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("tokenizer.")}
    kind = facts.get("general.architecture")
    try:
        n_embd, heads = int(facts[f"{kind}.embedding_length"]), int(facts[f"{kind}.attention.head_count"])
        n_layers, n_ff = int(facts[f"{kind}.block_count"]), int(facts[f"{kind}.feed_forward_length"])
        n_head_kv = int(facts.get(f"{kind}.attention.head_count_kv", heads))
        head_dim = int(facts.get(f"{kind}.attention.key_length", n_embd // heads))
    except (KeyError, TypeError) as error:
        raise ModelError(f"{path}: its header does not say {error}; give n_gpu_layers") from error
    sizes = {tensor.name: int(tensor.n_bytes) for tensor in reader.tensors}
    rows = {tensor.name: int(tensor.shape[-1]) for tensor in reader.tensors}
    head = "output.weight" if "output.weight" in sizes else "token_embd.weight"
    return Parts(
        layer_bytes=tuple(
            sum(size for name, size in sizes.items() if name.startswith(f"blk.{layer}.")) for layer in range(n_layers)
        ),
        output_bytes=sizes[head] + sizes.get("output_norm.weight", 0),
        n_head_kv=n_head_kv,
        head_dim=head_dim,
        n_vocab=rows[head],
        n_embd=n_embd,
        n_ff=n_ff,
    )
