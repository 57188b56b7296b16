"""The recipe as a file that people read and change: every key with what it does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from lowvram_ft import models
from lowvram_ft.hardware import Hardware
from lowvram_ft.init.candidates import licence_of
from lowvram_ft.init.machine import described
from lowvram_ft.init.stages import StageText
from lowvram_ft.memory.setup import GIB

NON_COMMERCIAL = frozenset({"kodcode", "testgeneval"})
"""Sources under CC-BY-NC-4.0."""
WIDTH = 46


@dataclass(frozen=True)
class Facts:
    """What a recipe is written from, its stages apart.

    Attributes:
        base: the base model.
        machine: that it is for.
        pinned: whether the machine's sizes are written down.
        quant: of the export.
        small: whether the model is so small that larger batches are the faster way.
        gate_s: of the latency gate; None for the kit's own.
        passed_over: base model to why it was not taken.
        bits: of the frozen weights: 4 or 16.
        n_ctx: context of the export.
    """

    base: models.BaseModel
    machine: Hardware
    pinned: bool
    quant: str
    small: bool
    gate_s: float | None
    passed_over: Mapping[str, str]
    bits: int = 4
    n_ctx: int = 4096

    def with_bits(self, bits: int) -> Facts:
        """The same with other frozen weights."""
        return replace(self, bits=bits)


def recipe_text(facts: Facts, stages: tuple[StageText, ...]) -> str:
    """The file."""
    one = len(stages) == 1
    lines = [*_head(facts, stages), "schema_version = 1", f'description = "{_description(facts, stages)}"']
    sections = _sections(facts)
    if one:
        for name, keys in stages[0].sections.items():
            sections[name] = {**_plain(keys), **sections.get(name, {})}
    order = ("model", "data", "quantization", "lora", "train", "hardware", "export", "bench", "eval")
    for name in order:
        if name in sections:
            lines += ["", f"[{name}]", *_keys(sections[name])]
    if not one:
        lines += ["", "# Each stage continues the adapter of the one before."]
        for stage in stages:
            lines += ["", f"# {stage.why}", "[[stages]]", f"name = {_value(stage.name)}"]
            lines += _keys({f"{section}.{key}": (value, _COMMENTS.get(f"{section}.{key}", ""))
                            for section, keys in stage.sections.items() for key, value in keys.items()})  # fmt: skip
    return "\n".join(lines) + "\n"


def _head(facts: Facts, stages: tuple[StageText, ...]) -> list[str]:
    lines = [f"# Written by lowvram-ft init for: {described(facts.machine)}.", "#"]
    lines.append(f"# Base model: {facts.base.id} (licence: {licence_of(facts.base)}).")
    if facts.passed_over:
        lines.append("# Passed over:")
        lines += [f"#   {base}: {reason}" for base, reason in facts.passed_over.items()]
    sources = {stage.sections["data"]["source"] for stage in stages}
    if sources & NON_COMMERCIAL:
        lines.append("# KodCode is CC-BY-NC-4.0: what is trained on it is not for commercial use.")
    return [*lines, "# Every key is explained in docs/recipes.md; lowvram-ft plan says what a change costs.", ""]


def _description(facts: Facts, stages: tuple[StageText, ...]) -> str:
    return f"{facts.base.id.split('/')[-1]} learns from {', then '.join(_source(stage) for stage in stages)}"


def _source(stage: StageText) -> str:
    data = stage.sections["data"]
    return str(data.get("subset") or {"repository": "my repository"}.get(data["source"], data["source"]))


Commented = tuple[Any, str]

_COMMENTS = {
    "data.source": "what kind of rows; see docs/data.md",
    "data.hub_id": "fetched from the hub as it is read",
    "data.max_read": "objects that are looked at",
    "data.max_rows": "rows that are drawn from them: what the time allows",
    "data.path": "JSONL, one row a line",
    "data.too_long": "longer rows: the tested parts alone; no text is cut",
    "data.eval_share": "kept back for the validation loss",
    "train.max_length": "tokens of prompt and test together",
    "train.learning_rate": "lower it if the loss jumps",
}


def _plain(keys: Mapping[str, Any]) -> dict[str, Commented]:
    return {
        key: (value, _COMMENTS.get(f"data.{key}", _COMMENTS.get(f"train.{key}", ""))) for key, value in keys.items()
    }


def _sections(facts: Facts) -> dict[str, dict[str, Commented]]:
    """What all stages have in common."""
    gpu = bool(facts.machine.gpus)
    batch, accumulation = (1, 16) if gpu else (4, 2) if facts.base.kind == "embedded" else (2, 8)
    found: dict[str, dict[str, Commented]] = {
        "model": {"base": (facts.base.id, "or a folder; larger: see lowvram-ft plan")},
        "quantization": {
            "load_in_4bit": (facts.bits == 4, "frozen weights in NF4" if facts.bits == 4 else "16 bits fit here")
        },
        "lora": {
            "r": (16, "rank: what can be learnt, and what it costs"),
            "lora_alpha": (32, "scale; twice the rank is usual"),
            "lora_dropout": (0.0 if gpu else 0.05, "above 0 turns fused kernels off" if gpu else ""),
        },
        "train": {
            "per_device_train_batch_size": (batch, "rows at once: memory"),
            "gradient_accumulation_steps": (accumulation, "times this many: rows of a step"),
            "gradient_checkpointing": (gpu, "less memory for more time"),
            "optim": ("adamw_8bit" if gpu else "adamw_torch", ""),
            "warmup_steps": (0.03, "a share of all steps"),
        },
        "hardware": {
            "engine": ("auto" if gpu else "reference", "unsloth on a GPU" if gpu else "transformers + PEFT on the CPU"),
            "require_gpu": (gpu, "on a CPU this would take weeks" if gpu else ""),
        },
        "export": {
            "quant": (
                facts.quant,
                "4 bits cost a small model more than they save" if facts.small else "4.9 bits a weight",
            ),
            "n_ctx": (facts.n_ctx, "tokens of prompt and answer in daily use"),
        },
    }
    if facts.pinned:
        found["hardware"] |= _sizes(facts.machine)
    if facts.gate_s is not None:
        found["bench"] = {"gate_s": (facts.gate_s, "seconds for a whole test file, at the 95th percentile")}
    found["eval"] = {"suites": (["samples"], "held-out functions that ship with the kit; before and after")}
    return found


def _sizes(machine: Hardware) -> dict[str, Commented]:
    """What a recipe for another machine says of it; without these keys, a plan is for the machine that it runs on."""
    ram = {"ram_gib": (round(machine.ram_total_bytes / GIB, 3), "host memory")}
    if not machine.gpus:
        return dict(ram)
    return {"vram_gib": (round(machine.gpus[0].total_bytes / GIB, 3), "the size of the card"), **ram}


def _keys(keys: Mapping[str, Commented]) -> list[str]:
    lines = []
    for key, (value, comment) in keys.items():
        line = f"{key} = {_value(value)}"
        lines.append(f"{line:<{WIDTH}}# {comment}" if comment else line)
    return lines


def _value(value: Any) -> str:
    """Of TOML: its strings, numbers, booleans and lists are JSON's; rates are as people write them."""
    if isinstance(value, float) and 0 < value < 0.001:
        digits, _, exponent = f"{value:e}".partition("e")
        return f"{float(digits):g}e{int(exponent)}"
    return json.dumps(value, ensure_ascii=False)
