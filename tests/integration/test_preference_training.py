"""Preference training held against plain logits: references, losses, gradients, resumes, and what is trained on."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lowvram_ft.errors import DataError, TrainingError
from lowvram_ft.training.engines.reference import ReferenceEngine
from lowvram_ft.training.log_probs import completion_log_probs
from lowvram_ft.training.preference import assert_pair_masks
from lowvram_ft.training.references import FILE, read_references, reference_log_probs
from lowvram_ft.training.stage import clear_checkpoints
from tests.gguf_models import make_adapter
from tests.pair_runs import (
    SIDES,
    Brute,
    batch_of,
    brute_loss,
    pair,
    pair_recipe,
    prepared_examples,
    run_pairs,
    shift,
    write_pairs,
)
from tests.stage_runs import digest
from tests.tiny_runs import events, load_plan, train_section

ENGINE = ReferenceEngine()
VALUES = [pair(number) for number in range(6)]
LOSSES = [(kind, weight) for kind in ("sigmoid", "ipo", "sigmoid_norm") for weight in (0.0, 0.3)]


@pytest.fixture(autouse=True)
def in_float32(monkeypatch: pytest.MonkeyPatch, one_thread: None) -> None:
    monkeypatch.setattr("lowvram_ft.training.engines.reference.compute_dtype", lambda device: "float32")


@pytest.fixture(scope="module")
def given(tiniest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that changes the model, as supervised fine-tuning leaves one."""
    return make_adapter(tiniest, tmp_path_factory.mktemp("given") / "adapter")


