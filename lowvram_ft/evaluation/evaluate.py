"""Evaluate a model: generate test files, run them, count what they catch."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lowvram_ft.evaluation.metrics import Scores, summarize
from lowvram_ft.evaluation.suites import Task
from lowvram_ft.execution import Judgement, Limits, judge, run_many
from lowvram_ft.inference import Completion, Generator, Sampling, percentile
from lowvram_ft.inference.extraction import extract_test
from lowvram_ft.progress import Progress
from lowvram_ft.recipe import EvalSection
from lowvram_ft.run_dir import append_jsonl, read_jsonl

CHUNK = 8
"""Tasks that are generated together, judged, and written to the disk, before the next are begun."""


def evaluate(
    generator: Callable[[], Generator],
    tasks: Sequence[Task],
    section: EvalSection,
    samples: Path,
    step: str,
    progress: Progress,
) -> dict[str, Any]:
    """Evaluate a model on tasks. Takes up where it was killed: chunks that are in ``samples`` are not done again.

    Args:
        generator: opens the model; called only when something is left to generate.
        tasks: what to write tests for.
        section: how.
        samples: ``samples.jsonl``; a record a sample is added.
        step: name of this evaluation in those records, such as ``"eval:before"``.
        progress: where a person reads how far it is.

    Returns:
        Suite to its means (see `lowvram_ft.evaluation.metrics.summarize`), and ``seconds_per_file``:
        generation alone, ``p50`` and ``p95``.

    Raises:
        GenerationError: the model fails.
        MachineError: the processes that run tests cannot be started.
    """
    n = section.samples_per_task
    done = {record["key"]: record for record in read_jsonl(samples) if record.get("step") == step}
    model: Generator | None = None
    try:
        for start in range(0, len(tasks), CHUNK):
            chunk = tasks[start : start + CHUNK]
            keys = [_key(step, task, i) for task in chunk for i in range(n)]
            if not all(key in done for key in keys):
                model = model or generator()
                records = _run_chunk(model, chunk, section, step)
                append_jsonl(samples, *[record for record in records if record["key"] not in done])
                done.update({record["key"]: record for record in records})
            progress.step(step, min(start + CHUNK, len(tasks)), len(tasks), "tasks")
    finally:
        if model is not None:
            model.close()
    records = [done[_key(step, task, i)] for task in tasks for i in range(n)]
    seconds = [record["seconds"] for record in records]
    return {
        "suites": summarize(records),
        "seconds_per_file": {"p50": percentile(seconds, 0.5), "p95": percentile(seconds, 0.95)},
    }


def _key(step: str, task: Task, sample: int) -> str:
    return f"{step}/{task.suite}/{task.id}/{sample}"


def _run_chunk(model: Generator, tasks: Sequence[Task], section: EvalSection, step: str) -> list[dict[str, Any]]:
    n = section.samples_per_task
    sampling = Sampling(
        temperature=0.0 if n == 1 else section.temperature,
        max_new_tokens=section.max_new_tokens,
        seed=section.seed,
    )
    began = time.perf_counter()
    answers = model.generate([task.prompt for task in tasks], sampling, n)
    share = (time.perf_counter() - began) / (len(tasks) * n)
    jobs = [(task, i, answer) for task, row in zip(tasks, answers, strict=True) for i, answer in enumerate(row)]
    judgements = run_many(_judge, [(task, extract_test(answer.text)) for task, _, answer in jobs])
    return [
        _record(step, task, i, answer, judgement, share)
        for (task, i, answer), judgement in zip(jobs, judgements, strict=True)
    ]


def _judge(job: tuple[Task, str]) -> Judgement:
    task, test = job
    return judge(task.code, task.module, test, Limits())


def score(judgement: Judgement) -> Scores:
    """What a judged file is worth; one without a test that asserts something counts zero everywhere."""
    verdict = judgement.verdict
    if not verdict.writes_tests or verdict.n_tests == 0:
        return Scores(False, verdict.n_tests, 0, False, False, 0.0, 0.0, 0.0)
    coverage = verdict.coverage
    lines = coverage.line_rate if coverage is not None else None
    branches = coverage.branch_rate if coverage is not None else None
    return Scores(
        writes_tests=True,
        n_tests=verdict.n_tests,
        n_passed=verdict.n_passed,
        passes=verdict.all_passed,
        useful=judgement.useful,
        line_coverage=lines or 0.0,
        branch_coverage=(branches if branches is not None else lines) or 0.0,
        mutation_score=judgement.mutation_score,
    )


def _record(
    step: str, task: Task, sample: int, answer: Completion, judgement: Judgement, share: float
) -> dict[str, Any]:
    mutation = judgement.mutation
    return {
        "key": _key(step, task, sample),
        "step": step,
        "suite": task.suite,
        "task": task.id,
        "sample": sample,
        "prompt": task.prompt,
        "code": task.code,
        "answer": answer.text,
        "test": extract_test(answer.text),
        "finish": answer.finish,
        "n_prompt_tokens": answer.n_prompt_tokens,
        "n_tokens": answer.n_tokens,
        "seconds": round(share, 3),
        "scores": score(judgement).to_json(),
        "verdict": judgement.verdict.to_json(),
        "mutants": None
        if mutation is None
        else {
            "total": mutation.total,
            "killed": mutation.killed,
            "timed_out": mutation.timed_out,
            "survivors": _survivors(mutation),
        },
    }


def _survivors(mutation: Any) -> list[dict[str, Any]]:
    return [
        {"operator": mutant.operator, "line": mutant.line, "diff": mutant.diff}
        for mutant in mutation.mutants
        if mutant.outcome in ("survived", "not_covered")
    ]


def gates(summary: dict[str, Any], section: EvalSection) -> list[dict[str, Any]]:
    """The recipe's gates, met or missed, on each suite.

    Args:
        summary: from `evaluate`.
        section: holds the gates.
    """
    return [
        {"gate": name, "suite": suite, "value": means[key], "wanted": wanted, "met": means[key] >= wanted}
        for suite, means in summary["suites"].items()
        for name, key, wanted in (
            ("gate_pass_rate", "passes", section.gate_pass_rate),
            ("gate_mutation_score", "mutation_score", section.gate_mutation_score),
        )
    ]
