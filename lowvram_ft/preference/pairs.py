"""Turn judged answers into a pair set: winners, pairs of a winner and a loser, counts, a data card."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from lowvram_ft.data.pairs import FACTS, PAIRS, WINNERS, Pair, Winner
from lowvram_ft.errors import DataError
from lowvram_ft.preference.card import card_of
from lowvram_ft.preference.choosing import Chosen, Pool, first_choice, is_winner, make_pool, why_no_winner
from lowvram_ft.preference.judged import FATES, Judged
from lowvram_ft.preference.lengths import Bounded, bound_lengths, unit_of
from lowvram_ft.preference.parts import make_winners
from lowvram_ft.preference.records import PreferenceTask
from lowvram_ft.progress import Progress
from lowvram_ft.recipe.preference import PreferenceSection
from lowvram_ft.run_dir import write_json, write_text

MADE = "made.jsonl"
"""What was judged of files that are made of parts: taken up again after a kill."""


def build_pairs(
    tasks: Sequence[PreferenceTask],
    judged: Sequence[Judged],
    section: PreferenceSection,
    folder: Path,
    progress: Progress,
    *,
    model: str = "",
    method: Literal["dpo", "rft"] = "dpo",
) -> dict[str, Any]:
    """Choose winners and pairs (see `lowvram_ft.preference.choosing`), and write them.

    The same input gives the same bytes, but for ``made.jsonl``, which holds times.

    Args:
        tasks: what the answers are to.
        judged: the answers, from `lowvram_ft.preference.judging.judge_answers`.
        section: how to choose.
        folder: of the pair set; made where it is missing.
        progress: where a person reads how far it is.
        model: that wrote the answers, for the card.
        method: what the set is for: ``dpo`` needs a pair, ``rft`` a winner.

    Returns:
        What ``pairs.json`` holds: ``pairs``, ``winners`` (counts), ``tasks`` (never, partly, always solved), ``fates``,
        ``not_winning`` (reason to count), ``lengths`` (ratio before and after), ``made``, ``quotas``, ``sources``,
        ``section``.

    Raises:
        DataError: there is nothing to learn from; says why, and what to set.
        MachineError: the processes that run tests cannot be started, or the folder cannot be written.
    """
    by_id = {task.id: task for task in tasks}
    mine = [one for one in judged if one.task in by_id]
    made = make_winners(tasks, mine, folder / MADE, progress) if section.parts else []
    pools = _pools(tasks, mine, made, section)
    first = [pair for pool in pools.values() for pair in first_choice(pool, section)]
    bounded = bound_lengths(first, pools, section, unit_of(first))
    best = [one for pool in pools.values() for one in pool.winners[: section.max_winners_per_task]]
    facts = _facts(tasks, mine, made, pools, bounded, best, section, model)
    if not best or (method == "dpo" and not bounded.pairs):
        raise DataError(_why_empty(facts, folder, bool(best), bool(first)))
    write_pairs(folder, _numbered_pairs(by_id, bounded.pairs), _numbered_winners(by_id, best), facts, card_of(facts))
    progress.say(f"{folder}: {len(bounded.pairs)} pairs of {facts['tasks_with_pairs']} tasks, {len(best)} winners")
    return facts


def write_pairs(
    folder: Path, pairs: Sequence[Pair], winners: Sequence[Winner], facts: Mapping[str, Any], card: str
) -> None:
    """Write a pair set, each file atomically; ``pairs.json`` comes last, and says that all is there.

    Args:
        folder: made where it is missing.
        pairs: for ``pairs.jsonl``.
        winners: for ``winners.jsonl``.
        facts: for ``pairs.json``.
        card: for ``README.md``.

    Raises:
        MachineError: the folder cannot be written.
    """
    write_text(folder / PAIRS, "".join(map(_line, pairs)))
    write_text(folder / WINNERS, "".join(map(_line, winners)))
    write_text(folder / "README.md", card)
    write_json(folder / FACTS, facts)


def _line(record: Pair | Winner) -> str:
    text = json.dumps(dataclasses.asdict(record), ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace").decode() + "\n"  # halves of surrogate pairs stay escaped


def _pools(
    tasks: Sequence[PreferenceTask], judged: Sequence[Judged], made: Sequence[Judged], section: PreferenceSection
) -> dict[str, Pool]:
    answers: dict[str, list[Judged]] = {task.id: [] for task in tasks}
    parts: dict[str, list[Judged]] = {task.id: [] for task in tasks}
    for one in judged:
        answers[one.task].append(one)
    for one in made:
        parts[one.task].append(one)
    return {task: make_pool(task, answers[task], parts[task], section) for task in answers if answers[task]}


def _numbered_pairs(tasks: Mapping[str, PreferenceTask], pairs: Sequence[Chosen]) -> list[Pair]:
    count: Counter[str] = Counter()
    found = []
    for pair in pairs:
        task = tasks[pair.winner.task]
        count[task.id] += 1
        found.append(
            Pair(
                id=f"{task.id}#{count[task.id]}",
                group=task.group,
                code=task.code,
                module=task.module,
                prompt=task.prompt,
                chosen=pair.winner.test.strip(),
                rejected=pair.loser.test.strip(),
                meta={**_origin(task), "winner": _worth(pair.winner), "loser": _worth(pair.loser)},
            )
        )
    return found


def _numbered_winners(tasks: Mapping[str, PreferenceTask], winners: Sequence[Judged]) -> list[Winner]:
    count: Counter[str] = Counter()
    found = []
    for one in winners:
        task = tasks[one.task]
        count[task.id] += 1
        found.append(
            Winner(
                id=f"{task.id}#{count[task.id]}",
                group=task.group,
                code=task.code,
                module=task.module,
                prompt=task.prompt,
                completion=one.test.strip(),
                meta={**_origin(task), "winner": _worth(one)},
            )
        )
    return found


def _origin(task: PreferenceTask) -> dict[str, Any]:
    return {"task": task.id, "source": task.source, "from": dict(task.meta)}


def _worth(one: Judged) -> dict[str, Any]:
    """What a file is worth, for `Pair.meta`: nothing that another run of the same input would change."""
    return {
        "key": one.key,
        "fate": one.fate,
        "mutation_score": round(one.mutation_score, 4),
        "coverage": round(one.coverage, 4),
        "n_tests": one.n_tests,
        "n_tokens": one.n_tokens,
        "reason": one.reason,
        "made_of": list(one.made_of),
    }


def _facts(
    tasks: Sequence[PreferenceTask],
    judged: Sequence[Judged],
    made: Sequence[Judged],
    pools: Mapping[str, Pool],
    bounded: Bounded,
    best: Sequence[Judged],
    section: PreferenceSection,
    model: str,
) -> dict[str, Any]:
    used = Counter(pair.winner.task for pair in bounded.pairs)
    by_source: dict[str, dict[str, int]] = {}
    sources = {task.id: task.source for task in tasks}
    for task in tasks:
        counts = by_source.setdefault(task.source, {"tasks": 0, "winners": 0, "pairs": 0})
        counts["tasks"] += 1
        counts["pairs"] += used[task.id]
    for one in best:
        by_source[sources[one.task]]["winners"] += 1
    fates = Counter(one.fate for one in judged)
    reasons = Counter(why_no_winner(one, section) or "may win" for one in judged)
    quotas = Counter(pool.quota for pool in pools.values() if pool.winners and pool.losers)
    return {
        "pairs": len(bounded.pairs),
        "winners": len(best),
        "tasks_with_pairs": len(used),
        "answers": len(judged),
        "tasks": _solved(tasks, pools),
        "fates": {fate: fates[fate] for fate in FATES},
        "not_winning": dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0]))),
        "losers": sum(len(pool.losers) for pool in pools.values()),
        "lengths": bounded.facts,
        "made": {
            "judged": len(made),
            "may_win": sum(is_winner(one, section) for one in made),
            "in_pairs": sum(bool(pair.winner.made_of) for pair in bounded.pairs),
            "winners": sum(bool(one.made_of) for one in best),
        },
        "quotas": {str(quota): count for quota, count in sorted(quotas.items())},
        "sources": by_source,
        "licences": _licences(tasks),
        "model": model,
        "section": section.model_dump(mode="json"),
    }


def _solved(tasks: Sequence[PreferenceTask], pools: Mapping[str, Pool]) -> dict[str, int]:
    """How many tasks are solved never, by parts of answers alone, partly and always."""
    count = {"all": len(tasks), "unanswered": len(tasks) - len(pools)}
    for name, holds in (
        ("never", lambda pool: not pool.winners),
        ("by_parts_alone", lambda pool: bool(pool.winners) and pool.solved == 0),
        ("partly", lambda pool: 0 < pool.solved < 1),
        ("always", lambda pool: pool.solved == 1),
    ):
        count[name] = sum(map(holds, pools.values()))
    return count


def _licences(tasks: Sequence[PreferenceTask]) -> dict[str, int]:
    found = Counter(str(task.meta.get("licence") or "not stated") for task in tasks)
    return dict(sorted(found.items()))


def _why_empty(facts: Mapping[str, Any], folder: Path, any_winner: bool, any_pair: bool) -> str:
    """Why there is nothing to learn from, and what to do."""
    tasks, section = facts["tasks"], facts["section"]
    got = (
        f"{tasks['never']} of {tasks['all']} tasks never solved, {tasks['partly'] + tasks['by_parts_alone']} partly, "
        f"{tasks['always']} always, {tasks['unanswered']} without an answer"
    )
    if not any_winner:
        score = section["winning_score"]
        what = f"no answer wins ({got})"
        todo = f"raise preference.samples_per_task or max_tasks, lower preference.winning_score ({score:g})"
        if not section["parts"]:
            todo += ", or set preference.parts = true"
    elif any_pair:
        what = f"no pair is left within the bound of lengths ({facts['lengths']['before']['ratio']:g} before; {got})"
        todo = f"raise preference.max_length_bias ({section['max_length_bias']:g})"
    else:
        what = f"no winner has a loser ({got})"
        todo = "take harder tasks, raise preference.samples_per_task, temperature or losing_score"
    return f"{folder}: {what}; {todo}"