@pytest.fixture(scope="module")
def policy(tiniest: Path, given: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same adapter, moved on."""
    loaded = ENGINE.load(tiniest, load_plan(), given)
    shift(loaded, 1)
    folder = tmp_path_factory.mktemp("policy")
    loaded.model.save_pretrained(folder)
    return folder


def _references(loaded: Any, examples: Any, folder: Path) -> dict[str, tuple[float, float]]:
    return reference_log_probs("x", loaded, examples, folder / FILE, "these", _Quiet(), lambda *_, **__: None)


class _Quiet:
    def step(self, *_: Any) -> None: ...


def _trainer(loaded: Any, examples: Any, references: Any, out: Path, **train: Any) -> Any:
    from lowvram_ft.data.prepared_pairs import for_trainer

    settings = {"method": "dpo", "per_device_train_batch_size": len(examples), "sft_weight": 0.0} | train
    rows = for_trainer(examples, references)
    return ENGINE.trainer("dpo", loaded, train_section(**settings), rows, None, out, [])


def test_stored_references_are_the_adapters_log_probabilities(tiniest: Path, given: Path, tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "pairs.jsonl", VALUES)
    run_pairs(pair_recipe(tiniest, max_steps=1), pairs, tmp_path / "out", adapter=given)
    lines = [json.loads(line) for line in (tmp_path / "out" / FILE).read_text().splitlines()]
    assert len(lines) == len(VALUES)
    examples = prepared_examples(tiniest, VALUES, tmp_path / "again")
    stored = read_references(tmp_path / "out" / FILE, lines[0]["under"])
    adapter, base = Brute(tiniest, given), Brute(tiniest, None)
    for value, example in zip(VALUES, examples, strict=True):
        plain = [adapter.log_prob(value["prompt"], value[side])[0] for side in SIDES]
        assert stored[example.digest] == pytest.approx(plain, abs=1e-5 * abs(plain[0]), rel=0)
        of_base = [base.log_prob(value["prompt"], value[side])[0] for side in SIDES]
        assert stored[example.digest] != pytest.approx(of_base, abs=0.1), "the base would be seen"
    recomputed = _references(ENGINE.load(tiniest, replace(load_plan(), dropout=False), given), examples, tmp_path)
    for example in examples:
        assert stored[example.digest] == pytest.approx(recomputed[example.digest], abs=1e-5)


@pytest.mark.parametrize(("kind", "sft_weight"), LOSSES)
def test_the_loss_is_that_of_plain_logits(
    kind: str, sft_weight: float, tiniest: Path, given: Path, policy: Path, tmp_path: Path
) -> None:
    examples = prepared_examples(tiniest, VALUES, tmp_path)
    references = _references(ENGINE.load(tiniest, load_plan(), given), examples, tmp_path)
    loaded = ENGINE.load(tiniest, load_plan(), policy)
    trainer = _trainer(loaded, examples, references, tmp_path, loss_type=kind, beta=0.3, sft_weight=sft_weight)
    found = trainer.compute_loss(loaded.model, batch_of(trainer, examples, references)).detach()
    plain = [Brute(tiniest, policy), Brute(tiniest, given), Brute(tiniest, None)]
    expected = fmean(brute_loss(kind, 0.3, sft_weight, plain[0], plain[1], value) for value in VALUES)
    assert float(found) == pytest.approx(expected, rel=2e-5)
    on_base = fmean(brute_loss(kind, 0.3, sft_weight, plain[0], plain[2], value) for value in VALUES)
    assert float(found) != pytest.approx(on_base, rel=2e-4), "the base as the reference would be seen"


@pytest.mark.parametrize("kind", ["sigmoid", "ipo", "sigmoid_norm"])
def test_alone_a_pairs_loss_is_trls_own(kind: str, tiniest: Path, given: Path, policy: Path, tmp_path: Path) -> None:
    """TRL's formulas on plain logits: its fused head needs a card."""
    from trl import DPOTrainer

    examples = prepared_examples(tiniest, VALUES[:1], tmp_path)
    references = _references(ENGINE.load(tiniest, load_plan(), given), examples, tmp_path)
    loaded = ENGINE.load(tiniest, load_plan(), policy)
    trainer = _trainer(loaded, examples, references, tmp_path, loss_type=kind, sft_weight=0.3)
    batch = batch_of(trainer, examples, references)
    ours = trainer.compute_loss(loaded.model, batch).detach()

    def plain(labels: torch.Tensor, fused_lm_head: bool, **inputs: Any) -> SimpleNamespace:
        assert fused_lm_head
        table, wanted = loaded.model(**inputs).logits[:, :-1].log_softmax(-1), labels[:, 1:]
        found = table.gather(2, wanted.clamp(min=0)[..., None])[..., 0] * (wanted != -100)
        zeros = torch.zeros_like(found)
        return SimpleNamespace(log_probs=found, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool())

    trainer.precompute_ref_logps = True
    theirs = DPOTrainer._compute_loss(trainer, plain, batch, False).detach()
    assert float(ours) == pytest.approx(float(theirs), rel=1e-5)


@pytest.mark.parametrize("kind", ["sigmoid", "ipo", "sigmoid_norm"])
def test_the_gradient_is_that_of_plain_logits(
    kind: str, tiniest: Path, given: Path, policy: Path, tmp_path: Path
) -> None:
    examples = prepared_examples(tiniest, VALUES[:3], tmp_path)
    references = _references(ENGINE.load(tiniest, load_plan(), given), examples, tmp_path)
    loaded = ENGINE.load(tiniest, load_plan(), policy)
    trainer = _trainer(loaded, examples, references, tmp_path, loss_type=kind, sft_weight=0.3)
    trainer.compute_loss(loaded.model, batch_of(trainer, examples, references)).backward()
    gradients = {name: p.grad.clone() for name, p in loaded.model.named_parameters() if p.grad is not None}
    loaded.model.zero_grad()
    _plain_loss(loaded.model, examples, references, kind, 0.1, 0.3).backward()
    for name, parameter in loaded.model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-3, atol=1e-5)
    assert len(gradients) == sum(p.requires_grad for p in loaded.model.parameters())


