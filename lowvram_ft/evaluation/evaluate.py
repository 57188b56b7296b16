"""Evaluate a model: generate test files, run them, count what they catch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lowvram_ft.evaluation.control import examined
from lowvram_ft.evaluation.metrics import Scores, speed, summarize
from lowvram_ft.evaluation.reasons import explain, only_skips
from lowvram_ft.evaluation.refine import TOO_LONG_REASON, Written, finish, pass_by_answers, write
from lowvram_ft.evaluation.static import read_text, summarize_static
from lowvram_ft.evaluation.suites import Task
from lowvram_ft.evaluation.suites.testgeneval import only_importable
from lowvram_ft.execution import Judgement, Limits, judge, run_many, run_tests
from lowvram_ft.inference import Generator, Sampling
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
        Suite to its means (see `lowvram_ft.evaluation.metrics.summarize`; of tasks that cannot be run here, see
        `lowvram_ft.evaluation.static.summarize_static`), and how fast they were generated (see
        `lowvram_ft.evaluation.metrics.speed`). Suites with refinements have ``answers`` (see
        `lowvram_ft.evaluation.refine.pass_by_answers`).

    Raises:
        GenerationError: the model fails.
        MachineError: the processes that run tests cannot be started.
    """
    n = section.samples_per_task
    tasks = only_importable(tasks)
    digests = {_key(step, task, i): task.digest for task in tasks for i in range(n)}
    done = {r["key"]: r for r in read_jsonl(samples) if r.get("step") == step and _is_of(r, digests)}
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
    suites = summarize(r for r in records if r["scores"] is not None)
    suites |= summarize_static(r for r in records if r["scores"] is None)
    for suite, rates in pass_by_answers(records).items():
        suites[suite]["answers"] = rates
    size = CHUNK * n
    batches = [records[start : start + size] for start in range(0, len(records), size)]
    answered = [[record for record in batch if record["finish"] != "too_long"] for batch in batches]
    return {"suites": suites, **speed([batch for batch in answered if batch])}


def _key(step: str, task: Task, sample: int) -> str:
    return f"{step}/{task.suite}/{task.id}/{sample}"


def _is_of(record: dict[str, Any], digests: dict[str, str]) -> bool:
    """Whether a record is of a task as it is now: a file of tasks may have been changed since."""
    return record["key"] not in digests or record.get("digest") == digests[record["key"]]


def _run_chunk(model: Generator, tasks: Sequence[Task], section: EvalSection, step: str) -> list[dict[str, Any]]:
    n = section.samples_per_task
    sampling = Sampling(
        temperature=0.0 if n == 1 else section.temperature,
        max_new_tokens=section.max_new_tokens,
        seed=section.seed,
    )
    written = write(model, tasks, sampling, n)
    judged = run_many(_judge, written)
    return [_record(step, one, *facts) for one, facts in zip(written, judged, strict=True)]


def _judge(one: Written) -> tuple[Judgement | None, list[bool]]:
    """What the last attempt is worth, None where it cannot be run; and which wrong solutions it accepts."""
    task, test = one.task, one.attempts[-1].test
    if task.not_executed:
        return None, []
    judgement = judge(task.code, task.module, test, Limits(), task.root)
    judgement = examined(judgement, task.code, task.module, test, Limits(), task.root)
    return judgement, [_accepts(task, test, wrong, judgement) for wrong in task.wrong_solutions]


def _accepts(task: Task, test: str, wrong: str, judgement: Judgement) -> bool:
    """Whether the tests that pass on the correct code pass on a wrong solution too; no test rejects nothing."""
    passing = set(judgement.verdict.passing) if judgement.verdict.writes_tests else set()
    return not passing or passing <= set(run_tests(wrong, task.module, test, Limits(), task.root).passing)


def score(judgement: Judgement) -> Scores:
    """What a judged file is worth; one without a test that asserts something, or that only skips, counts zero."""
    verdict = judgement.verdict
    if not verdict.writes_tests or verdict.n_tests == 0 or only_skips(verdict):
        nothing = Scores(False, verdict.n_tests, 0, False, False, 0.0, 0.0, 0.0)
        return dataclasses.replace(nothing, parses=verdict.parses, collects=verdict.collects)
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
        parses=True,
        collects=True,
        assertions_per_test=verdict.assertions / len({r.name.partition("[")[0] for r in verdict.results}),
    )


def _record(step: str, one: Written, judgement: Judgement | None, accepted: list[bool]) -> dict[str, Any]:
    task, last = one.task, one.attempts[-1]
    record = {
        "key": _key(step, task, one.sample),
        "step": step,
        "suite": task.suite,
        "task": task.id,
        "digest": task.digest,
        "sample": one.sample,
        "prompt": last.prompt,
        "code": task.code,
        "answer": last.answer.text,
        "test": last.test,
        "finish": finish(last.answer),
        "n_prompt_tokens": sum(attempt.answer.n_prompt_tokens for attempt in one.attempts),
        "n_tokens": sum(attempt.answer.n_tokens for attempt in one.attempts),
        "seconds": round(sum(attempt.seconds for attempt in one.attempts), 3),
    }
    if judgement is None:
        reason = f"not run: {task.not_executed}"
        facts = {"not_executed": task.not_executed, "static": read_text(last.test), "reason": reason}
        return record | facts | {"scores": None, "verdict": None, "mutants": None}
    scores = score(judgement)
    if task.wrong_solutions:
        record["accepted_wrong_solutions"] = accepted
        scores = dataclasses.replace(
            scores, false_acceptance=sum(accepted) / len(accepted), false_rejection=float(not scores.passes)
        )
    if task.refinements:
        verdicts = [attempt.verdict for attempt in one.attempts[:-1]] + [judgement.verdict]
        record["refinements"] = task.refinements
        record["ended"] = one.ended
        record["attempts"] = [a.to_json(v) for a, v in zip(one.attempts, verdicts, strict=True) if v is not None]
    mutation = judgement.mutation
    return record | {
        "reason": explain(last.test, judgement) if finish(last.answer) != "too_long" else TOO_LONG_REASON,
        "scores": scores.to_json(),
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
    """The recipe's gates on each suite, met or missed, and whether so few tasks can tell.

    Args:
        summary: from `evaluate`.
        section: holds the gates.

    Returns:
        ``gate``, ``suite``, ``value``, ``wanted``, ``met`` (by the value itself), ``interval`` of the value, and
        ``verdict``: ``undecided`` where the gate lies inside the interval, else ``met`` or ``missed``.
    """
    return [
        {
            "gate": name,
            "suite": suite,
            "value": means[key],
            "wanted": wanted,
            "met": means[key] >= wanted,
            "interval": means.get("intervals", {}).get(key),
            "tasks": means["tasks"],
            "verdict": gate_verdict(means.get("intervals", {}).get(key), wanted),
        }
        for suite, means in summary["suites"].items()
        if not means.get("static")
        for name, key, wanted in (
            ("gate_pass_rate", "passes", section.gate_pass_rate),
            ("gate_mutation_score", "mutation_score", section.gate_mutation_score),
        )
    ]


def gate_verdict(interval: Sequence[float] | None, wanted: float) -> str:
    """``met`` or ``missed`` where the whole interval says so, else ``undecided``, as without one (of an older run)."""
    if interval is None or interval[0] < wanted <= interval[1]:
        return "undecided"
    return "met" if interval[0] >= wanted else "missed"
