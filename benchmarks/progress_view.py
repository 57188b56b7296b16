"""What the terminal view costs the work that it reports: time of a report, CPU time of the thread that draws.

    python benchmarks/progress_view.py [--seconds 30]

Run it in a terminal, and with LOWVRAM_FT_PROGRESS=plain to compare. A loop reports a step every 50 ms and does nothing
else. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from functools import partial

from lowvram_ft.progress import Progress
from lowvram_ft.progress.memory import of_process
from lowvram_ft.progress.progress import has_view

STEPS = ("plan", "train:a", "train:b", "export", "verify", "export:base", "bench", "eval:before", "eval:after", "gates")
STEP_S = 0.05


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=30.0)
    seconds = parser.parse_args().seconds
    progress = Progress(title="lowvram-ft run")
    progress.pipeline(STEPS, STEPS[:1])
    progress.begin("train:a", "stage 1 of 2")
    progress.measure(partial(of_process, 2 << 30))
    number, spent, began = 0, 0.0, time.monotonic()
    cpu = cpu_s()
    while time.monotonic() - began < seconds:
        number += 1
        before = time.perf_counter()
        progress.losses(1 / number)
        progress.step("train a", number, 10**9, "loss 0.5, 100 tok/s")
        spent += time.perf_counter() - before
        time.sleep(STEP_S)
    cpu, wall = cpu_s() - cpu, time.monotonic() - began
    progress.close()
    result = {
        "view": has_view(progress._stream),
        "steps": number,
        "report_us": round(1e6 * spent / number, 1),
        "cpu_share_of_a_core": round(cpu / wall, 4),
    }
    print(json.dumps(result))


def cpu_s() -> float:
    """CPU time of this process, all threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
