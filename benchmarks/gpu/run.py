"""Everything that only a GPU can show, in one go: do plans hold, how fast is it, and beside which peers.

    python -m benchmarks.gpu.run [--vram 3.5] [--minutes 9] [--weights /tmp/weights] [--out results/gpu.json]
    python -m benchmarks.gpu.run --tiny

Random weights of the real shapes are made on the card. Each run is a process of its own, capped to what a 4 GiB laptop
card leaves to torch (`torch.cuda.set_per_process_memory_fraction`). The JSON is written after every part, so that a
time limit loses nothing; parts that it has already are not done again. ``--tiny`` runs every part on the CPU with a
tiny model, without a cap: to see that the script works, not to measure.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.gpu.holding import hold, summary, table
from benchmarks.gpu.peers import PEERS, why_not
from benchmarks.gpu.weights import write_checkpoint
from lowvram_ft import models
from lowvram_ft.hardware import detect
from lowvram_ft.memory.for_recipe import StagePlan, plan_recipe
from lowvram_ft.recipe import load
from lowvram_ft.run_dir import versions
from lowvram_ft.training.from_plan import as_planned, load_plan

GIB = 1 << 30
RESERVE = GIB // 2
"""CUDA context and desktop of a 4 GiB card, which a plan takes off; torch's cap has none of it."""
TINY = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 256,
    "vocab_size": 5000,
    "tie_word_embeddings": False,
    "max_position_embeddings": 4096,
}
TARGETS = (
    ("deepseek-ai/deepseek-coder-6.7b-instruct", 2048),
    ("Qwen/Qwen2.5-Coder-7B-Instruct", 2048),
)
"""What a 3.5 GiB card has to train, for 20 optimizer steps."""
OTHERS = (
    ("Qwen/Qwen2.5-Coder-0.5B-Instruct", 2048),
    ("Qwen/Qwen2.5-Coder-1.5B-Instruct", 1024),
    ("Qwen/Qwen2.5-Coder-1.5B-Instruct", 4096),
    ("deepseek-ai/deepseek-coder-1.3b-instruct", 2048),
    ("Qwen/Qwen3-1.7B", 2048),
    ("Qwen/Qwen2.5-Coder-3B-Instruct", 1024),
    ("Qwen/Qwen2.5-Coder-3B-Instruct", 2048),
    ("Qwen/Qwen3-4B-Instruct-2507", 1024),
    ("Qwen/Qwen3-4B-Instruct-2507", 2048),
    ("deepseek-ai/deepseek-coder-6.7b-instruct", 512),
    ("Qwen/Qwen2.5-Coder-7B-Instruct", 512),
)
"""What the predicted peaks are held against, beside the targets."""
PAIRS = (
    ("deepseek-ai/deepseek-coder-6.7b-instruct", 1024, "unsloth"),
    ("Qwen/Qwen2.5-Coder-7B-Instruct", 1024, "unsloth"),
    ("Qwen/Qwen2.5-Coder-1.5B-Instruct", 1024, "unsloth"),
    ("Qwen/Qwen2.5-Coder-1.5B-Instruct", 512, "reference"),
    ("Qwen/Qwen2.5-Coder-0.5B-Instruct", 1024, "reference"),
)
"""Preference training: two sequences of so many tokens a row, under both engines."""


@dataclass(frozen=True)
class Part:
    """One run.

    Attributes:
        name: key of its result.
        model: the base model.
        max_length: tokens of a row.
        steps: optimizer steps.
        capped: whether the cap holds, and the plan with it; else everything is on the card.
        engine: ``unsloth`` or ``reference``; or one of `peers.PEERS`, which gets the rows and the cap, and no plan.
        method: ``sft`` or ``dpo``.
    """

    name: str
    model: str
    max_length: int
    steps: int
    capped: bool
    engine: str
    method: str = "sft"


def parts(tiny: bool, engine: str) -> list[Part]:
    """What is run, the most wanted first."""
    if tiny:
        ours = [
            Part("tiny", "tiny", 128, 3, True, "reference"),
            Part("tiny, resident", "tiny", 128, 3, False, "reference"),
            Part("tiny, dpo", "tiny", 128, 3, True, "reference", "dpo"),
        ]
        return ours + [Part(f"tiny, {peer}", "tiny", 128, 3, True, peer) for peer in PEERS]
    wanted = [Part(f"{model} {length}", model, length, 20, True, engine) for model, length in TARGETS]
    resident = [Part(f"{part.name}, resident", part.model, part.max_length, 5, False, engine) for part in wanted]
    peers = [replace(part, name=f"{part.name}, {peer}", steps=5, engine=peer) for part in wanted for peer in PEERS]
    others = [Part(f"{model} {length}", model, length, 4, True, engine) for model, length in OTHERS]
    pairs = [Part(f"{model} {length}, dpo, {own}", model, length, 5, True, own, "dpo") for model, length, own in PAIRS]
    return wanted + resident + peers + pairs + others


def plan_part(part: Part, folder: Path, vram_bytes: int) -> StagePlan:
    """The plan of a part: what the kit itself would do on such a card."""
    overrides = [
        f"model.base={folder}",
        f"train.max_length={part.max_length}",
        "train.gradient_accumulation_steps=1",
        f"hardware.engine={_planned_engine(part)}",
        f"train.method={part.method}",
        "hardware.require_gpu=false",
        "lora.lora_dropout=0.0",
    ]
    (stage,) = load("stage_a_kodcode", overrides).stages
    room = vram_bytes + RESERVE if part.capped else 1024 * GIB
    return plan_recipe(stage.recipe, detect(), {"vram_bytes": room, "ram_bytes": 64 * GIB, "platform": "linux"})


