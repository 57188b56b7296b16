"""What the terminal view costs the work that it reports: time of a report, CPU time of the whole process.

    python benchmarks/progress_view.py [--seconds 30]

The work is a loop that reports a step every 50 ms and does nothing else, in a pseudo-terminal of 80 columns: with the
view, with plain lines, and quiet. Prints a table, and writes benchmarks/results/progress_view.json.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import pty
import resource
import struct
import sys
import termios
import time
from functools import partial
from pathlib import Path
from typing import Any

from lowvram_ft.hardware import detect
from lowvram_ft.progress import Progress
from lowvram_ft.progress.memory import of_process
from lowvram_ft.run_dir import versions, write_json

RESULTS = Path(__file__).parent / "results" / "progress_view.json"
STEPS = ("plan", "train:a", "train:b", "export", "verify", "export:base", "bench", "eval:before", "eval:after", "gates")
STEP_S = 0.05
MODES = {"view": "auto", "plain lines": "plain", "quiet": "off"}


def main() -> None:
    """Measure each mode in a terminal of its own."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--here", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here is not None:
        os.write(options.here, json.dumps(work(options.seconds)).encode())
        return
    found = {mode: in_terminal(options.seconds, setting) for mode, setting in MODES.items()}
    for mode, one in found.items():
        print(f"{mode:12} {one['report_us']:6.1f} us a report  {100 * one['cpu_share']:.2f} % of a core")
    hardware = detect()
    write_json(
        RESULTS,
        {
            "command": f"python benchmarks/progress_view.py --seconds {options.seconds:g}",
            "date": time.strftime("%Y-%m-%d"),
            "hardware": {
                "cpu": hardware.cpu_model,
                "cpus": hardware.cpu_count,
                "load_average": round(os.getloadavg()[0], 1),
            },
            "versions": {name: value for name, value in versions().items() if name in ("python", "lowvram-ft")},
            "modes": found,
        },
    )


def in_terminal(seconds: float, setting: str) -> dict[str, Any]:
    """Run `work` in a pseudo-terminal that is read as fast as it is written."""
    reader, writer = os.pipe()
    pid, terminal = pty.fork()
    if pid == 0:
        os.set_inheritable(writer, True)
        os.environ |= {"LOWVRAM_FT_PROGRESS": setting, "TERM": "xterm-256color"}
        os.execv(sys.executable, [sys.executable, __file__, "--seconds", f"{seconds}", "--here", f"{writer}"])
    os.close(writer)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    try:
        while os.read(terminal, 1 << 16):
            pass
    except OSError:  # Linux says so at its end
        os.waitpid(pid, 0)
    found: dict[str, Any] = json.loads(os.read(reader, 1 << 16))
    return found


def work(seconds: float) -> dict[str, Any]:
    """Report steps for so long."""
    progress = Progress(title="lowvram-ft run")
    progress.pipeline(STEPS, STEPS[:1])
    progress.begin("train:a", "stage 1 of 2")
    progress.measure(partial(of_process, 2 << 30))
    number, spent, cpu, began = 0, 0.0, cpu_s(), time.monotonic()
    while time.monotonic() - began < seconds:
        number += 1
        before = time.perf_counter()
        progress.losses(1 / number)
        progress.step("train a", number, 10**6, "loss 0.5, 100 tok/s")
        spent += time.perf_counter() - before
        time.sleep(STEP_S)
    share = (cpu_s() - cpu) / (time.monotonic() - began)
    progress.close()
    return {"reports": number, "report_us": round(1e6 * spent / number, 1), "cpu_share": round(share, 4)}


def cpu_s() -> float:
    """CPU time of this process, all threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
