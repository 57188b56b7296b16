"""Reference log-probabilities: those of each pair's completions under the model as its stage begins.

They are computed once, before the first step, and lie in the stage's folder from then on: no second model and no copy
of the adapter is in memory while the stage trains, and a run that is killed, or that steps down because memory ran out,
finds them there. A line is written as soon as it is known.

A value belongs to the tokens, the base model's weights, the adapter that the stage continues, and how exactly all of it
is computed. A change of where things are, or of when they are computed, leaves it what it was.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lowvram_ft.data.prepared_pairs import LogProbs, PairExample
from lowvram_ft.progress import Progress
from lowvram_ft.run_dir import append_jsonl, read_jsonl
from lowvram_ft.training.engines.protocol import Loaded, LoadPlan
from lowvram_ft.training.reporting.callbacks import Event

FILE = "references.jsonl"
"""In the folder of a stage."""
WRITE_S = 5.0
"""Seconds of work between two writes, at the most: what a kill can cost."""


def conditions(engine: str, model: Path, adapter: Path | None, loaded: Loaded, plan: LoadPlan) -> str:
    """What a value rests on beside the tokens of its pair, as a hash.

    Args:
        engine: name of the engine.
        model: folder of the base model; its files count by name, size and date.
        adapter: PEFT folder that the stage continues; None for a new adapter, which changes nothing yet.
        loaded: the model.
        plan: how it was loaded.
    """
    weights = sorted((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in model.glob("*.safetensors"))
    parts = {
        "engine": engine,
        "model": [str(model.resolve()), weights, _digest(model / "config.json")],
        "adapter": None
        if adapter is None
        else [_digest(adapter / name) for name in ("adapter_config.json", "adapter_model.safetensors")],
        "device": loaded.device,
        "dtype": loaded.dtype,
        "quantization": plan.quantization.model_dump(mode="json"),
        "vocabulary": [plan.head == "nf4", plan.nf4_embedding],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def read_references(path: Path, under: str) -> dict[str, LogProbs]:
    """The values that a file holds for certain conditions, by `PairExample.digest`."""
    return {line["pair"]: (line["chosen"], line["rejected"]) for line in read_jsonl(path) if line.get("under") == under}


def reference_log_probs(
    name: str, loaded: Loaded, examples: Sequence[PairExample], path: Path, under: str, progress: Progress, event: Event
) -> dict[str, LogProbs]:
    """The values of all pairs: those of the file, and the rest computed and added to it.

    Args:
        name: of the stage.
        loaded: the model as the stage begins: before a checkpoint is taken up.
        examples: the pairs.
        path: `FILE` in the stage's folder.
        under: from `conditions`.
        progress: where a person reads how far it is.
        event: where a program reads it.

    Returns:
        By `PairExample.digest`.

    Raises:
        MachineError: the file cannot be written.
    """
    found = read_references(path, under)
    missing = list({one.digest: one for one in examples if one.digest not in found}.values())
    began = written = time.monotonic()
    lines: list[dict[str, Any]] = []
    for number, (example, value) in enumerate(zip(missing, _compute(loaded, missing), strict=True), 1):
        found[example.digest] = value
        lines.append({"under": under, "pair": example.digest, "chosen": value[0], "rejected": value[1]})
        if time.monotonic() - written > WRITE_S or number == len(missing):
            append_jsonl(path, *lines)
            lines, written = [], time.monotonic()
            progress.step(f"train {name}", number, len(missing), "reference log-probabilities")
    seconds = round(time.monotonic() - began, 3)
    event("references", stage=name, computed=len(missing), pairs=len(examples), seconds=seconds)
    return found


def _compute(loaded: Loaded, examples: Sequence[PairExample]) -> Iterable[LogProbs]:
    """The values one pair at a time, without dropout, in the type that training computes in."""
    import torch
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    from lowvram_ft.training.log_probs import completion_log_probs, computing_in

    collate = DataCollatorForPreference(pad_token_id=loaded.tokenizer.eos_token_id or 0, max_length=None)
    model = loaded.model
    device = next(p.device for p in model.parameters() if p.requires_grad)
    was_training = model.training
    model.eval()
    try:
        for example in examples:
            columns = ("prompt_ids", "chosen_ids", "rejected_ids")
            batch = collate([{column: list(getattr(example, column)) for column in columns}])
            inputs = {key: tensor.to(device) for key, tensor in batch.items()}
            with torch.no_grad(), computing_in(loaded.dtype, device):
                chosen, rejected = completion_log_probs(model, inputs, loaded.loss_chunk).tolist()
            yield chosen, rejected
    finally:
        model.train(was_training)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