def _plain_loss(model: Any, examples: Any, references: Any, kind: str, beta: float, weight: float) -> Any:
    """The same through all logits and autograd, a sequence at a time."""
    losses = []
    for example in examples:
        sums, means = [], []
        for completion in (example.chosen_ids, example.rejected_ids):
            ids = torch.tensor([[*example.prompt_ids, *completion]])
            table = model(ids).logits[0, len(example.prompt_ids) - 1 : -1].log_softmax(-1)
            each = table.gather(1, torch.tensor(completion)[:, None])[:, 0]
            sums.append(each.sum())
            means.append(each.mean())
        ratios = [found - known for found, known in zip(sums, references[example.digest], strict=True)]
        if kind != "sigmoid":
            ratios = [r / len(c) for r, c in zip(ratios, (example.chosen_ids, example.rejected_ids), strict=True)]
        margin = ratios[0] - ratios[1]
        loss = (margin - 1 / (2 * beta)) ** 2 if kind == "ipo" else torch.log1p(torch.exp(-beta * margin))
        losses.append(loss - weight * means[0])
    return torch.stack(losses).mean()


def test_chunks_of_tokens_change_nothing(tiniest: Path, policy: Path, tmp_path: Path) -> None:
    examples = prepared_examples(tiniest, VALUES[:2], tmp_path)
    loaded = ENGINE.load(tiniest, load_plan(), policy)
    trainer = _trainer(loaded, examples, dict.fromkeys((e.digest for e in examples), (0.0, 0.0)), tmp_path)
    batch = batch_of(trainer, examples, dict.fromkeys((e.digest for e in examples), (0.0, 0.0)))
    found = {}
    weights = torch.tensor([1.0, -0.5, 2.0, 0.25])
    for chunk in (None, 1, 7, 1000):
        loaded.model.zero_grad()
        values = completion_log_probs(loaded.model, batch, chunk)
        (values * weights).sum().backward()
        found[chunk] = values.detach(), [p.grad.clone() for p in loaded.model.parameters() if p.grad is not None]
    for chunk in (1, 7, 1000):
        torch.testing.assert_close(found[chunk][0], found[None][0], rtol=1e-6, atol=1e-5)
        for ours, whole in zip(found[chunk][1], found[None][1], strict=True):
            torch.testing.assert_close(ours, whole, rtol=1e-4, atol=1e-6)


def test_no_more_logits_exist_than_the_chunk_has(
    tiniest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    from lowvram_ft.training import log_probs

    plain = log_probs.head_nlls
    monkeypatch.setattr(log_probs, "head_nlls", lambda s, *rest: seen.append(len(s)) or plain(s, *rest))
    examples = prepared_examples(tiniest, VALUES[:1], tmp_path)
    loaded = ENGINE.load(tiniest, replace(load_plan(), loss_chunk=5), None)
    _references(loaded, examples, tmp_path)
    labels = len(examples[0].chosen_ids) + len(examples[0].rejected_ids)
    assert max(seen) == 5 and sum(seen) == labels, "the prompt's tokens have no logits"


def test_only_the_adapter_is_trained(tiniest: Path, given: Path, tmp_path: Path) -> None:
    examples = prepared_examples(tiniest, VALUES, tmp_path)
    loaded = ENGINE.load(tiniest, load_plan(), given)
    references = _references(loaded, examples, tmp_path)
    before = {name: p.detach().clone() for name, p in loaded.model.named_parameters()}
    trainer = _trainer(loaded, examples, references, tmp_path, max_steps=3)
    trainer.train()
    after = dict(loaded.model.named_parameters())
    assert before.keys() == after.keys(), "no copy of the adapter is left in the model"
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all("lora_" in name for name in changed)
    assert {name for name, p in after.items() if p.grad is not None or p.requires_grad} == {
        name for name in before if "lora_" in name
    }


@pytest.mark.parametrize("kind", ["sigmoid", "ipo"])
def test_accumulation_is_the_mean_over_pairs(kind: str, tiniest: Path, given: Path, tmp_path: Path) -> None:
    """Also where the last step of an epoch has fewer pairs (5 in steps of 4), and where micro-batches differ."""
    found = {}
    for batch, accumulation in ((4, 1), (1, 4), (5, 1), (3, 2)):
        out = tmp_path / f"{batch}x{accumulation}"
        examples = prepared_examples(tiniest, VALUES[:5], out)
        loaded = ENGINE.load(tiniest, replace(load_plan(), dropout=False), given)
        references = _references(loaded, examples, out)
        sizes: dict[str, Any] = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation}
        trainer = _trainer(
            loaded, examples, references, out, loss_type=kind, sft_weight=0.3, max_steps=2, max_grad_norm=1e9, **sizes
        )
        trainer.train()
        logged = [entry for entry in trainer.state.log_history if "loss" in entry]
        found[batch, accumulation] = [entry["loss"] for entry in logged], [entry["grad_norm"] for entry in logged]
    for whole, parts in (((4, 1), (1, 4)), ((5, 1), (3, 2))):
        assert found[parts][0] == pytest.approx(found[whole][0], rel=1e-5)
        assert found[parts][1] == pytest.approx(found[whole][1], rel=1e-4)
    assert found[5, 1][1] != pytest.approx(found[4, 1][1], rel=1e-3), "another step would be seen"


