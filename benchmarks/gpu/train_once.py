"""One training run of a few steps in a process of its own: peaks, seconds, losses; or where it ran out of memory.

    python -m benchmarks.gpu.train_once < job.json

The job is one JSON object: ``model`` (folder), ``engine`` (one of ours, or of `peers.PEERS`), ``plan`` (fields of
`LoadPlan`), ``train`` (fields of the recipe's section), ``tokens`` (of a row), ``steps``, ``cap_bytes`` (most that
torch may reserve; null for no cap). Prints one JSON object as its last line.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu.peers import PEERS, streamft, trainer_of
from lowvram_ft.recipe import LoraSection, QuantizationSection, TrainSection
from lowvram_ft.training.engines.protocol import LoadPlan


def main() -> None:
    print(json.dumps(train_once(json.loads(sys.stdin.read()))))


def train_once(job: dict[str, Any]) -> dict[str, Any]:
    """Load and train; what was seen."""
    if job["engine"] == "Unsloth auto":  # before torch and all that stands on it
        import unsloth  # noqa: F401
    engine = None if job["engine"] in PEERS else _engine(job["engine"])
    import torch

    if job["engine"] == "streamft":
        with tempfile.TemporaryDirectory(prefix="train-once-") as out:
            return streamft(job, _rows(job["tokens"], job["steps"]), Path(out))

    found: dict[str, Any] = {"fits": True, "at": "load"}
    if job["cap_bytes"] is not None and torch.cuda.is_available():
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, job["cap_bytes"] / total))
    try:
        _load_and_train(engine, job, found)
    except torch.OutOfMemoryError as error:
        found.update(fits=False, error=str(error).splitlines()[0])
    except Exception as error:
        # the loaders wrap what the card says; what is no lack of memory is a failure of the run, and is told as one
        if not isinstance(error.__cause__, torch.OutOfMemoryError):
            raise
        found.update(fits=False, error=str(error).splitlines()[0])
    found.update(_peaks("end"))
    return found


def _load_and_train(engine: Any, job: dict[str, Any], found: dict[str, Any]) -> None:
    import torch
    from datasets import Dataset

    began = time.monotonic()
    train = TrainSection(**job["train"], max_steps=job["steps"])
    watch = _watch()
    a_step = train.per_device_train_batch_size * train.gradient_accumulation_steps
    rows = _rows(job["tokens"], job["steps"] * a_step)
    with tempfile.TemporaryDirectory(prefix="train-once-") as out:
        if engine is None:
            trainer = trainer_of(job, rows, Path(out), torch.cuda.is_available())
            trainer.add_callback(watch)
            about = {"device": trainer.args.device.type, "dtype": "bfloat16" if trainer.args.bf16 else "float32"}
        else:
            loaded = engine.load(Path(job["model"]), load_plan(job["plan"]), None)
            if train.method == "dpo":
                dataset = _pairs(job["tokens"], job["steps"] * a_step, loaded, Path(out), found)
            else:
                dataset = Dataset.from_list(rows)
            trainer = engine.trainer(train.method, loaded, train, dataset, None, Path(out), [watch])
            about = {"device": loaded.device, "dtype": loaded.dtype}
        found.update(_peaks("load"), load_s=time.monotonic() - began, at="train", **about)
        _reset_peaks()
        trainer.train()
    seconds = [later - earlier for earlier, later in zip(watch.ends, watch.ends[1:], strict=False)]
    middle = sorted(seconds)[len(seconds) // 2] if seconds else None
    found.update(
        at="end",
        steps=len(watch.ends),
        first_step_peaks=watch.first,
        step_s=middle,
        tok_per_s=job["tokens"] * (2 if train.method == "dpo" else 1) * a_step / middle if middle else None,
        losses=[entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
    )


def load_plan(fields: dict[str, Any]) -> LoadPlan:
    """A `LoadPlan` from JSON."""
    values = dict(fields)
    values["quantization"] = QuantizationSection(**values["quantization"])
    values["lora"] = LoraSection(**values["lora"])
    return LoadPlan(**values)


def _engine(name: str) -> Any:
    if name == "unsloth":  # first of all imports: it changes the other libraries
        from lowvram_ft.training.engines.unsloth import UnslothEngine

        return UnslothEngine()
    from lowvram_ft.training.engines.reference import ReferenceEngine

    return ReferenceEngine()


def _rows(tokens: int, count: int) -> list[dict[str, list[int]]]:
    """Rows of exactly so many tokens, all of which carry loss: the most that a recipe can ask for."""
    rows = [[(7 * place + 13 * number) % 250 + 1 for place in range(tokens)] for number in range(count)]
    return [{"input_ids": row, "labels": row} for row in rows]


def _pairs(tokens: int, count: int, loaded: Any, out: Path, found: dict[str, Any]) -> Any:
    """Pairs of two sequences of exactly so many tokens, all but the first of which count. Notes what comparing took."""
    from lowvram_ft.data.pairs import Pair
    from lowvram_ft.data.prepared_pairs import PairExample, for_trainer
    from lowvram_ft.progress import Progress
    from lowvram_ft.training.references import reference_log_probs

    rows = [tuple(row["input_ids"]) for row in _rows(tokens, 2 * count)]
    examples = []
    for number in range(count):
        named = Pair(str(number), str(number), "", "solution", "", "chosen", "rejected")
        examples.append(PairExample(named, rows[2 * number][:1], rows[2 * number][1:], rows[2 * number + 1][1:]))
    began = time.monotonic()
    path = out / "references.jsonl"
    quiet = Progress(quiet=True)
    references = reference_log_probs("bench", loaded, examples, path, "bench", quiet, lambda *_, **__: None)
    found.update(_peaks("references"), references_s=time.monotonic() - began)
    return for_trainer(examples, references)


def _watch() -> Any:
    """A callback that notes when each step ends, and the peaks of the first."""
    import torch
    from transformers import TrainerCallback

    class Watch(TrainerCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.ends: list[float] = []
            self.first: dict[str, Any] = {}

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:  # noqa: ARG002 - the trainer names them
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.ends.append(time.monotonic())
            self.first = self.first or _peaks("first_step")

    return Watch()


def _peaks(when: str) -> dict[str, Any]:
    import torch

    found: dict[str, Any] = {f"{when}_host_peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}
    if torch.cuda.is_available():
        found[f"{when}_reserved_bytes"] = torch.cuda.max_memory_reserved()
        found[f"{when}_allocated_bytes"] = torch.cuda.max_memory_allocated()
    return found


def _reset_peaks() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


if __name__ == "__main__":
    main()
