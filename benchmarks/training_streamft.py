"""``streamft`` over the tokens of the same rows, by its own commands: what `training.py` shows of it on a GPU.

It has no rows of different lengths, no accumulation and no completion mask outside its own chat data: it trains on
windows of one length of a stream of tokens, one optimizer step a window, and every token carries loss. So seconds and
bytes can be held against the others, losses cannot.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def train(
    model: Path, rows: list[dict[str, list[int]]], recipe: dict[str, Any], steps: int, out: Path
) -> dict[str, Any]:
    """Quantize the base model as it wants it, and train.

    Args:
        model: folder of the base model.
        rows: with ``input_ids``.
        recipe: the sections ``train`` and ``lora`` as JSON.
        steps: windows to train on.
        out: a folder to work in.

    Returns:
        ``tok_per_s``, ``step_s``, ``peak_bytes`` and ``losses``.

    Raises:
        RuntimeError: a command failed; with the end of what it said.
    """
    import torch

    out.mkdir(parents=True, exist_ok=True)
    tokens = [token for row in rows for token in row["input_ids"]]
    torch.save(torch.tensor(tokens, dtype=torch.int32), out / "rows.pt")
    _run(out, "prepare", "--model", str(model), "--save-quant", str(out / "nf4"))
    lora, length = recipe["lora"], recipe["train"]["max_length"]
    said = _run(
        out, "train", "--model-dir", str(out / "nf4"), "--data", str(out / "rows.pt"), "--steps", str(steps),
        "--seq", str(length), "--lora_r", str(lora["r"]), "--lora_alpha", str(lora["lora_alpha"]), "--targets", "all",
        "--lr", str(recipe["train"]["learning_rate"]), "--tag", "benchmark",
    )  # fmt: skip
    return from_report(said, length)


def from_report(said: str, length: int) -> dict[str, Any]:
    """The figures of the JSON line that ends a run.

    Args:
        said: its stdout.
        length: tokens of a window.
    """
    row = json.loads(next(line for line in reversed(said.splitlines()) if line.startswith("{")))
    return {
        "tok_per_s": length / row["step_s_med"],
        "padded_tok_per_s": length / row["step_s_med"],
        "tok_per_cpu_s": None,  # its commands do not tell
        "step_s": row["step_s_med"],
        "peak_bytes": int(row["peak_gb_max"] * 1e9),
        "losses": row["losses"],
        "settings": {key: row[key] for key in ("targets", "head", "blocks_on_gpu", "seq", "lora_r")},
    }


def _run(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "streamft", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"streamft {arguments[0]}: {(done.stderr or done.stdout).strip().splitlines()[-1][:300]}")
    return done.stdout
