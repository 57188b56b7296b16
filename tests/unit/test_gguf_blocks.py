"""Which blocks a quantizer can have written, and which it cannot."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gguf_export.proof.block_rules import corrupted_blocks
from gguf_export.quantizers.block_quantizers import check_rows, row_quantizer
from gguf_export.quantizers.ggml import BLOCK_TYPES

KINDS = ("normal", "heavy tails", "uniform", "rounded to bf16", "few values", "all negative", "constant blocks")
"""Of the quantizers' own test rows: what weights may look like."""


def _tensor(type_name: str, blocks: np.ndarray, n_columns: int = 1024) -> Any:
    """What `gguf` gives for a tensor of these blocks."""
    n_rows = blocks.size * BLOCK_TYPES[type_name].block_values // BLOCK_TYPES[type_name].block_bytes // n_columns
    return SimpleNamespace(
        name="t",
        tensor_type=SimpleNamespace(name=type_name),
        shape=np.array([n_columns, n_rows]),
        data=blocks.reshape(-1),
    )


def _blocks(type_name: str, rows: np.ndarray) -> np.ndarray:
    return row_quantizer(type_name, "ggml")(rows.reshape(-1, 1024)).reshape(-1, BLOCK_TYPES[type_name].block_bytes)


@pytest.mark.parametrize("type_name", BLOCK_TYPES)
def test_what_ggml_writes_keeps_to_the_rules(type_name: str) -> None:
    checked = 0
    for kind, rows in check_rows(1 << 16):
        if kind in KINDS:
            assert corrupted_blocks(_tensor(type_name, _blocks(type_name, rows))) == [], kind
            checked += 1
    assert checked == len(KINDS)


@pytest.mark.parametrize("type_name", BLOCK_TYPES)
def test_random_bytes_do_not(type_name: str) -> None:
    rng = np.random.default_rng(0)
    clean = _blocks(type_name, rng.standard_normal((256, 1024), dtype=np.float32))
    found = 0
    for index in range(100):
        damaged = clean.copy()
        damaged[index] = rng.integers(0, 256, clean.shape[1], dtype=np.uint8)
        blocks = corrupted_blocks(_tensor(type_name, damaged))
        per_row = 1024 // BLOCK_TYPES[type_name].block_values
        place = (index // per_row, index % per_row * BLOCK_TYPES[type_name].block_values)
        assert all((block.row, block.first_weight) == place for block in blocks)
        found += len(blocks)
    # One block may by chance be one that a quantizer writes; a page of a disk holds dozens.
    assert found >= (80 if type_name.endswith(("_K", "Q8_0", "Q5_1")) else 20), found


def test_a_flipped_exponent_shows_in_a_scale() -> None:
    blocks = _blocks("Q4_0", np.random.default_rng(0).standard_normal((64, 1024), dtype=np.float32) * np.float32(0.02))
    blocks[7, 1] ^= 0x40
    (block,) = corrupted_blocks(_tensor("Q4_0", blocks))
    assert str(block) == "t: row 0, weights from 224: its scale is over 4096 times that of nine in ten blocks"


def test_zero_blocks_are_a_loss_where_they_are_few() -> None:
    rows = np.random.default_rng(0).standard_normal((64, 1024), dtype=np.float32)
    rows[3] = 0  # a token that is never used
    assert corrupted_blocks(_tensor("Q4_K", _blocks("Q4_K", rows))) == []
    lost = rows.copy()
    lost[5, 256:768] = 0
    found = corrupted_blocks(_tensor("Q4_K", _blocks("Q4_K", lost)))
    assert [(block.row, block.first_weight) for block in found] == [(5, 256), (5, 512)]
    assert {block.reason for block in found} == {"all zero in a row that is not"}
    pruned = rows.copy()
    pruned[:, 256:512] = 0
    assert corrupted_blocks(_tensor("Q4_K", _blocks("Q4_K", pruned))) == []


def test_importances_have_rules_of_their_own() -> None:
    blocks = _blocks("Q4_K", np.random.default_rng(0).standard_normal((64, 1024), dtype=np.float32))
    blocks[9, 4:16] = 0
    assert len(corrupted_blocks(_tensor("Q4_K", blocks))) == 1
    assert corrupted_blocks(_tensor("Q4_K", blocks), with_importances=True) == []