def test_a_stage_learns_what_it_is_shown_and_says_by_how_much(tiniest: Path, given: Path, tmp_path: Path) -> None:
    values = [pair(number) for number in range(12)]
    pairs = write_pairs(tmp_path / "pairs.jsonl", values)
    recipe = pair_recipe(tiniest, learning_rate=1e-2, beta=0.5, sft_weight=0.2)
    trained = run_pairs(recipe, pairs, tmp_path / "out", adapter=given)
    result = trained.result
    assert result["data"]["train"] + result["data"]["eval"] == 12 and result["data"]["eval"] > 0
    assert result["first_reward_margin"] == pytest.approx(0, abs=1e-4), "a stage begins at its reference"
    assert result["last_reward_margin"] > 0.2
    seen = [event for event in events(tmp_path / "out") if event["event"] == "trained"]
    assert seen[-1]["reward_margin"] == pytest.approx(result["last_reward_margin"])
    assert 0 <= seen[-1]["reward_accuracy"] <= 1
    # the validation loss of the weights that were kept, by plain logits and the adapter of before
    validated = {e["step"]: e["eval_loss"] for e in events(tmp_path / "out") if e["event"] == "validated"}
    held = [value for value in values if value["prompt"] not in _trained_prompts(tiniest, pairs, recipe)]
    after, before = Brute(tiniest, trained.adapter), Brute(tiniest, given)
    expected = fmean(brute_loss("sigmoid", 0.5, 0.2, after, before, value) for value in held)
    assert result["best_eval_loss"] == min(validated.values()) == pytest.approx(expected, rel=1e-4)
    assert (trained.adapter / "adapter_config.json").is_file() and not (trained.adapter / "ref").exists()


def _trained_prompts(model: Path, pairs: Path, recipe: Any) -> set[str]:
    from lowvram_ft.data.pairs import read_pairs
    from lowvram_ft.data.prepared_pairs import prepare_pairs
    from lowvram_ft.rendering import from_folder

    prepared = prepare_pairs(read_pairs(pairs), recipe.data, from_folder(model), 2048)
    return {example.pair.prompt for example in prepared.train}


