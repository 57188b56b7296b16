"""20,000 test files in a row, one in ten hostile: does the pool stay as it was?

    python benchmarks/execution_soak.py [--files 20000] [--again 500] [--workers 2]

Ordinary files are the sample rows, in turn, some with a test that fails. Hostile ones exit, kill, hang, flood, fill,
fork and leave things behind. At the end every file has a verdict of the kind that it must have, no process and no
folder is left, the memory of pool and servers is where it was, and a random choice of files, each run alone by a
pool of its own kind, gets the same verdict again. Writes ``results/execution_soak.json``; exit code 1 if one of
these does not hold.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from lowvram_ft.data.sources import load_rows
from lowvram_ft.execution import Limits, Verdict, run_stream, run_tests
from lowvram_ft.execution.limits import count_descendants
from lowvram_ft.execution.pool import close_default_pool, default_pool
from lowvram_ft.hardware import detect
from lowvram_ft.recipe import DataSection
from lowvram_ft.run_dir import versions

RESULTS = Path(__file__).parent / "results" / "execution_soak.json"
LIMITS = Limits(wall_s=3.0, cpu_s=3.0, test_s=1.0, processes=16)
EVERY = 1000
GROWTH_BYTES = 32 << 20
"""How much more the whole may hold at the end than after the first `EVERY` files."""

HOSTILE = {
    "exit": "import os\ndef test_a():\n    os._exit(0)\n",
    "exit at import": "import sys\nsys.exit(0)\n",
    "kill itself": "import os\ndef test_a():\n    os.kill(os.getpid(), 9)\n",
    "kill its parent": "import os\ndef test_a():\n    os.kill(os.getppid(), 9)\n    assert os.getppid() == 1\n",
    "hang": "def test_a():\n    while True:\n        pass\n",
    "swallow the time-out": "import time\ndef test_a():\n    while True:\n        try:\n            time.sleep(9)\n"
    "        except BaseException:\n            pass\n",
    "flood": "import os\ndef test_a():\n    for _ in range(64):\n        os.write(1, b'x' * (1 << 20))\n"
    "    assert 1 == 2\n",
    "much memory": "def test_a():\n    assert len(bytearray(10 << 30)) == 1\n",
    "fill its folder": "def test_a():\n    for n in range(400):\n        open(f'f{n}', 'wb').write(bytes(1 << 20))\n"
    "    assert 1 == 2\n",
    "daemon": "import os, time\ndef test_a():\n    if os.fork() == 0:\n        os.setsid()\n"
    "        if os.fork() == 0:\n            time.sleep(600)\n        os._exit(0)\n    assert 1 == 2\n",
    "many processes": "import os, time\ndef test_a():\n    for _ in range(200):\n        if os.fork() == 0:\n"
    "            time.sleep(600)\n            os._exit(0)\n    assert 1 == 2\n",
    "unreadable folders": "import os\ndef test_a():\n    os.makedirs('a/b/c')\n    os.chmod('a/b', 0)\n"
    "    os.chmod('a', 0)\n    assert 1 == 2\n",
    "patch pytest": "import _pytest.python\n_pytest.python.Function.runtest = lambda self: None\n"
    "def test_a():\n    assert 1 == 2\n",
    "crash": "import ctypes\ndef test_a():\n    ctypes.string_at(0)\n",
    "deep": "def test_a():\n    def f():\n        f()\n    f()\n",
}
"""None of these may pass."""


@dataclasses.dataclass(frozen=True)
class Job:
    """One file, and whether all of its tests have to pass."""

    kind: str
    code: str
    module: str
    test: str
    passes: bool


def jobs(count: int) -> list[Job]:
    rows = list(load_rows(DataSection(source="samples", subset="functions")))
    hostile = list(HOSTILE.items())
    found = []
    for number in range(count):
        row = rows[number % len(rows)]
        if number % 10 == 9:
            kind, test = hostile[number // 10 % len(hostile)]
            found.append(Job(kind, row.code, row.module, test, False))
        elif number % 10 == 4:
            wrong = f"{row.test}\n\ndef test_wrong():\n    assert 1 == {number}\n"
            found.append(Job("one test fails", row.code, row.module, wrong, False))
        else:
            found.append(Job("row", row.code, row.module, row.test, True))
    return found


def run(job: Job) -> Verdict:
    return run_tests(job.code, job.module, job.test, LIMITS)


def settled(verdict: Verdict) -> dict[str, Any]:
    """A verdict without what the clock writes into it."""
    found = verdict.to_json()
    found.pop("duration_s")
    found["log"] = ""
    for result in found["results"]:
        result.pop("duration_s")
        result["message"] = result["message"].partition(" after ")[0]
    return found


def memory_bytes() -> int:
    """Resident memory of this process and of all that descend from it, shared pages counted once for each."""
    total, pending = 0, [os.getpid()]
    while pending:
        pid = pending.pop()
        try:
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            for thread in os.listdir(f"/proc/{pid}/task"):
                pending += map(int, Path(f"/proc/{pid}/task/{thread}/children").read_text().split())
        except OSError:
            continue
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--again", type=int, default=500)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="soak-"))
    tempfile.tempdir = str(place)
    todo = jobs(options.files)
    verdicts: list[Verdict] = []
    memory: list[int] = []
    begin = time.monotonic()
    for verdict in run_stream(run, iter(todo), workers=options.workers):
        verdicts.append(verdict)
        if len(verdicts) % EVERY == 0:
            memory.append(memory_bytes())
            rate = len(verdicts) / (time.monotonic() - begin)
            print(f"{len(verdicts)} files, {rate:.1f} a second, {memory[-1] >> 20} MiB", file=sys.stderr, flush=True)
    seconds = time.monotonic() - begin
    replaced, layer = default_pool().replaced, default_pool().layer
    wrong = [
        f"{number}: {job.kind}: {verdict.status}"
        for number, (job, verdict) in enumerate(zip(todo, verdicts, strict=True))
        if verdict.all_passed is not job.passes
    ]
    close_default_pool()
    time.sleep(1.0)
    processes, folders = count_descendants(1000), sorted(path.name for path in place.iterdir())
    chosen = random.Random(0).sample(range(len(todo)), min(options.again, len(todo)))
    other = []
    for count, number in enumerate(chosen):
        if settled(run(todo[number])) != settled(verdicts[number]):
            other.append(f"{number}: {todo[number].kind}")
        if count % 100 == 99:
            print(f"{count + 1} again", file=sys.stderr, flush=True)
            close_default_pool()
    close_default_pool()
    growth = memory[-1] - memory[0] if memory else 0
    machine = detect()
    result = {
        "files": len(verdicts),
        "hostile": sum(job.kind in HOSTILE for job in todo),
        "workers": options.workers,
        "layer": layer,
        "seconds": round(seconds, 1),
        "files_per_s": round(len(verdicts) / seconds, 2),
        "servers_replaced": replaced,
        "statuses": dict(Counter(verdict.status for verdict in verdicts)),
        "statuses_by_kind": {
            kind: dict(Counter(v.status for j, v in zip(todo, verdicts, strict=True) if j.kind == kind))
            for kind in sorted({job.kind for job in todo})
        },
        "wrong": wrong,
        "processes_left": processes,
        "folders_left": folders,
        "memory_bytes": memory,
        "memory_growth_bytes": growth,
        "again": len(chosen),
        "other_verdict_again": other,
        "hardware": {"cpu": machine.cpu_model, "cpus": machine.cpu_count, "ram_bytes": machine.ram_total_bytes},
        "versions": versions(),
        "date": time.strftime("%Y-%m-%d"),
    }
    RESULTS.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps({key: value for key, value in result.items() if key not in ("versions", "hardware")}, indent=2))
    if wrong or other or processes or folders or growth > GROWTH_BYTES or len(verdicts) != len(todo):
        sys.exit(1)


if __name__ == "__main__":
    main()
