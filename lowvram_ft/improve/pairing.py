"""Winners and losers among the answers that testgen kept, by what they are worth without their project."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from lowvram_ft.data.pairs import FACTS
from lowvram_ft.errors import DataError
from lowvram_ft.improve.material import Material
from lowvram_ft.preference.judging import judge_answers
from lowvram_ft.preference.pairs import build_pairs
from lowvram_ft.progress import Progress
from lowvram_ft.recipe import PreferenceSection
from lowvram_ft.recipe.sections import Method
from lowvram_ft.run_dir import read_json

PASSING = ("passes_and_kills", "passes")


def pair(
    material: Material, section: PreferenceSection, method: Method, folder: Path, judged: Path, progress: Progress
) -> dict[str, Any]:
    """Judge the answers that are not judged yet, and write the pair set.

    What testgen saw pass in its project and does not pass without it is neither winner nor loser: it may be right.

    Args:
        material: tasks and answers.
        section: how winners and losers are chosen.
        method: ``dpo`` needs pairs, ``rft`` winners.
        folder: of the pair set; one that is whole is left as it is.
        judged: what answers are worth, from any attempt.
        progress: where a person reads how far it is.

    Returns:
        Counts: ``pairs``, ``winners``, ``needs_project``; and ``reason``, why there is nothing, else None.

    Raises:
        MachineError: the processes that run tests cannot be started.
    """
    found = judge_answers(material.tasks, material.answers, judged, progress)
    fair = [one for one in found if material.fates[one.key] != "passes" or one.fate in PASSING]
    counts: dict[str, Any] = {"pairs": 0, "winners": 0, "needs_project": len(found) - len(fair), "reason": None}
    if (folder / FACTS).is_file():
        facts = read_json(folder / FACTS)
    else:
        kind: Literal["dpo", "rft"] = "rft" if method == "rft" else "dpo"
        try:
            facts = build_pairs(material.tasks, fair, section, folder, progress, method=kind)
        except DataError as error:
            return counts | {"reason": str(error)}
    return counts | {"pairs": facts["pairs"], "winners": facts["winners"]}
