"""One stage on a tiny model: the mask, the loss, the gradients, the adapter that is continued."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lowvram_ft.data.prepared import IGNORE_INDEX, Example
from lowvram_ft.errors import ModelError, TrainingError
from lowvram_ft.training.engines import Loaded
from lowvram_ft.training.engines.reference import ReferenceEngine
from lowvram_ft.training.sft import assert_completion_mask
from tests.gguf_models import make_adapter, make_tiny_model
from tests.tiny_runs import examples, for_trainer, load_plan, run_cli, train_section, write_recipe

pytestmark = pytest.mark.usefixtures("one_thread")
ENGINE = ReferenceEngine()
Batch = dict[str, Any]


@pytest.fixture
def in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute in float32, so that two ways to the same number can be held against each other."""
    monkeypatch.setattr("lowvram_ft.training.engines.reference.compute_dtype", lambda device: "float32")


def _trainer(loaded: Loaded, rows: list[Example], out: Path, callbacks: Any = (), **train: Any) -> Any:
    return ENGINE.trainer("sft", loaded, train_section(**train), for_trainer(rows), None, out, callbacks)


def _randomize_adapter(model: Any) -> None:
    """Give B, which starts at zero, values, so that A has gradients and the adapter shows in the loss."""
    import torch

    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)


def _batch(trainer: Any, start: int = 0, stop: int | None = None) -> Batch:
    dataset = trainer.train_dataset
    return dict(trainer.data_collator([dataset[i] for i in range(start, len(dataset) if stop is None else stop)]))


def _brute_force(model: Any, batch: Batch, shift: int = 1) -> tuple[Any, int]:
    """Negative log-likelihood of every label, one at a time, from transformers' logits of all positions."""
    import torch

    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    assert logits.shape[:2] == batch["input_ids"].shape
    total, count = torch.zeros(()), 0
    for row, labels in enumerate(batch["labels"].tolist()):
        for position, label in enumerate(labels):
            if label != IGNORE_INDEX:
                scores = logits[row, position - shift]
                total = total + torch.logsumexp(scores, 0) - scores[label]
                count += 1
    return total, count


def test_the_completion_mask_holds_on_real_rows(tiny_llama: Path, tmp_path: Path) -> None:
    rows = examples(tiny_llama)
    trainer = _trainer(ENGINE.load(tiny_llama, load_plan(), None), rows, tmp_path)
    assert_completion_mask(trainer, rows)
    batch = _batch(trainer)
    carrying = (batch["labels"] != IGNORE_INDEX).sum(dim=1).tolist()
    encode = trainer.processing_class.encode
    assert carrying == [len(encode(row.row.completion + "<|im_end|>", add_special_tokens=False)) for row in rows]
    assert len({len(row.input_ids) for row in rows}) > 1  # there was padding to leave out


def _off_by_one(row: dict[str, list[int]]) -> None:
    row["labels"] = [*row["labels"][1:], IGNORE_INDEX]


def _cut(row: dict[str, list[int]]) -> None:
    row["input_ids"], row["labels"] = row["input_ids"][:-5], row["labels"][:-5]


def _without_end_token(row: dict[str, list[int]]) -> None:
    row["labels"][-1] = IGNORE_INDEX


def _with_prompt(row: dict[str, list[int]]) -> None:
    row["labels"] = list(row["input_ids"])


def _other_token(row: dict[str, list[int]]) -> None:
    row["input_ids"][3] += 1


@pytest.mark.parametrize("tamper", [_off_by_one, _cut, _without_end_token, _with_prompt, _other_token])
def test_a_wrong_completion_mask_is_refused_by_row(
    tiny_llama: Path, tmp_path: Path, tamper: Callable[[dict[str, list[int]]], None]
) -> None:
    from datasets import Dataset

    rows = examples(tiny_llama)
    trainer = _trainer(ENGINE.load(tiny_llama, load_plan(), None), rows, tmp_path)
    tampered = for_trainer(rows).to_list()
    tamper(tampered[3])
    trainer.train_dataset = Dataset.from_list(tampered)
    with pytest.raises(TrainingError, match=f"completion mask: row {rows[3].row.id} carries loss on other tokens"):
        assert_completion_mask(trainer, rows)


def test_a_lost_row_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    rows = examples(tiny_llama)
    trainer = _trainer(ENGINE.load(tiny_llama, load_plan(), None), rows, tmp_path)
    trainer.train_dataset = trainer.train_dataset.select(range(len(rows) - 1))
    with pytest.raises(TrainingError, match=f"the trainer sees {len(rows) - 1} rows of {len(rows)}"):
        assert_completion_mask(trainer, rows)


