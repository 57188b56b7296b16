"""The data card of a pair set, as Markdown, in the sections of Hugging Face's template."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lowvram_ft import __version__
from lowvram_ft.preference.judged import FATES


def card_of(facts: Mapping[str, Any]) -> str:
    """The text of ``README.md``.

    Args:
        facts: what ``pairs.json`` holds.
    """
    tasks, section, made = facts["tasks"], facts["section"], facts["made"]
    lines = [
        "# Preference pairs of test files",
        "",
        f"- **Pairs**: {facts['pairs']} of {facts['tasks_with_pairs']} tasks (`pairs.jsonl`, for `dpo`)",
        f"- **Winners**: {facts['winners']} (`winners.jsonl`, for `rft`)",
        f"- **Answers**: {facts['answers']}, written by {facts['model'] or 'a model that is not named'}",
        f"- **Made by**: lowvram-ft {__version__}",
        f"- **Licences of the code**: {'; '.join(f'{name} ({n})' for name, n in facts['licences'].items())}",
        "- **What a pair is**: the user message is the code under test; the winner is a pytest file that passes and "
        "kills mutants of it, the loser one that does not, of the same task",
        f"- **Settings**: order {', '.join(section['order'])}; winners kill at least {section['winning_score']:g} of "
        f"the mutants, losers that pass at most {section['losing_score']:g}, {section['min_margin']:g} less at least; "
        f"at most {section['max_pairs_per_task']} pairs and {section['max_winners_per_task']} winners a task",
        "",
        "## Tasks",
        "",
        "| source | tasks | winners | pairs |",
        "| --- | ---: | ---: | ---: |",
        *(f"| {name} | {n['tasks']} | {n['winners']} | {n['pairs']} |" for name, n in facts["sources"].items()),
        "",
        "| solved by | tasks |",
        "| --- | ---: |",
        f"| no answer, nor parts of several | {tasks['never']} |",
        f"| parts of answers alone | {tasks['by_parts_alone']} |",
        f"| some answers | {tasks['partly']} |",
        f"| every answer | {tasks['always']} |",
        f"| (no answer was sampled) | {tasks['unanswered']} |",
        "",
        "A task that no answer solves, or every one, gives no pair. Of the others, each may give "
        f"`ceil({section['max_pairs_per_task']} * (1 - share of its answers that win))` pairs:",
        "",
        "| most pairs | tasks |",
        "| ---: | ---: |",
        *(f"| {quota} | {count} |" for quota, count in facts["quotas"].items()),
        "",
        "## What became of the answers",
        "",
        "| fate | answers |",
        "| --- | ---: |",
        *(f"| {FATES[name]} | {count} |" for name, count in facts["fates"].items()),
        "",
        "| why an answer does not win as it is | answers |",
        "| --- | ---: |",
        *(f"| {reason} | {count} |" for reason, count in facts["not_winning"].items()),
        "",
        f"{made['judged']} files were made of the good tests of one answer or of several, and judged again: "
        f"{made['may_win']} may win, {made['winners']} are among the winners, {made['in_pairs']} in pairs "
        "(`made_of` in their meta names the answers).",
        "",
        "## Lengths",
        "",
        *_lengths(facts["lengths"]),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _lengths(lengths: Mapping[str, Any]) -> list[str]:
    rows = [
        f"| {name} | {lengths[name]['pairs']} | {_shown(lengths[name]['winners'])} | {_shown(lengths[name]['losers'])} "
        f"| {_shown(lengths[name]['ratio'])} |"
        for name in ("before", "after")
    ]
    return [
        f"| balancing | pairs | mean {lengths['unit']} of winners | of losers | ratio |",
        "| --- | ---: | ---: | ---: | ---: |",
        *rows,
        "",
        f"The ratio is held in [1/{lengths['bound']:g}, {lengths['bound']:g}]: {lengths['exchanged']} pairs were "
        f"exchanged, {lengths['dropped']} left out.",
    ]


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"
