"""Run directories for tests of the page of a run, written by hand: nothing is trained, asked or executed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lowvram_ft.run_dir import RunDir, append_jsonl

HOSTILE = '</script><script>window.hacked=1</script><img src=x onerror="window.hacked=2"><!-- <script> {{ 7*7 }} \u2028'
"""What a model may write to break out of a page."""
CODE = (
    'def double(x: int) -> int:\n    """Twice x."""\n    if x > 100:\n        return 0\n'
    "    return (\n        2 * x\n    )\n"
)
TEST = (
    "import pytest\nfrom solution import double\n\n\ndef test_three():\n    assert double(3) == 6\n\n\n"
    "def test_wrong():\n    assert double(3) == 7\n"
)
MiB = 1 << 20


def record(
    step: str, task: str, *, passes: bool, suite: str = "samples", test: str = TEST, sample: int = 0
) -> dict[str, Any]:
    """A line of ``samples.jsonl``: one of two tests fails unless the file passes; a mutant survives."""
    survivor = {"operator": "core/NumberReplacer", "line": 6, "diff": "-        2 * x\n+        3 * x"}
    return {
        "key": f"{step}/{suite}/{task}/{sample}",
        "step": step,
        "suite": suite,
        "task": task,
        "sample": sample,
        "prompt": "p",
        "code": CODE,
        "answer": f"Sure!\n{test}",
        "test": test,
        "finish": "stop",
        "n_prompt_tokens": 10,
        "n_tokens": 20,
        "seconds": 1.0,
        "reason": "passes and kills" if passes else "some tests fail: 1 failed of 2 tests",
        "scores": {
            "parses": True,
            "collects": True,
            "writes_tests": True,
            "n_tests": 2,
            "n_passed": 1 + passes,
            "passes": passes,
            "useful": True,
            "line_coverage": 0.75,
            "branch_coverage": 0.5,
            "mutation_score": 0.9 if passes else 0.4,
            "assertions_per_test": 1.0,
            "false_acceptance": None,
            "false_rejection": None,
        },
        "verdict": {
            "status": "ran",
            "assertions": 2,
            "duration_s": 0.1,
            "log": "" if passes else "E   assert 6 == 7",
            "results": [
                {"name": "test_three", "outcome": "passed", "duration_s": 0.01, "message": ""},
                {
                    "name": "test_wrong",
                    "outcome": "passed" if passes else "failed",
                    "duration_s": 0.01,
                    "message": "" if passes else "assert 6 == 7",
                },
            ],
            "coverage": {
                "statements": 4,
                "covered_statements": 3,
                "branches": 2,
                "covered_branches": 1,
                "covered_lines": [1, 3, 5],
                "missing_lines": [4],
            },
        },
        "mutants": {"total": 10, "killed": 9 if passes else 4, "timed_out": 0, "survivors": [survivor]},
    }


def means(rate: float, n: int) -> dict[str, Any]:
    """Means of a suite, with intervals."""
    keys = ("parses", "useful", "passes", "passes_and_kills", "line_coverage", "mutation_score", "pass@1")
    return {
        **dict.fromkeys(keys, rate),
        "n_tokens": 20.0,
        "tasks": n,
        "samples_per_task": 1,
        "tests": 2 * n,
        "tests_passed": n,
        "intervals": dict.fromkeys(keys, (max(0.0, rate - 0.2), min(1.0, rate + 0.2))) | {"n_tokens": (18.0, 22.0)},
        "reasons": {"passes and kills": round(rate * n), "some tests fail": n - round(rate * n)},
    }


def compared(before: float, after: float, n: int, verdict: str = "better") -> dict[str, Any]:
    """Differences of a suite's metrics."""
    found = {
        "before": before,
        "after": after,
        "difference": after - before,
        "interval": (0.1, 0.6),
        "method": "tango",
        "gained": 4,
        "lost": 0,
        "p_value": 0.01,
        "tasks": n,
        "verdict": verdict,
    }
    return dict.fromkeys(("parses", "useful", "passes", "passes_and_kills", "mutation_score"), found)


