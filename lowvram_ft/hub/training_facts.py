"""The parts of a model card that say what was trained, on what, and how well the result does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lowvram_ft.hub.artifacts import Artifact
from lowvram_ft.hub.metadata import suite_on_the_hub
from lowvram_ft.hub.run_facts import RunFacts, StageFacts
from lowvram_ft.report.cells import RATES, amount_cell, rate_cell


def training(run: RunFacts) -> list[str]:
    """The lines of ``## What it was trained on``."""
    rows = [
        (
            stage.name,
            f"[{stage.hub_id}](https://huggingface.co/datasets/{stage.hub_id})" if stage.hub_id else stage.data,
            stage.licence.title,
            _count(stage, "train"),
            _count(stage, "trained_tokens"),
        )
        for stage in run.stages
    ]
    lines = [
        "## What it was trained on",
        "",
        *table(("stage", "data", "licence of the data", "rows", "tokens with loss"), rows),
        "The rows themselves are not part of this repository.",
        "",
        "| stage | method | LoRA | learning rate | steps | batch | most tokens | base held in | loss, first to last |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | --- | ---: |",
        *(f"| {' | '.join(_settings(stage))} |" for stage in run.stages),
        "",
    ]
    engines = sorted({str(stage.result["engine"]) for stage in run.stages if "engine" in stage.result})
    devices = sorted({str(stage.result["device"]) for stage in run.stages if "device" in stage.result})
    if engines:
        lines += [f"Engine: {', '.join(engines)}, on {', '.join(devices)}; run of {run.started[:10]}.", ""]
    return lines


def _count(stage: StageFacts, key: str) -> str:
    value = stage.result.get("data", {}).get(key)
    return "–" if value is None else f"{value:,}"


def _settings(stage: StageFacts) -> tuple[str, ...]:
    train, lora, held = (stage.settings[name] for name in ("train", "lora", "quantization"))
    batch = train["per_device_train_batch_size"] * train["gradient_accumulation_steps"]
    first, last = stage.result.get("first_loss"), stage.result.get("last_loss")
    kind = " rsLoRA" if lora["use_rslora"] else ""
    return (
        stage.name,
        train["method"],
        f"r {lora['r']}, alpha {lora['lora_alpha']}, dropout {lora['lora_dropout']:g}{kind}",
        f"{train['learning_rate']:g}",
        str(stage.result.get("steps", "–")),
        str(batch),
        str(train["max_length"]),
        f"4 bits ({held['bnb_4bit_quant_type']})" if held["load_in_4bit"] else "16 or 32 bits",
        f"{first:.3f} to {last:.3f}" if first is not None and last is not None else "–",
    )


def evaluation(run: RunFacts, artifact: Artifact) -> list[str]:
    """The lines of ``## How well it does``: before and after, with intervals, and what they were measured with."""
    lines = ["## How well it does", ""]
    if not run.evaluation:
        lines += ["It has not been evaluated. Nothing is known of how well it does.", ""]
    for suite, sides in run.evaluation.items():
        lines += _suite(suite, sides)
    if run.evaluation:
        quant = run.stages[-1].settings["export"]["quant"]
        lines += [
            f"Ranges are intervals of 95 %. Every figure is of the exported GGUF in {quant}, run by llama.cpp. Where "
            "ranges are wide, tasks are few; and what holds for these tasks need not hold for your code.",
            "",
        ]
    for gate in run.gates:
        word = gate.get("verdict") or ("met" if gate["met"] else "missed")
        name = "latency" if gate["suite"] == "bench" else suite_on_the_hub(gate["suite"])[1]
        lines.append(f"- gate `{gate['gate']}` on {name}: {gate['value']:.2f}, wanted {gate['wanted']:g}: **{word}**")
    lines += [""] if run.gates else []
    lines += _latency(run.bench) + _verification(artifact)
    if run.versions:
        shown = ", ".join(f"{name} {number}" for name, number in run.versions.items())
        lines += [f"Measured with: {shown}.", ""]
    return lines


def _suite(suite: str, sides: Mapping[str, Any]) -> list[str]:
    after, before, differences = sides["after"], sides["before"], sides["difference"] or {}
    name = suite_on_the_hub(suite)[1]
    kind = ", read and not run" if after.get("static") else ""
    lines = [f"### {name}: {after['tasks']} tasks{kind}", ""]
    rows = [
        (label, rate_cell(before, key), rate_cell(after, key), _difference(differences.get(key)))
        for key, label in RATES.items()
        if after.get(key) is not None
    ]
    if after.get("assertions_per_test") is not None:
        key = "assertions_per_test"
        rows.append(("checks a test", amount_cell(before, key), amount_cell(after, key), ""))
    return lines + table(("", "base", "this model", "difference, in points"), rows)


def _difference(found: Mapping[str, Any] | None) -> str:
    if found is None or found["interval"] is None:
        return "–"
    low, high = (f"{100 * end:+.0f}" for end in found["interval"])
    return f"{low} to {high}: {found['verdict']}"


def _latency(bench: Mapping[str, Any] | None) -> list[str]:
    if bench is None:
        return []
    layers = bench.get("settings", {}).get("n_gpu_layers")
    where = "on the author's machine" + (", without a GPU" if layers == 0 else "")
    return [
        f"Latency {where}: {bench['file_s_p50']:.1f} s for a whole test file (median), {bench['file_s_p95']:.1f} s at "
        f"the 95th percentile, of {bench['prompts']} prompts.",
        "",
    ]


def _verification(artifact: Artifact) -> list[str]:
    gguf = artifact.gguf
    if gguf is None or gguf.is_lora:
        return []
    if gguf.verified is None:
        return [f"`{gguf.name}` was **not verified** against base and adapter.", ""]
    against = "against base + adapter" if gguf.verified.get("kind") == "reference" else "by itself"
    scores = gguf.verified.get("scores") or {}
    figures = [
        f"{label} {scores[key]:.4f}"
        for key, label in (("kl", "KL divergence"), ("top1_agreement", "top-1 agreement"))
        if scores.get(key) is not None
    ]
    found = f": {', '.join(figures)}" if figures else ""
    return [f"`{gguf.name}` was verified {against}{found}.", ""]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table in Markdown, with an empty line after it."""
    return [
        f"| {' | '.join(head)} |",
        f"| {' | '.join('---' for _ in head)} |",
        *(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows),
        "",
    ]
