"""A stage that learns from the model's own answers: rounds of sampling, judging, choosing and training.

Every part is a step of the run, so that a killed run asks and judges nothing twice::

    tasks:NAME          the code to write tests for, once a stage
    policy:NAME/N       the GGUF that answers in round N
    sample:NAME/N       its answers
    judge:NAME/N        what each is worth
    pairs:NAME/N        winners and losers
    train_round:NAME/N  the adapter of the round
    held_out:NAME/N     what it is worth on tasks that were kept back; 0 is the model that the stage begins with
    train:NAME          the adapter of the stage: that of its best round
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from gguf_export import Adapter
from lowvram_ft.errors import DataError, cannot_write
from lowvram_ft.pipeline.held_out import measure
from lowvram_ft.pipeline.job import Job
from lowvram_ft.pipeline.policy import Policies
from lowvram_ft.pipeline.round import (
    PAIR_SET,
    TASKS,
    Round,
    learned_from,
    suites_of,
    write_given_pairs,
)
from lowvram_ft.pipeline.training import train_step
from lowvram_ft.preference.tasks import Supply, read_supply, supplied
from lowvram_ft.recipe import Stage
from lowvram_ft.rendering import from_folder
from lowvram_ft.training.recovery.checkpoints import flush


def learns_from_answers(stage: Stage) -> bool:
    """Whether a stage learns from the model's own answers, or from pairs of them that are given."""
    return stage.recipe.train.method != "sft"


def train_on_preferences(job: Job, stage: Stage, start: Path | None, previous: Stage | None) -> Path:
    """Train a stage on winners, or on pairs, of the answers of the model trained so far.

    Args:
        job: the recipe in its run directory.
        stage: its method is ``dpo`` or ``rft``.
        start: the adapter that it continues; None where it is the base that answers and learns.
        previous: the stage that has trained ``start`` in this run; None where none has.

    Returns:
        The adapter of the best round.

    Raises:
        DataError: there is no task, or the first round gives nothing to learn from.
        gguf_export.ExportError: the adapter is broken, or there is no room for a GGUF.
        LowvramError: a step failed; the same command continues there.
    """
    folder = job.run.path / "stages" / stage.name
    if job.finished(f"train:{stage.name}") is None:
        if start is not None and previous is None:
            Adapter.load(start)  # one that is missing or broken is told of before anything is collected
        job.model_folder()  # by all processes: at most of the steps below, the first works alone
        Rounds(job, stage, start, previous).run()
    return folder / "adapter"


