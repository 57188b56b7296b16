"""How many layers fit on a card: against adding up by hand, and a header that `gguf` wrote."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowvram_ft.errors import ModelError
from lowvram_ft.inference.gpu_layers import CONTEXT_BYTES, Parts, layers_that_fit, parts_of

GIB = 1 << 30


def parts(layers: list[int], output: int = 100) -> Parts:
    return Parts(tuple(layers), output, n_head_kv=2, head_dim=64, n_vocab=1000, n_embd=256, n_ff=512)


def needed(some: Parts, n: int, n_cells: int) -> int:
    """Bytes on the card with ``n_gpu_layers = n``: the output first, then layers from the last."""
    if n == 0:
        return 0
    on_card = some.layer_bytes[len(some.layer_bytes) - (n - 1) :]
    cache = 2 * 2 * 64 * 2 * n_cells
    return (
        CONTEXT_BYTES + 512 * 4 * (1000 + 4 * 256 + 3 * 512) + some.output_bytes + sum(on_card) + cache * len(on_card)
    )


@given(st.lists(st.integers(1, 1 << 28), min_size=1, max_size=12), st.integers(0, 3 * GIB), st.integers(1, 9000))
def test_it_is_the_most_that_fits(layers, free, n_cells):
    some = parts(layers)
    found = layers_that_fit(free, some, n_cells, 16)
    assert 0 <= found <= len(layers) + 1
    assert needed(some, found, n_cells) <= max(free, 0)
    assert found == len(layers) + 1 or needed(some, found + 1, n_cells) > free


def test_a_smaller_cache_leaves_room_for_more_layers():
    some = parts([50 << 20] * 30)
    counts = [layers_that_fit(2 * GIB, some, 100_000, bits) for bits in (16, 8.5, 4.5)]
    assert counts == sorted(counts) and counts[0] < counts[2] < 31
    assert layers_that_fit(0, some, 1, 16) == 0
    assert layers_that_fit(80 * GIB, some, 1, 16) == 31


@pytest.mark.parametrize("tied", [True, False])
def test_the_header_says_what_every_part_weighs(tmp_path: Path, tied: bool):
    path = tmp_path / "m.gguf"
    write(path, tied)
    found = parts_of(path)
    assert found.layer_bytes == (8 * 8 * 4 + 8 * 4, 8 * 8 * 4 + 8 * 4)
    assert found.output_bytes == 40 * 8 * (4 if tied else 2) + 8 * 4
    assert (found.n_head_kv, found.head_dim, found.n_vocab, found.n_embd, found.n_ff) == (2, 16, 40, 8, 24)
    assert found.kv_bytes_per_token(16) == 2 * 2 * 16 * 2


def test_a_header_without_a_fact_is_refused(tmp_path: Path):
    write(tmp_path / "m.gguf", True, heads=False)
    with pytest.raises(ModelError, match="head_count"):
        parts_of(tmp_path / "m.gguf")


def write(path: Path, tied: bool, heads: bool = True) -> None:
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_embedding_length(8)
    writer.add_feed_forward_length(24)
    if heads:
        writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_key_length(16)
    writer.add_tensor("token_embd.weight", np.zeros((40, 8), dtype=np.float32))
    if not tied:
        writer.add_tensor("output.weight", np.zeros((40, 8), dtype=np.float16))
    writer.add_tensor("output_norm.weight", np.zeros(8, dtype=np.float32))
    for layer in range(2):
        writer.add_tensor(f"blk.{layer}.attn_q.weight", np.zeros((8, 8), dtype=np.float32))
        writer.add_tensor(f"blk.{layer}.attn_norm.weight", np.zeros(8, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
