"""The unsloth engine at work on the CPU, in a process of its own, since Unsloth changes other libraries.

    python -m tests.unsloth_on_cpu MODEL GIVEN_ADAPTER OTHER_ADAPTER OUT DTYPE LOAD_IN_4BIT

Writes ``OUT/adapter`` and ``OUT/found.json``.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from lowvram_ft.data.prepared_pairs import for_trainer as for_pairs
from lowvram_ft.errors import ModelError
from lowvram_ft.progress import Progress
from lowvram_ft.training.engines import unsloth  # first: it changes the libraries that the others import
from lowvram_ft.training.engines.protocol import Loaded
from lowvram_ft.training.preference import assert_pair_masks
from lowvram_ft.training.references import reference_log_probs
from lowvram_ft.training.sft import assert_completion_mask
from tests.pair_runs import batch_of, pair, prepared_examples, shift
from tests.tiny_runs import examples, for_trainer, load_plan, train_section


def losses(loaded: Loaded, model: Path, out: Path, steps: int) -> tuple[list[float], list[float]]:
    """Train on all rows in one batch; the loss of each step, and the validation loss after it."""
    rows = examples(model, 4)
    dataset = for_trainer(rows)
    train = train_section(max_steps=steps, per_device_train_batch_size=len(rows), eval_steps=1.0)
    trainer = unsloth.UnslothEngine().trainer("sft", loaded, train, dataset, dataset, out, [])
    assert_completion_mask(trainer, rows)
    trainer.train()
    history = trainer.state.log_history
    return [e["loss"] for e in history if "loss" in e], [e["eval_loss"] for e in history if "eval_loss" in e]


def loss_rows(tokens: int) -> int:
    """Positions whose logits Unsloth's loss would make at a time, once it is told to make so many."""
    from unsloth_zoo.fused_losses.chunked_logprob import chunked_logprob_rows

    unsloth.bound_loss(tokens, 5000)
    rows: int = chunked_logprob_rows(5000)
    return rows


def preferences(model: Path, adapter: Path, out: Path) -> dict[str, Any]:
    """Pairs under an adapter as the reference, and the losses of the same adapter moved on, which goes to a folder."""
    engine, values = unsloth.UnslothEngine(), [pair(number) for number in range(4)]
    loaded = engine.load(model, replace(load_plan(), dropout=False), adapter)
    examples = prepared_examples(model, values, out)
    arguments = (out / "references.jsonl", "these", Progress(quiet=True), lambda *_, **__: None)
    references = reference_log_probs("x", loaded, examples, *arguments)
    shift(loaded, 1)
    loaded.model.save_pretrained(out / "policy")
    found: dict[str, Any] = {"references": [references[example.digest] for example in examples], "losses": {}}
    for kind in ("sigmoid", "ipo", "sigmoid_norm"):
        for weight in (0.0, 0.3):
            train = train_section(method="dpo", loss_type=kind, sft_weight=weight, beta=0.3)
            trainer = engine.trainer("dpo", loaded, train, for_pairs(examples, references), None, out, [])
            loss = trainer.compute_loss(loaded.model, batch_of(trainer, examples, references))
            found["losses"][f"{kind} {weight}"] = float(loss.detach())
    for batch, accumulation in ((4, 1), (1, 4)):
        again = engine.load(model, replace(load_plan(), dropout=False), adapter)
        sizes = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation, "max_steps": 2}
        train = train_section(method="dpo", **sizes)
        trainer = engine.trainer("dpo", again, train, for_pairs(examples, references), None, out, [])
        assert_pair_masks(trainer, examples, references)
        before = {name: p.detach().clone() for name, p in again.model.named_parameters()}
        trainer.train()
        logged = [entry for entry in trainer.state.log_history if "loss" in entry]
        found[f"{batch}x{accumulation}"] = [[entry["loss"], entry["grad_norm"]] for entry in logged]
        now = dict(again.model.named_parameters())
        assert now.keys() == before.keys(), "no copy of the adapter is left in the model"
        found["changed"] = sorted({name.split(".")[-3] for name, p in now.items() if bool((p != before[name]).any())})
    return found


def main() -> None:
    model, given, other, out = map(Path, sys.argv[1:5])
    dtype, load_in_4bit = sys.argv[5], sys.argv[6] == "True"
    unsloth.compute_dtype = lambda device: dtype
    engine, plan = unsloth.UnslothEngine(), load_plan(load_in_4bit=load_in_4bit)
    found: dict[str, Any] = {}

    fresh = engine.load(model, plan, None)
    found["device"], found["dtype"] = fresh.device, fresh.dtype
    found["linear"] = sorted({type(m).__name__ for m in fresh.model.modules() if "Linear" in type(m).__name__})
    found["trainable"] = sorted({n.split(".")[-3] for n, p in fresh.model.named_parameters() if p.requires_grad})
    found["fresh"] = losses(fresh, model, out / "a", 2)
    fresh.model.save_pretrained(out / "adapter")

    trained = {name: p.detach().clone() for name, p in fresh.model.named_parameters() if p.requires_grad}
    again = engine.load(model, plan, out / "adapter")
    weights = {name: p for name, p in again.model.named_parameters() if p.requires_grad}
    found["continued_weights_equal"] = trained.keys() == weights.keys() and all(
        bool((trained[name] == weights[name]).all()) for name in trained
    )
    found["continued"] = losses(again, model, out / "b", 1)
    found["given"] = losses(engine.load(model, plan, given), model, out / "c", 1)
    levers = {"head": "nf4", "nf4_embedding": True}
    found["host_head"] = losses(engine.load(model, replace(plan, head="host"), given), model, out / "d", 2)
    found["nf4_tables"] = losses(engine.load(model, replace(plan, **levers), given), model, out / "e", 1)
    found["loss_rows"] = [loss_rows(300), loss_rows(77)]
    try:
        engine.load(model, plan, other)
    except ModelError as error:
        found["refused"] = str(error)
    if (dtype, load_in_4bit) == ("float32", False):
        found["preferences"] = preferences(model, given, out / "preferences")
    (out / "found.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
