"""The demo with several seeds, before beside after, on the held-out samples and 40 functions of HumanEval.

    python benchmarks/demo_seeds.py [SEED ...]

Takes about a quarter of an hour a seed on 2 cores. Writes ``results/demo_seeds.json``, seed by seed, so that an
interrupted benchmark continues.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from lowvram_ft.hardware import detect
from lowvram_ft.pipeline import Job, run_all
from lowvram_ft.progress import Progress
from lowvram_ft.recipe import load
from lowvram_ft.report.cells import RATES
from lowvram_ft.report.table import report
from lowvram_ft.run_dir import versions

TASKS = 40
RESULTS = Path(__file__).parent / "results" / "demo_seeds.json"
RUNS = Path("runs") / "benchmark"


def main(seeds: list[int]) -> None:
    known = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {"seeds": {}}
    machine = detect()
    known["hardware"] = {"cpu": machine.cpu_model, "cpus": machine.cpu_count, "ram_bytes": machine.ram_total_bytes}
    known["versions"] = versions()
    for seed in seeds:
        overrides = [
            f"train.seed={seed}",
            f"data.seed={seed}",
            'eval.suites=["samples", "humaneval"]',
            f"eval.max_tasks={TASKS}",
        ]
        job = Job(load("demo", overrides), RUNS / f"seed-{seed}", Progress(), f"demo_seeds.py {seed}")
        run_all(job)
        found = report(job.run.path)
        known["seeds"][str(seed)] = {key: found[key] for key in ("suites", "stages", "verify", "bench")}
        RESULTS.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
    print_table(known)


def print_table(known: dict[str, dict[str, dict[str, dict[str, dict[str, dict[str, float]]]]]]) -> None:
    for suite in ("samples", "humaneval"):
        print(f"\n{suite}: before > after, each seed")
        for key, label in RATES.items():
            pairs = [
                (found["suites"][suite]["before"][key], found["suites"][suite]["after"][key])
                for found in known["seeds"].values()
            ]
            if all(value is not None for pair in pairs for value in pair):
                print(f"{label:24}", "   ".join(f"{100 * b:5.1f} > {100 * a:5.1f} %" for b, a in pairs))


if __name__ == "__main__":
    main([int(seed) for seed in sys.argv[1:]] or [0, 1, 2])
