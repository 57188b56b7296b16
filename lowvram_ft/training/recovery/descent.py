"""How a stage steps down when memory runs out, and what it remembers of it."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from lowvram_ft.errors import MachineError
from lowvram_ft.memory.for_recipe import setup_for
from lowvram_ft.memory.levers import CLASSES
from lowvram_ft.memory.notches import MOST_NOTCHES, Lever, Notch, Short, step_down
from lowvram_ft.memory.setup import TrainingSetup
from lowvram_ft.memory.shape import ModelShape
from lowvram_ft.recipe import Recipe
from lowvram_ft.run_dir import write_json
from lowvram_ft.training.engines import LoadPlan

NOTCHES = "notches.json"
"""Beside the checkpoints, so that the same command goes on with what was given up, and counts on."""


@dataclass(frozen=True)
class Shortage:
    """Where memory ran out.

    Attributes:
        short: on the device that trains, or on the host of a card.
        phase: ``load``, ``references``, ``forward``, ``backward``, ``optimizer``, ``evaluation``, ``saving`` or
            ``between``.
        step: optimizer steps that were done.
        detail: what the allocator said, in one line.
    """

    short: Short
    phase: str
    step: int
    detail: str


class Descent:
    """The configuration that a stage trains with, from the plan's one down.

    Args:
        stage: name of the stage.
        recipe: its sections, as planned.
        plan: how the model is loaded, as planned.
        levers: what the engine can do on this machine.
        shape: of the model.
        on_gpu: whether the model is trained on a card.
        folder: of the checkpoints.

    Attributes:
        recipe: the sections to train with now.
        plan: how the model is loaded now.
        notches: what was done so far, for ``run.json``.
    """

    def __init__(
        self,
        stage: str,
        recipe: Recipe,
        plan: LoadPlan,
        levers: Collection[Lever],
        shape: ModelShape,
        on_gpu: bool,
        folder: Path,
    ) -> None:
        self._stage, self._levers, self._shape = stage, levers, shape
        self._allow = (*recipe.hardware.allow,)
        self._file = folder / NOTCHES
        self._setup = _setup(recipe, plan, on_gpu)
        self.recipe, self.plan = recipe, plan
        self.notches: list[dict[str, Any]] = []
        self._read()

    def may_step_down(self, short: Short) -> bool:
        """Whether anything is left to do."""
        return self._next(short) is not None

    def step_down(self, shortage: Shortage) -> dict[str, Any]:
        """Take the next notch.

        Returns:
            What was done, as it goes into ``run.json``.

        Raises:
            MachineError: there is none left, or three were taken.
        """
        notch = self._next(shortage.short)
        if notch is None:
            raise MachineError(self._given_up(shortage))
        changed = {
            field.name: getattr(notch.setup, field.name)
            for field in fields(TrainingSetup)
            if getattr(notch.setup, field.name) != getattr(self._setup, field.name)
        }
        taken = {
            "step": shortage.step,
            "phase": shortage.phase,
            "short": shortage.short,
            "lever": notch.lever,
            "class": CLASSES[notch.level - 1],
            "words": notch.words,
            "settings": changed,
        }
        self._apply(changed)
        self.notches.append(taken)
        write_json(self._file, self.notches)
        return taken

    def _next(self, short: Short) -> Notch | None:
        if len(self.notches) >= MOST_NOTCHES:
            return None
        return step_down(
            self._setup,
            levers=self._levers,
            allow=self._allow,
            num_layers=self._shape.num_hidden_layers,
            tied=self._shape.tie_word_embeddings,
            taken=len(self.notches),
            short=short,
        )

    def _apply(self, changed: Mapping[str, Any]) -> None:
        self._setup = replace(self._setup, **changed)
        named = {("optim" if key == "optimizer" else key): value for key, value in changed.items()}
        section = self.recipe.train
        own = {key: value for key, value in named.items() if key in type(section).model_fields}
        self.recipe = self.recipe.model_copy(update={"train": section.model_copy(update=own)})
        known = {field.name for field in fields(LoadPlan)}
        self.plan = replace(self.plan, **{key: value for key, value in changed.items() if key in known})

    def _read(self) -> None:
        """Take up what an earlier process has stepped down to."""
        try:
            found = json.loads(self._file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return
        for taken in found:
            self._apply(taken["settings"])
            self.notches.append(taken)

    def _given_up(self, shortage: Shortage) -> str:
        where = "on the host" if shortage.short == "host" else "where it trains"
        tried = "; ".join(notch["words"] for notch in self.notches) or "nothing could be moved or halved"
        unused = sorted(set(self._levers) - set(self._allow))
        more = f", allow more of the plan (hardware.allow: {', '.join(unused)})" if unused else ""
        return (
            f"{self._stage}: out of memory {where} in {shortage.phase} after step {shortage.step} "
            f"({shortage.detail}), after {len(self.notches)} steps down: {tried}; close other programs{more}, "
            "lower train.max_length or lora.r, or take a smaller model"
        )


def _setup(recipe: Recipe, plan: LoadPlan, on_gpu: bool) -> TrainingSetup:
    """What is trained with, as the memory plan counts it."""
    setup = setup_for(recipe, on_gpu=on_gpu)
    own = {field.name for field in fields(TrainingSetup)} & {field.name for field in fields(LoadPlan)}
    return replace(setup, **{name: getattr(plan, name) for name in own})
