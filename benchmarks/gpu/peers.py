"""The other ways to train the same rows on the same card: plain PEFT + TRL, Unsloth's own "auto", streamft."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks import training_streamft
from benchmarks.training import cannot_run
from benchmarks.training_contestants import Job, build

PEERS = ("plain PEFT + TRL", "Unsloth auto", "streamft")
_CONTESTANTS = {"Unsloth auto": "unsloth_auto", "streamft": "streamft"}


def contestant(peer: str, on_gpu: bool) -> str:
    """Its name among `benchmarks.training.CONTESTANTS`; TRL's own loss needs Triton, which a CPU has not."""
    return _CONTESTANTS.get(peer, "trl" if on_gpu else "transformers_loss_best")


def why_not(peer: str, on_gpu: bool) -> str | None:
    """Why it cannot run here; None where it can."""
    return cannot_run(contestant(peer, on_gpu), None, on_gpu)


def job_of(job: dict[str, Any], rows: Path, on_gpu: bool) -> Job:
    """A contestant's job, from one of `train_once`: the same model, rows, sections and cap."""
    sections = {"train": job["train"], **{name: job["plan"][name] for name in ("lora", "quantization")}}
    return Job(
        contestant=contestant(job["engine"], on_gpu),
        model=job["model"],
        rows=str(rows),
        recipe=sections,
        plan={},
        steps=job["steps"],
        trl=None,
        cap_bytes=job["cap_bytes"],
    )


def trainer_of(job: dict[str, Any], rows: list[dict[str, list[int]]], out: Path, on_gpu: bool) -> Any:
    """The trainer of a contestant that is a library; its checkpoints go nowhere."""
    place = out / "rows.json"
    place.write_text(json.dumps(rows), encoding="utf-8")
    return build(job_of(job, place, on_gpu), out)


def streamft(job: dict[str, Any], rows: list[dict[str, list[int]]], out: Path) -> dict[str, Any]:
    """``streamft`` by its own commands, as `train_once` tells of a run.

    No cap can be set from outside: it fits if what it says that it took is below the cap.
    """
    sections = {"train": job["train"], "lora": job["plan"]["lora"]}
    found = training_streamft.train(Path(job["model"]), rows, sections, job["steps"], out / "streamft")
    cap = job["cap_bytes"]
    return {
        "fits": cap is None or found["peak_bytes"] <= cap,
        "at": "train",
        "end_reserved_bytes": found["peak_bytes"],
        "steps": len(found["losses"]),
        "step_s": found["step_s"],
        "tok_per_s": found["tok_per_s"],
        "losses": found["losses"],
    }
