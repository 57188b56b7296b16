"""Turn two installed packages that ship their tests into training rows, and run every row.

    python benchmarks/from_repo.py [--functions 40] [--workers 1] [--log FILE] [--rows FILE]

networkx as a whole, and parts of sympy: modules are paired with their test files, each pair becomes a row, each row is
run, and so is a sample of rows of single functions and classes. Prints a table, and 20 of the pairs that pass, drawn
with a seed, for a person to look at. Exit code 1 if fewer than 150 pairs pass.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import random
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import networkx

from lowvram_ft.data.from_repo.pairs import find_pairs
from lowvram_ft.data.from_repo.rows import rows
from lowvram_ft.data.from_repo.running import verified
from lowvram_ft.data.from_repo.source_tree import LeftOut
from lowvram_ft.progress import Progress

ROOT = Path(networkx.__file__).parent.parent
PACKAGES: dict[str, tuple[str, ...]] = {
    "networkx": ("networkx",),
    "sympy": (
        "sympy/algebras",
        "sympy/calculus",
        "sympy/combinatorics",
        "sympy/concrete",
        "sympy/discrete",
        "sympy/diffgeom",
        "sympy/functions/combinatorial",
        "sympy/geometry",
        "sympy/liealgebras",
        "sympy/logic",
        "sympy/multipledispatch",
        "sympy/ntheory",
        "sympy/sets",
        "sympy/strategies",
        "sympy/unify",
        "sympy/utilities",
    ),
}
NAMED = ("networkx", "sympy", "pytest", "numpy", "scipy")
"""Their versions are noted: without scipy, some of networkx's tests are skipped."""
SEED = 0
SHOWN = 20
WANTED = 150
RESULTS = Path(__file__).parent / "results" / "from_repo.json"


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--functions", type=int, default=40, help="rows of single definitions that are run, a package")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--log", type=Path, help="write the progress there")
    parser.add_argument("--rows", type=Path, help="write the rows that pass there")
    options = parser.parse_args()
    stream = options.log.open("w", encoding="utf-8") if options.log else None
    progress = Progress(stream)
    found, kept = {}, []
    for package, only in PACKAGES.items():
        numbers, passing = measure(package, only, options.functions, options.workers, progress)
        found[package] = numbers
        kept += passing
    files = [row for row in kept if row["kind"] == "file"]
    shown = sorted(random.Random(SEED).sample(files, min(SHOWN, len(files))), key=lambda row: row["id"])
    result = {
        "packages": found,
        "pairs_that_pass": len(files),
        "sample": [{key: row[key] for key in ("origin", "test_file", "why", "names")} for row in shown],
        "seed": SEED,
        "versions": {
            name: version(name) for name in ("networkx", "sympy", "pytest", "numpy", "scipy") if is_installed(name)
        },
        "python": platform.python_version(),
        "cpu": f"{os.cpu_count()} x {cpu_name()}",
        "date": time.strftime("%Y-%m-%d"),
    }
    RESULTS.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    if options.rows:
        options.rows.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
    show(result)
    return 0 if len(files) >= WANTED else 1


def measure(
    package: str, only: tuple[str, ...], functions: int, workers: int, progress: Progress
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    began = time.monotonic()
    left_out = LeftOut()
    pairs = find_pairs(ROOT, only, left_out=left_out, on_progress=progress.step)
    paired_s = time.monotonic() - began
    whole = [row for pair in pairs for row in rows(pair, left_out, kinds=("file",))]
    single = [row for pair in pairs for row in rows(pair, LeftOut(), kinds=("function",))]
    sample = random.Random(SEED).sample(single, min(functions, len(single)))
    made_s = time.monotonic() - began - paired_s
    jobs = [*whole, *sample]
    dropped = LeftOut()
    task = f"run {package}"
    kept = list(verified(jobs, dropped, workers=workers, on_row=lambda done, _: progress.step(task, done, len(jobs))))
    standing = sum(row["kind"] == "function" and row["module"] == "solution" for row in kept)
    numbers = {
        "parts": list(only),
        "test_files_paired": len({pair.test.relative for pair in pairs}),
        "pairs": len(pairs),
        "rows_of_files": len(whole),
        "rows_of_files_that_pass": sum(row["kind"] == "file" for row in kept),
        "rows_of_definitions": len(single),
        "rows_of_definitions_run": len(sample),
        "rows_of_definitions_that_pass": sum(row["kind"] == "function" for row in kept),
        "rows_of_definitions_that_pass_alone": standing,
        "left_out_before_running": dict(left_out.reasons.most_common()),
        "left_out_by_running": dict(dropped.reasons.most_common()),
        "examples": {**left_out.examples, **dropped.examples},
        "pairing_s": round(paired_s, 1),
        "rows_s": round(made_s, 1),
        "running_s": round(time.monotonic() - began - paired_s - made_s, 1),
        "workers": workers,
    }
    return numbers, kept


def is_installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def cpu_name() -> str:
    names = Path("/proc/cpuinfo")
    lines = names.read_text(encoding="utf-8").splitlines() if names.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def show(result: dict[str, Any]) -> None:
    print(f"{'package':10} {'pairs':>6} {'pass':>6} {'definitions run':>16} {'pass':>6} {'alone':>6} {'seconds':>8}")
    for name, found in result["packages"].items():
        seconds = found["pairing_s"] + found["rows_s"] + found["running_s"]
        print(
            f"{name:10} {found['pairs']:6} {found['rows_of_files_that_pass']:6} {found['rows_of_definitions_run']:16} "
            f"{found['rows_of_definitions_that_pass']:6} {found['rows_of_definitions_that_pass_alone']:6} "
            f"{seconds:8.0f}"
        )
    for row in result["sample"]:
        print(f"{row['origin']}\n    {row['test_file']}\n    {row['why']}")


if __name__ == "__main__":
    sys.exit(main())
