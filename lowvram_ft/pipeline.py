"""The whole job: plan, train each stage, export, verify, bench, evaluate. Each step's result goes into ``run.json``.

Running the same command again continues at the first step that has not finished; a training stage continues at its
newest whole checkpoint, an evaluation at the first task that has not been judged.
"""

from __future__ import annotations

import gc
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from lowvram_ft import bench as bench_module
from lowvram_ft import models
from lowvram_ft.data.jsonl import require_file
from lowvram_ft.errors import GateMissed, MachineError
from lowvram_ft.evaluation.comparison import compare_steps
from lowvram_ft.evaluation.evaluate import evaluate, gates
from lowvram_ft.evaluation.suites import load_suites, prompts_to_time
from lowvram_ft.execution.sandbox import choose as choose_sandbox
from lowvram_ft.export import create_in_ollama, export_model, provenance, verify_model
from lowvram_ft.hardware import Hardware, detect
from lowvram_ft.inference.llama import LlamaCpp
from lowvram_ft.memory.for_recipe import StagePlan, as_first, plan_recipe
from lowvram_ft.memory.several import facts_of, for_one_of, place_for, share_of, smallest
from lowvram_ft.progress import Progress
from lowvram_ft.recipe import Recipe, Resolved, Stage
from lowvram_ft.run_dir import RunDir, versions
from lowvram_ft.training.engines import choose
from lowvram_ft.training.from_plan import as_planned, load_plan
from lowvram_ft.training.processes.ranks import Ranks, own_part
from lowvram_ft.training.stage import clear_checkpoints, train_stage


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
        self._planned_for: Hardware = self.hardware
        self._folder: Path | None = None

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Begin the run, or take it up, and keep other commands out of its directory meanwhile.

        What can be refused is refused before anything is written.

        Raises:
            RunDirectoryError: the directory holds something else, or another command is at work in it.
            MachineError: the recipe demands a GPU, and there is none.
            MissingExtraError: the recipe names Unsloth, and it is not installed.
            ModelError: a stage's base model is a folder without weights.
            DataError: the file that a stage, perhaps the last of several, is to be trained on is missing.
        """
        for stage in self.resolved.stages:
            choose(stage.recipe.hardware, self.hardware)
            models.require_weights(models.resolve(stage.recipe.model.base))
            if stage.recipe.data.path is not None:
                require_file(Path(stage.recipe.data.path))
        self._planned_for = smallest(self.hardware, self.ranks.gather(facts_of(self.hardware)))
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
        result = action() if together or self.ranks.leads else {}
        if self.ranks.leads:
            self.run.finish(name, result)
        gc.collect()
        shared: dict[str, Any] = self.ranks.share(lambda: result)
        return shared

    def plan(self) -> dict[str, Any]:
        """Plan every stage; the base model that the first one gets holds for all.

        Raises:
            MachineError: a stage does not fit; says what would.
        """
        return self.step("plan", self._plan)

    def _plan(self) -> dict[str, Any]:
        plans: dict[str, Any] = {}
        first: StagePlan | None = None
        for stage in self.resolved.stages:
            recipe = stage.recipe if first is None else as_first(stage.recipe, first)
            plan = plan_recipe(for_one_of(recipe, self.ranks.local_world_size), self._planned_for)
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
                self._folder = models.materialize(models.resolve(base))
        return self._folder

    def train(self) -> Path:
        """Train every stage, each from the adapter of the one before.

        Returns:
            The adapter of the last stage.
        """
        adapter: Path | None = None
        for index, stage in enumerate(self.resolved.stages):
            given = stage.recipe.model.adapter if index == 0 else None
            start = Path(given) if given is not None else adapter
            adapter = self._train(stage, start)
        self.ranks.end_training()
        assert adapter is not None  # a resolved recipe has at least one stage
        return adapter

    def _train(self, stage: Stage, adapter: Path | None) -> Path:
        folder = self.run.path / "stages" / stage.name

        def action() -> dict[str, Any]:
            plan = self.plan()["stages"][stage.name]
            recipe = as_planned(stage.recipe, plan)
            if self.ranks.world_size > 1:
                plan = self._own_plan(recipe, plan)
                recipe = as_planned(recipe, plan)
                shared = share_of(recipe.train, self.ranks.world_size)
                recipe = recipe.model_copy(update={"train": shared})
            # Unsloth talks on stdout, which is for results
            with redirect_stdout(sys.stderr), self.ranks.noticing_losses():
                trained = train_stage(
                    stage.name,
                    recipe,
                    self.model_folder(),
                    choose(recipe.hardware, self.hardware),
                    load_plan(recipe, plan),
                    folder,
                    adapter=adapter,
                    progress=self.progress,
                    event=self.run.event if self.ranks.leads else _no_event,
                    ranks=self.ranks,
                )
            return trained.result

        self.step(f"train:{stage.name}", action, together=True)
        if self.ranks.leads:
            clear_checkpoints(folder)  # not before the result is recorded
        return folder / "adapter"

    def _own_plan(self, recipe: Recipe, common: dict[str, Any]) -> dict[str, Any]:
        """The plan for this process's card, which may place more on it than the smallest one holds."""
        if facts_of(self.hardware) == facts_of(self._planned_for):
            return common
        return place_for(for_one_of(recipe, self.ranks.local_world_size), common, self.hardware)

    def export(self, adapter: Path | None) -> dict[str, Any]:
        """Export base + adapter, verify the file, hand it to Ollama where the recipe says so."""
        section = self.resolved.final.export
        out = self.run.path / "export" / f"{self.resolved.name}-{section.quant}.gguf"
        folder = self.model_folder
        name = self.resolved.name

        def write() -> dict[str, Any]:
            base = models.resolve(self.plan()["base"])
            facts = provenance(base, [adapter] if adapter else [], name)
            return export_model(folder(), adapter, out, section, self.progress, facts)

        # A file that did not pass its verification has another name: it is written again.
        rejected = self.run.finished("verify") is None and not out.is_file()
        result = self.step("export", write, again=rejected)
        self.step(
            "verify",
            lambda: verify_model(
                out, folder(), adapter, section, self.hardware, self.progress, sha256=result["sha256"]
            ),
        )
        if section.ollama is not None:
            name = section.ollama
            self.step("ollama", lambda: _ollama(name, Path(result["modelfile"])))
        return result

    def export_base(self) -> dict[str, Any]:
        """Export the base alone, in the same type, to compare with."""
        section = self.resolved.final.export
        out = self.run.path / "export" / f"base-{section.quant}.gguf"
        return self.step("export:base", lambda: export_model(self.model_folder(), None, out, section, self.progress))

    def bench(self, gguf: Path) -> dict[str, Any]:
        """Time the exported model on the evaluation's prompts."""
        final = self.resolved.final
        return self.step(
            "bench",
            lambda: bench_module.bench(
                gguf,
                prompts_to_time(final.eval),
                final.bench,
                self.progress,
                n_ctx=final.export.n_ctx,
            ).to_json(),
        )

    def evaluate(self, when: str, gguf: Path) -> dict[str, Any]:
        """Evaluate a GGUF; ``when`` is ``before`` or ``after``."""
        final = self.resolved.final
        step = f"eval:{when}"
        return self.step(
            step,
            lambda: evaluate(
                lambda: LlamaCpp(gguf, n_ctx=final.export.n_ctx),
                load_suites(final.eval),
                final.eval,
                self.run.samples,
                step,
                self.progress,
            ),
        )

    def compare(self) -> dict[str, Any]:
        """Hold the evaluation after training against the one before, task by task."""
        samples = self.run.samples
        return self.step("compare", lambda: {"suites": compare_steps(samples, "eval:before", "eval:after")})

    def gates(self) -> list[dict[str, Any]]:
        """Every gate of the recipe, met or missed."""
        final = self.resolved.final
        steps = self.run.data["steps"]
        latency = steps["bench"]
        return [
            *gates(steps["eval:after"], final.eval),
            {
                "gate": "gate_s",
                "suite": "bench",
                "value": latency["file_s_p95"],
                "wanted": latency["gate_s"],
                "met": latency["gate_met"],
            },
        ]