class Rounds:
    """The rounds of a stage.

    Args:
        job: the recipe in its run directory.
        stage: its method is ``dpo`` or ``rft``.
        start: the adapter that it continues.
        previous: the stage that has trained it in this run.
    """

    def __init__(self, job: Job, stage: Stage, start: Path | None, previous: Stage | None) -> None:
        self.job, self.stage, self.start = job, stage, start
        self.section = stage.recipe.preference
        self.folder = job.run.path / "stages" / stage.name
        self.policies = Policies(job, stage, start, previous)
        self._supply: Supply | None = None

    def run(self) -> None:
        """Do rounds until one does not improve the model, or there are enough; the adapter of the best one is kept."""
        name = self.stage.name
        if self.start is None:
            self.job.progress.say(f"{name}: continues no adapter: the base model itself answers, and learns from that")
        measured = self._collect()
        history: list[dict[str, Any]] = []
        best, worth = 0, self._worth(0, history) if measured else 0.0
        for number in range(1, self.section.rounds + 1):
            if not self._choose(number, measured):
                self.job.progress.say(f"{name}: round {number} finds nothing to learn from; round {best} is the last")
                break
            self._train(number)
            if measured:
                now = self._worth(number, history)
                if now <= worth:
                    self.job.progress.say(
                        f"{name}: round {number} is no better on held-out tasks; round {best} is kept"
                    )
                    self.policies.remove(number + 1)
                    break
                self.policies.remove(number)
                worth = now
            best = number
        self._keep(best, history)

    def _collect(self) -> bool:
        """Collect the tasks; whether rounds are measured on some that are kept back."""
        if self.section.pairs is not None:
            return False
        plan = self.job.plan()["stages"][self.stage.name]

        def collect() -> dict[str, Any]:
            supply = supplied(
                self.folder / TASKS,
                self.section,
                self.stage.recipe.data,
                suites_of(self.job.resolved),
                self.job.progress,
                chat=from_folder(self.job.model_folder()),
                max_length=plan["max_length"],
            )
            return {"tasks": len(supply.tasks), "held_out": len(supply.held_out), **supply.facts}

        found = self.job.step(f"tasks:{self.stage.name}", collect)
        several = self.section.rounds > 1
        if several and not found["held_out"]:
            self.job.progress.say(
                f"{self.stage.name}: no task is held out: all rounds are done, and the last one counts"
            )
        return several and bool(found["held_out"])

    def _choose(self, number: int, measured: bool) -> int:
        """Sample, judge and choose; how many pairs, or winners, there are to learn from.

        Raises:
            DataError: there is none in the first round.
        """
        job, method = self.job, self.stage.recipe.train.method
        if self.section.pairs is not None:
            given = Path(self.section.pairs)
            job.step(self._step("pairs", number), lambda: write_given_pairs(given, self._round(number).pairs, method))
        else:
            if job.finished(self._step("sample", number)) is None:
                policy = self.policies.before(number)
                job.step(self._step("sample", number), lambda: self._round(number).sample(policy))
            if not measured:
                self.policies.remove(number)
            job.step(self._step("judge", number), lambda: self._round(number).judge())
            job.step(self._step("pairs", number), lambda: self._pairs(number))
        found: int = job.ranks.share(lambda: learned_from(self._round_folder(number) / PAIR_SET, method))
        return found

    def _pairs(self, number: int) -> dict[str, Any]:
        try:
            return self._round(number).build_pairs(self.stage.recipe.train.method)
        except DataError as error:
            if number == 1:
                raise
            return {"pairs": 0, "winners": 0, "why": str(error)}  # what was learned so far is not lost for it

    def _train(self, number: int) -> None:
        folder = self._round_folder(number)
        before = self.start if number == 1 else self._round_folder(number - 1) / "adapter"
        train_step(self.job, self._step("train_round", number), self.stage, before, folder, folder / PAIR_SET)

    def _worth(self, number: int, history: list[dict[str, Any]]) -> float:
        """What the model after a round is worth on the tasks that are kept back; 0 for before the first."""
        step, other = self._step("held_out", number), self._step("held_out", number - 1) if number else None
        samples = self.folder / "held_out.jsonl"
        if self.job.finished(step) is None:
            policy = self.policies.before(number + 1)
            self.job.step(
                step,
                lambda: measure(
                    self._tasks().held_out, policy.opened, self.section, samples, (step, other), self.job.progress
                ),
            )
        found = self.job.finished(step)
        assert found is not None  # it has just finished
        history.append({"round": number, **found})
        return float(found["worth"])

    def _keep(self, best: int, history: list[dict[str, Any]]) -> None:
        """Record the best round's adapter as that of the stage, and its GGUF, where it was made, as the stage's."""
        source = self._round_folder(best) / "adapter" if best else self.start
        if source is None:  # no adapter is as good: the first one that there is
            best, source = 1, self._round_folder(1) / "adapter"
        chosen = source

        def keep() -> dict[str, Any]:
            _copy_folder(chosen, self.folder / "adapter")
            trained = self.job.run.finished(self._step("train_round", max(1, best))) or {}
            return {**trained, "round": best, "held_out": history, "gguf": self.policies.file_after(best)}

        self.job.step(f"train:{self.stage.name}", keep)

    def _tasks(self) -> Supply:
        if self._supply is None:
            self._supply = read_supply(self.folder / TASKS)
        return self._supply

    def _round(self, number: int) -> Round:
        tasks = self._tasks().tasks if self.section.pairs is None else ()
        suites = suites_of(self.job.resolved)
        folder, data = self._round_folder(number), self.stage.recipe.data
        return Round(folder, tasks, self.section, self.job.progress, data, suites)

    def _round_folder(self, number: int) -> Path:
        return self.folder / "rounds" / str(number)

    def _step(self, kind: str, number: int) -> str:
        return f"{kind}:{self.stage.name}/{number}"


def _copy_folder(source: Path, target: Path) -> None:
    """Copy an adapter, atomically."""
    temporary = target.with_name(f".{target.name}.tmp")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.copytree(source, temporary)
        flush(temporary)
        shutil.rmtree(target, ignore_errors=True)
        temporary.replace(target)
        flush(target.parent)
    except OSError as error:
        raise cannot_write(target, error) from error
