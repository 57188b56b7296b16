"""What is left of real KodCode rows, and what it is worth, beside the rows as they come.

    python benchmarks/kodcode_funnel.py --rows rows.jsonl [--shown 20] [--seed 0]

``--rows`` is a JSONL file in the shape of KodCode-V1-SFT-R1, such as its demo release. Prints the funnel, some of the
rows that were left out with the reason, and how many tests pass and what they find: of the rows that are kept, and of
all rows as they come, without a filter and without an import line where there was none. Writes
``results/kodcode_funnel.json``.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from lowvram_ft import models
from lowvram_ft.data.prepare import prepare
from lowvram_ft.data.prepared import Prepared
from lowvram_ft.data.show import print_funnel
from lowvram_ft.data.verify_recipe import verifier
from lowvram_ft.execution import Judgement, judge, run_many
from lowvram_ft.hardware import detect
from lowvram_ft.progress import Progress
from lowvram_ft.recipe import DataSection
from lowvram_ft.rendering import from_folder
from lowvram_ft.run_dir import versions

RESULTS = Path(__file__).parent / "results" / "kodcode_funnel.json"
MAX_LENGTH = 2048


def as_they_come(path: Path, progress: Progress) -> dict[str, Any]:
    """Every row run as it stands in the file."""
    values = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    done = 0

    def on_result(_place: int, _result: Judgement) -> None:
        nonlocal done
        done += 1
        progress.step("raw rows", done, len(values))

    def run(value: dict[str, Any]) -> Judgement:
        return judge(value["solution"], "solution", value.get("test_code") or value["test"])

    found = run_many(run, values, on_result=on_result)
    passing = [one for one in found if one.verdict.all_passed]
    return {
        "rows": len(found),
        "passing": len(passing),
        "mean_mutation_score_of_all": sum(one.mutation_score for one in found) / len(found),
        "mean_mutation_score_of_those_that_pass": sum(one.mutation_score for one in passing) / len(passing),
    }


def prepared(path: Path, progress: Progress, folder: Path) -> Prepared:
    """The set that training would read, every row of it run."""
    chat = from_folder(models.materialize(models.resolve("smollm2-135m")))
    section = DataSection(source="kodcode", path=str(path), verify=True)
    return prepare(section, chat, MAX_LENGTH, folder / "set", verify=verifier(section, progress))


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--shown", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    progress = Progress()
    with tempfile.TemporaryDirectory(prefix="kodcode-funnel-") as name:
        found = prepared(options.rows, progress, Path(name))
        kept = [example.row for side in (found.train, found.eval, found.test) for example in side]
        lines = (found.folder / "dropped.jsonl").read_text(encoding="utf-8").splitlines()
        dropped = [json.loads(line) for line in lines]
    raw = as_they_come(options.rows, progress)
    facts = found.to_json()
    print_funnel(facts, Console(highlight=False, soft_wrap=True))
    for one in random.Random(options.seed).sample(dropped, min(options.shown, len(dropped))):
        print(f"{one['id']}: {one['reason']}{' (' + one['detail'] + ')' if one['detail'] else ''}")
    scores = [row.meta["mutation_score"] for row in kept]
    machine = detect()
    result = {
        "command": "python benchmarks/kodcode_funnel.py --rows ROWS",
        "date": time.strftime("%Y-%m-%d"),
        "hardware": {"cpu": machine.cpu_model, "cpus": machine.cpu_count, "ram_bytes": machine.ram_total_bytes},
        "versions": versions(),
        "funnel": facts["funnel"],
        "kept": {"rows": len(kept), "passing": len(kept), "mean_mutation_score": sum(scores) / len(scores)},
        "as_they_come": raw,
    }
    RESULTS.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"kept: {len(kept)} rows, all of which passed three times, {100 * sum(scores) / len(scores):.1f} % killed")
    print(f"as they come: {raw['rows']} rows, {raw['passing']} pass, ", end="")
    print(f"{100 * raw['mean_mutation_score_of_all']:.1f} % killed")


if __name__ == "__main__":
    main()
