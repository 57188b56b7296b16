"""Run every sample row that ships with the kit: 166 functions, 24 modules, 40 traces, 40 held-out functions.

    python benchmarks/verify_samples.py

Every test passes; every row kills at least 60 % of its mutants; every trace's failed test fails. Exit code 1 if not.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from lowvram_ft.data.row import Row
from lowvram_ft.data.sources import failed_tests, held_out_rows, load_rows
from lowvram_ft.data.verify import verify_rows
from lowvram_ft.pipeline import versions
from lowvram_ft.progress import Progress
from lowvram_ft.recipe import DataSection

MIN_MUTATION_SCORE = 0.6
RESULTS = Path(__file__).parent / "results" / "verify_samples.json"


def main() -> int:
    began = time.monotonic()
    section = DataSection(source="samples")
    failed = failed_tests(section)
    jobs: list[tuple[Row, str | None]] = [(row, failed.get(row.id)) for row in [*load_rows(section), *held_out_rows()]]
    progress = Progress()
    verdicts = verify_rows(jobs, lambda place, _: progress.step("verify samples", place + 1, len(jobs)))
    bad = [verdict.to_json() for verdict in verdicts if not verdict.ok(MIN_MUTATION_SCORE)]
    found = {
        "rows": len(verdicts),
        "passing": sum(verdict.passes for verdict in verdicts),
        "mean_mutation_score": round(sum(v.mutation_score for v in verdicts) / len(verdicts), 4),
        "min_mutation_score": round(min(v.mutation_score for v in verdicts), 4),
        "bad": bad,
        "seconds": round(time.monotonic() - began, 1),
        "versions": versions(),
    }
    RESULTS.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(json.dumps({key: value for key, value in found.items() if key != "versions"}, indent=2))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
