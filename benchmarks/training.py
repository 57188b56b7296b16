"""The engines beside each other: one recipe, the same rows in the same order, peak bytes, tokens a second, losses.

    python -m benchmarks.training [--recipe demo] [--older-trl DIR] [--short]

Each contestant is a process that trains on and off: all take the same steps in turn, five times, and the median
counts. Where other work shares the machine, ``--threads 1`` and the tokens of a CPU second tell more than the clock.
On the CPU these are the reference engine, PEFT + TRL with defaults and with the best flags, and Unsloth's CPU
backend; on a GPU also Unsloth with our plan, Unsloth's own "auto", and ``streamft``. Who cannot run is told with the
reason. TRL's loss needs Triton from 1.15 on, so that its trainer does not train on a CPU: ``--older-trl`` names a
folder with a version that does (``pip install --no-deps --target DIR trl==1.14.2``).
Writes ``results/training.json`` and ``results/training.svg``.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import training_streamft
from benchmarks.training_contestants import Job
from benchmarks.training_plot import loss_curves
from lowvram_ft import models
from lowvram_ft.data.prepare import cached_set
from lowvram_ft.hardware import detect
from lowvram_ft.memory.for_recipe import plan_recipe
from lowvram_ft.recipe import Recipe, load
from lowvram_ft.rendering import from_folder
from lowvram_ft.run_dir import versions
from lowvram_ft.training.from_plan import as_planned, load_plan
from lowvram_ft.training.processes.order import EpochOrder

RESULTS = Path(__file__).parent / "results"
CONTESTANTS = {
    "reference": "the reference engine, as the recipe has it",
    "trl": "PEFT + TRL as TRL's documentation shows it",
    "transformers_loss_defaults": "PEFT + TRL, defaults, with transformers' loss",
    "transformers_loss_best": "PEFT + TRL, best flags, with transformers' loss",
    "older_trl_defaults": "PEFT + an older TRL, defaults",
    "older_trl_best": "PEFT + an older TRL, best flags",
    "unsloth": "Unsloth with our plan (on a CPU: its CPU backend)",
    "unsloth_auto": 'Unsloth with its own "auto"',
    "streamft": "streamft, windows of the same tokens, no padding, every token carries loss",
}


@dataclass
class Contestant:
    """A process, and what it has told so far."""

    name: str
    process: subprocess.Popen[str]
    log: Path
    settings: dict[str, Any] = field(default_factory=dict)
    rounds: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)

    def ask(self, line: str) -> dict[str, Any]:
        """Send a line, and wait for the answer.

        Raises:
            RuntimeError: the process ended; with the last line of what it said.
        """
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            self.process.wait()
            raise RuntimeError(reason(self.log.read_text(encoding="utf-8", errors="replace")))
        found: dict[str, Any] = json.loads(answer)
        return found


def reason(log: str) -> str:
    """The exception that a process died of."""
    lines = [line for line in log.splitlines() if line and not line[0].isspace()]
    errors = [line for line in lines if ":" in line and line.split(":")[0].replace(".", "").isidentifier()]
    return (errors or lines or ["it ended without a word"])[-1][:300]


def cannot_run(name: str, older_trl: Path | None, on_gpu: bool) -> str | None:
    """Why a contestant is not even started; None where it is."""
    if name.startswith("older_trl") and older_trl is None:
        return "no --older-trl given"
    if name.startswith("unsloth") and importlib.util.find_spec("unsloth") is None:
        return "unsloth is not installed"
    if name in ("unsloth_auto", "streamft") and not on_gpu:
        return "needs a CUDA GPU"
    if name == "streamft" and importlib.util.find_spec("streamft") is None:
        return "streamft is not installed"
    return None


def rows_in_order(recipe: Recipe, folder: Path, steps: int) -> list[dict[str, list[int]]]:
    """The recipe's rows in the order in which its own training takes them."""
    prepared = cached_set(recipe.data, from_folder(folder), recipe.train.max_length, suites=recipe.eval.suites)
    batch = recipe.train.per_device_train_batch_size * recipe.train.gradient_accumulation_steps
    order = list(EpochOrder(prepared.train.lengths.tolist(), batch, 1, recipe.train.seed, lambda: 0))
    wanted = steps * batch
    places = (order * (wanted // len(order) + 1))[:wanted]
    examples = prepared.train
    return [{"input_ids": list(examples[i].input_ids), "labels": examples[i].labels} for i in places]


def start(name: str, job: Job, out: Path, environment: dict[str, str]) -> Contestant:
    """Start a contestant, and wait until its model is loaded.

    Raises:
        RuntimeError: it cannot run.
    """
    log = out / f"{name}.log"
    with log.open("w", encoding="utf-8") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.training_contestants"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=Path(__file__).parents[1],
            env=os.environ | environment,
        )
    contestant = Contestant(name, process, log)
    contestant.settings = contestant.ask(json.dumps(asdict(job)))["ready"]
    return contestant


def compare(
    names: list[str], jobs: dict[str, Job], out: Path, repetitions: int, environment: dict[str, str]
) -> tuple[dict[str, Contestant], dict[str, str]]:
    """Train all contestants in turn: a step to warm up, then a step a repetition."""
    running: dict[str, Contestant] = {}
    failed: dict[str, str] = {}
    for repetition in range(-1, repetitions):
        for name in names:
            if name in failed:
                continue
            try:
                if repetition < 0:
                    running[name] = start(name, jobs[name], out, environment)
                found = running[name].ask("1")
            except RuntimeError as error:
                failed[name] = str(error)
                running.pop(name, None)
                print(f"{name}: cannot run: {error}", file=sys.stderr)
                continue
            if repetition >= 0:
                running[name].rounds.append(found)
                clock, cpu = found["tokens"] / found["seconds"], found["tokens"] / found["cpu_seconds"]
                print(f"{name}: {clock:.0f} tok/s, {cpu:.0f} a CPU second", file=sys.stderr)
    for contestant in running.values():
        assert contestant.process.stdin is not None and contestant.process.stdout is not None
        contestant.process.stdin.close()
        contestant.summary = json.loads(contestant.process.stdout.readline())
        contestant.process.wait()
    return running, failed


def measured(contestant: Contestant) -> dict[str, Any]:
    """What goes into the JSON for one contestant."""
    real = [found["tokens"] / found["seconds"] for found in contestant.rounds]
    padded = [found["padded"] / found["seconds"] for found in contestant.rounds]
    of_cpu = [found["tokens"] / found["cpu_seconds"] for found in contestant.rounds]
    return {
        "what": CONTESTANTS[contestant.name],
        "tok_per_s": statistics.median(real),
        "tok_per_s_each": real,
        "padded_tok_per_s": statistics.median(padded),
        "tok_per_cpu_s": statistics.median(of_cpu),
        "tok_per_cpu_s_each": of_cpu,
        "step_s": statistics.median(found["seconds"] / found["steps"] for found in contestant.rounds),
        "peak_bytes": contestant.summary["peak_bytes"],
        "losses": contestant.summary["losses"],
        "settings": contestant.settings,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--recipe", default="demo")
    parser.add_argument("--older-trl", type=Path, help="a folder with a version of TRL that trains on a CPU")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--only", nargs="*", choices=sorted(CONTESTANTS), help="these contestants alone")
    parser.add_argument("--dropout", type=float, help="instead of the recipe's; 0 makes the losses comparable exactly")
    parser.add_argument("--threads", type=int, help="OMP_NUM_THREADS; by default what the libraries choose")
    parser.add_argument("--short", action="store_true", help="one repetition, nothing written")
    parser.add_argument("--out", type=Path, default=RESULTS / "training.json")
    options = parser.parse_args()
    repetitions = 1 if options.short else options.repetitions

    hardware = detect()
    recipe = load(options.recipe).stages[0].recipe
    if options.dropout is not None:
        recipe = recipe.model_copy(update={"lora": recipe.lora.model_copy(update={"lora_dropout": options.dropout})})
    plan = plan_recipe(recipe, hardware)
    recipe = as_planned(recipe, plan.to_json())
    folder = models.materialize(models.resolve(plan.model.id))
    fields = asdict(load_plan(recipe, plan.to_json()))
    sections = {name: getattr(recipe, name).model_dump() for name in ("train", "lora", "quantization")}
    names = [name for name in CONTESTANTS if not options.only or name in options.only]
    why = {name: cannot_run(name, options.older_trl, bool(hardware.gpus)) for name in names}
    environment = {} if options.threads is None else {"OMP_NUM_THREADS": str(options.threads)}
    with tempfile.TemporaryDirectory(prefix="training-benchmark-") as out:
        rows = Path(out) / "rows.json"
        rows.write_text(json.dumps(rows_in_order(recipe, folder, repetitions + 1)), encoding="utf-8")
        jobs = {
            name: Job(
                contestant=name,
                model=str(folder),
                rows=str(rows),
                recipe=sections,
                plan={key: value for key, value in fields.items() if key not in ("lora", "quantization")},
                steps=repetitions + 1,
                trl=str(options.older_trl.resolve()) if name.startswith("older_trl") and options.older_trl else None,
            )
            for name in names
        }
        runnable = [name for name in names if why[name] is None and name != "streamft"]
        running, failed = compare(runnable, jobs, Path(out), repetitions, environment)
        found = {name: measured(contestant) for name, contestant in running.items()}
        if "streamft" in names and why["streamft"] is None:
            try:
                figures = training_streamft.train(
                    folder,
                    json.loads(rows.read_text(encoding="utf-8")),
                    sections,
                    repetitions + 1,
                    Path(out) / "streamft",
                )
                found["streamft"] = {"what": CONTESTANTS["streamft"], **figures}
            except RuntimeError as error:
                failed["streamft"] = str(error)
    refused = {name: text for name, text in why.items() if text is not None} | failed
    result = {
        "recipe": options.recipe,
        "model": plan.model.id,
        "repetitions": repetitions,
        "lora": sections["lora"],
        "contestants": found,
        "cannot_run": {name: {"what": CONTESTANTS[name], "reason": refused[name]} for name in names if name in refused},
        "hardware": {
            "cpu": hardware.cpu_model,
            "cpus": hardware.cpu_count,
            "cpu_flags": hardware.cpu_flags,
            "ram_bytes": hardware.ram_total_bytes,
            "gpus": [asdict(gpu) for gpu in hardware.gpus],
        },
        "versions": versions(),
        "command": " ".join(["python -m benchmarks.training", *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%d"),
    }
    print(table(result))
    if not options.short:
        options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        curves = {name: figures["losses"] for name, figures in found.items() if name != "streamft"}
        options.out.with_suffix(".svg").write_text(loss_curves(curves), encoding="utf-8")


def table(result: dict[str, Any]) -> str:
    """A line a contestant."""
    lines = [f"{'':30} {'tok/s':>7} {'padded':>7} {'a CPU s':>7} {'peak GiB':>9}  first and last loss"]
    for name, found in result["contestants"].items():
        of_cpu = "-" if found["tok_per_cpu_s"] is None else f"{found['tok_per_cpu_s']:.0f}"
        lines.append(
            f"{name:30} {found['tok_per_s']:7.0f} {found['padded_tok_per_s']:7.0f} {of_cpu:>7} "
            f"{found['peak_bytes'] / 2**30:9.2f}  {found['losses'][0]:.4f} {found['losses'][-1]:.4f}"
        )
    lines += [f"{name:30} cannot run: {found['reason']}" for name, found in result["cannot_run"].items()]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
