"""How often `lowvram-ft improve` puts a model into use: one that is better, and one that is not.

    python benchmarks/improve.py [SERIES]

A model in use solves 40 % of the held-out tasks. A *better* one solves of the others as many as the gain says, and
loses 3 % of what was solved. In the series of ten attempts, each model is *equal* (solves each task with the same
chance as the one in use, which depends on the task) or *worse* (by 10 points); counted is how many series adopt any.
Takes about a minute on one core. Prints tables and writes ``results/improve.json``.
"""

from __future__ import annotations

import json
import math
import random
import sys
import time
from pathlib import Path
from typing import Any

from lowvram_ft.hardware import detect
from lowvram_ft.improve.decide import level, one_sided
from lowvram_ft.run_dir import versions

RESULTS = Path(__file__).parent / "results" / "improve.json"
TASKS = (20, 50, 100, 200)
SOLVED, LOST = 0.4, 0.03
GAINS = (10, 20, 30)
"""Points."""
ATTEMPTS = (1, 2, 3, 10)
CHANCES = (0.05, 0.3, 0.6, 0.95)
SEED = 1


def adopts(before: list[bool], after: list[bool], k: int) -> bool:
    gained = sum(new and not old for old, new in zip(before, after, strict=True))
    lost = sum(old and not new for old, new in zip(before, after, strict=True))
    return one_sided(gained, lost) <= level(k)


def power(rng: random.Random, gain: int, n: int, count: int) -> dict[int, float]:
    """Share of attempts with a better model that adopt it, by the number of the attempt."""
    chance = (gain / 100 + SOLVED * LOST) / (1 - SOLVED)
    found = dict.fromkeys(ATTEMPTS, 0)
    for _ in range(count):
        before = [rng.random() < SOLVED for _ in range(n)]
        after = [rng.random() < (1 - LOST if solved else chance) for solved in before]
        for k in ATTEMPTS:
            found[k] += adopts(before, after, k)
    return {k: hits / count for k, hits in found.items()}


def false_adoptions(rng: random.Random, n: int, worse_by: float, count: int) -> float:
    """Share of series of ten attempts that ever adopt a model that is no better."""
    wrong = 0
    for _ in range(count):
        chances = [rng.choice(CHANCES) for _ in range(n)]
        before = [rng.random() < chance for chance in chances]
        new = [max(0.0, chance - worse_by) for chance in chances]
        wrong += any(adopts(before, [rng.random() < chance for chance in new], k) for k in range(1, 11))
    return wrong / count


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    rng = random.Random(SEED)
    began = time.monotonic()
    rows: list[dict[str, Any]] = []
    print("adopts a better model in the attempt\ngain  tasks  " + "  ".join(f"{k:>5}" for k in ATTEMPTS))
    for gain in GAINS:
        for n in TASKS:
            found = power(rng, gain, n, count)
            rows.append({"gain": gain, "tasks": n, "adopted": found})
            print(f"{gain:>4}  {n:>5}  " + "  ".join(f"{100 * share:>4.0f}%" for share in found.values()))
    print("\nseries of ten attempts that adopt a model that is no better\ntasks  equal  worse")
    series = []
    for n in TASKS:
        equal, worse = (false_adoptions(rng, n, by, count) for by in (0.0, 0.1))
        series.append({"tasks": n, "equal": equal, "worse": worse})
        print(f"{n:>5}  {100 * equal:>4.1f}%  {100 * worse:>4.1f}%")
    error = math.sqrt(0.05 * 0.95 / count)
    print(f"\n{count} series each; standard error of 5 %: {100 * error:.1f} points")
    hardware = detect()
    machine = {"hardware": {"cpu": hardware.cpu_model, "cpus": hardware.cpu_count}, "versions": versions()}
    facts = {"command": f"python benchmarks/improve.py {count}", "series": count, "seed": SEED}
    facts |= {"seconds": round(time.monotonic() - began, 1), "date": time.strftime("%Y-%m-%d")}
    RESULTS.write_text(json.dumps({**facts, **machine, "power": rows, "false": series}, indent=2) + "\n")


if __name__ == "__main__":
    main()
