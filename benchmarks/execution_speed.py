"""Test files and mutants a second, beside a subprocess a file and cosmic-ray's own execution of the same mutants.

    python benchmarks/execution_speed.py [--skip PART ...]

Four parts: ``files`` (one pytest subprocess a file, alone and under coverage.py), ``mutants`` (cosmic-ray, on a
seeded sample of the mutants that are run here; every verdict is compared), ``coverage`` (coverage.py's command line;
every number is compared) and ``mutmut`` (with its own mutants, for orientation). Both sides have the same number of
workers and take turns. pytest runs without the plugins that happen to be installed, as here, and once more with
them; ``--skip plugins`` leaves that out. Takes about a quarter of an hour on 2 cores.
Writes ``results/execution_speed.json``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import shlex
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import execution_peers as peers
from execution_verdicts import Module, check_texts, compare_verdicts, unstable

from lowvram_ft.data.row import Row
from lowvram_ft.data.sources import load_rows
from lowvram_ft.execution import Limits, MutationReport, Verdict, mutation_analysis, run_many, run_tests
from lowvram_ft.execution.mutants import find_mutants
from lowvram_ft.hardware import cache_dir, detect
from lowvram_ft.progress import Progress
from lowvram_ft.recipe import DataSection
from lowvram_ft.run_dir import versions

PARTS = ("files", "mutants", "coverage", "mutmut", "plugins")
RESULTS = Path(__file__).parent / "results" / "execution_speed.json"
FILES_TARGET = 10.0
MUTANTS_TARGET = 20.0
MUTMUT_MODULES = 6
MIN_TIMEOUT_S = 2.0
BASELINES_A_MUTANT = 10.0
"""A mutant's time-out with cosmic-ray, in runs of the unmutated code: the same rule as here."""

EXECUTED = ("killed", "timeout", "survived")
"""Outcomes of mutants on which tests ran."""

COLD_CALL = """
import time
from lowvram_ft.execution import run_tests
test = "from solution import ONE\\n\\ndef test_one():\\n    assert ONE == 1\\n"
for _ in range(2):
    begin = time.perf_counter()
    assert run_tests("ONE = 1\\n", "solution", test).all_passed
    print(time.perf_counter() - begin)
"""


Result = TypeVar("Result")


def main() -> None:
    options = read_options()
    machine = detect()
    found: dict[str, Any] = {
        "command": shlex.join(["python", "benchmarks/execution_speed.py", *sys.argv[1:]]),
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": {
            "cpu": machine.cpu_model,
            "cpus": machine.cpu_count,
            "ram_bytes": machine.ram_total_bytes,
            "flags": machine.cpu_flags,
        },
        "load_average_before": [round(value, 2) for value in os.getloadavg()],
        "versions": versions(),
        "workers": options.workers,
        "repeats": options.repeats,
        "pytest_plugins_installed": sorted({point.name for point in entry_points(group="pytest11")}),
    }
    progress = Progress()
    modules = pick_modules(options)
    parts: dict[str, Callable[[], Any]] = {
        "files": lambda: measure_files(options, progress),
        "mutants": lambda: measure_mutants(options, modules, progress),
        "coverage": lambda: compare_coverage(options, modules, progress),
        "mutmut": lambda: measure_mutmut(options, modules, progress),
    }
    for part, measure in parts.items():
        if part not in options.skip:
            found[part] = measure()
            options.output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print_table(found)


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--workers", type=int, default=2, help="how many at a time, on both sides")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--files", type=int, default=100, help="sample functions whose test files are run")
    parser.add_argument("--modules", type=int, default=30, help="rows that are mutated: 24 modules, then functions")
    parser.add_argument("--mutants-per-module", type=int, default=8, help="how many of them cosmic-ray runs")
    parser.add_argument("--seed", type=int, default=0, help="of the sample of mutants")
    parser.add_argument("--skip", choices=PARTS, action="append", default=[])
    parser.add_argument("--output", type=Path, default=RESULTS)
    return parser.parse_args()


def pick_modules(options: argparse.Namespace) -> list[Module]:
    rows = [row for subset in ("modules", "functions") for row in load_rows(DataSection(subset=subset))]
    picked = []
    for row in rows[: options.modules]:
        project = peers.Project.from_row(row.id, row.module, row.code, row.test)
        edits = find_mutants(project.code)
        count = min(options.mutants_per_module, len(edits))
        sampled = sorted(random.Random(f"{options.seed}:{row.id}").sample(range(len(edits)), count))
        picked.append(Module(row, project, edits, tuple(sampled)))
    return picked