@pytest.mark.parametrize("family", ["llama", "qwen2"])
@pytest.mark.usefixtures("in_float32")
def test_the_loss_equals_a_brute_force_cross_entropy(
    family: str, tiny_llama: Path, tiny_qwen2: Path, tmp_path: Path
) -> None:
    import torch

    model = {"llama": tiny_llama, "qwen2": tiny_qwen2}[family]
    loaded = ENGINE.load(model, load_plan(), None)
    _randomize_adapter(loaded.model)
    trainer = _trainer(loaded, examples(model, 4), tmp_path)
    batch = _batch(trainer)
    with torch.no_grad():
        total, count = _brute_force(loaded.model, batch)
        shifted, _ = _brute_force(loaded.model, batch, shift=0)
        alone = trainer.compute_loss(loaded.model, dict(batch))
        shared = trainer.compute_loss(loaded.model, dict(batch), num_items_in_batch=torch.tensor(3 * count))
    assert alone.item() == pytest.approx(total.item() / count, abs=1e-5)
    assert shared.item() == pytest.approx(total.item() / (3 * count), abs=1e-5)
    assert abs(shifted.item() / count - alone.item()) > 0.01  # a shift by one position would be seen


@pytest.mark.usefixtures("in_float32")
def test_accumulated_steps_have_the_loss_and_gradients_of_one_batch(tiny_llama: Path, tmp_path: Path) -> None:
    import torch
    from transformers import TrainerCallback

    loaded = ENGINE.load(tiny_llama, load_plan(), None)
    _randomize_adapter(loaded.model)
    found: dict[str, Any] = {}

    class Keep(TrainerCallback):  # type: ignore[misc]
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            found.update({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})

    rows = examples(tiny_llama, 5)[:4]
    trainer = _trainer(loaded, rows, tmp_path, [Keep()], gradient_accumulation_steps=2)
    whole = _batch(trainer)
    total, count = _brute_force(loaded.model, whole)
    (total / count).backward()
    expected = {n: p.grad.clone() for n, p in loaded.model.named_parameters() if p.grad is not None}
    loaded.model.zero_grad()
    means = []
    with torch.no_grad():
        for start in (0, 2):
            part, n = _brute_force(loaded.model, _batch(trainer, start, start + 2))
            means.append(part.item() / n)
    before = {name: parameter.detach().clone() for name, parameter in loaded.model.named_parameters()}

    trainer.train()

    loss = next(entry["loss"] for entry in trainer.state.log_history if "loss" in entry)
    assert loss == pytest.approx(total.item() / count, abs=1e-5)
    assert abs(sum(means) / 2 - total.item() / count) > 1e-4  # a mean of the micro-batches' means would be seen
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)
    trained = {name for name, p in loaded.model.named_parameters() if not torch.equal(p, before[name])}
    assert trained == set(expected) == {name for name in before if "lora_" in name}
    assert len(trained) == 2 * 2 * 7  # A and B of seven projections in two layers


def _gradients(model: Any, batch: Batch) -> dict[str, Any]:
    from lowvram_ft.training.cpu_trainer import completion_nll

    model.train()
    model.zero_grad()
    total, count = completion_nll(model, batch)
    (total / count).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def _train_evaluate_train(model_folder: Path, out: Path, *, evaluate: bool) -> dict[str, Any]:
    """Gradients of a second step, with or without an evaluation between the two."""
    import torch

    loaded = ENGINE.load(model_folder, load_plan(load_in_4bit=True), None)
    _randomize_adapter(loaded.model)
    trainer = _trainer(loaded, examples(model_folder, 4), out)
    batch = _batch(trainer)
    first = _gradients(loaded.model, batch)
    with torch.no_grad():
        for name, parameter in loaded.model.named_parameters():
            if name in first:
                parameter.sub_(0.01 * first[name])
    if evaluate:
        trainer.evaluate(eval_dataset=trainer.train_dataset)
    return _gradients(loaded.model, batch)


def _largest_difference(one: dict[str, Any], other: dict[str, Any]) -> float:
    """The largest distance of two sets of gradients, as a share of their size."""
    assert one.keys() == other.keys() and one
    return max(float((one[name] - other[name]).norm() / one[name].norm()) for name in one)


def test_an_evaluation_leaves_the_gradients_of_4_bit_weights_alone(tiny_llama: Path, tmp_path: Path) -> None:
    never = _train_evaluate_train(tiny_llama, tmp_path / "never", evaluate=False)
    after = _train_evaluate_train(tiny_llama, tmp_path / "after", evaluate=True)
    assert _largest_difference(never, after) < 1e-6


