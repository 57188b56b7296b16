"""One command: take up the attempt that is under way, or begin one; train, judge, replace the model or leave it."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lowvram_ft.errors import DataError, UsageError
from lowvram_ft.evaluation.suites.task import Task
from lowvram_ft.improve import registry
from lowvram_ft.improve.attempt import (
    Attempt,
    Settings,
    begin,
    clear,
    current,
    held_out_digests,
    pairs_folder,
    run_folder,
    signature_of,
)
from lowvram_ft.improve.craft import Craft, Trained, tasks_of
from lowvram_ft.improve.decide import Decision, decide, least_tasks, level
from lowvram_ft.improve.home import Home
from lowvram_ft.improve.ledger import Ledger
from lowvram_ft.improve.material import Material, choose
from lowvram_ft.improve.memory import read_memory
from lowvram_ft.improve.recipe import read_recipe, write_recipe
from lowvram_ft.improve.registry import Generation
from lowvram_ft.inference.in_use import read_in_use
from lowvram_ft.progress import Progress
from lowvram_ft.recipe import Resolved
from lowvram_ft.run_dir import read_json, write_json, write_text

RECIPE = "improve.toml"
LEAST_ROWS = 4
"""Pairs and traces below which nothing is trained."""


def improve(home: Home, settings: Settings, craft: Craft, progress: Progress) -> dict[str, Any]:
    """Try to make a better model, and put it into use if it is one.

    Args:
        home: where everything lies.
        settings: what the user says; an attempt that is under way with others is dropped, and counts.
        craft: how it is done.
        progress: where a person reads what is going on.

    Returns:
        ``status`` (``adopted``, ``not better``, ``nothing to do``), ``reason``, and what is known of the attempt.

    Raises:
        UsageError: no model is in use.
        RunDirectoryError: another improve is at work.
        LowvramError: a step failed; the same command goes on there.
    """
    with home.alone():
        registry.sweep(home)
        attempt = _taken_up(home, settings, progress)
        if attempt is None:
            found = _begun(home, settings, craft, progress)
            if isinstance(found, dict):
                return found
            attempt = found
        return _carry_out(home, attempt, craft, progress)


def plan(home: Home, settings: Settings, craft: Craft) -> dict[str, Any]:
    """What `improve` would do now. Nothing is written.

    Raises:
        UsageError: no model is in use.
    """
    attempt = current(home)
    if attempt is not None:
        return {"status": "under way", "reason": f"attempt {attempt.id} goes on", **attempt.material.to_json()}
    parent, material = _material(home, settings, craft)
    refusal = _refusal(home, settings, material, parent)
    k = Ledger(home.ledger).count("", held_out_digests(material, settings))
    return {
        "status": "nothing to do" if refusal else "would train",
        "reason": refusal,
        "generation": parent.number,
        "attempt": k,
        "level": level(k),
        **material.to_json(),
    }


def _taken_up(home: Home, settings: Settings, progress: Progress) -> Attempt | None:
    """The attempt that is under way, unless the model that it continues is in use no longer, or it is not wanted."""
    attempt = current(home)
    if attempt is None:
        return None
    found = read_in_use(home.root)
    adopted = found is not None and attempt.number in found.adopted
    if found is None or found.generation != (attempt.number if adopted else attempt.parent):
        abandon(home, "another model was put into use meanwhile")
    elif attempt.settings != settings and not adopted:
        abandon(home, "other settings were asked for")
    else:
        progress.say(f"attempt {attempt.id} is taken up")
        return attempt
    return None


def abandon(home: Home, reason: str) -> None:
    """End the attempt that is under way, if there is one, and note why."""
    attempt = current(home)
    if attempt is not None:
        found = read_in_use(home.root)
        adopted = found is not None and attempt.number in found.adopted
        facts = {"signature": attempt.signature, "generation": attempt.number, "parent": attempt.parent}
        Ledger(home.ledger).end(attempt.id, {**facts, "adopted": adopted, "reason": reason})
    clear(home)


def roll_back(home: Home) -> Generation:
    """Put the generation before into use; an attempt that is under way ends.

    Raises:
        UsageError: there is none.
        ModelError: its files are not what they were.
    """
    with home.alone():
        before = registry.rollback(home)
        abandon(home, "the user went back to another model")
        Ledger(home.ledger).note("rolled back", to=before.number)
    return before


def _begun(home: Home, settings: Settings, craft: Craft, progress: Progress) -> Attempt | dict[str, Any]:
    """A new attempt; what to tell where none is begun."""
    parent, material = _material(home, settings, craft)
    refusal = _refusal(home, settings, material, parent)
    if refusal is not None:
        return {"status": "nothing to do", "reason": refusal, **material.to_json()}
    counts = material.to_json()
    progress.say(
        f"learns from {counts['answers']} answers to {counts['tasks']} tasks and {counts['traces']} mended failures; "
        f"{counts['held_out']} tasks are held out"
    )
    return begin(home, material, settings, parent.number)


def _material(home: Home, settings: Settings, craft: Craft) -> tuple[Generation, Material]:
    parent = registry.in_use(home)
    if parent is None:
        raise UsageError("improve: no model is in use; begin with one that was trained: lowvram-ft improve --from RUN")
    material = choose(read_memory(home), craft.forbidden(settings.suites), parent.facts["trained"])
    runs = craft.runnable([task.code for task in material.held_out])
    held_out = tuple(task for task, works in zip(material.held_out, runs, strict=True) if works)
    return parent, dataclasses.replace(material, held_out=held_out)


def _refusal(home: Home, settings: Settings, material: Material, parent: Generation) -> str | None:
    """Why no attempt is begun; None where one can be."""
    ledger = Ledger(home.ledger)
    k = ledger.count("", held_out_digests(material, settings))
    least = least_tasks(k)
    there = len(tasks_of(material.held_out, settings.suites, settings.max_tasks))
    signature = signature_of(material, settings)
    if len(material.answers) + len(material.traces) < LEAST_ROWS:
        return (
            f"{len(material.answers)} answers and {len(material.traces)} mended failures are too few to learn from; "
            "use testgen more"
        )
    if there < least:
        return (
            f"{there} held-out tasks cannot show that a model is better ({least} are needed for attempt {k}); use "
            "testgen on more modules, or add --suite samples"
        )
    learnt_by = registry.lineage(home, parent)
    done = (line for line in ledger.lines() if line["event"] == "ended" and line.get("signature") == signature)
    known = any(line["parent"] == parent.number or line["generation"] in learnt_by for line in done)
    if known and not settings.again:
        return "nothing is new since the last attempt; use testgen more, or try another seed with --again"
    return None


def _carry_out(home: Home, attempt: Attempt, craft: Craft, progress: Progress) -> dict[str, Any]:
    ledger = Ledger(home.ledger)
    parent = registry.generation(home, attempt.parent)
    method = attempt.settings.method
    section = _recipe(home, attempt, parent, learns=True).final.preference
    pairs = craft.pair(attempt.material, section, method, pairs_folder(home), home.judged, progress)
    learnt = pairs["winners" if method == "rft" else "pairs"]
    facts = {"signature": attempt.signature, "generation": attempt.number, "parent": attempt.parent, **pairs}
    if learnt + len(attempt.material.traces) < LEAST_ROWS:
        reason = (
            f"{learnt} {'winners' if method == 'rft' else 'pairs'} and {len(attempt.material.traces)} mended failures "
            f"teach something{': ' + pairs['reason'] if pairs.get('reason') else ''}"
        )
        ledger.end(attempt.id, {**facts, "adopted": False, "reason": reason})
        clear(home)
        return {"status": "nothing to do", "reason": f"{reason}: too few; use testgen more", **facts}
    trained = _train(home, attempt, parent, learnt, craft, progress)
    tasks = tasks_of(attempt.material.held_out, attempt.settings.suites, attempt.settings.max_tasks)
    k = ledger.begin(attempt.id, attempt.held_out, {"tasks": len(tasks), **facts})
    decision = decide(*_judge(home, attempt, (parent.gguf, trained.gguf), tasks, craft, progress), k)
    if decision.better:
        registry.place(home, attempt.number, trained.adapter, trained.gguf, _facts(attempt, parent, decision))
        registry.adopt(home, attempt.number)
    outcome = {**facts, **decision.to_json(), "adopted": decision.better}
    ledger.end(attempt.id, outcome)
    clear(home)
    return {"status": "adopted" if decision.better else "not better", "reason": None, **outcome}


def _train(home: Home, attempt: Attempt, parent: Generation, learnt: int, craft: Craft, progress: Progress) -> Trained:
    """The adapter and its GGUF; from an earlier call where that came so far."""
    done = home.work / "trained.json"
    if done.is_file():
        found = read_json(done)
        return Trained(Path(found["adapter"]), Path(found["gguf"]))
    resolved = _recipe(home, attempt, parent, learns=learnt > 0)
    try:
        trained = craft.train(resolved, run_folder(home), progress)
    except DataError as error:  # it would be the same next time
        abandon(home, "no row could be trained on")
        raise error
    write_json(done, {"adapter": str(trained.adapter), "gguf": str(trained.gguf)})
    return trained


def _recipe(home: Home, attempt: Attempt, parent: Generation, *, learns: bool) -> Resolved:
    """The recipe of an attempt, written with its rows of stage C; ``learns``: from answers as well."""
    traces, path = home.work / "traces.jsonl", home.work / RECIPE
    write_text(traces, "".join(json.dumps(trace) + "\n" for trace in attempt.material.traces))
    write_recipe(
        path,
        parent.facts["recipe"],
        parent.adapter,
        traces=traces if attempt.material.traces else None,
        pairs=pairs_folder(home) if learns else None,
        method=attempt.settings.method,
        suites=attempt.settings.suites,
        seed=attempt.seed,
    )
    return read_recipe(path, attempt.settings.overrides)


def _judge(
    home: Home, attempt: Attempt, ggufs: tuple[Path, Path], tasks: Sequence[Task], craft: Craft, progress: Progress
) -> tuple[dict[str, bool], dict[str, bool]]:
    """Have both models answer the held-out tasks; what each of the two solves, of the tasks that can be run here."""
    how = read_recipe(home.work / RECIPE, attempt.settings.overrides).final
    before, after = (craft.solves(gguf, tasks, how, home.samples, progress) for gguf in ggufs)
    both = [task for task in before if task in after]
    return {task: before[task] for task in both}, {task: after[task] for task in both}


def _facts(attempt: Attempt, parent: Generation, decision: Decision) -> dict[str, Any]:
    repositories = Counter(parent.facts["repositories"]) + Counter(attempt.material.repositories)
    return {
        "attempt": attempt.id,
        "parent": parent.number,
        "base": parent.facts["base"],
        "recipe": parent.facts["recipe"],
        "repositories": dict(repositories),
        "trained": sorted({*parent.facts["trained"], *attempt.material.trained_codes}),
        "method": attempt.settings.method,
        "decision": decision.to_json(),
        "time": attempt.time,
    }
