"""The loss over a head in slices: cross-entropy's value and gradient, wherever the head is kept."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lowvram_ft.training.vocabulary import tables
from lowvram_ft.training.vocabulary.head_loss import head_nll
from lowvram_ft.training.vocabulary.tables import DeviceTable, HostTable, Nf4Table

CPU = torch.device("cpu")


def _inputs(n: int, vocab: int, width: int, seed: int, scale: float = 1.0) -> tuple[Any, Any, Any]:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(n, width, generator=generator) * scale
    weight = torch.randn(vocab, width, generator=generator)
    return hidden, weight, torch.randint(0, vocab, (n,), generator=generator)


def _plain(hidden: Any, weight: Any, labels: Any) -> tuple[Any, Any]:
    """The same by torch's own cross-entropy over all logits."""
    wanted = hidden.clone().requires_grad_()
    loss = torch.nn.functional.cross_entropy((wanted @ weight.T).float(), labels, reduction="sum")
    loss.backward()
    return loss.detach(), wanted.grad


def _sliced(hidden: Any, table: Any, labels: Any) -> tuple[Any, Any]:
    wanted = hidden.clone().requires_grad_()
    loss = head_nll(wanted, labels, table)
    loss.backward()
    return loss.detach(), wanted.grad


@given(
    n=st.integers(1, 9),
    vocab=st.integers(1, 40),
    rows=st.integers(1, 17),
    scale=st.sampled_from([0.0, 0.3, 1.0, 30.0]),
    seed=st.integers(0, 99),
)
@settings(deadline=None)
def test_value_and_gradient_are_those_of_cross_entropy(n: int, vocab: int, rows: int, scale: float, seed: int) -> None:
    hidden, weight, labels = _inputs(n, vocab, 16, seed, scale)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "SLICE_ROWS", rows)
        loss, gradient = _sliced(hidden, DeviceTable(weight), labels)
    expected, wanted = _plain(hidden, weight, labels)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-5)


def test_a_head_on_the_host_gives_bit_for_bit_the_same() -> None:
    hidden, weight, labels = (part for part in _inputs(33, 9000, 64, 3))
    for dtype in (torch.float32, torch.bfloat16):
        here = _sliced(hidden.to(dtype), DeviceTable(weight.to(dtype)), labels)
        there = _sliced(hidden.to(dtype), HostTable(weight.to(dtype), CPU), labels)
        assert torch.equal(here[0], there[0]) and torch.equal(here[1], there[1])


def test_a_confident_models_gradient_survives_16_bits() -> None:
    """Where the label has nearly all the weight, weights that are rounded before one is taken off them are noise."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(500, 64, generator=generator).bfloat16().float()
    labels = torch.arange(40)
    hidden = (weight[:40] * 0.3).bfloat16().float()  # the label's logit is about 19 above the others
    _, exact = _plain(hidden.double(), weight.double(), labels)
    _, ours = _sliced(hidden.bfloat16(), DeviceTable(weight.bfloat16()), labels)
    _, standard = _plain(hidden.bfloat16(), weight.bfloat16(), labels)
    size = exact.norm()
    assert (standard.double() - exact).norm() / size < 0.2, "the case is one that 16 bits can do"
    assert (ours.double() - exact).norm() <= 1.5 * (standard.double() - exact).norm()

    rounded = torch.softmax(hidden.bfloat16().float() @ weight.bfloat16().float().T, 1).bfloat16().float()
    naive = rounded @ weight.bfloat16().float() - weight.bfloat16().float()[labels]
    assert (naive.double() - exact).norm() > 3 * (ours.double() - exact).norm(), "the trap is one"


def test_a_gradient_from_above_is_passed_on_and_evaluation_needs_none() -> None:
    hidden, weight, labels = _inputs(7, 50, 16, 1)
    wanted = hidden.clone().requires_grad_()
    (head_nll(wanted, labels, DeviceTable(weight)) / 3).backward()
    _, whole = _plain(hidden, weight, labels)
    torch.testing.assert_close(wanted.grad, whole / 3)
    with torch.no_grad():
        value = head_nll(hidden, labels, DeviceTable(weight))
    assert not value.requires_grad
    torch.testing.assert_close(value, _plain(hidden, weight, labels)[0])


def test_no_logits_of_the_whole_vocabulary_are_made() -> None:
    hidden, weight, labels = _inputs(64, 6 * tables.SLICE_ROWS, 64, 2)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            out = function(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and out.shape != weight.shape and "detach" not in str(function):
                largest = max(largest, out.numel())
            return out

    table = DeviceTable(weight)
    with Watch():
        _sliced(hidden, table, labels)
    assert largest == 64 * tables.SLICE_ROWS


# --- NF4


def _both(weight: Any) -> tuple[Nf4Table, Any]:
    """The table, and the whole weight by bitsandbytes' own way there and back."""
    from bitsandbytes import functional

    packed, state = functional.quantize_4bit(weight, blocksize=64, compress_statistics=True, quant_type="nf4")
    return Nf4Table(weight, CPU), (functional.dequantize_4bit(packed, state), packed, state)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_nf4_table_holds_what_bitsandbytes_holds(dtype: torch.dtype) -> None:
    weight = _inputs(1, 5000, 128, 4)[1].to(dtype)
    table, (whole, packed, state) = _both(weight)
    rows = torch.cat([part for _, part in table.slices()])
    assert rows.shape == weight.shape and rows.dtype == dtype
    torch.testing.assert_close(rows, whole, rtol=1e-2, atol=1e-6)
    assert (rows == whole).float().mean() > 0.99
    kept = packed.numel() + state.absmax.numel() + 4 * state.state2.absmax.numel() + 4 * (16 + 256 + 1)
    assert table.nbytes == kept
    assert not torch.equal(rows, weight)


def test_rows_of_an_nf4_table_are_those_of_its_slices() -> None:
    weight = _inputs(1, 5000, 64, 5)[1]
    table, _ = _both(weight)
    rows = torch.cat([part for _, part in table.slices()])
    ids = torch.tensor([[0, 4999, 17], [17, 4096, 4095]])
    assert torch.equal(table.gather(ids), rows[ids])
    assert torch.equal(HostTable(weight, CPU).gather(ids), weight[ids])
    assert torch.equal(DeviceTable(weight).gather(ids), weight[ids])


def test_the_loss_over_an_nf4_head_is_that_over_its_rows() -> None:
    hidden, weight, labels = _inputs(20, 5000, 64, 6)
    table, _ = _both(weight)
    rows = torch.cat([part for _, part in table.slices()])
    loss, gradient = _sliced(hidden, table, labels)
    expected, wanted = _plain(hidden, rows, labels)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-5)
    assert abs(loss - _plain(hidden, weight, labels)[0]) > 0.01


def test_a_width_that_splits_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match="hidden_size: must be divisible by 64"):
        Nf4Table(torch.zeros(4, 96), CPU)