def _stage(name: str) -> dict[str, Any]:
    rate = 1e-3 if name == "first" else 1e-4
    recipe = {"model": {"base": "smollm2-135m"}, "train": {"learning_rate": rate, "method": "sft"}}
    origin = {"model.base": "mine.toml", "train.learning_rate": "--set", "train.method": "default"}
    return {"name": name, "recipe": recipe, "origin": origin}


def begin(
    folder: Path, *, name: str = "mine", command: str = "/usr/bin/lowvram-ft run mine.toml --set a.b='c d'"
) -> RunDir:
    """A run of two stages that has done nothing yet."""
    run = RunDir(folder)
    run.start(
        recipe={"name": name, "stages": [_stage("first"), _stage("second")]},
        digest="d1ge57",
        versions={"python": "3.11.7", "torch": "2.13.0"},
        command=command,
        machine={
            "cpu": "A Fast One",
            "cpus": 2,
            "ram_bytes": 16 << 30,
            "cuda": "12.8",
            "platform": "linux",
            "gpus": [{"name": "RTX 3050", "bytes": 4 << 30, "driver": "570"}],
        },
    )
    return run


def plan(run: RunDir) -> None:
    """The plan of both stages, on a card."""
    terms = [
        {"name": "decoder weights", "where": "gpu", "bytes": 100 * MiB, "formula": "1 x 2 x 3", "source": "s"},
        {"name": "activations", "where": "gpu", "bytes": 300 * MiB, "formula": "30 layers", "source": "s"},
        {"name": "process", "where": "host", "bytes": 700 * MiB, "formula": "Python", "source": "s"},
        {"name": "export", "where": "disk", "bytes": 700 * MiB, "formula": "file", "source": "s"},
    ]
    phases = [{"name": "forward", "bytes": 400 * MiB, "terms": ["decoder weights", "activations"]}]
    figures = {
        "device": "gpu",
        "terms": terms,
        "phases": phases,
        "host_phases": [],
        "peak_gpu_bytes": 400 * MiB,
        "usable_gpu_bytes": 3500 * MiB,
        "peak_host_bytes": 900 * MiB,
        "ram_bytes": 16 << 30,
    }
    run.finish(
        "plan",
        {"base": "smollm2-135m", "stages": {name: {"plan": figures, "steps": []} for name in ("first", "second")}},
    )


def train(run: RunDir, stage: str, steps: int = 6) -> None:
    """Train a stage: its events, and its result."""
    run.event("begun", step=f"train:{stage}")
    run.event("measured", stage=stage, planned_bytes={}, measured_bytes={"decoder weights": 110 * MiB})
    for step in range(1, steps + 1):
        run.event(
            "trained",
            stage=stage,
            step=step,
            steps=steps,
            loss=1.0 / step,
            learning_rate=1e-3 / step,
            tok_per_s=0.0 if step == 1 else 100.0,
            memory_bytes=380 * MiB,
        )
    run.event("validated", stage=stage, step=steps, eval_loss=0.5)
    funnel = {
        "read": 20,
        "kept": 12,
        "steps": [
            {"step": "read", "in": 20, "out": 20, "reasons": {}},
            {"step": "length", "in": 20, "out": 12, "reasons": {"longer than max_length": 8}},
        ],
    }
    data = {
        "train": 10,
        "eval": 2,
        "test": 0,
        "tokens": 999,
        "trained_tokens": 333,
        "longest": 99,
        "median": 50,
        "funnel": funnel,
        "source": {"name": "samples", "licence": "Apache-2.0", "fingerprint": "f1nger"},
        "sha256": {"train.arrow": "5ha"},
    }
    run.finish(
        f"train:{stage}",
        {
            "engine": "unsloth",
            "device": "cuda",
            "dtype": "bfloat16",
            "steps": steps,
            "planned_steps": steps,
            "data": data,
            "first_loss": 1.0,
            "last_loss": 1 / steps,
            "best_eval_loss": 0.5,
            "notches": [],
            "peak_memory_bytes": 390 * MiB,
        },
    )


