"""Judge answers by running them, each text once, and write down what is found as it is found."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from lowvram_ft.errors import DataError
from lowvram_ft.evaluation.control import examined
from lowvram_ft.evaluation.reasons import NOTHING, explain
from lowvram_ft.execution import Judgement, Limits, Verdict, judge, read_shape, run_many, run_tests
from lowvram_ft.execution.cache import judge_versions
from lowvram_ft.execution.modules import split_modules
from lowvram_ft.execution.mutants import find_mutants
from lowvram_ft.execution.place import root_problem
from lowvram_ft.execution.sampling import stratified
from lowvram_ft.inference.extraction import extract_test
from lowvram_ft.preference.controls import VARIATIONS, idle_tests, unsteady
from lowvram_ft.preference.hacks import find_hacks
from lowvram_ft.preference.judged import FATES, Fate, Judged, mixed_cases
from lowvram_ft.preference.records import Answer, PreferenceTask
from lowvram_ft.progress import Progress
from lowvram_ft.run_dir import append_jsonl, read_jsonl

__all__ = ["FATES", "Judged", "judge_answers", "judge_texts", "summarize", "text_key"]

MAX_MUTANTS = 60
"""Mutants of a task that all of its answers are held against; of more, a sample that is spread over the lines, always
the same one. It has two of each line at least, and may get larger by that."""

_RULES = 1
"""Raised where the same text gets another judgement here."""
_LIMITS = Limits()


@dataclasses.dataclass(frozen=True)
class Text:
    """A test file to judge.

    Attributes:
        key: of the answer that holds it.
        task: what it tests.
        test: the file.
        made_of: keys of the answers that it is made of; empty for an answer's own.
    """

    key: str
    task: PreferenceTask
    test: str
    made_of: tuple[str, ...] = ()

    @property
    def hash(self) -> str:
        """`text_key`."""
        return text_key(self.task, self.test)


def judge_answers(
    tasks: Sequence[PreferenceTask], answers: Iterable[Answer], judged: Path, progress: Progress
) -> list[Judged]:
    """Judge every answer: run its test file, plant faults, and run it again in other conditions where it may win.

    A text is judged once for a task, whoever wrote it, and what was judged is in ``judged`` from then on: killed at any
    moment and called again, it does the rest.

    Args:
        tasks: what the answers are to; answers to others are passed over.
        answers: what a model wrote.
        judged: a JSONL file, see `judge_texts`.
        progress: where a person reads how far it is.

    Returns:
        One for each answer, in their order.

    Raises:
        DataError: the folder of a task's package is not there.
        MachineError: the processes that run tests cannot be started, or ``judged`` cannot be written.
    """
    by_id = {task.id: task for task in tasks}
    mine = [answer for answer in answers if answer.task in by_id]
    texts = [Text(a.key, by_id[a.task], extract_test(a.text, cut_off=a.finish == "length")) for a in mine]
    found = judge_texts(texts, judged, progress, "judging answers")
    return [
        dataclasses.replace(one, key=answer.key, n_tokens=_tokens(answer, text.test))
        for one, answer, text in zip(found, mine, texts, strict=True)
    ]


def judge_texts(texts: Sequence[Text], log: Path, progress: Progress, what: str) -> list[Judged]:
    """Judge test files; those that are in ``log`` are not run again.

    Args:
        texts: the files.
        log: a JSONL file; a record is added for each text as soon as it is judged (``step`` is ``judged``), and for
            each run in other conditions (``again``).
        progress: where a person reads how far it is.
        what: name of this in there.

    Returns:
        One for each text, in their order.

    Raises:
        DataError: the folder of a task's package is not there.
        MachineError: the processes that run tests cannot be started, or ``log`` cannot be written.
    """
    for root, task in {text.task.root: text.task for text in texts if text.task.root is not None}.items():
        if (problem := root_problem(root)) is not None:
            raise DataError(f"{task.id}: its package cannot be imported ({problem}); collect the tasks again")
    unique = {text.hash: text for text in texts}
    known, again = _read(log)
    todo = [text for key, text in unique.items() if key not in known]
    done = len(unique) - len(todo)
    progress.step(what, done, len(unique))

    def heard(place: int, found: Judged) -> None:
        nonlocal done
        done += 1
        known[todo[place].hash] = found
        append_jsonl(log, {"step": "judged", **found.to_json()})
        progress.step(what, done, len(unique))

    run_many(_judge, todo, on_result=heard)
    _run_again([(text, known[key]) for key, text in unique.items()], again, log, progress)
    return [_with_again(known[text.hash], again, text) for text in texts]


def text_key(task: PreferenceTask, test: str) -> str:
    """A hash of what a judgement hangs on: the task, the test file, and the versions of what judges."""
    text = json.dumps([task.digest, test, _versions()])
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:24]


@cache
def _versions() -> str:
    return json.dumps([_RULES, judge_versions()], sort_keys=True)


def summarize(judged: Sequence[Judged]) -> dict[str, Any]:
    """Counts over answers: fates, kinds of tricks among those that pass, the flaky, and the different texts."""
    passing = [one for one in judged if one.fate in ("passes_and_kills", "passes")]
    tricks = Counter(reason for one in passing for reason in {reason for _, reason in one.hacks})
    count = Counter(one.fate for one in judged)
    return {
        "answers": len(judged),
        "texts": len({(one.task, one.text) for one in judged}),
        "tasks": len({one.task for one in judged}),
        "fates": {fate: count[fate] for fate in FATES},
        "tricks": dict(sorted(tricks.items())),
        "flaky": sum(bool(one.flaky) for one in judged),
        "mean_tokens": round(sum(one.n_tokens for one in judged) / len(judged), 1) if judged else None,
    }


def _judge(text: Text) -> Judged:
    task, test = text.task, text.test
    if read_shape(test).assertions:
        only = asked_mutants(task.code, task.module)
        judgement = judge(task.code, task.module, test, _LIMITS, task.root, only=only)
        judgement = examined(judgement, task.code, task.module, test, _LIMITS, task.root, only)
    else:  # worth nothing, whatever it kills: its mutants need not be run
        judgement = Judgement.from_parts(run_tests(task.code, task.module, test, _LIMITS, task.root), None)
    verdict, mutation = judgement.verdict, judgement.mutation
    reason = explain(test, judgement)
    is_test = reason.partition(":")[0] not in NOTHING
    killed = ("killed", "timeout")
    coverage = verdict.coverage.line_rate if verdict.coverage is not None else None
    return Judged(
        key=text.key,
        task=task.id,
        text=text.hash,
        test=test,
        fate=_fate(judgement) if is_test else "no_test",
        mutation_score=judgement.mutation_score if is_test else 0.0,
        n_mutants=0 if mutation is None else mutation.total,
        coverage=(coverage or 0.0) if is_test else 0.0,
        n_tests=verdict.n_tests,
        passing=verdict.passing,
        failing=tuple(result.name for result in verdict.results if result.outcome != "passed"),
        killed=()
        if mutation is None
        else tuple(place for place, mutant in enumerate(mutation.mutants) if mutant.outcome in killed),
        mixed=mixed_cases([(result.name, result.outcome) for result in verdict.results]),
        idle=idle_tests(task, test, judgement, _LIMITS) if is_test and verdict.passing else (),
        hacks=tuple((hack.test, hack.reason) for hack in find_hacks(test, task.code, task.module)),
        flaky=None,
        reason=reason,
        duration_s=round(verdict.duration_s, 3),
        made_of=text.made_of,
    )


def _fate(judgement: Judgement) -> Fate:
    if judgement.verdict.all_passed:
        return "passes_and_kills" if judgement.useful else "passes"
    return "useful" if judgement.useful else "fails"


@lru_cache(maxsize=64)
def asked_mutants(code: str, module: str) -> frozenset[int] | None:
    """Places of the mutants that the answers to a task are held against; None for all."""
    edits = find_mutants(next(iter(split_modules(code, module).values())))
    if len(edits) <= MAX_MUTANTS:
        return None
    # by line, so that each counts: with two hundred operators, two of each would be nearly all
    return stratified({place: f"{edit.line:06}" for place, edit in enumerate(edits)}, MAX_MUTANTS)


def _tokens(answer: Answer, test: str) -> int:
    """Tokens of a test file: those of the answer, by the share of its characters that the file has."""
    share = min(1.0, len(test.strip()) / len(answer.text.strip())) if answer.text.strip() else 1.0
    return max(1, round(answer.n_tokens * share)) if answer.n_tokens else 0


def _may_yet_win(one: Judged) -> bool:
    """Whether nothing but what other conditions show keeps a file from winning."""
    kills = one.fate == "passes_and_kills" or (one.fate == "passes" and not one.n_mutants)
    return kills and not one.hacks and not one.idle


def _run_again(
    found: Sequence[tuple[Text, Judged]], again: dict[tuple[str, int], str], log: Path, progress: Progress
) -> None:
    """Run what may win in other conditions, one after the other: each hash seed needs servers of its own."""
    for number, variation in enumerate(VARIATIONS):
        left = [text for text, one in found if _may_yet_win(one) and not _is_flaky(text.hash, again)]
        todo = [text for text in left if (text.hash, number) not in again]

        def run(text: Text, variation: Any = variation) -> Verdict:
            task = text.task
            return run_tests(task.code, task.module, text.test, _LIMITS, task.root, variation=variation)

        def heard(place: int, verdict: Verdict, number: int = number, todo: Sequence[Text] = todo) -> None:
            key = todo[place].hash
            again[key, number] = unsteady(verdict)
            append_jsonl(log, {"step": "again", "text": key, "variation": number, "flaky": again[key, number]})
            progress.step(f"running winners again, order {number + 1}", place + 1, len(todo))

        run_many(run, todo, on_result=heard)


def _is_flaky(key: str, again: Mapping[tuple[str, int], str]) -> bool:
    return any(again.get((key, number)) for number in range(len(VARIATIONS)))


def _with_again(one: Judged, again: Mapping[tuple[str, int], str], text: Text) -> Judged:
    said = [again[one.text, number] for number in range(len(VARIATIONS)) if (one.text, number) in again]
    flaky = next(filter(None, said), "") if said else None
    # tasks of the same code share what was judged
    return dataclasses.replace(one, key=text.key, task=text.task.id, flaky=flaky, made_of=text.made_of)


def _read(log: Path) -> tuple[dict[str, Judged], dict[tuple[str, int], str]]:
    """What a log holds: judgements by text, and what was said in other conditions."""
    known: dict[str, Judged] = {}
    again: dict[tuple[str, int], str] = {}
    for record in read_jsonl(log):
        if record.get("step") == "judged":
            known[record["text"]] = Judged.from_json({key: record[key] for key in record if key != "step"})
        elif record.get("step") == "again":
            again[record["text"], record["variation"]] = record["flaky"]
    return known, again