def test_repacked_4_bit_weights_would_be_seen(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bitsandbytes.functional import has_avx512bf16

    if not has_avx512bf16():
        pytest.skip("bitsandbytes repacks 4-bit weights only where the CPU has AVX512-BF16")
    monkeypatch.setattr("lowvram_ft.training.engines.reference.keep_weights_unpacked", lambda model: None)
    monkeypatch.setattr("lowvram_ft.training.fused.fuse", lambda model, keep_dequantized: None)  # it reads them itself
    never = _train_evaluate_train(tiny_llama, tmp_path / "never", evaluate=False)
    try:
        after = _train_evaluate_train(tiny_llama, tmp_path / "after", evaluate=True)
    except RuntimeError:
        return  # repacked weights of another size: the backward pass fails outright
    assert _largest_difference(never, after) > 0.1


def test_an_adapter_is_continued(tiny_llama: Path, tmp_path: Path) -> None:
    import torch

    adapter = make_adapter(tiny_llama, tmp_path / "adapter")
    given = ENGINE.load(tiny_llama, load_plan(), adapter).model
    fresh = ENGINE.load(tiny_llama, load_plan(), None).model
    for name, parameter in given.named_parameters():
        assert parameter.requires_grad == ("lora_" in name)
    rows = examples(tiny_llama, 2)
    ids = torch.tensor([rows[0].input_ids])
    with torch.no_grad():
        assert (given(ids).logits - fresh(ids).logits).abs().max() > 0.1


OTHER_BASES: dict[str, dict[str, Any]] = {
    "another width": {"intermediate_size": 768},
    "more layers": {"num_hidden_layers": 3},
    "fewer layers": {"num_hidden_layers": 1},
}


@pytest.mark.parametrize("other", OTHER_BASES)
def test_an_adapter_of_another_base_is_refused(other: str, tiny_llama: Path, tmp_path: Path) -> None:
    base = make_tiny_model(tmp_path / "base", "llama", **OTHER_BASES[other])
    adapter = make_adapter(base, tmp_path / "adapter")
    with pytest.raises(ModelError, match="does not fit this base model") as caught:
        ENGINE.load(tiny_llama, load_plan(), adapter)
    assert str(adapter) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("load_in_4bit", [True, False])
def test_small_updates_of_an_adapter_are_not_rounded_away(load_in_4bit: bool, tiny_llama: Path, tmp_path: Path) -> None:
    import torch

    rows = examples(tiny_llama, 4)
    loaded = ENGINE.load(tiny_llama, load_plan(load_in_4bit=load_in_4bit), None)
    _randomize_adapter(loaded.model)
    before = {name: p.detach().clone() for name, p in loaded.model.named_parameters() if p.requires_grad}
    _trainer(loaded, rows, tmp_path, learning_rate=1e-5, max_steps=2).train()
    unchanged, all_of_them = 0, 0
    for name, parameter in loaded.model.named_parameters():
        if name in before:
            assert parameter.dtype == before[name].dtype == torch.float32
            unchanged += int((parameter == before[name]).sum())
            all_of_them += parameter.numel()
    assert unchanged < 0.01 * all_of_them
    rounded = {name: weight.bfloat16() for name, weight in before.items()}
    lost = sum(int(((weight - 1e-5).bfloat16() == weight).sum()) for weight in rounded.values())
    assert lost > 0.5 * all_of_them, "in bfloat16 most of it would be"


def test_a_folder_that_is_no_adapter_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is not a PEFT adapter"):
        ENGINE.load(tiny_llama, load_plan(), tmp_path)


def test_a_truncated_adapter_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    adapter = make_adapter(tiny_llama, tmp_path / "adapter")
    weights = adapter / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(ModelError, match="broken weights") as caught:
        ENGINE.load(tiny_llama, load_plan(), adapter)
    assert "\n" not in str(caught.value)


def test_the_command_refuses_an_adapter_of_another_base_in_one_line(tiny_llama: Path, tmp_path: Path) -> None:
    base = make_tiny_model(tmp_path / "base", "llama", num_hidden_layers=3)
    adapter = make_adapter(base, tmp_path / "adapter")
    recipe = write_recipe(tmp_path, tiny_llama, "[quantization]\nload_in_4bit = false\n")
    outcome = run_cli("train", recipe, "--out", tmp_path / "run", "-q", "--set", f"model.adapter={adapter}")
    assert (outcome.returncode, outcome.stdout) == (2, "")
    assert outcome.stderr.startswith("error: ") and outcome.stderr.count("\n") == 2  # and where it is explained
    assert str(base) in outcome.stderr or str(adapter) in outcome.stderr