def learn_from_answers(run: RunDir, stage: str) -> None:
    """A round of preferences."""
    run.finish(f"sample:{stage}/1", {"model": "policy.gguf", "tasks": 6, "answers": 24, "cut_off": 0.0})
    run.finish(f"judge:{stage}/1", {"answers": 24, "texts": 21, "fates": {"passes_and_kills": 3}, "tricks": {}})
    run.finish(f"pairs:{stage}/1", {"pairs": 5, "winners": 11, "not_winning": {"fails": 9, "may win": 3}})
    run.finish(f"train_round:{stage}/1", {"steps": 2, "first_loss": 0.7, "last_loss": 0.6})


def export(run: RunDir) -> None:
    """Export, verify and time the model."""
    run.finish(
        "export", {"gguf": "export/mine-Q8_0.gguf", "quant": "Q8_0", "size_bytes": 138 * MiB, "sha256": "abc123"}
    )
    checks = [{"name": "checksum", "ok": True, "detail": "sha256 abc123"}]
    run.finish("verify", {"ok": True, "kind": "reference", "checks": checks, "scores": {"kl": 0.001}})
    run.finish(
        "bench",
        {
            "model": "mine-Q8_0.gguf",
            "prompts": 3,
            "prompt_tokens": 100.0,
            "new_tokens": 50.0,
            "first_token_s_p50": 0.5,
            "first_token_s_p95": 0.8,
            "prefill_tok_per_s": 200.0,
            "decode_tok_per_s": 40.0,
            "file_s_p50": 3.0,
            "file_s_p95": 4.0,
            "cut_off": 0,
            "gate_s": 10.0,
            "gate_met": True,
            "settings": {"n_gpu_layers": 0},
            "memory": {"model_bytes": 138 * MiB},
            "file_s": [2.0, 3.0, 4.0],
            "first_token_s": [0.4, 0.5, 0.8],
        },
    )


def evaluate(run: RunDir, *, tasks: int = 6, suites: tuple[str, ...] = ("samples",), hostile: bool = True) -> None:
    """Evaluate before and after: after, every third file still fails; one test file is hostile."""
    for when in ("before", "after"):
        for suite in suites:
            for number in range(tasks):
                passes = when == "after" and number % 3 != 0
                test = f"{TEST}X = '''{HOSTILE}'''\n" if hostile and number == 0 else TEST
                found = record(f"eval:{when}", f"pack/task_{number}", passes=passes, suite=suite, test=test)
                if hostile and number == 0:
                    found |= {"reason": f"fails: {HOSTILE}", "task": f"pack/{HOSTILE}"}
                append_jsonl(run.samples, found)
        rate = 0.0 if when == "before" else 2 / 3
        run.finish(f"eval:{when}", {"suites": {suite: means(rate, tasks) for suite in suites}})
    run.finish("compare", {"suites": {suite: compared(0.0, 2 / 3, tasks) for suite in suites}})
    gates = [
        {
            "gate": "gate_pass_rate",
            "suite": suites[0],
            "value": 2 / 3,
            "wanted": 0.8,
            "met": False,
            "tasks": tasks,
            "interval": (0.4, 0.9),
            "verdict": "undecided",
        },
        {"gate": "gate_s", "suite": "bench", "value": 4.0, "wanted": 10.0, "met": True},
    ]
    run.finish("gates", {"gates": gates})


def finished(folder: Path, *, name: str = "mine", suites: tuple[str, ...] = ("samples",), tasks: int = 6) -> RunDir:
    """A run that has done all it can: two stages, a round of preferences, an export, evaluations."""
    run = begin(folder, name=name)
    plan(run)
    train(run, "first")
    learn_from_answers(run, "second")
    train(run, "second", 3)
    export(run)
    evaluate(run, suites=suites, tasks=tasks)
    return run
