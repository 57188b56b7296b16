"""The reference file and the divergence from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gguf_export.errors import BrokenFileError
from gguf_export.proof.reference import Reference, ReferenceSequence, kl_divergence, log_softmax


def _row(logits: np.ndarray, top_k: int, start: int = 2) -> ReferenceSequence:
    ids = np.arange(len(logits)) % logits.shape[1]
    return ReferenceSequence.from_logits(ids.tolist(), start, logits, top_k=top_k)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**31), top_k=st.integers(1, 40))
def test_kl_is_exact_over_all_tokens_and_at_most_that_over_some(seed: int, top_k: int) -> None:
    random = np.random.default_rng(seed)
    ours, theirs = random.normal(scale=3, size=(2, 7, 30))
    p, q = log_softmax(ours)[1:-1], log_softmax(theirs)[1:-1]
    brute_force = (np.exp(p) * (p - q)).sum(axis=1)
    np.testing.assert_allclose(kl_divergence(_row(ours, 30), q), brute_force, rtol=1e-4, atol=1e-5)
    some = kl_divergence(_row(ours, top_k), q)
    assert (some <= brute_force + 1e-4).all()
    assert (some >= -1e-6).all()
    np.testing.assert_allclose(kl_divergence(_row(ours, top_k), p), 0, atol=1e-5)


def test_rows_predict_the_token_after_them() -> None:
    logits = np.full((5, 8), -10.0)
    for position in range(4):
        logits[position, position + 1] = 10.0  # certain of the next id
    row = _row(logits, top_k=3)
    assert row.top_ids[:, 0].tolist() == [2, 3, 4]
    np.testing.assert_allclose(row.token_logprobs, 0, atol=1e-6)
    completion_only = ReferenceSequence.from_logits([0, 1, 2, 3, 4], 2, logits[1:4], top_k=3)
    np.testing.assert_array_equal(completion_only.top_ids, row.top_ids)


@pytest.mark.parametrize(("start", "n_rows"), [(0, 5), (5, 5), (2, 4)])
def test_shapes_that_do_not_fit_are_refused(start: int, n_rows: int) -> None:
    with pytest.raises(ValueError, match="completion"):
        ReferenceSequence.from_logits([0, 1, 2, 3, 4], start, np.zeros((n_rows, 8)))


def test_a_saved_reference_reads_back(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    messages = [{"role": "user", "content": "naïve\n"}]
    rows = (
        _row(random.normal(size=(6, 9)), top_k=4),
        ReferenceSequence.from_logits([1, 2, 3], 1, random.normal(size=(3, 9)), messages),
    )
    path = tmp_path / "reference.npz"
    Reference(rows).save(path)
    loaded = Reference.load(path).sequences
    assert [row.messages for row in loaded] == [None, tuple(messages)]
    for ours, theirs in zip(rows, loaded, strict=True):
        assert ours.completion_start == theirs.completion_start
        np.testing.assert_array_equal(ours.token_ids, theirs.token_ids)
        np.testing.assert_array_equal(ours.top_ids, theirs.top_ids)
        np.testing.assert_array_equal(ours.top_logprobs, theirs.top_logprobs)

    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(BrokenFileError, match="damaged reference"):
        Reference.load(path)
    with pytest.raises(BrokenFileError, match="no such file"):
        Reference.load(tmp_path / "nowhere.npz")