def job_of(part: Part, folder: Path, plan: StagePlan, cap_bytes: int | None) -> dict[str, Any]:
    """The job of `train_once`: the engine's own inputs, as a training stage makes them from the plan."""
    own = [f"hardware.engine={_planned_engine(part)}", f"train.method={part.method}"]
    overrides = [f"model.base={folder}", *own, "lora.lora_dropout=0.0"]
    (stage,) = load("stage_a_kodcode", overrides).stages
    found = plan.to_json()
    recipe = as_planned(stage.recipe, found)
    engine_plan = load_plan(recipe, found)
    fields = {name: getattr(engine_plan, name) for name in engine_plan.__dataclass_fields__}
    fields["quantization"] = engine_plan.quantization.model_dump()
    fields["lora"] = engine_plan.lora.model_dump()
    train = recipe.train.model_dump(exclude={"max_steps"})
    return {
        "model": str(folder),
        "engine": part.engine,
        "plan": fields,
        "train": train,
        "tokens": plan.fit.setup.max_length,
        "steps": part.steps,
        "cap_bytes": cap_bytes if part.capped else None,
    }


def run_part(part: Part, weights: Path, cap_bytes: int, device: str, limit_s: float) -> dict[str, Any]:
    """Plan, train, and hold one against the other.

    A peer gets the sections of the plan for the same training, and its own way with the card.
    """
    if part.engine in PEERS and (why := why_not(part.engine, device == "cuda")) is not None:
        return {"part": asdict(part), "run": None, "why": why}
    config = TINY if part.model == "tiny" else models.config_of(models.resolve(part.model))
    folder = write_checkpoint(config, weights / part.model.replace("/", "--"), device)
    plan = plan_part(part, folder, cap_bytes)
    result: dict[str, Any] = {"part": asdict(part), "plan": plan.to_json()}
    if not plan.fit.plan.fits and part.engine not in PEERS:
        return {**result, "run": None, "why": "the plan says that it does not fit"}
    job = job_of(part, folder, plan, cap_bytes)
    outcome = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu.train_once"],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        timeout=limit_s,
        check=False,
    )
    if outcome.returncode:
        return {**result, "run": None, "why": outcome.stderr[-2000:]}
    result["run"] = json.loads(outcome.stdout.splitlines()[-1])
    gpu = card_name() if device == "cuda" else None
    result["held"] = hold(result["plan"], result["run"], gpu)
    if part.engine in PEERS:  # nothing was predicted of it
        del result["plan"]
        result["held"] |= dict.fromkeys(("predicted_bytes", "off", "predicted_tok_per_s", "speed_off"))
    return result


def _planned_engine(part: Part) -> str:
    return "auto" if part.engine in PEERS else part.engine


def card_name() -> str:
    """The card, as its driver names it."""
    import torch

    return str(torch.cuda.get_device_name(0))


def machine() -> dict[str, Any]:
    """The card and the versions."""
    import torch

    found: dict[str, Any] = {"versions": versions() | {"torch": torch.__version__}}
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        found["gpu"] = {"name": card.name, "bytes": card.total_memory, "cuda": torch.version.cuda}
    return found


def head(tiny: bool) -> dict[str, Any]:
    """The loss over the head of Qwen2.5-Coder-7B, wherever the head is."""
    sizes = ["5000", "128", "64", "3"] if tiny else ["152064", "3584", "2047", "10"]
    command = [sys.executable, "-m", "benchmarks.gpu.head_loss", *sizes]
    outcome = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if outcome.returncode:
        return {"why": outcome.stderr[-2000:]}
    found: dict[str, Any] = json.loads(outcome.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--vram", type=float, default=3.5, help="GiB that torch may reserve")
    parser.add_argument("--minutes", type=float, default=9.0, help="start no part after so long")
    parser.add_argument("--weights", type=Path, default=Path("/tmp/lowvram-ft-weights"))
    parser.add_argument("--engine", choices=["unsloth", "reference"], default="unsloth")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results" / "gpu.json")
    parser.add_argument("--tiny", action="store_true", help="every part with a tiny model on the CPU")
    options = parser.parse_args()
    run(options.out, options.weights, int(options.vram * GIB), options.minutes * 60, options.tiny, options.engine)


def run(out: Path, weights: Path, cap_bytes: int, limit_s: float, tiny: bool, engine: str) -> None:
    """Every part that the time allows; what the JSON has already is kept."""
    began = time.monotonic()
    found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {"results": {}}
    found |= {"machine": machine(), "cap_bytes": cap_bytes, "date": time.strftime("%Y-%m-%d"), "tiny": tiny}
    device = "cuda" if "gpu" in found["machine"] else "cpu"
    if device == "cpu" and not tiny:
        raise SystemExit("no CUDA GPU was found; --tiny runs every part on the CPU, with a tiny model")
    if "head_loss" not in found:
        found["head_loss"] = head(tiny)
        _write(out, found)
    for part in parts(tiny, engine):
        left = limit_s - (time.monotonic() - began)
        if left < 20:
            print(f"no time is left for {part.name} and what follows; run it again to go on")
            break
        if found["results"].get(part.name, {}).get("run"):
            continue
        try:
            found["results"][part.name] = run_part(part, weights, cap_bytes, device, left)
        except subprocess.TimeoutExpired:
            found["results"][part.name] = {"part": asdict(part), "run": None, "why": f"not done after {left:.0f} s"}
        found["summary"], found["table"] = summary(found["results"]), table(found["results"])
        _write(out, found)
        print(json.dumps({part.name: found["results"][part.name].get("held", "did not run")}), flush=True)
    print("\n".join(found.get("table", [])))
    print(json.dumps(found.get("summary", {})))


def _write(out: Path, found: dict[str, Any]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
