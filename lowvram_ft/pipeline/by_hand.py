"""The parts of a round one by one, in a folder of the user's: what ``lowvram-ft preference`` does."""

from __future__ import annotations

import dataclasses
from itertools import islice
from pathlib import Path
from typing import Any

from lowvram_ft.data.pairs import FACTS, PAIRS, read_pairs
from lowvram_ft.errors import DataError, RunDirectoryError
from lowvram_ft.inference.opening import check_file, choose_model, gguf_of, identity, open_model
from lowvram_ft.pipeline.policy import Policy, policy_at
from lowvram_ft.pipeline.preference import learns_from_answers
from lowvram_ft.pipeline.round import PAIR_SET, SAMPLED, TASKS, Round, suites_of
from lowvram_ft.preference.tasks import read_supply, supplied
from lowvram_ft.progress import Progress
from lowvram_ft.recipe import PreferenceSection, Resolved
from lowvram_ft.run_dir import read_json


class ByHand:
    """A round of a recipe, part by part.

    Args:
        resolved: the recipe; its last stage that learns from answers counts, else its last one.
        folder: where the round's files lie.
        progress: where a person reads how far it is.
    """

    def __init__(self, resolved: Resolved, folder: Path, progress: Progress) -> None:
        self._resolved, self._folder, self._progress = resolved, folder, progress
        self._stage = next(filter(learns_from_answers, reversed(resolved.stages)), resolved.stages[-1])
        self._section = self._stage.recipe.preference

    def collect(self) -> dict[str, Any]:
        """Collect the tasks.

        Returns:
            How many there are, and where they come from.
        """
        suites, data = suites_of(self._resolved), self._stage.recipe.data
        supply = supplied(self._folder / TASKS, self._section, data, suites, self._progress)
        return {"tasks": len(supply.tasks), "held_out": len(supply.held_out), **supply.facts}

    def sample(self, model: str) -> dict[str, Any]:
        """Let a model answer.

        Args:
            model: as `lowvram_ft.inference.opening.choose_model` takes it.

        Returns:
            How many answers there are, and how fast they came.

        Raises:
            RunDirectoryError: there are no tasks yet.
            UsageError: it is an address that cannot be used.
            ModelError: the model is missing or broken.
        """
        found = self._round()
        return found.sample(_policy(model, self._section, self._resolved.final.export.n_ctx))

    def judge(self) -> dict[str, Any]:
        """Run the answers.

        Returns:
            How many there are of each worth.

        Raises:
            RunDirectoryError: there are no answers yet.
        """
        return self._sampled().judge()

    def build_pairs(self) -> dict[str, Any]:
        """Choose winners and losers, and write the pair set; answers that nobody has judged yet are judged first.

        Returns:
            The facts of the pair set, and its ``folder``.

        Raises:
            RunDirectoryError: there are no answers yet.
        """
        found = self._sampled()
        return {"folder": str(found.pairs), **found.build_pairs(self._stage.recipe.train.method)}

    def _round(self) -> Round:
        path = self._folder / TASKS
        if not path.is_file():
            raise self._missing(path, "tasks")
        tasks, data = read_supply(path).tasks, self._stage.recipe.data
        return Round(self._folder, tasks, self._section, self._progress, data, suites_of(self._resolved))

    def _sampled(self) -> Round:
        found = self._round()
        if not (self._folder / SAMPLED).is_file():
            raise self._missing(self._folder / SAMPLED, "sample")
        return found

    def _missing(self, path: Path, part: str) -> RunDirectoryError:
        what = f"lowvram-ft preference {part} {self._resolved.path} --out {self._folder}"
        return RunDirectoryError(f"{path}: no such file; run first: {what}{' --model MODEL' * (part == 'sample')}")


def pairs_in(folder: Path, most: int) -> dict[str, Any]:
    """The first pairs of a pair set, each of another task as far as there are so many, and its facts.

    Args:
        folder: of the pair set, or one that holds it as ``pairs/``.
        most: how many.

    Raises:
        DataError: there is no pair set.
    """
    place = folder if (folder / PAIRS).is_file() else folder / PAIR_SET
    if not (place / PAIRS).is_file():
        raise DataError(f"{folder}: holds no {PAIRS}; give the folder of a pair set, such as OUT/pairs")
    every = read_pairs(place)
    firsts = list({pair.group: pair for pair in reversed(every)}.values())[::-1]
    rest = [pair for pair in every if pair not in firsts]
    facts = read_json(place / FACTS) if (place / FACTS).is_file() else {}
    shown = islice((*firsts, *rest), most)
    return {"folder": str(place), "facts": facts, "count": len(every), "pairs": list(map(dataclasses.asdict, shown))}


def _policy(model: str, section: PreferenceSection, n_ctx: int) -> Policy:
    """Who answers, by the words that a user gives for it."""
    choice = choose_model(model)
    check_file(choice)
    if choice.kind == "url":
        return policy_at(None, section.model_copy(update={"url": choice.text}), n_ctx)
    section = section.model_copy(update={"url": None})
    if choice.kind in ("gguf", "hub"):
        return policy_at(gguf_of(choice), section, n_ctx)
    return Policy(choice.text, identity(choice), lambda: open_model(choice.text, n_ctx=n_ctx))
