"""HumanEval in full: 164 functions, greedy and with several samples, and where the time goes.

    python benchmarks/humaneval.py [MODEL] [--samples 3] [--ways 12] [--folder runs/benchmark/humaneval]

MODEL is a GGUF; the embedded SmolLM2-135M-Instruct by default. Ways of generating are timed first, on a few of the
prompts, in turn; then the whole suite is evaluated as ``lowvram-ft eval`` does it, greedy and with samples. Tests,
coverage included, are then run once more by themselves, so that the time of the mutants is what is left of the judging.
Writes ``results/humaneval.json``, an entry a model. Interrupted, it continues: parts that were finished are taken from
the folder, and what was timed in pieces is not reported as a time.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lowvram_ft.evaluation.evaluate import evaluate
from lowvram_ft.evaluation.suites import Task, load_suite
from lowvram_ft.execution import Limits, Verdict, run_many, run_tests
from lowvram_ft.hardware import detect
from lowvram_ft.inference import Completion, Generator, Sampling
from lowvram_ft.inference.llama import Decoding, LlamaCpp
from lowvram_ft.inference.opening import choose_model, gguf_of
from lowvram_ft.progress import Progress
from lowvram_ft.recipe import EvalSection
from lowvram_ft.run_dir import read_jsonl, versions, write_json

RESULTS = Path(__file__).parent / "results" / "humaneval.json"
SUITE = "humaneval"
N_CTX = 2048
MOST = 384
"""Tokens of an answer, as in the recipes."""
WAYS: tuple[tuple[str, Decoding, int | None], ...] = (
    ("plain, one prompt at a time", "unpadded", 1),
    ("prompt lookup, one prompt at a time", "lookup", 1),
    ("batched", "unpadded", None),
    ("batched, prompt lookup", "lookup", None),
    ("the default", "auto", None),
)


class Timed:
    """A generator with a clock.

    Args:
        inner: the model.
    """

    def __init__(self, inner: Generator) -> None:
        self.inner = inner
        self.name = inner.name
        self.seconds = 0.0
        self.tokens = 0

    def generate(self, prompts: Sequence[str], sampling: Sampling, n: int = 1) -> list[list[Completion]]:
        """As the model does."""
        began = time.perf_counter()
        answers = self.inner.generate(prompts, sampling, n)
        self.seconds += time.perf_counter() - began
        self.tokens += sum(answer.n_tokens for row in answers for answer in row)
        return answers

    def close(self) -> None:
        """Free the model."""
        self.inner.close()


def ways(model: Path, tasks: Sequence[Task], rounds: int) -> list[dict[str, Any]]:
    """Tokens a second of each way, each round all of them in turn."""
    opened = [(name, LlamaCpp(model, n_ctx=N_CTX, decoding=how, n_parallel=n)) for name, how, n in WAYS]
    prompts = [task.prompt for task in tasks]
    runs: dict[str, list[tuple[float, int]]] = {name: [] for name, _ in opened}
    texts: dict[str, list[str]] = {}
    for _, generator in opened:
        generator.generate(prompts[:1], Sampling(max_new_tokens=8))
    for _ in range(rounds):
        for name, generator in opened:
            generator.forget()
            began = time.perf_counter()
            answers = [row[0] for row in generator.generate(prompts, Sampling(max_new_tokens=MOST))]
            runs[name].append((time.perf_counter() - began, sum(answer.n_tokens for answer in answers)))
            texts[name] = [answer.text for answer in answers]
            print(f"{name:36} {runs[name][-1][1] / runs[name][-1][0]:6.1f} tokens/s", flush=True)
    found = []
    for name, generator in opened:
        seconds, tokens = min(runs[name])
        same = sum(a == b for a, b in zip(texts[name], texts[WAYS[0][0]], strict=True))
        found.append({
            "way": name, "resolved": generator.resolved(), "n_parallel": generator.n_parallel,
            "tok_per_s": round(tokens / seconds, 1), "rounds": [round(n / s, 1) for s, n in runs[name]],
            "same_text_as_plain": same, "prompts": len(prompts),
        })  # fmt: skip
        generator.close()
    return found


def whole(model: Path, tasks: list[Task], samples: int, folder: Path) -> dict[str, Any]:
    """One evaluation of all tasks, with the time of each part; taken from the folder where it was finished before."""
    kept = folder / f"{samples}-samples.json"
    if kept.is_file():
        return dict(json.loads(kept.read_text()))
    section = EvalSection(suites=(SUITE,), samples_per_task=samples, max_new_tokens=MOST)
    path = folder / f"{samples}-samples.jsonl"
    fresh = not path.is_file()
    timed: list[Timed] = []

    def opened() -> Generator:
        timed.append(Timed(LlamaCpp(model, n_ctx=N_CTX)))
        return timed[-1]

    began = time.perf_counter()
    found = evaluate(opened, tasks, section, path, "eval", Progress())
    total = time.perf_counter() - began
    by_id = {task.id: task for task in tasks}
    records = list(read_jsonl(path))

    def run(record: dict[str, Any]) -> Verdict:
        task = by_id[record["task"]]
        return run_tests(task.code, task.module, record["test"], Limits(), task.root)

    began = time.perf_counter()
    run_many(run, records)
    tests = time.perf_counter() - began
    generation = sum(one.seconds for one in timed)
    mutants = [record["mutants"] for record in records if record["mutants"]]
    entry = {
        "samples_per_task": samples, "tasks": len(tasks), "means": found["suites"][SUITE],
        "mutants": sum(one["total"] for one in mutants),
        "tokens": sum(record["n_tokens"] for record in records),
    }  # fmt: skip
    if fresh:
        judging = total - generation
        entry["seconds"] = {
            "total": round(total, 1), "generation": round(generation, 1),
            "tests_and_coverage": round(min(tests, judging), 1), "mutants": round(max(judging - tests, 0.0), 1),
        }  # fmt: skip
        entry["tok_per_s"] = round(timed[0].tokens / generation, 1)
    write_json(kept, entry)
    return entry


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="smollm2-135m")
    parser.add_argument("--samples", type=int, default=3, help="a task, besides greedy; 0 leaves them out")
    parser.add_argument("--ways", type=int, default=12, help="prompts for timing; 0 leaves it out")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path("runs") / "benchmark" / "humaneval")
    parser.add_argument("--tasks", type=int, help="the first so many, to try this script")
    options = parser.parse_args()
    model = gguf_of(choose_model(options.model))
    tasks = load_suite(SUITE, options.tasks)
    machine = detect()
    entry: dict[str, Any] = {
        "model": model.name, "model_sha256": hashlib.sha256(model.read_bytes()).hexdigest(),
        "date": datetime.now(UTC).date().isoformat(), "cpu": machine.cpu_model, "cpus": machine.cpu_count,
        "versions": versions(),
    }  # fmt: skip
    folder = options.folder / entry["model_sha256"][:12]
    folder.mkdir(parents=True, exist_ok=True)
    if options.ways:
        timed = folder / f"{options.ways}-prompts-{options.rounds}-rounds.json"
        if not timed.is_file():
            step = max(1, len(tasks) // options.ways)
            write_json(timed, ways(model, tasks[::step][: options.ways], options.rounds))
        entry["ways"] = json.loads(timed.read_text())
    entry["runs"] = []
    for samples in dict.fromkeys((1, options.samples)):
        if samples:
            entry["runs"].append(whole(model, tasks, samples, folder))
            print(json.dumps({k: v for k, v in entry["runs"][-1].items() if k != "means"}), flush=True)
    if options.tasks is None:
        kept = json.loads(RESULTS.read_text()) if RESULTS.is_file() else []
        write_json(RESULTS, [*(old for old in kept if old["model_sha256"] != entry["model_sha256"]), entry])
    else:
        print(json.dumps(entry, indent=1))


if __name__ == "__main__":
    main()
