"""What is learnt from and what is held out, chosen from the logs; no code is on both sides, nor nearly so."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from lowvram_ft.data.duplicates import DuplicateIndex, fingerprint
from lowvram_ft.data.duplicates.inside import Inside
from lowvram_ft.data.row import SOLUTION, build_prompt
from lowvram_ft.data.syntax import parse
from lowvram_ft.improve.memory import Memory, code_digest, group_of, is_held_out, repository_of
from lowvram_ft.preference.records import Answer, PreferenceTask
from lowvram_ft.testgen.attempts.answers import answer_key

MAX_HELD_OUT = 200
"""Held-out tasks that both models answer; of more, the newest."""
FIXTURES = "needs fixtures of its project"
EVALUATION = "near an evaluation task"
HELD_OUT = "near a held-out task"
CONTRADICTION = "about a contradiction, which may be a bug of the code"
TRAINED = "held-out, but near code that was trained on"

Record = dict[str, Any]


@dataclass(frozen=True)
class HeldOut:
    """A task that both models answer.

    Attributes:
        id: repository, module and definition, and a digest of the code.
        group: its repository and module.
        code: importable as ``solution``.
    """

    id: str
    group: str
    code: str


@dataclass(frozen=True)
class Material:
    """What one attempt is made of.

    Attributes:
        tasks: code that is learnt from.
        answers: to these tasks.
        fates: what testgen said of each answer, by its key.
        traces: rows of stage C.
        held_out: tasks that are never learnt from.
        left_out: why records are not used, with their numbers.
        repositories: name to the records that are learnt from.
    """

    tasks: tuple[PreferenceTask, ...]
    answers: tuple[Answer, ...]
    fates: Mapping[str, str]
    traces: tuple[Record, ...]
    held_out: tuple[HeldOut, ...]
    left_out: Mapping[str, int]
    repositories: Mapping[str, int]

    @property
    def digest(self) -> str:
        """Changes with whatever a model that is trained on it depends on."""
        facts = [sorted(one.key for one in self.answers), sorted(json.dumps(t, sort_keys=True) for t in self.traces)]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]

    @property
    def trained_codes(self) -> list[str]:
        """Digests of the code that is learnt from."""
        codes = [*(task.code for task in self.tasks), *(str(trace["code"]) for trace in self.traces)]
        return sorted(set(map(code_digest, codes)))

    def to_json(self) -> dict[str, Any]:
        """Counts."""
        return {
            "tasks": len(self.tasks),
            "answers": len(self.answers),
            "traces": len(self.traces),
            "held_out": len(self.held_out),
            "left_out": dict(self.left_out),
            "repositories": dict(self.repositories),
        }


def choose(memory: Memory, forbidden: Inside, trained: Collection[str]) -> Material:
    """Choose from the logs.

    Args:
        memory: the logs.
        forbidden: finds the code of tasks that models are evaluated on.
        trained: digests of the code that the model in use was trained on before.
    """
    left_out: Counter[str] = Counter()
    records = [*memory.answers, *memory.traces]
    before = [str(one["code"]) for one in records if code_digest(str(one["code"])) in trained]
    held_out = _held_out(memory, before, left_out)
    apart = Inside([(task.id, task.code) for task in held_out])

    @cache
    def problem(code: str) -> str | None:
        if parse(code) is None:
            return "no Python"
        if forbidden.found(code) is not None:
            return EVALUATION
        return HELD_OUT if apart.found(code) is not None else None

    def usable(record: Record) -> bool:
        if is_held_out(group_of(record)):
            return False
        reason = problem(str(record["code"]))
        if reason is None and (record.get("disputes") or record.get("fate") == "contradicts"):
            reason = CONTRADICTION
        if reason is not None:
            left_out[reason] += 1
        return reason is None

    disputed = {(one["code"], one["text"].strip()) for one in memory.answers if _is_disputed(one)}
    answers = _answers([one for one in memory.answers if usable(one)], left_out)
    traces = []
    for trace in memory.traces:
        if usable(trace):
            if (trace["code"], trace["fixed_test"].strip()) in disputed:
                left_out[CONTRADICTION] += 1
            else:
                traces.append({**trace, "group": group_of(trace)})
    tasks = {_task(one).id: _task(one) for one, _ in answers}
    return Material(
        tasks=tuple(tasks.values()),
        answers=tuple(answer for _, answer in answers),
        fates={answer.key: one["fate"] for one, answer in answers},
        traces=tuple(traces),
        held_out=held_out,
        left_out=dict(left_out),
        repositories=dict(Counter(repository_of(one) for one in (*(o for o, _ in answers), *traces))),
    )


def _is_disputed(record: Record) -> bool:
    return bool(record.get("disputes")) or record["fate"] == "contradicts"


def _answers(records: Sequence[Record], left_out: Counter[str]) -> list[tuple[Record, Answer]]:
    """Those that answer the code alone, or mend such an answer: then only if they pass, as they answered more."""
    found = []
    numbers: Counter[str] = Counter()
    for one in records:
        first = not one.get("turn")
        if first and one["prompt"] != build_prompt(one["code"]):
            left_out[FIXTURES] += 1
        elif first or one["fate"] == "passes":
            task = _task(one).id
            tokens, seconds = int(one.get("n_tokens", 0)), float(one.get("seconds", 0.0))
            number = numbers[task]
            numbers[task] += 1
            answer = Answer(answer_key(one), task, number, one["text"], tokens, str(one.get("finish", "stop")), seconds)
            found.append((one, answer))
    return found


def _task(record: Record) -> PreferenceTask:
    return PreferenceTask(_name(record), group_of(record), "repository", record["code"], SOLUTION)


def _name(record: Record) -> str:
    return f"{group_of(record)}::{record.get('unit') or '*'}@{code_digest(record['code'])[:8]}"


def _held_out(memory: Memory, trained: Sequence[str], left_out: Counter[str]) -> tuple[HeldOut, ...]:
    """Different tasks of the modules that are held out, the newest of each: none twice, nor as a part of another."""
    codes: dict[str, Record] = {}
    for one in reversed(memory.answers):
        if is_held_out(group_of(one)) and one["prompt"] == build_prompt(one["code"]):
            codes.setdefault(one["code"], one)
    parts = {group_of(one) for one in codes.values() if one.get("unit")}
    before = Inside([("trained", code) for code in trained])
    index = DuplicateIndex()
    found: list[HeldOut] = []
    for code, one in codes.items():
        if not one.get("unit") and group_of(one) in parts:
            continue
        print_ = fingerprint(code)
        if print_ is None or index.add(print_) is not None:
            continue
        if before.found(code) is not None:
            left_out[TRAINED] += 1
        elif len(found) < MAX_HELD_OUT:
            found.append(HeldOut(_name(one), group_of(one), code))
    return tuple(found)
