"""Kill a training stage at random moments, and see where it ends. Run as ``python -m``, with `main`'s arguments.

Prints one JSON object. The libraries are imported once and each training is a fork of this process, so that a training
that is killed and taken up takes seconds. Nothing here may run torch before it forks.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

from lowvram_ft.training.recovery.checkpoints import STAGING
from tests.stage_runs import digest, recipe_for, run_stage
from tests.tiny_runs import events

SAVES = 5
"""Steps between two checkpoints: a good part of the time goes into writing them, so that kills fall there too."""

STEP_S = 0.15
"""About what a step with its checkpoint takes: a kill comes anywhere in it."""


def fork_stage(model: Path, out: Path, steps: int) -> int:
    """Train in a process of its own; its id."""
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        import torch

        torch.set_num_threads(1)
        run_stage(recipe_for(model, max_steps=steps, eval_steps=float(SAVES)), out)
        status = 0
    finally:
        os._exit(status)


def end_of(process: int) -> int:
    """Wait for a process; its exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def steps_of(out: Path) -> list[int]:
    """Steps that were reported, those that were done again among them."""
    return [event["step"] for event in events(out) if event["event"] == "trained"]


def import_all() -> None:
    """What every training imports, once."""
    import bitsandbytes  # noqa: F401
    import peft  # noqa: F401
    import transformers.models.llama.modeling_llama  # noqa: F401
    import trl.trainer.sft_trainer  # noqa: F401


def kill_once(model: Path, out: Path, steps: int, step: int, after_s: float) -> dict[str, Any]:
    """Train, kill so many seconds after a step was reported, and train on to the end."""
    process = fork_stage(model, out, steps)
    while step not in steps_of(out):
        assert os.waitpid(process, os.WNOHANG) == (0, 0), f"the training ended before step {step}"
        time.sleep(0.004)
    time.sleep(after_s)
    os.kill(process, signal.SIGKILL)
    killed = end_of(process) == -signal.SIGKILL
    found: dict[str, Any] = {
        "killed": killed,
        "at_step": max(steps_of(out)),
        "while_saving": (out / "checkpoints" / STAGING).exists(),
    }
    if killed:
        code = end_of(fork_stage(model, out, steps))
        assert code == 0, f"the resumed training ended with {code}"
    resumed = [event["checkpoint"] for event in events(out) if event["event"] == "resumed"]
    return found | {"resumed": resumed, "digest": digest(out / "adapter"), "steps": steps_of(out)[-1]}


def main(out: Path, model: Path, steps: int, kills: int, seed: int) -> dict[str, Any]:
    """An undisturbed training, and so many that are killed once each."""
    began = time.monotonic()
    import_all()
    assert end_of(fork_stage(model, out / "undisturbed", steps)) == 0
    moments = random.Random(seed)
    trials = []
    for number in range(kills):
        folder = out / f"killed-{number}"
        step, after_s = moments.randint(1, steps - 1), moments.uniform(0, STEP_S)
        trials.append(kill_once(model, folder, steps, step, after_s))
        shutil.rmtree(folder)
    return {
        "digest": digest(out / "undisturbed" / "adapter"),
        "seconds": round(time.monotonic() - began, 1),
        "trials": trials,
    }


if __name__ == "__main__":
    where, base, number_of_steps, number_of_kills, of_moments = sys.argv[1:]
    print(json.dumps(main(Path(where), Path(base), int(number_of_steps), int(number_of_kills), int(of_moments))))
