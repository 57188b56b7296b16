"""Have a model write test files, and let it see its failures where the task allows it."""

from __future__ import annotations

import dataclasses
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lowvram_ft.data.refinement import refinement_prompt
from lowvram_ft.errors import PromptTooLong
from lowvram_ft.evaluation.intervals import share_interval
from lowvram_ft.evaluation.suites import Task
from lowvram_ft.execution import Limits, Verdict, run_many, run_tests
from lowvram_ft.inference import Completion, Generator, Sampling
from lowvram_ft.inference.extraction import extract_test

TOO_LONG = Completion("", 0, 0, "length", 0.0, 0.0)
"""Stands for the answer to a prompt that does not fit into the context."""
TOO_LONG_REASON = "prompt too long: it and the answer do not fit into the context"


@dataclass(frozen=True)
class Attempt:
    """One test file that a model wrote.

    Attributes:
        prompt: the user message.
        answer: what the model said to it.
        test: the test file in it.
        seconds: its share of the time in which its batch was generated.
        verdict: what running it told; None where that is left to whoever asked for it.
    """

    prompt: str
    answer: Completion
    test: str
    seconds: float
    verdict: Verdict | None = None

    def to_json(self, verdict: Verdict) -> dict[str, Any]:
        """What a record says of it."""
        return {
            "prompt": self.prompt,
            "answer": self.answer.text,
            "test": self.test,
            "finish": finish(self.answer),
            "n_prompt_tokens": self.answer.n_prompt_tokens,
            "n_tokens": self.answer.n_tokens,
            "seconds": round(self.seconds, 3),
            "passes": holds(verdict),
            "verdict": verdict.to_json(),
        }


@dataclass
class Written:
    """What became of one sample of a task: its attempts, the last of which counts.

    Attributes:
        task: the task.
        sample: number of the sample, from 0.
        attempts: the first answer, then one for each refinement.
        ended: why there is no further one: ``passed``, ``too_long`` for a prompt that does not fit, or ``repeats`` for
            a greedy answer with the same file again, after which nothing else can come; else empty.
    """

    task: Task
    sample: int
    attempts: list[Attempt] = field(default_factory=list)
    ended: str = ""


def finish(answer: Completion) -> str:
    """How an answer ended: ``stop``, ``length``, or ``too_long`` where its prompt did not fit into the context."""
    return "too_long" if answer is TOO_LONG else answer.finish


def holds(verdict: Verdict) -> bool:
    """Whether every test of a file passes and something is asserted: nothing is left to refine."""
    return verdict.all_passed and verdict.writes_tests


def write(model: Generator, tasks: Sequence[Task], sampling: Sampling, n: int) -> list[Written]:
    """Have test files written, ``n`` a task, and failing ones refined as often as their task allows.

    A refinement is asked for with the prompt of a failure trace: the code, the failing file, what pytest said of it. A
    file that asserts nothing counts as failing.

    Args:
        model: writes them.
        tasks: what to test.
        sampling: how tokens are chosen; refinements get other seeds.
        n: samples a task.

    Returns:
        ``n`` for each task, in their order.

    Raises:
        GenerationError: the model fails.
        MachineError: the processes that run tests cannot be started.
    """
    answers = _ask(model, [task.prompt for task in tasks], sampling, n)
    written = [
        Written(task, sample, [attempt])
        for task, row in zip(tasks, answers, strict=True)
        for sample, attempt in enumerate(row)
    ]
    for turn in range(1, max((task.refinements for task in tasks), default=0) + 1):
        open_ones = [one for one in written if one.task.refinements >= turn and not one.ended]
        _refine(model, open_ones, dataclasses.replace(sampling, seed=sampling.seed + turn))
    return written


def _refine(model: Generator, written: Sequence[Written], sampling: Sampling) -> None:
    """One more attempt for each whose last file fails."""
    failing = []
    for one, verdict in zip(written, run_many(_run, written), strict=True):
        one.attempts[-1] = dataclasses.replace(one.attempts[-1], verdict=verdict)
        if holds(verdict):
            one.ended = "passed"
        else:
            failing.append((one, refinement_prompt(one.task.code, one.attempts[-1].test, verdict)))
    if not failing:
        return
    answers = _ask(model, [prompt for _, prompt in failing], sampling, 1)
    for (one, _), (attempt,) in zip(failing, answers, strict=True):
        if attempt.answer is TOO_LONG:
            one.ended = "too_long"
        else:
            same = attempt.test == one.attempts[-1].test
            one.attempts.append(attempt)
            one.ended = "repeats" if same and sampling.temperature <= 0 else ""


def _run(one: Written) -> Verdict:
    return run_tests(one.task.code, one.task.module, one.attempts[-1].test, Limits(), one.task.root)


def _ask(model: Generator, prompts: Sequence[str], sampling: Sampling, n: int) -> list[list[Attempt]]:
    began = time.perf_counter()
    answers = _answers(model, prompts, sampling, n)
    share = (time.perf_counter() - began) / (len(prompts) * n)
    return [
        [Attempt(prompt, answer, _test_of(answer), 0.0 if answer is TOO_LONG else share) for answer in row]
        for prompt, row in zip(prompts, answers, strict=True)
    ]


def _test_of(answer: Completion) -> str:
    return extract_test(answer.text, cut_off=answer.finish == "length")


def _answers(model: Generator, prompts: Sequence[str], sampling: Sampling, n: int) -> list[list[Completion]]:
    """The model's answers; a prompt that does not fit takes none of the others with it."""
    try:
        return model.generate(prompts, sampling, n)
    except PromptTooLong:
        if len(prompts) == 1:
            return [[TOO_LONG] * n]
        return [row for prompt in prompts for row in _answers(model, [prompt], sampling, n)]


def pass_by_answers(records: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """How many tasks are solved with the first answer, within two, within three, …: each refinement is an answer.

    Args:
        records: of ``samples.jsonl``; those without ``attempts`` are passed over.

    Returns:
        Suite to ``pass@1``, ``pass@2``, …, each a ``value`` and its ``interval`` of 95 %: means over the samples of a
        task first, then over tasks.
    """
    suites: dict[str, dict[str, list[int | None]]] = defaultdict(lambda: defaultdict(list))
    most: dict[str, int] = {}
    for record in records:
        if record.get("attempts"):
            passed = [attempt["passes"] for attempt in record["attempts"]]
            suites[record["suite"]][record["task"]].append(passed.index(True) + 1 if True in passed else None)
            most[record["suite"]] = max(most.get(record["suite"], 0), record["refinements"] + 1)
    return {
        suite: {f"pass@{k}": _share(tasks.values(), k) for k in range(1, most[suite] + 1)}
        for suite, tasks in suites.items()
    }


def _share(tasks: Iterable[Sequence[int | None]], k: int) -> dict[str, Any]:
    shares = [sum(first is not None and first <= k for first in samples) / len(samples) for samples in tasks]
    return {"value": sum(shares) / len(shares), "interval": share_interval(shares)}
