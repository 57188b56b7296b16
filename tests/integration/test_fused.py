"""The fused functions against the modules that they stand in for: plain transformers + PEFT, in every mode."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lowvram_ft.data.prepared import IGNORE_INDEX
from lowvram_ft.training.engines.reference import ReferenceEngine
from lowvram_ft.training.fused import fuse
from lowvram_ft.training.fused.attention import BLOCK, CausalAttention
from lowvram_ft.training.fused.dropout import STEPS, apply_bits, drop_threshold, keep_bits, keep_scale
from tests.gguf_models import make_tiny_model
from tests.tiny_runs import load_plan

Batch = dict[str, torch.Tensor]
Gradients = dict[str, torch.Tensor]
FUSE = "lowvram_ft.training.fused.fuse"


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny products gain nothing from threads, and lose much where the machine has other work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One tiny model a family: tied and untied, with and without biases, with and without norms of q and k."""
    out = tmp_path_factory.mktemp("fused")
    tied = {"llama": True, "qwen2": False, "qwen3": True}
    return {family: make_tiny_model(out / family, family, tie=tie) for family, tie in tied.items()}


def _plain(folder: Path, dtype: str, monkeypatch: pytest.MonkeyPatch, **plan: Any) -> Any:
    """A PEFT model as the reference engine loads it, not fused; its adapter shows in the loss."""
    with monkeypatch.context() as patch:
        patch.setattr("lowvram_ft.training.engines.reference.compute_dtype", lambda device: dtype)
        patch.setattr(FUSE, lambda model, keep_dequantized: None)
        model = ReferenceEngine().load(folder, load_plan(**plan), None).model
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return model


def _pair(folder: Path, dtype: str, monkeypatch: pytest.MonkeyPatch, **plan: Any) -> tuple[Any, Any]:
    """The same model twice, plain and fused."""
    plain, fused = (_plain(folder, dtype, monkeypatch, **plan) for _ in range(2))
    found = fuse(fused)
    assert found.lora_modules == 14 and found.attention  # seven projections in two layers
    return plain, fused


