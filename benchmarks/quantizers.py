"""The fast quantizers beside ggml's: the same bytes, and how much sooner.

    python benchmarks/quantizers.py [--weights 100000000]

Every type first quantizes ``--weights`` weights of all kinds with both and compares every byte. Then both quantize the
same normal weights in turns: on one core by that thread's CPU time, on all of them by the clock; the fastest round of
each counts, because others may use the machine at the same time. Writes ``results/quantizers.json``.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from gguf_export.quantizers.block_quantizers import check_rows, row_quantizer
from gguf_export.quantizers.ggml import BLOCK_TYPES, encode
from gguf_export.quantizers.lanes.kernels import KERNELS
from lowvram_ft.hardware import detect

RESULTS = Path(__file__).parent / "results" / "quantizers.json"
ROUNDS = 15
TIMED_ROWS, TIMED_COLUMNS = 1024, 4096
BATCH = 1 << 19


def identity(name: str, n_weights: int, executor: ThreadPoolExecutor) -> dict[str, Any]:
    """Weights compared by kind, and those in blocks of other bytes."""
    quantizer = row_quantizer(name, "lanes")
    block_type = BLOCK_TYPES[name]
    compared: dict[str, int] = {}
    differing: dict[str, int] = {}

    def compare(kind: str, rows: np.ndarray[Any, Any]) -> tuple[str, int, int]:
        shape = (rows.size // block_type.block_values, block_type.block_bytes)
        expected, found = np.empty(shape, np.uint8), np.empty(shape, np.uint8)
        encode(block_type, rows, expected)
        quantizer._encode(rows, found)
        return kind, rows.size, int((expected != found).any(axis=1).sum()) * block_type.block_values

    seed = 0
    while sum(compared.values()) < n_weights:
        seed += 1
        for kind, n_values, n_differing in executor.map(lambda pair: compare(*pair), check_rows(BATCH, seed)):
            compared[kind] = compared.get(kind, 0) + n_values
            differing[kind] = differing.get(kind, 0) + n_differing
    return {"compared": sum(compared.values()), "differing": sum(differing.values()), "differing_by_kind": differing,
            "compared_by_kind": compared}  # fmt: skip


def speed(name: str, executor: ThreadPoolExecutor, n_threads: int) -> dict[str, float]:
    """Million weights a second: of one thread by its CPU time, of all by the clock."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((TIMED_ROWS, TIMED_COLUMNS), dtype=np.float32) * np.float32(0.02)
    lanes, block_type = row_quantizer(name, "lanes"), BLOCK_TYPES[name]
    fewer = rows[: TIMED_ROWS // 8]  # so that a round of each takes more nearly as long
    out = lanes(rows)

    def ggml(threads: ThreadPoolExecutor | None) -> None:
        parts = [slice(start, start + 16) for start in range(0, len(fewer), 16)]
        run = threads.map if threads is not None else map
        list(run(lambda part: encode(block_type, fewer[part], out[part]), parts))

    best: dict[tuple[str, int], float] = {}
    for _ in range(ROUNDS):
        for which, work, part in (("lanes", lambda threads: lanes(rows, threads, out), rows), ("ggml", ggml, fewer)):
            alone = timed(lambda work=work: work(None), time.thread_time)
            together = timed(lambda work=work: work(executor), time.perf_counter)
            for n, seconds in ((1, alone), (n_threads, together)):
                best[which, n] = min(best.get((which, n), float("inf")), seconds / part.size)
    found = {f"{which}_{n}_thread": 1e-6 / seconds for (which, n), seconds in best.items()}
    for n in (1, n_threads):
        found[f"ratio_{n}_thread"] = best["ggml", n] / best["lanes", n]
    return found


def timed(work: Callable[[], object], clock: Callable[[], float]) -> float:
    begin = clock()
    work()
    return clock() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=int, default=10**8, help="compared, for each type")
    weights = parser.parse_args().weights
    n_threads = len(os.sched_getaffinity(0))
    types: dict[str, Any] = {}
    print(f"{'type':6}{'compared':>12}{'differ':>8}{'ready s':>9}{'lanes':>8}{'ggml':>8}{'ratio':>7}"
          f"{f'{n_threads} threads':>12}{'ggml':>8}{'ratio':>7}   (million weights/s)")  # fmt: skip
    with ThreadPoolExecutor(n_threads) as executor:
        for name in KERNELS:
            ready = timed(lambda name=name: row_quantizer(name, "lanes"), time.process_time)
            same = identity(name, weights, executor)
            fast = speed(name, executor, n_threads)
            types[name] = {"ready_cpu_s": ready, "identity": same, "million_weights_per_s": fast}
            print(f"{name:6}{same['compared']:12}{same['differing']:8}{ready:9.2f}"
                  f"{fast['lanes_1_thread']:8.0f}{fast['ggml_1_thread']:8.1f}{fast['ratio_1_thread']:7.1f}"
                  f"{fast[f'lanes_{n_threads}_thread']:12.0f}{fast[f'ggml_{n_threads}_thread']:8.1f}"
                  f"{fast[f'ratio_{n_threads}_thread']:7.1f}", flush=True)  # fmt: skip
    hardware = detect()
    packages = ("llvmlite", "llama-cpp-python", "numpy")
    result = {
        "weights_timed": TIMED_ROWS * TIMED_COLUMNS,
        "rounds": ROUNDS,
        "types": types,
        "hardware": {"cpu": hardware.cpu_model, "llvm_cpu": llvm.get_host_cpu_name(), "cpus": n_threads,
                     "ram_bytes": hardware.ram_total_bytes},
        "versions": {"python": sys.version.split()[0], "llvm": ".".join(map(str, llvm.llvm_version_info)),
                     **{package: importlib.metadata.version(package) for package in packages}},
        "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip
    RESULTS.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    if any(found["identity"]["differing"] for found in types.values()):
        raise SystemExit("some blocks differ from ggml's")


if __name__ == "__main__":
    main()
