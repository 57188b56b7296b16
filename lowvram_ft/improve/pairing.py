"""Winners and losers among the answers that testgen kept, by what they are worth without their project."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from lowvram_ft.data.pairs import FACTS, PAIRS, WINNERS, Pair, Winner
from lowvram_ft.evaluation.control import examined
from lowvram_ft.execution import Limits, judge, run_many
from lowvram_ft.improve.material import Material
from lowvram_ft.preference.records import Answer, PreferenceTask
from lowvram_ft.progress import Progress
from lowvram_ft.recipe import PreferenceSection
from lowvram_ft.run_dir import append_jsonl, read_json, read_jsonl, write_json, write_text

CHUNK = 16
"""Answers that are judged together and noted, before the next are."""


def pair(material: Material, folder: Path, judged: Path, progress: Progress) -> dict[str, Any]:
    """Judge the answers that are not judged yet, and write ``pairs.jsonl`` and ``winners.jsonl``.

    Args:
        material: tasks and answers.
        folder: of the pair set; one that is whole is left as it is.
        judged: what answers are worth, from any attempt.
        progress: where a person reads how far it is.

    Returns:
        Counts: ``pairs``, ``winners``, ``left_out``.
    """
    if (folder / FACTS).is_file():
        return dict(read_json(folder / FACTS))
    worth = _judge(material, judged, progress)
    pairs: list[Pair] = []
    winners: list[Winner] = []
    left_out = 0
    section = PreferenceSection()
    for task in material.tasks:
        mine = [one for one in material.answers if one.task == task.id]
        # one that passes in its project alone says nothing without it
        fair = [one for one in mine if material.fates[one.key] != "passes" or worth[one.key]["passes"]]
        left_out += len(mine) - len(fair)
        best = sorted((one for one in fair if _wins(worth[one.key], section)), key=lambda one: _order(one, worth))
        worst = [one for one in fair if _loses(worth[one.key], section)]
        if best:
            winners.append(_winner(task, best[0]))
        for number, loser in enumerate(worst[: section.max_pairs_per_task] if best else []):
            pairs.append(_pair(task, best[number % len(best)], loser, number))
    _write(folder / PAIRS, pairs)
    _write(folder / WINNERS, winners)
    found = {"pairs": len(pairs), "winners": len(winners), "left_out": left_out}
    write_json(folder / FACTS, found)
    return found


def _judge(material: Material, judged: Path, progress: Progress) -> dict[str, dict[str, Any]]:
    known = {str(record["key"]): record for record in read_jsonl(judged)}
    tasks = {task.id: task for task in material.tasks}
    waiting = [answer for answer in material.answers if answer.key not in known]

    def run(answer: Answer) -> dict[str, Any]:
        task = tasks[answer.task]
        found = judge(task.code, task.module, answer.text, Limits())
        found = examined(found, task.code, task.module, answer.text, Limits(), None)
        passes = found.verdict.all_passed and found.verdict.writes_tests
        return {"key": answer.key, "passes": passes, "mutation_score": found.mutation_score}

    for start in range(0, len(waiting), CHUNK):
        records = run_many(run, waiting[start : start + CHUNK])
        append_jsonl(judged, *records)
        known.update({record["key"]: record for record in records})
        progress.step("judge", min(start + CHUNK, len(waiting)), len(waiting), "answers")
    return known


def _wins(worth: dict[str, Any], section: PreferenceSection) -> bool:
    return bool(worth["passes"] and worth["mutation_score"] >= max(section.winning_score, 1e-9))


def _loses(worth: dict[str, Any], section: PreferenceSection) -> bool:
    return bool(not worth["passes"] or worth["mutation_score"] <= section.losing_score)


def _order(answer: Answer, worth: dict[str, dict[str, Any]]) -> tuple[float, int]:
    return -worth[answer.key]["mutation_score"], len(answer.text)


def _pair(task: PreferenceTask, winner: Answer, loser: Answer, number: int) -> Pair:
    name = f"{task.id}#{number}"
    return Pair(name, task.group, task.code, task.module, task.prompt, winner.text.strip(), loser.text.strip())


def _winner(task: PreferenceTask, answer: Answer) -> Winner:
    return Winner(task.id, task.group, task.code, task.module, task.prompt, answer.text.strip())


def _write(path: Path, rows: list[Pair] | list[Winner]) -> None:
    write_text(path, "".join(json.dumps(dataclasses.asdict(row)) + "\n" for row in rows))