def test_references_that_a_kill_left_out_are_computed_and_no_others(tiniest: Path, given: Path, tmp_path: Path) -> None:
    examples = prepared_examples(tiniest, VALUES, tmp_path)
    loaded = ENGINE.load(tiniest, replace(load_plan(), dropout=False), given)
    whole = _references(loaded, examples, tmp_path)
    path = tmp_path / FILE
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:3]) + lines[3][:20])
    seen: list[dict[str, Any]] = []
    note = lambda kind, **fields: seen.append({"event": kind, **fields})  # noqa: E731
    again = reference_log_probs("x", loaded, examples, path, "these", _Quiet(), note)
    assert again == whole and [one["computed"] for one in seen] == [3]
    assert sorted(path.read_bytes().splitlines()) == sorted(line.rstrip() for line in lines)


class Killed(BaseException):
    """Stands for a process that ends at once."""


@pytest.mark.parametrize("at", [("references", 0), ("trained", 3), ("validated", 4)])
def test_a_killed_stage_ends_as_an_undisturbed_one_and_computes_no_reference_again(
    at: tuple[str, int], tiniest: Path, given: Path, whole: Path, pairs_file: Path, tmp_path: Path
) -> None:
    def kill(kind: str, fields: dict[str, Any]) -> None:
        if (kind, fields.get("step", 0)) == at and fields.get("computed", 1):
            raise Killed

    out = tmp_path / "out"
    recipe = pair_recipe(tiniest)
    with pytest.raises(Killed):
        run_pairs(recipe, pairs_file, out, adapter=given, on_event=kill)
    stored = (out / FILE).read_bytes()
    trained = run_pairs(recipe, pairs_file, out, adapter=given)
    assert digest(trained.adapter) == digest(whole / "adapter")
    assert (out / FILE).read_bytes() == stored
    assert [e["computed"] for e in events(out) if e["event"] == "references"] == [8, 0]
    if at[0] != "references":
        assert any(e["event"] == "resumed" for e in events(out))


@pytest.fixture(scope="module")
def pairs_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs") / "pairs.jsonl", [pair(number) for number in range(8)])