def _batch(lengths: tuple[int, ...] = (BLOCK + 37, 90, 12), left: bool = False) -> Batch:
    """Random rows, padded; the second half of each carries loss."""
    generator = torch.Generator().manual_seed(2)
    longest = max(lengths)
    ids, labels, mask = (torch.zeros(len(lengths), longest, dtype=torch.long) for _ in range(3))
    labels.fill_(IGNORE_INDEX)
    for row, length in enumerate(lengths):
        real = slice(longest - length, longest) if left else slice(0, length)
        ids[row, real] = torch.randint(5, 200, (length,), generator=generator)
        mask[row, real] = 1
        labels[row, real] = torch.where(torch.arange(length) >= length // 2, ids[row, real], IGNORE_INDEX)
    return {"input_ids": ids, "labels": labels, "attention_mask": mask}


def _loss(model: Any, batch: Batch) -> torch.Tensor:
    """The loss by transformers' own chain: logits of all positions, cross entropy."""
    loss: torch.Tensor = model(**batch, use_cache=False).loss
    return loss


def _fused_loss(model: Any, batch: Batch) -> torch.Tensor:
    from lowvram_ft.training.cpu_trainer import completion_nll

    total, count = completion_nll(model, batch)
    return total / count


def _step(model: Any, batch: Batch, loss: Callable[[Any, Batch], torch.Tensor], bf16: bool) -> tuple[float, Gradients]:
    model.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        value = loss(model, batch)
    value.backward()
    return value.item(), {n: p.grad.float().clone() for n, p in model.named_parameters() if p.grad is not None}


def _distance(one: Gradients, other: Gradients) -> float:
    """The largest distance of two sets of gradients, as a share of their size."""
    assert one.keys() == other.keys() and one
    return max(float((one[name] - other[name]).norm() / other[name].norm()) for name in one)


FAMILIES = ["llama", "qwen2", "qwen3"]


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_gradients_in_float32_are_those_of_peft(
    family: str, training: bool, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, fused = _pair(folders[family], "float32", monkeypatch)
    plain.train(training), fused.train(training)
    expected, wanted = _step(plain, _batch(), _loss, bf16=False)
    loss, gradients = _step(fused, _batch(), _fused_loss, bf16=False)
    assert loss == pytest.approx(expected, abs=1e-5)
    assert _distance(gradients, wanted) < 1e-5


def test_a_key_of_the_future_would_be_seen(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    plain, fused = _pair(folders["llama"], "float32", monkeypatch)
    expected, _ = _step(plain, _batch(), _loss, bf16=False)
    monkeypatch.setattr("lowvram_ft.training.fused.attention._mask_future", lambda scores, start: None)
    loss, _ = _step(fused, _batch(), _fused_loss, bf16=False)
    assert abs(loss - expected) > 1e-3


def test_a_lost_adapter_would_be_seen(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    plain, fused = _pair(folders["llama"], "float32", monkeypatch)
    _, wanted = _step(plain, _batch(), _loss, bf16=False)
    with torch.no_grad():
        fused.get_base_model().model.layers[1].mlp.up_proj.lora_B["default"].weight.mul_(1.01)
    _, gradients = _step(fused, _batch(), _fused_loss, bf16=False)
    assert _distance(gradients, wanted) > 1e-4


@pytest.mark.parametrize("load_in_4bit", [False, True], ids=["bf16", "nf4"])
@pytest.mark.parametrize("family", FAMILIES)
def test_in_bf16_they_are_as_near_to_float32_as_those_of_peft(
    family: str, load_in_4bit: bool, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, fused = _pair(folders[family], "bfloat16", monkeypatch, load_in_4bit=load_in_4bit)
    exact = copy.deepcopy(plain).float()
    expected, wanted = _step(exact, _batch(), _loss, bf16=False)
    plain_loss, plain_gradients = _step(plain, _batch(), _loss, bf16=True)
    loss, gradients = _step(fused, _batch(), _fused_loss, bf16=True)
    # bf16 rounds each number to 2^-9 of itself; the model adds a few hundred of them
    assert abs(plain_loss - expected) < 5e-3 and abs(loss - expected) < 5e-3
    of_plain, of_fused = _mean_distance(plain_gradients, wanted), _mean_distance(gradients, wanted)
    assert of_fused < 1.1 * of_plain
    assert of_plain > 1e-4  # a float32 model on both sides would tell nothing


def _mean_distance(one: Gradients, other: Gradients) -> float:
    assert one.keys() == other.keys() and one
    return sum(float((one[name] - other[name]).norm() / other[name].norm()) for name in one) / len(one)


class _Replayed(torch.nn.Module):
    """Dropout with a mask that was drawn before."""

    def __init__(self, masks: list[torch.Tensor], p: float) -> None:
        super().__init__()
        self.masks, self.p = masks, p

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * (self.masks.pop(0).view(x.shape) != 0) * keep_scale(self.p)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "recomputed"])
def test_with_dropout_they_are_those_of_peft_under_the_same_masks(
    checkpointing: bool, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, fused = _pair(folders["llama"], "float32", monkeypatch, lora_dropout=0.3)
    drawn: list[torch.Tensor] = []

    def keep(shape: torch.Size, p: float) -> torch.Tensor:
        drawn.append(keep_bits(shape, p))
        return drawn[-1]

    monkeypatch.setattr("lowvram_ft.training.fused.lora.keep_bits", keep)
    if checkpointing:
        fused.enable_input_require_grads()
        fused.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    plain.train(), fused.train()
    torch.manual_seed(3)
    loss, gradients = _step(fused, _batch(), _fused_loss, bf16=False)
    assert len(drawn) == (28 if checkpointing else 14)
    masks = drawn[:14]
    for layer in plain.get_base_model().model.layers:
        for projection in (
            *(getattr(layer.self_attn, name) for name in ("q_proj", "k_proj", "v_proj", "o_proj")),
            *(getattr(layer.mlp, name) for name in ("gate_proj", "up_proj", "down_proj")),
        ):
            projection.lora_dropout["default"] = _Replayed(masks, 0.3)
    expected, wanted = _step(plain, _batch(), _loss, bf16=False)
    assert loss == pytest.approx(expected, abs=1e-5)
    assert _distance(gradients, wanted) < 1e-5
    torch.manual_seed(4)
    other, _ = _step(fused, _batch(), _fused_loss, bf16=False)
    assert abs(other - expected) > 1e-4  # other masks would be seen


def test_evaluation_draws_no_mask(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    plain, fused = _pair(folders["llama"], "float32", monkeypatch, lora_dropout=0.5)
    plain.eval(), fused.eval()
    before = torch.get_rng_state()
    with torch.no_grad():
        assert _fused_loss(fused, _batch()).item() == pytest.approx(_loss(plain, _batch()).item(), abs=1e-5)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("p", [0.0, 0.05, 0.5, 0.99])
def test_masks_have_the_probability_asked_for(p: float) -> None:
    torch.manual_seed(0)
    shape = torch.Size((1001, 1003))
    kept = keep_bits(shape, p)
    assert kept.shape == shape and set(kept.unique().tolist()) <= {0, -1}
    share = (kept == 0).double().mean().item()
    deviation = (p * (1 - p) / kept.numel()) ** 0.5
    assert abs(share - p) < 5 * deviation + 1 / STEPS
    # the four draws of a number, and neighbours, know nothing of each other
    dropped = (kept == 0).double().flatten()
    for lag in (1, 2, 3, 4, 8):
        both = (dropped[:-lag] * dropped[lag:]).mean().item()
        assert abs(both - share**2) < 6 * deviation + 1e-9
    ones = apply_bits(torch.ones(shape), kept) * keep_scale(p)
    assert ones.mean().item() == pytest.approx(1, abs=6 * deviation / (1 - p) + 1e-6)


def test_a_mask_is_drawn_as_it_always_was() -> None:
    """A checkpoint holds the generator's state, and whatever version goes on with it must draw the same masks."""
    torch.manual_seed(3)
    words = torch.empty(9, dtype=torch.int64).random_(-(2**63), None).tolist()
    draws = [word >> 16 * place & STEPS - 1 for word in words for place in range(4)]
    expected = [-1 if draw >= drop_threshold(0.3) else 0 for draw in draws[:35]]
    assert len(set(expected)) == 2
    torch.manual_seed(3)
    assert keep_bits(torch.Size((5, 7)), 0.3).flatten().tolist() == expected


def test_the_scale_is_that_of_the_probability_that_is_used() -> None:
    for p in (0.0, 0.05, 0.1, 1 / 3):
        assert keep_scale(p) == STEPS / (STEPS - drop_threshold(p))
        assert drop_threshold(p) / STEPS == pytest.approx(p, abs=0.5 / STEPS)


def test_masks_follow_the_generator_that_checkpoints_hold() -> None:
    shape = torch.Size((7, 5))
    state = torch.get_rng_state()
    first, second = keep_bits(shape, 0.5), keep_bits(shape, 0.5)
    torch.set_rng_state(state)
    assert torch.equal(first, keep_bits(shape, 0.5)) and not torch.equal(first, second)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bits_are_a_product_with_the_mask(dtype: torch.dtype) -> None:
    x = torch.randn(33, 9).to(dtype)
    kept = keep_bits(x.shape, 0.4)
    assert torch.equal(apply_bits(x, kept), torch.where(kept != 0, x, torch.zeros_like(x)))
    assert torch.equal(apply_bits(x.t(), kept.t()), torch.where(kept.t() != 0, x.t(), torch.zeros_like(x.t())))


@pytest.mark.parametrize("length", [1, 5, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 7])
def test_attention_is_pytorchs_for_any_length(length: int) -> None:
    torch.manual_seed(0)
    given = [torch.randn(2, heads, length, 16, dtype=torch.float64, requires_grad=True) for heads in (6, 2, 2)]
    exact = [t.detach().clone().requires_grad_() for t in given]
    single = [t.detach().float().requires_grad_() for t in given]
    out = CausalAttention.apply(*single, 0.3)
    wanted = torch.nn.functional.scaled_dot_product_attention(*exact, is_causal=True, scale=0.3, enable_gqa=True)
    grad = torch.randn_like(wanted)
    wanted.backward(grad)
    out.backward(grad.float())
    torch.testing.assert_close(out.double(), wanted, rtol=1e-5, atol=1e-5)
    for mine, theirs in zip(single, exact, strict=True):
        torch.testing.assert_close(mine.grad.double(), theirs.grad, rtol=1e-5, atol=1e-5)


def test_attention_in_bf16_is_as_near_to_float32_as_pytorchs() -> None:
    torch.manual_seed(0)
    exact = [torch.randn(2, heads, 300, 64, requires_grad=True) for heads in (6, 2, 2)]
    grad = torch.randn(2, 6, 300, 64)
    torch.nn.functional.scaled_dot_product_attention(*exact, is_causal=True, enable_gqa=True).backward(grad)
    errors = []
    for attention in (
        lambda q, k, v: CausalAttention.apply(q, k, v, 0.125),
        lambda q, k, v: torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True),
    ):
        half = [t.detach().bfloat16().requires_grad_() for t in exact]
        attention(*half).backward(grad.bfloat16())
        errors.append(
            [float((h.grad.float() - e.grad).norm() / e.grad.norm()) for h, e in zip(half, exact, strict=True)]
        )
    for mine, theirs in zip(*errors, strict=True):
        assert mine < 1.15 * theirs


def test_padding_on_the_left_goes_to_the_plain_attention(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, fused = _pair(folders["llama"], "float32", monkeypatch)
    batch = _batch(left=True)
    expected, wanted = _step(plain, batch, _loss, bf16=False)
    loss, gradients = _step(fused, batch, _fused_loss, bf16=False)
    assert loss == pytest.approx(expected, abs=1e-5)
    assert _distance(gradients, wanted) < 1e-5
    # as if it were on the right: would be seen
    monkeypatch.setattr("lowvram_ft.training.fused.switch.sdpa_mask", lambda **kwargs: None)
    wrong, _ = _step(fused, batch, _fused_loss, bf16=False)
    assert abs(wrong - expected) > 1e-3


def test_answers_with_a_cache_are_the_same(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    plain, fused = _pair(folders["qwen2"], "float32", monkeypatch)
    batch = _batch(left=True)
    given = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    answers = [m.eval().generate(**given, max_new_tokens=12, do_sample=False, pad_token_id=0) for m in (plain, fused)]
    assert torch.equal(*answers)


def test_a_disabled_a_merged_and_a_second_adapter_are_pefts(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, fused = _pair(folders["llama"], "float32", monkeypatch)
    batch = _batch()

    def close() -> float:
        expected, loss = _loss(plain, batch).item(), _fused_loss(fused, batch).item()
        assert loss == pytest.approx(expected, abs=1e-5)
        return expected

    with torch.no_grad():
        active = close()
        with plain.disable_adapter(), fused.disable_adapter():
            assert abs(close() - active) > 1e-4
        plain.merge_adapter(), fused.merge_adapter()
        assert close() == pytest.approx(active, abs=1e-4)
        plain.unmerge_adapter(), fused.unmerge_adapter()
        for model in (plain, fused):
            torch.manual_seed(5)
            model.add_adapter("second", copy.deepcopy(model.peft_config["default"]))
            model.base_model.set_adapter(["default", "second"])
        close()


def test_what_is_saved_is_pefts(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plain, fused = _pair(folders["llama"], "float32", monkeypatch)
    saved = []
    for name, model in (("plain", plain), ("fused", fused)):
        model.save_pretrained(tmp_path / name)
        files = sorted(path.name for path in (tmp_path / name).iterdir())
        saved.append((files, *((tmp_path / name / file).read_bytes() for file in files)))
    assert saved[0] == saved[1]


def test_weights_that_are_kept_dequantized_give_the_same_bits(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    at_each_use, kept = (_plain(folders["llama"], "bfloat16", monkeypatch, load_in_4bit=True) for _ in range(2))
    assert fuse(at_each_use).dequantized_bytes == 0
    found = fuse(kept, keep_dequantized=True)
    quantized = [module.base_layer for module in kept.modules() if hasattr(module, "lora_A")]
    assert found.dequantized_bytes == sum(2 * layer.in_features * layer.out_features for layer in quantized)
    one, other = (_step(model, _batch(), _fused_loss, bf16=True) for model in (at_each_use, kept))
    assert one[0] == other[0]
    assert all(torch.equal(one[1][name], other[1][name]) for name in one[1])


def test_a_head_that_is_trained_gets_its_gradient(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    plain, fused = _pair(folders["qwen2"], "float32", monkeypatch)
    for model in (plain, fused):
        model.get_base_model().lm_head.weight.requires_grad_()
    expected, wanted = _step(plain, _batch(), _loss, bf16=False)
    loss, gradients = _step(fused, _batch(), _fused_loss, bf16=False)
    assert loss == pytest.approx(expected, abs=1e-5)
    assert any("lm_head" in name for name in gradients) and _distance(gradients, wanted) < 1e-5
