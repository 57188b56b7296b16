"""The whole job: plan, train each stage, export, verify, bench, evaluate. Each step's result goes into ``run.json``.

Running the same command again continues at the first step that has not finished; a training stage continues at its
newest whole checkpoint, an evaluation at the first task that has not been judged.
"""

from __future__ import annotations

import gc
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lowvram_ft import bench as bench_module
from lowvram_ft import models
from lowvram_ft.data.jsonl import require_file
from lowvram_ft.errors import GateMissed, MachineError
from lowvram_ft.evaluation.evaluate import evaluate, gates
from lowvram_ft.evaluation.suites import load_suites
from lowvram_ft.execution.sandbox import choose as choose_sandbox
from lowvram_ft.export import create_in_ollama, export_model, verify_model
from lowvram_ft.hardware import Hardware, detect
from lowvram_ft.inference.llama import LlamaCpp
from lowvram_ft.memory.for_recipe import StagePlan, plan_recipe
from lowvram_ft.progress import Progress
from lowvram_ft.recipe import Recipe, Resolved, Stage
from lowvram_ft.run_dir import RunDir
from lowvram_ft.training.engines import LoadPlan, choose
from lowvram_ft.training.stage import train_stage

VERSIONED = (
    "lowvram-ft", "torch", "transformers", "peft", "trl", "datasets", "accelerate", "bitsandbytes", "unsloth",
    "llama-cpp-python", "gguf", "tokenizers", "cosmic-ray", "coverage", "pytest",
)  # fmt: skip
"""Packages whose versions a run records."""


def versions() -> dict[str, str]:
    """Versions of Python and of what a result depends on; packages that are not installed are left out."""
    found = {"python": platform.python_version()}
    for name in VERSIONED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


class Job:
    """A recipe in a run directory.

    Args:
        resolved: the recipe.
        out: the run directory.
        progress: where a person reads what is going on.
        command: what the user ran, for ``run.json``.
    """

    def __init__(self, resolved: Resolved, out: Path, progress: Progress, command: str) -> None:
        self.resolved = resolved
        self.run = RunDir(out)
        self.progress = progress
        self.command = command
        self.hardware: Hardware = detect(out)
        self._folder: Path | None = None

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Begin the run, or take it up, and keep other commands out of its directory meanwhile.

        What can be refused is refused before anything is written.

        Raises:
            RunDirectoryError: the directory holds something else, or another command is at work in it.
            MachineError: the recipe demands a GPU, and there is none.
            MissingExtraError: the recipe names Unsloth, and it is not installed.
            DataError: the file that a stage, perhaps the last of several, is to be trained on is missing.
        """
        for stage in self.resolved.stages:
            choose(stage.recipe.hardware, self.hardware)
            if stage.recipe.data.path is not None:
                require_file(Path(stage.recipe.data.path))
        with self.run.lock():
            self.run.start(
                recipe=self.resolved.to_json(),
                digest=self.resolved.digest(),
                versions=versions(),
                command=self.command,
            )
            yield

    def step(self, name: str, action: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Do a step, unless it has finished in this directory already."""
        found = self.run.finished(name)
        if found is not None:
            return found
        self.run.event("begun", step=name)
        result = action()
        self.run.finish(name, result)
        gc.collect()
        return result

    def plan(self) -> dict[str, Any]:
        """Plan every stage; the base model that the first one gets holds for all.

        Raises:
            MachineError: a stage does not fit; says what would.
        """
        return self.step("plan", self._plan)

    def _plan(self) -> dict[str, Any]:
        plans: dict[str, Any] = {}
        base: str | None = None
        for stage in self.resolved.stages:
            recipe = stage.recipe if base is None else with_base(stage.recipe, base)
            plan = plan_recipe(recipe, self.hardware)
            for note in (*plan.notes, *plan.fit.steps):
                self.progress.say(f"plan {stage.name}: {note}")
            require_fit(stage.name, plan)
            base = plan.model.id
            plans[stage.name] = plan.to_json()
        return {"base": base, "stages": plans}

    def model_folder(self) -> Path:
        """The base model's weights, downloaded or unpacked where that has not happened yet."""
        if self._folder is None:
            base = self.plan()["base"]
            self.progress.say(f"base model: {base}")
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
        assert adapter is not None  # a resolved recipe has at least one stage
        return adapter

    def _train(self, stage: Stage, adapter: Path | None) -> Path:
        folder = self.run.path / "stages" / stage.name

        def action() -> dict[str, Any]:
            plan = self.plan()["stages"][stage.name]
            recipe = as_planned(stage.recipe, plan)
            with redirect_stdout(sys.stderr):  # Unsloth talks on stdout, which is for results
                trained = train_stage(
                    stage.name,
                    recipe,
                    self.model_folder(),
                    choose(recipe.hardware, self.hardware),
                    load_plan(recipe, plan),
                    folder,
                    adapter=adapter,
                    progress=self.progress,
                    event=self.run.event,
                )
            return trained.result

        self.step(f"train:{stage.name}", action)
        return folder / "adapter"

    def export(self, adapter: Path | None) -> dict[str, Any]:
        """Export base + adapter, verify the file, hand it to Ollama where the recipe says so."""
        section = self.resolved.final.export
        out = self.run.path / "export" / f"{self.resolved.name}-{section.quant}.gguf"
        folder = self.model_folder
        result = self.step("export", lambda: export_model(folder(), adapter, out, section, self.progress))
        self.step("verify", lambda: verify_model(out, folder(), adapter, section, self.hardware, self.progress))
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
                [task.prompt for task in load_suites(final.eval)],
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
        exported = Path(job.export(adapter)["gguf"])
        base = Path(job.export_base()["gguf"])
        job.bench(exported)
        job.evaluate("before", base)
        job.evaluate("after", exported)
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


def with_base(recipe: Recipe, base: str) -> Recipe:
    """The recipe on another base model, without fallbacks."""
    model = recipe.model.model_copy(update={"base": base, "fallbacks": ()})
    return recipe.model_copy(update={"model": model})


def as_planned(recipe: Recipe, plan: dict[str, Any]) -> Recipe:
    """The recipe with what the plan changed."""
    keys = ("max_length", "per_device_train_batch_size", "gradient_accumulation_steps")
    train = recipe.train.model_copy(update={key: plan[key] for key in keys})
    return recipe.model_copy(update={"train": train})


def load_plan(recipe: Recipe, plan: dict[str, Any]) -> LoadPlan:
    """How the engine loads the model."""
    usable = plan["plan"]["usable_gpu_bytes"]
    return LoadPlan(
        quantization=recipe.quantization,
        lora=recipe.lora,
        max_length=plan["max_length"],
        gradient_checkpointing=recipe.train.gradient_checkpointing,
        offload_layers=plan["offload_layers"],
        offload_embedding=plan["offload_embedding"],
        vram_bytes=usable or None,
        seed=recipe.train.seed,
    )


def default_out(resolved: Resolved) -> Path:
    """``runs/NAME`` under the current folder."""
    return Path(os.curdir) / "runs" / resolved.name


def remove_run(out: Path) -> None:
    """Delete a run directory, to begin it again."""
    if RunDir(out).run_json.is_file():
        shutil.rmtree(out)


def _ollama(name: str, modelfile: Path) -> dict[str, Any]:
    create_in_ollama(name, modelfile)
    return {"name": name}
