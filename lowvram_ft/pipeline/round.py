"""One round in a folder: tasks ► answers ► what each is worth ► pairs. Each part is kept, and taken up from there.

A run does these parts as steps of a stage; ``lowvram-ft preference`` does them one by one, in a folder of the user's.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lowvram_ft.data.pairs import FACTS, PAIRS, WINNERS, Pair, Winner, read_pairs, read_winners
from lowvram_ft.errors import RunDirectoryError
from lowvram_ft.inference import Generator
from lowvram_ft.pipeline.policy import Policy
from lowvram_ft.preference.judging import Judged, judge_answers, summarize
from lowvram_ft.preference.pairs import build_pairs
from lowvram_ft.preference.records import Answer, PreferenceTask
from lowvram_ft.preference.sampling import sample
from lowvram_ft.progress import Progress
from lowvram_ft.recipe import DataSection, PreferenceSection, Resolved
from lowvram_ft.recipe.sections import Method
from lowvram_ft.run_dir import read_json, read_jsonl, write_json, write_text

TASKS, ANSWERS, JUDGED, SAMPLED, PAIR_SET = "tasks.json", "answers.jsonl", "judged.jsonl", "sampled.json", "pairs"


@dataclass(frozen=True)
class Round:
    """One round of sampling, judging and choosing.

    Attributes:
        folder: where its files lie.
        tasks: what the model writes tests for.
        section: the recipe's ``[preference]``.
        progress: where a person reads how far it is.
        data: the recipe's ``[data]``, and
        suites: the suites of its evaluation: tasks are held against both once more before they are asked.
    """

    folder: Path
    tasks: Sequence[PreferenceTask]
    section: PreferenceSection
    progress: Progress
    data: DataSection
    suites: Sequence[str]

    @property
    def pairs(self) -> Path:
        """The folder of the pair set."""
        return self.folder / PAIR_SET

    def sample(self, policy: Policy) -> dict[str, Any]:
        """Let the model answer; answers that are there already are not asked for again.

        Args:
            policy: who answers.

        Returns:
            How many answers, and how fast.
        """
        _, facts = sample(
            self.tasks,
            policy.opened,
            policy.digest,
            self.section,
            self.folder / ANSWERS,
            self.progress,
            suites=self.suites,
            data=self.data,
        )
        found = {"model": policy.name, "model_digest": policy.digest, **facts}
        write_json(self.folder / SAMPLED, found)
        return found

    def judge(self) -> dict[str, Any]:
        """Run the answers; those that were judged already are not judged again.

        Returns:
            How many there are of each fate.
        """
        return summarize(self.judged())

    def build_pairs(self, method: Method) -> dict[str, Any]:
        """Choose winners and losers, and write the pair set.

        Args:
            method: what it is for.

        Returns:
            Its facts.

        Raises:
            DataError: there is nothing to learn from; says why, and what to set.
        """
        model = read_json(self.folder / SAMPLED)["model"]
        return build_pairs(
            self.tasks,
            self.judged(),
            self.section,
            self.pairs,
            self.progress,
            model=model,
            method="rft" if method == "rft" else "dpo",
        )

    def judged(self) -> list[Judged]:
        """What every answer is worth."""
        return judge_answers(self.tasks, self.answers(), self.folder / JUDGED, self.progress)

    def answers(self) -> list[Answer]:
        """What was sampled.

        Raises:
            RunDirectoryError: sampling has not ended here.
        """
        digest = read_json(self.folder / SAMPLED)["model_digest"]
        path = self.folder / ANSWERS
        return sample(self.tasks, self._refuse_to_open, digest, self.section, path, Progress(quiet=True))[0]

    def _refuse_to_open(self) -> Generator:
        raise RunDirectoryError(
            f"{self.folder}: answers are missing (the tasks or the settings have changed since); sample again"
        )


def learned_from(pairs: Path, method: Method) -> int:
    """How many pairs, or winners, a pair set holds for a method; 0 where there is none."""
    return sum(1 for _ in read_jsonl(pairs / (PAIRS if method == "dpo" else WINNERS)))


def write_given_pairs(given: Path, folder: Path, method: Method) -> dict[str, Any]:
    """Take pairs that somebody has made into the run, so that they stay what they were.

    Args:
        given: a JSONL file, or the folder of a pair set.
        folder: the pair set that is written.
        method: what is read: pairs for ``dpo``, winners for ``rft``.

    Returns:
        Where they are from, and how many there are.

    Raises:
        DataError: the file is missing, holds none, or has lines that are none.
    """
    found: list[Pair] | list[Winner] = read_pairs(given) if method == "dpo" else read_winners(given)
    lines = [json.dumps(dataclasses.asdict(record), ensure_ascii=False) for record in found]
    write_text(folder / (PAIRS if method == "dpo" else WINNERS), "".join(f"{line}\n" for line in lines))
    facts = {"given": str(given), "pairs" if method == "dpo" else "winners": len(found)}
    write_json(folder / FACTS, facts)
    return facts


def suites_of(resolved: Resolved) -> list[str]:
    """Every suite that any stage of a recipe names: the last stage carries what the first has learned."""
    return list(dict.fromkeys(suite for stage in resolved.stages for suite in stage.recipe.eval.suites))
