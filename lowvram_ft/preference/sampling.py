"""Answers of the model trained so far to every task: drawn, kept on the disk, never asked for twice."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from lowvram_ft.errors import PromptTooLong, UsageError
from lowvram_ft.inference import Completion, Generator, Sampling, answer_each
from lowvram_ft.inference.opening import open_model as open_any
from lowvram_ft.preference.records import Answer, PreferenceTask
from lowvram_ft.preference.tasks import refuse_evaluation_tasks
from lowvram_ft.progress import Progress
from lowvram_ft.recipe import DataSection, PreferenceSection
from lowvram_ft.run_dir import append_jsonl, read_jsonl

MANY = 16
"""Sequences or requests at a time at the most."""
TOO_LONG = "too_long"
"""Stands for ``finish`` in the record of a task whose prompt does not fit into the context: it is not asked again."""


def open_policy(gguf: Path | None, section: PreferenceSection, n_ctx: int, many: int = MANY) -> Callable[[], Generator]:
    """What opens the model that is sampled from: the server of the section, else a GGUF in this process.

    Args:
        gguf: the model trained so far; not read where the section names a server.
        section: names the server, if any.
        n_ctx: context in tokens of each sequence; a server has its own.
        many: answers at a time at the most; in this process as many as fit into 1 GiB of KV cache.

    Raises:
        UsageError: there is neither a server nor a file.
    """
    if section.url is not None:
        url = section.url
        return lambda: open_any(url, concurrency=many)
    if gguf is None:
        raise UsageError("preference.url: no server is named, and there is no GGUF to sample from; set it, or export")
    path = gguf
    return lambda: open_any(path, n_ctx=n_ctx, most_parallel=many)


def weights_digest(path: Path) -> str:
    """A hash of a file of weights: SHA-256, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def answer_key(task: PreferenceTask, model_digest: str, section: PreferenceSection, number: int) -> str:
    """A hash of all that an answer hangs on."""
    parts = [task.digest, task.prompt, model_digest, *_settings(section), number]
    return hashlib.sha256(json.dumps(parts).encode("utf-8", "surrogatepass")).hexdigest()[:32]


def task_seed(task: PreferenceTask, section: PreferenceSection) -> int:
    """63 bits for a task that the section's seed and its code decide, not its place in a list."""
    data = f"{section.seed}\0{task.digest}".encode()
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "big") >> 1


def sample(
    tasks: Sequence[PreferenceTask],
    open_model: Callable[[], Generator],
    model_digest: str,
    section: PreferenceSection,
    answers: Path,
    progress: Progress,
    *,
    suites: Sequence[str] = (),
    data: DataSection | None = None,
) -> tuple[list[Answer], dict[str, Any]]:
    """Ask for ``samples_per_task`` answers to every task.

    Every task that is finished is appended to ``answers`` at once; what stands there already is not asked for. An
    answer depends on the seed, its task, its number and the model alone: a run that was cut off and taken up again
    gives the same texts as one that was not.

    Args:
        tasks: what to write tests for. None of them may be evaluation code.
        open_model: called only where something is left to ask.
        model_digest: tells this model from any other (`weights_digest`; the address and name of one on a server).
        section: how many answers, and how tokens are chosen.
        answers: the JSONL file.
        progress: where a person reads how far it is.
        suites: evaluation suites of the recipe, which the tasks are held against once more.
        data: the recipe's section, for the same.

    Returns:
        The answers, in the order of the tasks; those to prompts that are too long are missing. And what it took:
        ``tasks``, ``answers``, ``too_long`` (ids), ``cut_off`` (share of answers that did not end by themselves),
        ``mean_tokens``; ``asked``: of what was asked in this call, ``answers``, ``tokens``, ``seconds``,
        ``tokens_per_s``, ``answers_per_s``, ``prompt_tokens``, and ``prompt_tokens_read`` of them after prompts were
        shared (None where the model does not tell); None where nothing was left to ask.

    Raises:
        DataError: a task is, or holds, evaluation code.
        GenerationError: the model fails. What was finished before stays.
    """
    refuse_evaluation_tasks(tasks, suites, data)
    store = _Store(answers, {task.digest: task for task in tasks}, model_digest, section)
    asked = None
    if store.missing():
        model = open_model()
        try:
            asked = _ask(model, store, section, progress)
        finally:
            model.close()
    found = [
        replace(answer, task=task.id)
        for task in tasks
        for number in range(section.samples_per_task)
        if (answer := store.found.get(answer_key(task, model_digest, section, number))) is not None
        and answer.finish != TOO_LONG
    ]
    facts = {
        "tasks": len(tasks),
        "answers": len(found),
        "too_long": [task.id for task in tasks if store.is_too_long(task)],
        "cut_off": sum(answer.finish == "length" for answer in found) / len(found) if found else 0.0,
        "mean_tokens": sum(answer.n_tokens for answer in found) / len(found) if found else 0.0,
        "asked": None if asked is None else asked.to_json(),
    }
    return found, facts


