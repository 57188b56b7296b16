"""A recipe in a run directory: what each step of the work stands on.

Each step's result goes into ``run.json``. Running the same command again continues at the first step that has not
finished.
"""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lowvram_ft import models
from lowvram_ft.data.jsonl import require_file
from lowvram_ft.errors import MachineError
from lowvram_ft.execution.sandbox import choose as choose_sandbox
from lowvram_ft.hardware import Hardware, detect
from lowvram_ft.memory.for_recipe import StagePlan, as_first, plan_recipe
from lowvram_ft.memory.several import facts_of, for_one_of, smallest
from lowvram_ft.progress import Progress
from lowvram_ft.recipe import PreferenceSection, Resolved
from lowvram_ft.run_dir import RunDir, versions
from lowvram_ft.training.engines import choose
from lowvram_ft.training.processes.ranks import Ranks, own_part
from lowvram_ft.training.reporting.reporters import require_reporters


class Job:
    """A recipe in a run directory.

    Where several processes do it together, all train; the first alone writes the directory, prints, exports and
    evaluates, and the others get its results.

    Args:
        resolved: the recipe.
        out: the run directory.
        progress: where a person reads what is going on.
        command: what the user ran, for ``run.json``.
        ranks: this process among those of the run.
    """

    def __init__(
        self, resolved: Resolved, out: Path, progress: Progress, command: str, ranks: Ranks | None = None
    ) -> None:
        self.resolved = resolved
        self.run = RunDir(out)
        self.ranks = ranks if ranks is not None else Ranks()
        self.progress = progress if self.ranks.leads else Progress(quiet=True)
        self.command = command
        self.hardware: Hardware = own_part(detect(out), self.ranks)
        self.planned_for: Hardware = self.hardware
        self._plans: dict[str, Any] | None = None
        self._folder: Path | None = None

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Begin the run, or take it up, and keep other commands out of its directory meanwhile.

        What can be refused is refused before anything is written.

        Raises:
            RunDirectoryError: the directory holds something else, or another command is at work in it.
            MachineError: the recipe demands a GPU, and there is none.
            MissingExtraError: the recipe names Unsloth, and it is not installed.
            MachineError: what ``train.report_to`` names is not installed.
            ModelError: a stage's base model is a folder without weights.
            MachineError: a stage runs its own model's answers, and there is no sandbox.
            DataError: the file that a stage, perhaps the last of several, is to be trained on is missing.
        """
        for stage in self.resolved.stages:
            choose(stage.recipe.hardware, self.hardware)
            models.require_weights(models.resolve(stage.recipe.model.base))
            require_reporters(stage.recipe.train.report_to)
            if stage.recipe.data.path is not None:
                require_file(Path(stage.recipe.data.path))
            if stage.recipe.train.method != "sft":
                _require_preferences(stage.recipe.preference)
        self.planned_for = smallest(self.hardware, self.ranks.gather(facts_of(self.hardware)))
        if not self.ranks.leads:
            self.ranks.share(dict)  # the directory is there, and nobody else is at work in it
            yield
            return
        with self.run.lock():
            self.run.start(
                recipe=self.resolved.to_json(),
                digest=self.resolved.digest(),
                versions=versions(),
                command=self.command,
                machine=self.hardware.lasting(),
            )
            self.ranks.share(dict)
            yield

    def step(
        self, name: str, action: Callable[[], dict[str, Any]], *, together: bool = False, again: bool = False
    ) -> dict[str, Any]:
        """Do a step, unless it has finished in this directory already.

        Args:
            name: of the step.
            action: gives the result.
            together: every process does it, not the first alone; the first one's result counts.
            again: do it all the same, since what it wrote is gone.
        """
        found: dict[str, Any] | None = self.ranks.share(lambda: None if again else self.run.finished(name))
        if found is not None:
            return found
        if self.ranks.leads:
            self.run.event("begun", step=name)
        self.progress.begin(name, stage_note(self.resolved, name))
        result = action() if together or self.ranks.leads else {}
        if self.ranks.leads:
            self.run.finish(name, result)
        self.progress.finish(name)
        gc.collect()
        shared: dict[str, Any] = self.ranks.share(lambda: result)
        return shared

    def announce(self, steps: Sequence[str]) -> None:
        """Tell the reader which steps there will be; those that have finished in this directory are over already."""
        if self.ranks.leads:
            self.progress.pipeline(steps, self.run.data["steps"])

    def finished(self, name: str) -> dict[str, Any] | None:
        """The result of a step that has finished, else None; every process has to ask."""
        found: dict[str, Any] | None = self.ranks.share(lambda: self.run.finished(name))
        return found

    def plan(self) -> dict[str, Any]:
        """Plan every stage; the base model that the first one gets holds for all.

        Raises:
            MachineError: a stage does not fit; says what would.
        """
        if self._plans is None:  # the first alone works at some later steps: it must not ask the others again
            self._plans = self.step("plan", self._plan)
        return self._plans

    def _plan(self) -> dict[str, Any]:
        plans: dict[str, Any] = {}
        first: StagePlan | None = None
        for stage in self.resolved.stages:
            recipe = stage.recipe if first is None else as_first(stage.recipe, first)
            plan = plan_recipe(for_one_of(recipe, self.ranks.local_world_size), self.planned_for)
            for note in (*plan.notes, *(change.text for change in plan.changes)):
                self.progress.say(f"plan {stage.name}: {note}")
            require_fit(stage.name, plan)
            first = first or plan
            plans[stage.name] = plan.to_json()
        assert first is not None  # a resolved recipe has at least one stage
        return {"base": first.model.id, "stages": plans}

    def model_folder(self) -> Path:
        """The base model's weights, downloaded or unpacked where that has not happened yet."""
        if self._folder is None:
            base = self.plan()["base"]
            self.progress.say(f"base model: {base}")
            with self.ranks.first():
                self._folder = models.materialize(models.resolve(base), self.progress)
        return self._folder


def stage_note(resolved: Resolved, step: str) -> str:
    """Which stage of how many a step is about; empty where it is about none."""
    subject = step.partition(":")[2].partition("/")[0]
    names = [stage.name for stage in resolved.stages]
    return f"stage {names.index(subject) + 1} of {len(names)}" if subject in names else ""


def require_fit(name: str, plan: StagePlan) -> None:
    """Refuse a plan that does not fit.

    Raises:
        MachineError: with the nearest thing that would.
    """
    if not plan.fit.plan.fits:
        raise MachineError(f"{name}: {plan.model.id} does not fit this machine; {plan.fit.nearest}")


def _require_preferences(section: PreferenceSection) -> None:
    """Refuse a stage whose pairs are not there, or whose answers could not be run."""
    if section.pairs is None:
        choose_sandbox()
    elif not Path(section.pairs).is_dir():
        require_file(Path(section.pairs))


def default_out(resolved: Resolved) -> Path:
    """``runs/NAME`` under the current folder."""
    return Path(os.curdir) / "runs" / resolved.name


def remove_run(out: Path) -> None:
    """Delete a run directory, to begin it again."""
    if RunDir(out).run_json.is_file():
        shutil.rmtree(out)
