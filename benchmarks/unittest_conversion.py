"""Convert every unittest file of the tests to pytest, and hold what both find against each other.

    python benchmarks/unittest_conversion.py [--mutants N]

Three comparisons: each test's outcome on the code; the mutants that both files kill, of all there are; and each
test's outcome on N mutants of each module (a seeded sample, 6 if nothing else is said). Exit code 1 if anything
differs. Takes about seven minutes on 2 cores. Writes ``results/unittest_conversion.json``.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from lowvram_ft.data.unittest_style.convert import NotConvertible, to_pytest  # noqa: E402
from lowvram_ft.execution import run_many  # noqa: E402
from lowvram_ft.execution.mutants import find_mutants  # noqa: E402
from lowvram_ft.hardware import detect  # noqa: E402
from lowvram_ft.progress import Progress  # noqa: E402
from lowvram_ft.run_dir import versions  # noqa: E402
from tests.unittest_comparison import compare_mutants, compare_run, runs_here  # noqa: E402
from tests.unittest_refusals import FRAMES, REFUSED  # noqa: E402
from tests.unittest_texts import PAIRS, Pair  # noqa: E402

RESULTS = Path(__file__).parent / "results" / "unittest_conversion.json"
SEED = 0


@dataclass(frozen=True)
class Row:
    """What one file showed.

    Attributes:
        name: of the file.
        convert_s: seconds to convert it.
        mutants: how many mutants count.
        killed: how many of them the original kills.
        each: how many mutants both files were run on, test by test.
        differences: what only one of the files does.
    """

    name: str
    convert_s: float
    mutants: int
    killed: int
    each: int
    differences: tuple[str, ...]


def compare(pair: Pair, sample: int) -> Row:
    begin = time.perf_counter()
    converted = to_pytest(pair.test)
    convert_s = time.perf_counter() - begin
    original = pair.stand_in + pair.test
    found = compare_run(pair.code, original, converted)
    differing, mutants, killed = compare_mutants(pair.code, original, converted)
    found += differing
    edits = find_mutants(pair.code)
    chosen = random.Random(f"{SEED} {pair.name}").sample(edits, min(sample, len(edits)))
    for edit in chosen:
        found += compare_run(edit.apply(pair.code), original, converted, edit.diff(pair.code))
    told = tuple(f"{one.where}: {one.what}" for one in found)
    return Row(pair.name, round(convert_s, 4), mutants, killed, len(chosen), told)


def refusals() -> dict[str, int]:
    """How often each reason comes among the files that are to be refused."""
    frame = "import unittest\n\n\nclass TestIt(unittest.TestCase):\n"
    texts = [(reason, frame + body) for reason, body in REFUSED] + FRAMES
    counted: Counter[str] = Counter()
    for _, text in texts:
        try:
            to_pytest(text)
        except NotConvertible as error:
            counted[error.reason] += 1
    return dict(counted.most_common())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mutants", type=int, default=6, help="of each module, for the comparison test by test")
    sample = parser.parse_args().mutants
    began = time.monotonic()
    pairs = [pair for pair in PAIRS if runs_here(pair.last_python)]
    progress = Progress()
    rows = run_many(
        lambda pair: compare(pair, sample),
        pairs,
        on_result=lambda place, row: progress.step(f"compare {row.name}", place + 1, len(pairs)),
    )
    print(f"{'file':38} {'mutants':>8} {'killed':>7} {'test by test':>13} {'differences':>12}")
    for row in rows:
        print(f"{row.name:38} {row.mutants:8} {row.killed:7} {row.each:13} {len(row.differences):12}")
    totals = {
        "files": len(rows),
        "mutants": sum(row.mutants for row in rows),
        "killed": sum(row.killed for row in rows),
        "test_by_test": sum(row.each for row in rows),
        "differences": sum(len(row.differences) for row in rows),
        "mean_convert_ms": round(1000 * sum(row.convert_s for row in rows) / len(rows), 1),
    }
    found = {
        "command": "python benchmarks/unittest_conversion.py" + (f" --mutants {sample}" if sample != 6 else ""),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        **totals,
        "rows": [asdict(row) for row in rows],
        "refused": refusals(),
        "seconds": round(time.monotonic() - began, 1),
        "hardware": detect().to_json(),
        "versions": versions(),
    }
    RESULTS.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(totals, indent=2))
    return 1 if totals["differences"] else 0


if __name__ == "__main__":
    sys.exit(main())
