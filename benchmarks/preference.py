"""What preferences add to a finished run of the demo: base, SFT, SFT + RFT, SFT + DPO, on two suites.

    python benchmarks/preference.py runs/demo [--seeds 0 1 2] [--out runs/benchmark/preference]

RUN is a finished run; its last stage's adapter is continued, and its exports are evaluated as ``base`` and ``sft``. For
each seed, the model answers (recipe ``demo_preference``), its answers are judged, and one round of each method is
trained on the same pair set, exported, and evaluated greedily. Every part is kept under ``--out``: interrupted, the
same command goes on, and what was timed in pieces is not reported as a time.

Prints tables, and writes ``results/preference.json`` with ``results/preference_outcomes.jsonl`` (what each task came
to, a line for a seed, a model and a suite), unless ``--max-tasks`` or ``--set`` make it a trial. Seeds of earlier
calls, also of another run on another machine, stay and count in the tables: each with its own base and SFT.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lowvram_ft.evaluation.comparison import compare
from lowvram_ft.evaluation.evaluate import evaluate
from lowvram_ft.evaluation.metrics import Scores, summarize
from lowvram_ft.evaluation.suites import load_suite
from lowvram_ft.hardware import detect
from lowvram_ft.inference.llama import LlamaCpp
from lowvram_ft.pipeline import Job, train
from lowvram_ft.pipeline.by_hand import ByHand
from lowvram_ft.pipeline.exporting import export, export_base
from lowvram_ft.progress import Progress
from lowvram_ft.recipe import Recipe, Resolved, load
from lowvram_ft.report.cells import RATES, amount_cell, rate_cell
from lowvram_ft.run_dir import RunDir, read_jsonl, versions, write_json, write_text

RESULTS = Path(__file__).parent / "results"
FILE, OUTCOMES = "preference.json", "preference_outcomes.jsonl"
RECIPE = "demo_preference"
SUITES = ("samples", "humaneval")
METHODS = ("rft", "dpo")
SHOWN = (
    "writes_tests", "single_tests_pass", "passes", "useful", "passes_and_kills", "line_coverage", "mutation_score",
)  # fmt: skip
TITLES = {"base": "base", "sft": "SFT", "rft": "SFT + RFT", "dpo": "SFT + DPO"}


class Parts:
    """Parts of the benchmark, each kept with its time.

    Args:
        folder: where they are kept.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "parts"

    def do(self, name: str, action: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """A part's result, from the folder where it was finished before.

        Args:
            name: of the part.
            action: gives the result.

        Returns:
            The result and ``seconds``; None for what was interrupted, since a part of it was done before.
        """
        kept, begun = self._folder / f"{name}.json", self._folder / f"{name}.begun"
        if kept.is_file():
            return dict(json.loads(kept.read_text(encoding="utf-8")))
        fresh = not begun.is_file()
        begun.parent.mkdir(parents=True, exist_ok=True)
        begun.touch()
        print(f"\n{name}", flush=True)
        started = time.perf_counter()
        result = action()
        result["seconds"] = round(time.perf_counter() - started, 1) if fresh else None
        write_json(kept, result)
        return result


class Benchmark:
    """One finished run, and what preferences make of it.

    Args:
        run: its directory.
        out: where all that is made is kept.
        overrides: more settings of the recipe.
        max_tasks: the first so many of each suite; None for all.
    """

    def __init__(self, run: Path, out: Path, overrides: Sequence[str], max_tasks: int | None) -> None:
        data = RunDir(run).data
        last = data["recipe"]["stages"][-1]
        self._export = last["recipe"]["export"]
        self._run, self._out, self._steps = run, out, data["steps"]
        self._overrides = (
            f"model.base={self._steps['plan']['base']}",
            f"model.adapter={(run / 'stages' / last['name'] / 'adapter').resolve()}",
            f"export.quant={self._export['quant']}",
            *overrides,
        )
        self.parts = Parts(out)
        self.tasks = [task for suite in SUITES for task in load_suite(suite, max_tasks)]
        self.samples = out / "samples.jsonl"

    def recipe(self, seed: int, *more: str) -> Resolved:
        """The recipe with a seed for everything."""
        seeds = (f"preference.seed={seed}", f"train.seed={seed}", f"data.seed={seed}")
        return load(RECIPE, (*self._overrides, *seeds, *more))

    def ggufs(self) -> dict[str, Path]:
        """The run's own exports: base and SFT."""
        base = Path(self._steps["export:base"]["gguf"]) if "export:base" in self._steps else None
        if base is None or not base.is_file():
            job = Job(self.recipe(0), self._out / "base", Progress(), "benchmarks/preference.py")
            with job.at_work():
                base = Path(export_base(job)["gguf"])
        return {"base": base, "sft": Path(self._steps["export"]["gguf"])}

    def evaluate(self, name: str, gguf: Path) -> dict[str, Any]:
        """Evaluate a GGUF greedily on both suites."""
        final = self.recipe(0).final
        section = final.eval.model_copy(update={"suites": SUITES, "samples_per_task": 1})
        return evaluate(
            lambda: LlamaCpp(gguf, n_ctx=final.export.n_ctx), self.tasks, section, self.samples, name, Progress()
        )

    def seed(self, seed: int, policy: Path) -> dict[str, Any]:
        """Sample and judge with one seed, train each method, evaluate it.

        Args:
            seed: for everything that is drawn.
            policy: the GGUF that answers.

        Returns:
            What each part gave, by its name.
        """
        folder = self._out / f"seed-{seed}"
        hand = ByHand(self.recipe(seed), folder / "round", Progress())
        found = {
            "tasks": self.parts.do(f"{seed}-tasks", hand.collect),
            "sample": self.parts.do(f"{seed}-sample", lambda: hand.sample(str(policy))),
            "judge": self.parts.do(f"{seed}-judge", hand.judge),
            "pairs": self.parts.do(f"{seed}-pairs", hand.build_pairs),
        }
        pairs = (folder / "round" / "pairs").resolve()
        for method in METHODS:
            resolved = self.recipe(seed, f"train.method={method}", f"preference.pairs={pairs}")
            job = Job(resolved, folder / method, Progress(), "benchmarks/preference.py")
            trained = self.parts.do(f"{seed}-{method}-train", lambda job=job: _train(job))  # type: ignore[misc]
            gguf = Path(trained["gguf"])
            judged = self.parts.do(
                f"{seed}-{method}-eval",
                lambda name=f"{method}:{seed}", gguf=gguf: self.evaluate(name, gguf),  # type: ignore[misc]
            )
            found[f"{method}_train"], found[f"{method}_eval"] = trained, judged
        return found

    def settings(self) -> Recipe:
        """What all seeds have in common."""
        return self.recipe(0).final


def _train(job: Job) -> dict[str, Any]:
    """Train one round and export it; the time of the export is told apart."""
    with job.at_work():
        job.plan()
        adapter = train(job)
        began = time.perf_counter()
        exported = export(job, adapter)
        seconds = round(time.perf_counter() - began, 1)
    (name,) = (stage.name for stage in job.resolved.stages)
    return {"gguf": exported["gguf"], "export_seconds": seconds, **job.run.data["steps"][f"train:{name}"]} | {
        "gguf": exported["gguf"]
    }


def outcomes_of(samples: Path, seed: int) -> list[dict[str, Any]]:
    """What each task came to, in a few numbers: a line for each model and suite.

    Args:
        samples: records of all evaluations of a run.
        seed: of the models that were trained on preferences.
    """
    fields = [field.name for field in dataclasses.fields(Scores)]
    steps = {"base": "base", "sft": "sft"} | {f"{method}:{seed}": method for method in METHODS}
    found: dict[tuple[str, str], dict[str, list[Any]]] = {}
    for record in {record["key"]: record for record in read_jsonl(samples)}.values():
        if record["step"] in steps:
            values = [record["n_tokens"], *(record["scores"].get(field) for field in fields)]
            found.setdefault((steps[record["step"]], record["suite"]), {})[record["task"]] = [_short(v) for v in values]
    return [
        {"seed": seed, "model": model, "suite": suite, "fields": ["n_tokens", *fields], "tasks": tasks}
        for (model, suite), tasks in found.items()
    ]


def _short(value: Any) -> Any:
    return round(value, 6) if isinstance(value, float) else value


def table(lines: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Means of every suite, by model, over all seeds; and paired differences.

    Seeds are samples of a task: its values are averaged over them before tasks are.

    Args:
        lines: as `outcomes_of` gives them.

    Returns:
        Suite to ``means`` (model to means) and ``differences`` (to SFT; of SFT to the base).
    """
    by_model: dict[str, list[dict[str, Any]]] = {model: [] for model in TITLES}
    for line in lines:
        for task, values in line["tasks"].items():
            n_tokens, *scores = values
            record = {"suite": line["suite"], "task": task, "n_tokens": n_tokens}
            named = dict(zip(line["fields"][1:], scores, strict=True))
            by_model[line["model"]].append(record | {"scores": named})
    means = {model: summarize(found) for model, found in by_model.items()}
    since = {"sft": "base"} | dict.fromkeys(METHODS, "sft")
    differences = {model: compare(by_model[other], by_model[model]) for model, other in since.items()}
    return {
        suite: {
            "means": {model: found[suite] for model, found in means.items()},
            "differences": {model: found[suite] for model, found in differences.items()},
        }
        for suite in means["base"]
    }


def print_table(suites: dict[str, Any]) -> None:
    """Print means with their intervals, then paired differences in points."""
    for suite, found in suites.items():
        means, differences = found["means"], found["differences"]
        print(f"\n{suite}: {means['base']['tasks']} tasks, greedy; intervals of 95 %")
        print(f"{'':22}", *(f"{TITLES[model]:>20}" for model in means))
        for key in SHOWN:
            print(f"{RATES[key]:22}", *(f"{rate_cell(one, key):>20}" for one in means.values()))
        print(f"{'tokens an answer':22}", *(f"{amount_cell(one, 'n_tokens'):>20}" for one in means.values()))
        heads = ("SFT - base", "RFT - SFT", "DPO - SFT")
        print(f"{'differences, points':22}", *(f"{head:>26}" for head in heads))
        for key in SHOWN:
            cells = []
            for one in differences.values():
                low, high = one[key]["interval"]
                points = f"{100 * one[key]['difference']:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
                cells.append(f"{points:>26}")
            print(f"{RATES[key]:22}", *cells)


def print_times(seeds: dict[str, Any]) -> None:
    """Minutes of each part, a line a seed."""
    for seed, found in seeds.items():
        parts = found["parts"]
        told = ", ".join(
            f"{name} {part['seconds'] / 60:.1f}" if part["seconds"] is not None else f"{name} in pieces"
            for name, part in parts.items()
        )
        print(f"seed {seed}, minutes: {told}")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs") / "benchmark" / "preference")
    parser.add_argument("--max-tasks", type=int, help="the first so many of each suite, to try this script")
    parser.add_argument("--set", action="append", default=[], help="override a key of the recipe, to try it")
    options = parser.parse_args(arguments)
    benchmark = Benchmark(options.run, options.out, options.set, options.max_tasks)
    ggufs = benchmark.ggufs()
    own = {name: benchmark.parts.do(f"{name}-eval", lambda n=name: benchmark.evaluate(n, ggufs[n])) for name in ggufs}  # type: ignore[misc]
    folder = RESULTS if options.max_tasks is None and not options.set else options.out / "trial"
    for seed in options.seeds:
        _keep(folder, seed, benchmark, own, benchmark.seed(seed, ggufs["sft"]))
    entry = json.loads((folder / FILE).read_text(encoding="utf-8"))
    print_table(entry["suites"])
    print_times(entry["seeds"])


def _keep(folder: Path, seed: int, benchmark: Benchmark, own: dict[str, Any], parts: dict[str, Any]) -> None:
    """Put a seed beside those that are there, and make the tables anew."""
    file, outcomes = folder / FILE, folder / OUTCOMES
    before = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {"seeds": {}}
    seeds = dict(before["seeds"])
    if str(seed) not in seeds or seeds[str(seed)]["parts"] != _without_paths(parts):
        machine = detect()
        seeds[str(seed)] = {
            "date": datetime.now(UTC).date().isoformat(), "cpu": machine.cpu_model, "cpus": machine.cpu_count,
            "ram_bytes": machine.ram_total_bytes, "versions": versions(),
            "seconds": {name: part["seconds"] for name, part in own.items()}, "parts": _without_paths(parts),
        }  # fmt: skip
    known = list(read_jsonl(outcomes)) if outcomes.is_file() else []
    others = [line for line in known if line["seed"] != seed]
    lines = sorted([*others, *outcomes_of(benchmark.samples, seed)], key=lambda line: line["seed"])
    settings = benchmark.settings().model_dump(mode="json", include={"preference", "train", "lora", "export"})
    entry = {"settings": settings, "seeds": dict(sorted(seeds.items())), "suites": table(lines)}
    if lines != known:
        write_text(outcomes, "".join(json.dumps(line) + "\n" for line in lines))
    if json.loads(json.dumps(entry)) != before:
        write_json(file, entry)


def _without_paths(parts: dict[str, Any]) -> dict[str, Any]:
    """What each part gave, without places on this machine and without what stands in ``suites``."""
    left_out = ("gguf", "folder", "model", "held_out", "suites", "inputs", "data")
    return {name: {key: value for key, value in part.items() if key not in left_out} for name, part in parts.items()}


if __name__ == "__main__":
    main()