def run_all(job: Job, *, enforce_gates: bool = False) -> None:
    """Do every step of a recipe.

    Args:
        job: the recipe in its run directory.
        enforce_gates: raise where a gate is missed.

    Raises:
        GateMissed: a gate is missed, and ``enforce_gates`` is set.
        MachineError: there is no sandbox for the evaluation; told before anything is trained.
        LowvramError: a step failed; the same command continues there.
    """
    choose_sandbox()
    with job.at_work():
        job.plan()
        adapter = job.train()
        if not job.ranks.leads:
            return
        exported = Path(job.export(adapter)["gguf"])
        base = Path(job.export_base()["gguf"])
        job.bench(exported)
        job.evaluate("before", base)
        job.evaluate("after", exported)
        job.compare()
        found = job.step("gates", lambda: {"gates": job.gates()})["gates"]
    missed = [gate for gate in found if not gate["met"]]
    if enforce_gates and missed:
        lines = [f"{g['gate']} on {g['suite']}: {g['value']:.2f} (wanted {g['wanted']:.2f})" for g in missed]
        raise GateMissed(f"{job.run.path}: gates missed: {'; '.join(lines)}")


def require_fit(name: str, plan: StagePlan) -> None:
    """Refuse a plan that does not fit.

    Raises:
        MachineError: with the nearest thing that would.
    """
    if not plan.fit.plan.fits:
        raise MachineError(f"{name}: {plan.model.id} does not fit this machine; {plan.fit.nearest}")


def default_out(resolved: Resolved) -> Path:
    """``runs/NAME`` under the current folder."""
    return Path(os.curdir) / "runs" / resolved.name


def remove_run(out: Path) -> None:
    """Delete a run directory, to begin it again."""
    if RunDir(out).run_json.is_file():
        shutil.rmtree(out)


def _no_event(kind: str, **fields: Any) -> None:
    """The events of a process that does not write the run directory."""


def _ollama(name: str, modelfile: Path) -> dict[str, Any]:
    create_in_ollama(name, modelfile)
    return {"name": name}