@dataclass
class _Store:
    """The answers on the disk.

    Attributes:
        path: the file.
        tasks: by digest, each once.
        model_digest: of the model.
        section: how answers are drawn.
        found: by key.
    """

    path: Path
    tasks: dict[str, PreferenceTask]
    model_digest: str
    section: PreferenceSection
    found: dict[str, Answer] = field(default_factory=dict)

    def __post_init__(self) -> None:
        wanted = {
            self.key(task, number) for task in self.tasks.values() for number in range(self.section.samples_per_task)
        }
        for record in read_jsonl(self.path):
            if isinstance(record, dict) and record.get("key") in wanted:
                self.found[record["key"]] = Answer.from_json(record)

    def key(self, task: PreferenceTask, number: int) -> str:
        """Of an answer."""
        return answer_key(task, self.model_digest, self.section, number)

    def is_too_long(self, task: PreferenceTask) -> bool:
        """Whether a task's prompt was found not to fit."""
        first = self.found.get(self.key(task, 0))
        return first is not None and first.finish == TOO_LONG

    def missing(self) -> dict[int, list[PreferenceTask]]:
        """Tasks by the number of the first answer that is not there."""
        left: dict[int, list[PreferenceTask]] = {}
        for task in self.tasks.values():
            numbers = range(self.section.samples_per_task)
            first = next((number for number in numbers if self.key(task, number) not in self.found), None)
            if first is not None and not self.is_too_long(task):
                left.setdefault(first, []).append(task)
        return left

    def keep(self, *answers: Answer) -> None:
        """Write answers to the disk, in one go; those that are there already are not written again."""
        new = [answer for answer in answers if answer.key not in self.found]
        append_jsonl(self.path, *(answer.to_json() for answer in new))
        self.found.update({answer.key: answer for answer in new})


@dataclass
class _Asked:
    """What was asked in one call, and how long it took."""

    answers: int = 0
    tokens: int = 0
    prompt_tokens: int = 0
    prompt_tokens_read: int | None = None
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Counts and rates."""
        seconds = max(self.seconds, 1e-9)
        return {
            "answers": self.answers,
            "tokens": self.tokens,
            "seconds": round(self.seconds, 3),
            "tokens_per_s": self.tokens / seconds,
            "answers_per_s": self.answers / seconds,
            "prompt_tokens": self.prompt_tokens,
            "prompt_tokens_read": self.prompt_tokens_read,
        }


def _ask(model: Generator, store: _Store, section: PreferenceSection, progress: Progress) -> _Asked:
    asked = _Asked()
    began = time.perf_counter()
    left = store.missing()
    total = len(store.tasks)
    done = total - sum(map(len, left.values()))
    title = f"sampling {model.name}"
    progress.step(title, done, total, "tasks")

    def take(tasks: Sequence[PreferenceTask], first: int, place: int, found: list[Completion] | PromptTooLong) -> None:
        nonlocal done
        task = tasks[place]
        if isinstance(found, PromptTooLong):
            store.keep(Answer(store.key(task, 0), task.id, 0, "", 0, TOO_LONG, 0.0))
        else:
            store.keep(*(_answer(store, task, number, one) for number, one in enumerate(found, first)))
            asked.answers += len(found)
            asked.tokens += sum(one.n_tokens for one in found)
            asked.prompt_tokens += sum(one.n_prompt_tokens for one in found)
        done += 1
        asked.seconds = time.perf_counter() - began
        progress.step(title, done, total, f"tasks, {asked.tokens / max(asked.seconds, 1e-9):.0f} tok/s")

    for first, tasks in sorted(left.items()):
        sampling = Sampling(
            temperature=section.temperature,
            min_p=section.min_p,
            max_new_tokens=section.max_new_tokens,
            seeds=tuple(task_seed(task, section) for task in tasks),
            first=first,
        )
        prompts = [task.prompt for task in tasks]
        answer_each(model, prompts, sampling, section.samples_per_task - first, partial(take, tasks, first))
    asked.seconds = time.perf_counter() - began
    asked.prompt_tokens_read = getattr(model, "n_prompt_tokens_read", None)
    return asked


def _answer(store: _Store, task: PreferenceTask, number: int, one: Completion) -> Answer:
    return Answer(store.key(task, number), task.id, number, one.text, one.n_tokens, one.finish, round(one.seconds, 3))


def _settings(section: PreferenceSection) -> list[float]:
    """How tokens are chosen, as far as it changes an answer."""
    return [section.temperature, section.min_p, section.max_new_tokens, section.seed]