@pytest.fixture(scope="module")
def whole(tiniest: Path, given: Path, pairs_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a stage to which nothing has happened."""
    out = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lowvram_ft.training.engines.reference.compute_dtype", lambda device: "float32")
        run_pairs(pair_recipe(tiniest), pairs_file, out, adapter=given)
    return out


def test_references_of_another_adapter_are_not_taken(
    tiniest: Path, given: Path, policy: Path, pairs_file: Path, tmp_path: Path
) -> None:
    recipe = pair_recipe(tiniest, max_steps=1)
    run_pairs(recipe, pairs_file, tmp_path, adapter=given)
    clear_checkpoints(tmp_path)
    run_pairs(recipe, pairs_file, tmp_path, adapter=policy)
    clear_checkpoints(tmp_path)
    run_pairs(recipe, pairs_file, tmp_path, adapter=given)
    assert [e["computed"] for e in events(tmp_path) if e["event"] == "references"] == [8, 8, 0]


def test_a_new_adapters_reference_is_the_base(tiniest: Path, pairs_file: Path, tmp_path: Path) -> None:
    trained = run_pairs(pair_recipe(tiniest, max_steps=1), pairs_file, tmp_path)
    kept = json.loads((trained.adapter / "adapter_config.json").read_text())["lora_dropout"]
    assert kept == pair_recipe(tiniest).lora.lora_dropout > 0, "off in this stage alone"
    line = json.loads((tmp_path / FILE).read_text().splitlines()[0])
    base = Brute(tiniest, None)
    plain = {round(base.log_prob(pair(n)["prompt"], pair(n)["chosen"])[0], 2) for n in range(8)}
    assert round(line["chosen"], 2) in plain


def test_memory_that_runs_out_costs_no_reference(
    tiniest: Path, given: Path, pairs_file: Path, tmp_path: Path, whole: Path
) -> None:
    from tests.faulty_memory import Fault, FaultyEngine

    engine = FaultyEngine([Fault("forward", 3)])
    trained = run_pairs(pair_recipe(tiniest), pairs_file, tmp_path, adapter=given, engine=engine)
    assert len(trained.result["notches"]) == 1
    assert [e["computed"] for e in events(tmp_path) if e["event"] == "references"] == [8, 0]
    ours, theirs = (load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (tmp_path, whole))
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, atol=1e-5)


def test_masks_that_are_wrong_are_found_before_the_first_step(tiniest: Path, tmp_path: Path) -> None:
    examples = prepared_examples(tiniest, VALUES[:3], tmp_path)
    loaded = ENGINE.load(tiniest, load_plan(), None)
    references = _references(loaded, examples, tmp_path)
    assert_pair_masks(_trainer(loaded, examples, references, tmp_path), examples, references)

    def must_fail(break_it: Any) -> None:
        trainer = _trainer(loaded, examples, references, tmp_path)
        collate = trainer.data_collator

        def broken(rows: Any) -> Any:
            batch = collate(rows)
            break_it(batch)
            return batch

        trainer.data_collator = broken
        with pytest.raises(TrainingError, match="is compared on other tokens"):
            assert_pair_masks(trainer, examples, references)

    must_fail(lambda batch: batch["completion_mask"][1, :].fill_(1))
    must_fail(lambda batch: batch["completion_mask"][0, -1:].fill_(0))
    must_fail(lambda batch: batch["input_ids"][1, 3].add_(1))
    must_fail(lambda batch: batch.update(input_ids=batch["input_ids"][:, :-2]))
    must_fail(lambda batch: batch["ref_chosen_logps"].add_(1))
    must_fail(lambda batch: batch.update({key: value.flip(0) for key, value in batch.items() if value.ndim == 2}))


def test_rft_trains_on_winners_alone(
    tiniest: Path, given: Path, tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del own_cache
    values = [pair(number) for number in range(8)]
    pairs = write_pairs(tmp_path / "pairs.jsonl", [*values, {**values[0], "rejected": "assert 0"}])
    seen: list[str] = []
    from lowvram_ft.training.recovery import attempt

    checked = attempt.assert_completion_mask
    monkeypatch.setattr(
        attempt,
        "assert_completion_mask",
        lambda trainer, rows: (seen.extend(row.row.completion for row in rows), checked(trainer, rows)),
    )
    recipe = pair_recipe(tiniest, method="rft", max_steps=2)
    result = run_pairs(recipe, pairs, tmp_path / "out", adapter=given).result
    assert result["data"]["train"] + result["data"]["eval"] == 8, "a winner of two pairs is one row"
    chosen = {value["chosen"].strip() for value in values}
    assert set(seen) < chosen and len(seen) == len(set(seen)) == result["data"]["train"]
    assert result["data"]["source"]["name"] == "winners"
    assert not (tmp_path / "out" / FILE).exists()
    assert math.isfinite(result["last_loss"])


def test_a_method_that_needs_pairs_says_so(tiniest: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train\.method = dpo trains on pairs"):
        run_pairs(pair_recipe(tiniest), None, tmp_path)


def test_dropout_is_off_whatever_the_adapter_was_made_with(tiniest: Path, tmp_path: Path) -> None:
    sft = ENGINE.load(tiniest, load_plan(lora_dropout=0.5), None)
    shift(sft, 3)
    sft.model.save_pretrained(tmp_path / "sft")
    examples = prepared_examples(tiniest, VALUES[:1], tmp_path)
    values = []
    for dropout in (False, True):
        loaded = ENGINE.load(tiniest, replace(load_plan(), dropout=dropout), tmp_path / "sft")
        references = _references(loaded, examples, tmp_path / str(dropout))
        loaded.model.train()
        batch = batch_of(_trainer(loaded, examples, references, tmp_path), examples, references)
        values.append((completion_log_probs(loaded.model, batch, None).tolist(), references[examples[0].digest]))
    assert values[0][0] == pytest.approx(values[0][1], abs=1e-5)
    assert values[0][1] == pytest.approx(values[1][1], abs=1e-5)
