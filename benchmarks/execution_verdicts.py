"""The verdicts of two ways to run the same mutants, one beside the other: what `execution_speed.py` compares."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

import execution_peers as peers

from lowvram_ft.data.row import Row
from lowvram_ft.execution import MutationReport
from lowvram_ft.execution.mutants import Edit

VERDICTS = {
    "killed": "killed",
    "timeout": "killed",
    "incompetent": "killed",
    "survived": "survived",
    "not_covered": "survived",
    "equivalent": "survived",
}
"""What running the tests on a mutant of each outcome must find."""


@dataclasses.dataclass(frozen=True)
class Module:
    """A row, its files for the others, all its mutants, and the places of those that cosmic-ray runs."""

    row: Row
    project: peers.Project
    edits: tuple[Edit, ...]
    sampled: tuple[int, ...]


def check_texts(modules: Sequence[Module]) -> None:
    """Make sure that both sides run the same texts."""
    for module in modules:
        for edit in (module.edits[place] for place in module.sampled):
            text = peers.cosmic_ray_text(module.project.code, edit.operator, edit.occurrence)
            if text != edit.apply(module.project.code):
                raise SystemExit(f"{module.row.id}: {edit.operator} {edit.occurrence}: not cosmic-ray's mutant")


def unstable(modules: Sequence[Module], reports: Sequence[Sequence[MutationReport]]) -> list[dict[str, Any]]:
    """Mutants whose outcome here is not the same in every repeat."""
    found = []
    for place, module in enumerate(modules):
        for edit, *mutants in zip(module.edits, *(report[place].mutants for report in reports), strict=True):
            outcomes = [mutant.outcome for mutant in mutants]
            if len(set(outcomes)) > 1:
                found.append({"id": module.row.id, **named(edit), "outcomes": outcomes})
    return found


def compare_verdicts(
    modules: Sequence[Module],
    reports: Sequence[Sequence[MutationReport]],
    runs: dict[str, list[list[peers.MutantRun]]],
) -> dict[str, Any]:
    """Verdicts on the sampled mutants, repeat by repeat."""
    compared = 0
    left_out: Counter[str] = Counter()
    differences: dict[tuple[str, ...], dict[str, Any]] = {}
    for name, each in runs.items():
        for repeat, run in enumerate(each):
            left = iter(run)
            for module, report in zip(modules, reports[repeat], strict=True):
                for place in module.sampled:
                    ours, theirs = report.mutants[place], next(left).outcome
                    compared += 1
                    if ours.outcome in ("equivalent", "incompetent"):
                        left_out[f"{ours.outcome}, {theirs} with {name}"] += 1
                    if VERDICTS[ours.outcome] == VERDICTS.get(theirs):
                        continue
                    edit = module.edits[place]
                    key = (name, module.row.id, edit.operator, str(edit.occurrence), ours.outcome, theirs)
                    entry = {"id": module.row.id, **named(edit), "diff": ours.diff, "ours": ours.outcome, name: theirs}
                    differences.setdefault(key, entry | {"cause": cause(ours.outcome, theirs), "repeats": 0})
                    differences[key]["repeats"] += 1
    return {
        "compared": compared,
        "differences": list(differences.values()),
        "left_out_of_our_score": dict(sorted(left_out.items())),
    }


def named(edit: Edit) -> dict[str, Any]:
    return {"operator": edit.operator, "occurrence": edit.occurrence, "line": edit.line}


def cause(ours: str, theirs: str) -> str:
    if ours == "equivalent":
        return "equivalent bytecode"
    if ours == "not_covered":
        return "not covered"
    return "timeout" if "timeout" in (ours, theirs) else "other"
