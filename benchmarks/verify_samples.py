"""Run every sample row that ships with the kit: 166 functions, 24 modules, 40 traces, 40 held-out functions.

    python benchmarks/verify_samples.py

Every test passes, and not by chance; every row kills at least 60 % of its mutants; every trace's failed test fails.
Exit code 1 if not.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from pathlib import Path

from lowvram_ft.data.sources import load_rows
from lowvram_ft.data.sources.samples import held_out_rows
from lowvram_ft.data.verify import verify_rows
from lowvram_ft.progress import Progress
from lowvram_ft.recipe import DataSection
from lowvram_ft.run_dir import versions

MIN_MUTATION_SCORE = 0.6
RESULTS = Path(__file__).parent / "results" / "verify_samples.json"


def main() -> int:
    began = time.monotonic()
    rows = [*load_rows(DataSection(source="samples")), *held_out_rows()]
    progress, done = Progress(), itertools.count(1)
    verdicts = verify_rows(rows, on_row=lambda: progress.step("verify samples", next(done), len(rows)))
    bad = [verdict.to_json() for verdict in verdicts if verdict.problem(MIN_MUTATION_SCORE) or not verdict.executed]
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
