"""Pairs on a tiny model: a file of them, a stage that trains on them, and what all of it comes to by plain logits."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lowvram_ft.data.prepared_pairs import LogProbs, PairExample, for_trainer, prepare_pairs
from lowvram_ft.data.row import build_prompt
from lowvram_ft.progress import Progress
from lowvram_ft.recipe import (
    DataSection,
    EvalSection,
    HardwareSection,
    LoraSection,
    ModelSection,
    QuantizationSection,
    Recipe,
)
from lowvram_ft.rendering import from_folder
from lowvram_ft.run_dir import append_jsonl
from lowvram_ft.training.engines import Engine, Loaded
from lowvram_ft.training.processes.ranks import Ranks
from lowvram_ft.training.stage import Trained, train_stage
from tests.tiny_runs import load_plan, train_section

STAGE = "pairs"


def pair(number: int, group: str | None = None) -> dict[str, Any]:
    """A pair as a person writes it; numbers tell them apart, and their lengths differ."""
    code = f"def scale_{number}(value):\n    return value * {number + 2}\n"
    asserts = "".join(
        f"    assert scale_{number}({case}) == {case * (number + 2)}\n" for case in range(1, 2 + number % 3)
    )
    given = f"from solution import scale_{number}\n\n\ndef test_scale_{number}():\n"
    return {
        "prompt": build_prompt(code),
        "chosen": given + asserts,
        "rejected": given + "    assert True\n" * (1 + number % 2),
        **({"group": group} if group is not None else {}),
    }


def write_pairs(path: Path, values: Sequence[Mapping[str, Any]]) -> Path:
    """Write a JSONL file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
    return path


def pair_recipe(model: Path, *, load_in_4bit: bool = False, dropout: float = 0.1, **train: Any) -> Recipe:
    """A stage of preference training, with what a resume has to bring back: a schedule, clipping, validation."""
    settings: dict[str, Any] = {
        "method": "dpo",
        "max_steps": 6,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 2,
        "eval_steps": 2.0,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.1,
        "max_grad_norm": 1.0,
        "early_stopping_patience": None,
    }
    return Recipe(
        model=ModelSection(base=str(model)),
        data=DataSection(eval_share=0.3),
        quantization=QuantizationSection(load_in_4bit=load_in_4bit),
        lora=LoraSection(r=8, lora_alpha=16, lora_dropout=dropout),
        hardware=HardwareSection(allow=("checkpointing", "smaller_batch")),
        eval=EvalSection(suites=("samples",)),
        train=train_section(**settings | train),
    )


def run_pairs(
    recipe: Recipe,
    pairs: Path | None,
    out: Path,
    *,
    adapter: Path | None = None,
    engine: Engine | None = None,
    on_event: Callable[[str, dict[str, Any]], None] | None = None,
    ranks: Ranks | None = None,
) -> Trained:
    """Train the stage of a recipe, or take it up; events go to ``out/events.jsonl``."""
    if engine is None:
        from lowvram_ft.training.engines.reference import ReferenceEngine

        engine = ReferenceEngine()

    def event(kind: str, **fields: Any) -> None:
        append_jsonl(out / "events.jsonl", {"event": kind, **fields})
        if on_event is not None:
            on_event(kind, fields)

    plan = replace(
        load_plan(load_in_4bit=recipe.quantization.load_in_4bit),
        lora=recipe.lora,
        max_length=recipe.train.max_length,
        gradient_checkpointing=recipe.train.gradient_checkpointing,
    )
    return train_stage(
        STAGE,
        recipe,
        Path(recipe.model.base),
        engine,
        plan,
        out,
        adapter=adapter,
        progress=Progress(quiet=True),
        event=event,
        ranks=ranks or Ranks(),
        pairs=pairs,
    )


def prepared_examples(model: Path, values: Sequence[Mapping[str, Any]], folder: Path) -> tuple[PairExample, ...]:
    """Pairs of one group, rendered: all of them are trained on."""
    from lowvram_ft.data.pairs import read_pairs

    path = write_pairs(folder / "pairs.jsonl", [{**value, "group": "one"} for value in values])
    prepared = prepare_pairs(read_pairs(path), DataSection(), from_folder(model), 2048)
    assert not prepared.eval
    return prepared.train


def shift(loaded: Loaded, seed: int, scale: float = 0.02) -> None:
    """Move an adapter away from where it was loaded."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            if parameter.requires_grad:
                parameter.add_(scale * torch.randn(parameter.shape, generator=generator))


def batch_of(trainer: Any, examples: Sequence[PairExample], references: Mapping[str, LogProbs]) -> dict[str, Any]:
    """What the trainer's own collator makes of pairs."""
    found: dict[str, Any] = trainer.data_collator([dict(row) for row in for_trainer(examples, references)])
    return found


class Brute:
    """Log-probabilities by transformers and PEFT alone: one sequence at a time, all logits, no mask, no padding.

    Args:
        model: folder of the base model.
        adapter: PEFT folder; None for the base.
    """

    def __init__(self, model: Path, adapter: Path | None) -> None:
        import torch
        from peft import PeftModel
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(model)
        loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        self.model = (PeftModel.from_pretrained(loaded, str(adapter)) if adapter is not None else loaded).eval()

    def log_prob(self, prompt: str, completion: str) -> tuple[float, int]:
        """Of a completion and its end token, and how many tokens they are."""
        import torch

        text = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
        )
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        answer = self.tokenizer(completion.strip() + "<|im_end|>", add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logits = self.model(torch.tensor([ids + answer])).logits[0].double()
        table = logits.log_softmax(-1)
        return sum(float(table[len(ids) + i - 1, token]) for i, token in enumerate(answer)), len(answer)


def brute_loss(
    kind: str, beta: float, sft_weight: float, policy: Brute, reference: Brute, value: Mapping[str, Any]
) -> float:
    """The loss of one pair, from the papers' formulas."""
    (chosen, n_chosen), (rejected, n_rejected) = (policy.log_prob(value["prompt"], value[k]) for k in SIDES)
    (ref_chosen, _), (ref_rejected, _) = (reference.log_prob(value["prompt"], value[k]) for k in SIDES)
    if kind == "sigmoid":
        margin = beta * ((chosen - ref_chosen) - (rejected - ref_rejected))
        loss = math.log1p(math.exp(-margin))
    else:
        by_token = (chosen - ref_chosen) / n_chosen - (rejected - ref_rejected) / n_rejected
        loss = (by_token - 0.5 / beta) ** 2 if kind == "ipo" else math.log1p(math.exp(-beta * by_token))
    return loss - sft_weight * chosen / n_chosen


SIDES = ("chosen", "rejected")
