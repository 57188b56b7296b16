"""From the sources of a recipe to the tasks of a round: found, sifted, drawn, and some of them held out."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Any

from lowvram_ft.data.evaluation_code import evaluation_digest, evaluation_found, evaluation_inside, evaluation_tasks
from lowvram_ft.data.objects import fingerprint_of_source
from lowvram_ft.data.pick import draw, order_of_choice, stratum
from lowvram_ft.data.sources import SOURCES, files_of
from lowvram_ft.errors import DataError
from lowvram_ft.preference.records import PreferenceTask
from lowvram_ft.preference.tasks import library, repository, rows
from lowvram_ft.preference.tasks.sieve import EVALUATION, Drawn, Pairs, Sieve
from lowvram_ft.preference.tasks.supply import Supply, read_supply, write_supply
from lowvram_ft.progress import Progress
from lowvram_ft.recipe import DataSection, PreferenceSection
from lowvram_ft.rendering import ChatFormat

_BATCH = 16
_NAMED = 20
"""Evaluation tasks that the facts name; the rest are counted."""


def supplied(
    path: Path,
    section: PreferenceSection,
    data: DataSection,
    suites: Sequence[str],
    progress: Progress,
    *,
    leave_out: Collection[str] = (),
    chat: ChatFormat | None = None,
    max_length: int | None = None,
) -> Supply:
    """The supply in a file; collected and written where there is none, or one of other sections, data or suites.

    Takes what `collect_tasks` takes.

    Raises:
        DataError: the file was edited, or as for `collect_tasks`.
        MachineError: as for `collect_tasks`.
    """
    if path.is_file():
        found = read_supply(path)
        if found.facts.get("inputs") == inputs_digest(section, data, suites, leave_out, max_length if chat else None):
            return found
    supply = collect_tasks(section, data, suites, progress, leave_out=leave_out, chat=chat, max_length=max_length)
    write_supply(path, supply)
    return supply


def collect_tasks(
    section: PreferenceSection,
    data: DataSection,
    suites: Sequence[str],
    progress: Progress,
    *,
    leave_out: Collection[str] = (),
    chat: ChatFormat | None = None,
    max_length: int | None = None,
) -> Supply:
    """Find tasks in the sources of a section, the same share of each, drawn with its seed.

    None is, holds or is cut out of an evaluation task, or nearly so; none repeats another one; each can be imported.

    Args:
        section: which sources, and how many tasks.
        data: the recipe's section, for the source ``rows``.
        suites: evaluation suites of the recipe.
        progress: where a person reads how far it is.
        leave_out: ids or digests of tasks that are not wanted, such as those of an earlier round.
        chat: the model's chat format, and
        max_length: most tokens of a training row: with the two, rows count that training would take, and no others.

    Raises:
        DataError: no task is left, or a source is not there.
        MachineError: the hub cannot be reached, or there is no sandbox to import code in.
    """
    inside = evaluation_inside(suites, data)
    sources: list[tuple[Drawn, list[PreferenceTask]]] = []
    for name in dict.fromkeys(section.tasks):
        source = Drawn(name)
        found = _find(name, data, suites, progress, source.refused, chat, max_length)
        source.found = len(found)
        order = order_of_choice([stratum(task.code) for task in found], [draw(section.seed, task.id) for task in found])
        sources.append((source, [found[int(place)] for place in order]))
    wanted = section.max_tasks + section.held_out_tasks
    sieve = Sieve(inside, frozenset(leave_out))
    kept: list[tuple[PreferenceTask, Drawn]] = []
    waiting = _by_turns(sources)
    while len(kept) < wanted and (batch := list(islice(waiting, min(_BATCH, wanted - len(kept))))):
        kept += sieve.importable(sieve.alone(batch))
        progress.step("choosing tasks", min(len(kept), wanted), wanted, "tasks")
    grouped = [(replace(task, group=sieve.groups.name(task.group)), source) for task, source in kept]
    tasks, held_out = _split(grouped, section)
    if not tasks:
        raise _nothing_left([source for source, _ in sources])
    facts = {
        "inputs": inputs_digest(section, data, suites, leave_out, max_length if chat else None),
        "sources": {source.name: source.to_json() for source, _ in sources},
        "groups": len({task.group for task in tasks}),
        "evaluation_tasks": sieve.evaluation[:_NAMED],
        "notes": evaluation_tasks(data, suites)[1],
    }
    return Supply(tuple(tasks), tuple(held_out), facts)


def refuse_evaluation_tasks(
    tasks: Sequence[PreferenceTask], suites: Sequence[str], data: DataSection | None = None
) -> None:
    """Refuse a list of tasks with evaluation code among them, wherever the list is from.

    Args:
        tasks: what is about to be asked.
        suites: evaluation suites of the recipe.
        data: the recipe's section; its own evaluation splits count then.

    Raises:
        DataError: there is one; names it.
    """
    found = evaluation_found((task.code for task in tasks), suites, data)
    if found:
        place, name = found[0]
        more = f", and {len(found) - 1} more like it" if len(found) > 1 else ""
        raise DataError(
            f"preference.tasks: {tasks[place].id}: {EVALUATION} ({name}{more}); take it out, or make the list of tasks "
            "anew"
        )


def inputs_digest(
    section: PreferenceSection,
    data: DataSection,
    suites: Sequence[str],
    leave_out: Collection[str] = (),
    max_length: int | None = None,
) -> str:
    """Changes when other tasks may be found: with the sections, the data, the suites, a package or a repository.

    Raises:
        DataError: a source is not there.
        MachineError: the hub cannot be reached.
    """
    facts: list[Any] = [
        [section.tasks, section.max_tasks, section.held_out_tasks, section.seed],
        sorted(leave_out),
        list(suites),
        evaluation_digest(suites),
    ]
    for name in section.tasks:
        kind, _, rest = name.partition(":")
        if kind == "rows":
            content = fingerprint_of_source(data, files_of(data), SOURCES[data.source].hub_id)
            facts.append([data.model_dump(mode="json"), content, max_length])
        elif kind == "repository":
            facts.append(repository.repository_digest(Path(rest)))
        else:
            packages = [library.standard_library()] if kind == "standard_library" else library.installed(rest)
            facts.append([package.key for package in packages])
    return hashlib.sha256(json.dumps(facts, default=str).encode()).hexdigest()[:32]


def _find(
    name: str,
    data: DataSection,
    suites: Sequence[str],
    progress: Progress,
    refused: Counter[str],
    chat: ChatFormat | None,
    max_length: int | None,
) -> list[PreferenceTask]:
    """The tasks of a source that are worth looking at."""
    kind, _, rest = name.partition(":")
    if kind == "rows":
        return rows.row_tasks(data, suites, progress, refused, chat, max_length)
    if kind == "repository":
        return repository.repository_tasks(Path(rest), progress, refused)
    packages = [library.standard_library()] if kind == "standard_library" else library.installed(rest)
    return [task for package in packages for task in library.package_tasks(package, progress, refused)]


def _by_turns(sources: Sequence[tuple[Drawn, list[PreferenceTask]]]) -> Iterator[tuple[PreferenceTask, Drawn]]:
    """One task of each source after the other, so that all have the same share as long as they last."""
    turns = zip_longest(*([(task, source) for task in tasks] for source, tasks in sources))
    return (one for one in chain.from_iterable(turns) if one is not None)


def _split(kept: Pairs, section: PreferenceSection) -> tuple[list[PreferenceTask], list[PreferenceTask]]:
    """Tasks to learn from, and tasks that are held out: whole groups, drawn by their names with the seed.

    Where there are fewer tasks than wanted, both get their share of them. What is left of the group that would make the
    held-out ones too many is in neither.
    """
    wanted = section.max_tasks + section.held_out_tasks
    most = section.held_out_tasks
    if len(kept) < wanted:
        most = len(kept) * section.held_out_tasks // wanted
    groups = sorted({task.group for task, _ in kept}, key=lambda group: draw(section.seed, f"held out\0{group}"))
    held_out: list[PreferenceTask] = []
    away: set[str] = set()
    for group in groups:
        if len(held_out) >= most:
            break
        away.add(group)
        for task, source in kept:
            if task.group == group and len(held_out) < most:
                held_out.append(task)
                source.held_out += 1
            elif task.group == group:
                source.refuse("is nearly a task that is held out")
    tasks = [(task, source) for task, source in kept if task.group not in away][: section.max_tasks]
    for _, source in tasks:
        source.taken += 1
    return [task for task, _ in tasks], held_out


def _nothing_left(sources: Sequence[Drawn]) -> DataError:
    told = []
    for source in sources:
        reasons = ", ".join(f"{count} {reason}" for reason, count in source.refused.most_common())
        told.append(f"{source.name}: {reasons or 'holds no function'}")
    return DataError(
        f"preference.tasks: no task is left ({'; '.join(told)}); name another source, such as standard_library, or "
        "lower preference.held_out_tasks"
    )
