"""Where the time and the memory of a test file go: fork, import, tests, coverage, and what stands around them.

    python benchmarks/execution_profile.py [--files 166]

One worker, each layer of the sandbox that this machine has, medians over the sample functions. Writes
``results/execution_profile.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
import warnings
from pathlib import Path
from typing import Any

from lowvram_ft.data.sources import load_rows
from lowvram_ft.execution import Limits, sandbox
from lowvram_ft.execution.pool import Pool, Question, Server, UnsandboxedWarning, patience_s
from lowvram_ft.hardware import detect
from lowvram_ft.recipe import DataSection
from lowvram_ft.run_dir import versions

RESULTS = Path(__file__).parent / "results" / "execution_profile.json"
LIMITS = Limits()


def ask(server: Server, question: Question) -> dict[str, float]:
    """Seconds of one test file by phase; ``around`` is what is left of the whole: lay-out, pipes, the verdict."""
    begin = time.monotonic()
    server.write(question.to_json())
    phases: dict[str, float] = {}
    while True:
        answer = server.read(patience_s(LIMITS))
        if answer["kind"] == "verdict":
            assert answer["phases_s"] is not None, "a sample row did not run to its end"
            phases = dict(answer["phases_s"])
        if answer["kind"] == "end":
            break
    phases["around"] = time.monotonic() - begin - sum(phases.values())
    return phases


def memory(server: Server) -> dict[str, int]:
    """Bytes of the server process: resident, and of these its own (proportional set size where the kernel tells)."""
    pids, pending = [], [server.process.pid]
    while pending:
        pid = pending.pop()
        pids.append(pid)
        for thread in os.listdir(f"/proc/{pid}/task"):
            pending += map(int, Path(f"/proc/{pid}/task/{thread}/children").read_text().split())
    resident = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids)
    return {"processes": len(pids), "resident_bytes": resident * os.sysconf("SC_PAGE_SIZE")}


def profile(layer: sandbox.Layer, files: int) -> dict[str, Any]:
    """Start-up, phases and memory under one layer."""
    rows = list(load_rows(DataSection(source="samples", subset="functions")))[:files]
    questions = [Question(row.code, row.module, row.test, LIMITS, None, False, None) for row in rows]
    with Pool(layer) as pool:
        begin = time.monotonic()
        with pool.server(None) as server:
            start_s = time.monotonic() - begin
            ask(server, questions[0])
            found = [ask(server, question) for question in questions]
            sizes = memory(server)
    medians = {name: statistics.median(phases[name] for phases in found) for name in found[0]}
    whole = statistics.median(sum(phases.values()) for phases in found)
    return {"start_s": start_s, "file_s": whole, "phases_s": medians, **sizes}


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--files", type=int, default=166)
    options = parser.parse_args()
    warnings.simplefilter("ignore", UnsandboxedWarning)
    machine = detect()
    layers = [state.layer for state in sandbox.states() if state.problem is None]
    result = {
        "layers": {layer: profile(layer, options.files) for layer in layers},
        "files": options.files,
        "hardware": {"cpu": machine.cpu_model, "cpus": machine.cpu_count, "ram_bytes": machine.ram_total_bytes},
        "versions": versions(),
        "date": time.strftime("%Y-%m-%d"),
    }
    RESULTS.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    for layer, found in result["layers"].items():
        print(f"\n{layer}: {1000 * found['file_s']:.1f} ms a file, server up in {found['start_s']:.2f} s, ", end="")
        print(f"{found['resident_bytes'] / 2**20:.0f} MiB")
        for name, seconds in found["phases_s"].items():
            print(f"  {name:10}{1000 * seconds:6.1f} ms {100 * seconds / found['file_s']:5.0f} %")


if __name__ == "__main__":
    main()
