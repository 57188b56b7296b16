"""Where the interval of a difference of means of shares, before to after, leaves 95 ± 2 %.

    python benchmarks/interval_grid.py [SIMULATIONS]

Seven rates before times seven after, independent and together, for two kinds of values and four numbers of tasks. Takes
about half a minute on one core with 2,000 simulations. Prints a line a number of tasks and writes
``results/interval_grid.json``. For rates with one sample a task, ``tests/unit/test_coverage_exact.py`` adds up every
outcome.
"""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path

import numpy as np
from intervals import KINDS, held, normal

from lowvram_ft.evaluation.comparison import share_difference_ends
from lowvram_ft.hardware import detect
from lowvram_ft.run_dir import versions

RESULTS = Path(__file__).parent / "results" / "interval_grid.json"
TASKS = (20, 40, 100, 164)
RATES = (0.02, 0.05, 0.1, 0.5, 0.9, 0.95, 0.98)
TOGETHER = (0.0, 0.7)


def setting(kind: str, old: float, new: float, together: float, n: int, simulations: int, rng: np.random.Generator):
    draw, mean = KINDS[kind]
    one = rng.standard_normal((simulations, n))
    two = together * one + math.sqrt(1 - together**2) * rng.standard_normal((simulations, n))
    before, after = draw(normal(one), old, rng), draw(normal(two), new, rng)
    share = held({"ours": share_difference_ends(before, after)}, mean(new) - mean(old))["held"]["ours"]  # type: ignore[index]
    return {"kind": kind, "tasks": n, "rates": [old, new], "together": together, "held": share}


def main(simulations: int) -> None:
    rng = np.random.default_rng(0)
    began = time.perf_counter()
    found = [
        setting(kind, old, new, together, n, simulations, rng)
        for n in TASKS
        for kind in ("three samples", "scores")
        for old in RATES
        for new in RATES
        for together in TOGETHER
    ]
    for n in TASKS:
        rows = sorted((row for row in found if row["tasks"] == n), key=lambda row: row["held"])
        below, above = (
            sum(1 for row in rows if wrong(row["held"])) for wrong in (lambda s: s < 0.93, lambda s: s > 0.97)
        )
        print(f"n {n:3}: of {len(rows)} settings, {below} below 93 %, {above} above 97 %; the worst: {rows[0]}")
    machine = detect()
    known = {
        "simulations": simulations,
        "seconds": round(time.perf_counter() - began, 1),
        "hardware": {"cpu": machine.cpu_model, "cpus": machine.cpu_count},
        "versions": versions() | {"numpy": np.__version__},
        "date": time.strftime("%Y-%m-%d"),
    }
    RESULTS.write_text(json.dumps(known | {"settings": found}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