def pytest_environments(options: argparse.Namespace) -> dict[str, dict[str, str]]:
    """Environments of the others' pytest, by the ending of the names of their results."""
    plain = {"": peers.environment(plugins=False)}
    return plain if "plugins" in options.skip else plain | {"_with_plugins": peers.environment(plugins=True)}


def measure_files(options: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    rows = list(load_rows(DataSection(subset="functions", max_rows=options.files)))
    projects = [peers.Project.from_row(row.id, row.module, row.code, row.test) for row in rows]
    passed: dict[str, list[bool]] = {}
    seconds: dict[str, list[float]] = {}

    def ours() -> list[bool]:
        return [verdict.all_passed for verdict in run_many(run_row, rows, workers=options.workers)]

    def subprocesses(command: Sequence[str], environ: dict[str, str]) -> Callable[[], list[bool]]:
        def run() -> list[bool]:
            with ThreadPoolExecutor(options.workers) as pool:
                return list(pool.map(lambda project: peers.run_tests_once(project, command, environ), projects))

        return run

    sides = {"ours": ours}
    for ending, environ in pytest_environments(options).items():
        sides[f"pytest{ending}"] = subprocesses(peers.PYTEST, environ)
    sides["coverage_pytest"] = subprocesses(peers.COVERAGE_PYTEST, peers.environment(plugins=False))
    cold = [cold_call() for _ in range(options.repeats)]
    for repeat in range(options.repeats):
        for name in in_turn(sides, repeat):
            if name == "ours":
                run_many(run_row, rows[: options.workers], workers=options.workers)
            passed[name], spent = timed(sides[name])
            seconds.setdefault(name, []).append(spent)
            progress.say(f"files {repeat + 1}/{options.repeats}: {name}: {spent:.1f} s")
    return {
        "files": len(rows),
        "ours_measures": "branch coverage, single tests and a failure log too",
        "pytest": f"python -m {shlex.join(peers.PYTEST)}, PYTEST_DISABLE_PLUGIN_AUTOLOAD=1, one subprocess a file",
        "pytest_with_plugins": "the same with every plugin that is installed",
        "coverage_pytest": "python -m coverage run --branch -m pytest, without plugins, without a report",
        "files_per_s": {name: series(len(rows) / value for value in values) for name, values in seconds.items()},
        "first_call_s": series(first for first, _ in cold),
        "second_call_s": series(second for _, second in cold),
        "target": FILES_TARGET,
        "ours_times": ratios({name: median(len(rows) / value for value in values) for name, values in seconds.items()}),
        "other_verdict": [
            {"id": row.id, **{name: each[place] for name, each in passed.items()}}
            for place, row in enumerate(rows)
            if len({each[place] for each in passed.values()}) > 1
        ],
    }


def run_row(row: Row) -> Verdict:
    return run_tests(row.code, row.module, row.test)


def cold_call() -> tuple[float, float]:
    """Seconds of the first and the second call in a fresh interpreter, without its start and the imports."""
    done = subprocess.run(
        [sys.executable, "-c", COLD_CALL], cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, text=True, check=True
    )
    first, second = map(float, done.stdout.split())
    return first, second


def measure_mutants(options: argparse.Namespace, modules: Sequence[Module], progress: Progress) -> dict[str, Any]:
    """Ours on all mutants of the modules; cosmic-ray on a sample, the same in every repeat."""
    check_texts(modules)
    reports: list[list[MutationReport]] = []
    runs: dict[str, list[list[peers.MutantRun]]] = {}
    seconds: dict[str, list[float]] = {}
    with ExitStack() as stack:
        others: dict[str, Callable[[], list[peers.MutantRun]]] = {}
        for ending, environ in pytest_environments(options).items():
            projects = [module.project for module in modules]
            pool = peers.CosmicRay(projects, options.workers, environ, Limits().memory_bytes)
            cosmic_ray = stack.enter_context(pool)
            timeouts_s = {
                name: max(MIN_TIMEOUT_S, BASELINES_A_MUTANT * value) for name, value in cosmic_ray.baseline_s().items()
            }
            jobs = [
                peers.MutantJob(
                    module.project.name, edit.operator, edit.occurrence, edit.line, timeouts_s[module.row.id]
                )
                for module in modules
                for edit in (module.edits[place] for place in module.sampled)
            ]
            others[f"cosmic_ray{ending}"] = partial(cosmic_ray.run, jobs)
        for repeat in range(options.repeats):
            for name in in_turn(["ours", *others], repeat):
                if name == "ours":
                    run_many(run_row, [module.row for module in modules][: options.workers], workers=options.workers)
                    report, spent = timed(lambda: analyse(modules, options.workers))
                    reports.append(report)
                else:
                    run, spent = timed(others[name])
                    runs.setdefault(name, []).append(run)
                seconds.setdefault(name, []).append(spent)
                progress.say(f"mutants {repeat + 1}/{options.repeats}: {name}: {spent:.1f} s")
    outcomes = [Counter(mutant.outcome for report in each for mutant in report.mutants) for each in reports]
    executed = [sum(count[outcome] for outcome in EXECUTED) for count in outcomes]
    rates = {
        "ours_executed": [count / spent for count, spent in zip(executed, seconds["ours"], strict=True)],
        "ours_all": [sum(count.values()) / spent for count, spent in zip(outcomes, seconds["ours"], strict=True)],
    }
    for name, each in runs.items():
        rates[name] = [len(run) / spent for run, spent in zip(each, seconds[name], strict=True)]
        rates[f"{name}_weighted"] = [options.workers * weighted_rate(modules, run) for run in each]
    middle = {name: median(values) for name, values in rates.items()}
    theirs = {name: value for name, value in middle.items() if not name.startswith("ours")}
    return {
        "modules": len(modules),
        "mutants": sum(len(module.edits) for module in modules),
        "sampled": sum(len(module.sampled) for module in modules),
        "seed": options.seed,
        "cosmic_ray": "mutate_and_test, one `python -m pytest -x -q` a mutant, PYTEST_DISABLE_PLUGIN_AUTOLOAD=1, each "
        "worker in a copy of its own; the database is left out; time-out as here: 10 unmutated runs, at least 2 s",
        "cosmic_ray_with_plugins": "the same with every plugin that is installed",
        "rates": {
            "ours_executed": "mutants on which tests ran (killed, timed out, survived), of all mutants of the modules, "
            "a second of the whole analysis with its unmutated runs",
            "ours_all": "those that were left out without a run too: not covered, equivalent, not compilable",
            "cosmic_ray": "sampled mutants a second; it runs every mutant, and its unmutated runs are not counted",
            "cosmic_ray_weighted": "its rate were all mutants run: the sampled mean of each module, by its mutants",
        },
        "mutants_per_s": {name: series(values) for name, values in rates.items()},
        "outcomes": {
            "ours": outcomes[-1],
            **{name: Counter(run.outcome for run in each[-1]) for name, each in runs.items()},
        },
        "target": MUTANTS_TARGET,
        "ours_executed_times": ratios({"ours": middle["ours_executed"], **theirs}),
        "ours_all_times": ratios({"ours": middle["ours_all"], **theirs}),
        "unstable_here": unstable(modules, reports),
        "verdicts": compare_verdicts(modules, reports, runs),
    }


def analyse(modules: Sequence[Module], workers: int) -> list[MutationReport]:
    reports = run_many(
        lambda module: mutation_analysis(module.row.code, module.row.module, module.row.test), modules, workers=workers
    )
    for module, report in zip(modules, reports, strict=True):
        pairs = zip(module.edits, report.mutants, strict=True)
        if any((edit.operator, edit.line) != (mutant.operator, mutant.line) for edit, mutant in pairs):
            raise SystemExit(f"{module.row.id}: the report's mutants are not in the order of find_mutants")
    return reports


def weighted_rate(modules: Sequence[Module], runs: Sequence[peers.MutantRun]) -> float:
    """Mutants a second of one worker, were all of every module's run."""
    left = iter(runs)
    seconds = 0.0
    for module in modules:
        spent = [next(left).seconds for _ in module.sampled]
        seconds += len(module.edits) * sum(spent) / len(spent) if spent else 0.0
    return sum(len(module.edits) for module in modules if module.sampled) / seconds


def compare_coverage(options: argparse.Namespace, modules: Sequence[Module], progress: Progress) -> dict[str, Any]:
    verdicts = run_many(run_row, [module.row for module in modules], workers=options.workers)
    environ = peers.environment(plugins=False)
    with ThreadPoolExecutor(options.workers) as pool:
        measured = list(pool.map(lambda module: peers.measure_coverage(module.project, environ), modules))
    differences = []
    for module, verdict, theirs in zip(modules, verdicts, measured, strict=True):
        numbers = {} if verdict.coverage is None else dataclasses.asdict(verdict.coverage)
        ours = {key: list(value) if isinstance(value, tuple) else value for key, value in numbers.items()}
        differences += [
            {"id": module.row.id, "number": key, "ours": ours.get(key), "coverage.py": value}
            for key, value in theirs.items()
            if ours.get(key) != value
        ]
    progress.say(f"coverage: {len(modules)} modules, {len(differences)} differences")
    sums = {key: sum(theirs[key] for theirs in measured) for key in ("statements", "covered_statements", "branches")}
    return {
        "modules": len(modules),
        "coverage.py": "coverage run --branch -m pytest, coverage json",
        **sums,
        "covered_branches": sum(theirs["covered_branches"] for theirs in measured),
        "differences": differences,
    }


def measure_mutmut(options: argparse.Namespace, modules: Sequence[Module], progress: Progress) -> dict[str, Any]:
    """Runs of mutmut on the first modules that are a single file."""
    projects = [module.project for module in modules if module.project.target == "solution.py"][:MUTMUT_MODULES]
    found = peers.run_mutmut(projects, options.workers, options.repeats, cache_dir() / "benchmarks", progress.say)
    if "reason" in found:
        progress.say(f"mutmut: not measured: {found['reason']}")
        return found
    totals = [sum(run["counts"]["total"] for run in each) for each in found["runs"]]
    seconds = [sum(run["seconds"] for run in each) for each in found["runs"]]
    own = [
        total / sum(run["counts"]["total"] / run["own_rate"] for run in each)
        for total, each in zip(totals, found["runs"], strict=True)
    ]
    return {
        "note": "mutants of its own: other operators, inside functions alone; one `mutmut run` a module",
        "modules": len(projects),
        "mutants_per_s": series(total / spent for total, spent in zip(totals, seconds, strict=True)),
        "mutants_per_s_as_it_prints": series(own),
        **found,
    }


def in_turn(sides: Iterable[str], repeat: int) -> list[str]:
    """Names of the sides; every other time from the last to the first."""
    return list(sides) if repeat % 2 == 0 else list(sides)[::-1]


def timed(action: Callable[[], Result]) -> tuple[Result, float]:
    begin = time.perf_counter()
    result = action()
    return result, time.perf_counter() - begin


def series(values: Iterable[float]) -> dict[str, Any]:
    each = [round(value, 4) for value in values]
    return {"each": each, "median": round(median(each), 4)}


def ratios(rates: dict[str, float]) -> dict[str, float]:
    """How many times the rate of each other is ours."""
    return {name: round(rates["ours"] / rate, 2) for name, rate in rates.items() if name != "ours"}


def print_table(found: dict[str, Any]) -> None:
    about = f"{found['workers']} workers, median of {found['repeats']}"
    if files := found.get("files"):
        print(f"test files a second ({files['files']} files, {about})")
        for name, rate in files["files_per_s"].items():
            times = files["ours_times"].get(name)
            print(f"  {name:32} {rate['median']:9.2f}", "" if times is None else f"  ours: {times:6.1f} x")
        print(f"  first call {files['first_call_s']['median']:.3f} s, second {files['second_call_s']['median']:.3f} s")
        print(f"  files with another verdict: {len(files['other_verdict'])}")
    if mutants := found.get("mutants"):
        counts = f"{mutants['mutants']} of {mutants['modules']} modules, {mutants['sampled']} sampled"
        print(f"mutants a second ({counts}, {about})")
        for name, rate in mutants["mutants_per_s"].items():
            times = mutants["ours_executed_times"].get(name)
            print(f"  {name:32} {rate['median']:9.2f}", "" if times is None else f"  ours, executed: {times:6.1f} x")
        verdicts = mutants["verdicts"]
        causes = Counter(entry["cause"] for entry in verdicts["differences"])
        print(f"  verdicts compared: {verdicts['compared']}, different: {dict(causes) or 'none'}")
    if coverage := found.get("coverage"):
        print(f"coverage numbers of {coverage['modules']} modules that differ: {len(coverage['differences'])}")
    if mutmut := found.get("mutmut"):
        own = mutmut.get("mutants_per_s")
        print("mutmut:", "not measured" if own is None else f"{own['median']:.2f} of its own mutants a second")


if __name__ == "__main__":
    main()
