"""Runs with a stage of preferences whose slow parts are played: tasks, the model that answers, judging, training,
exports.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from lowvram_ft.data.sources import load_rows
from lowvram_ft.evaluation.metrics import Scores, summarize
from lowvram_ft.inference import Completion, Generator, Sampling
from lowvram_ft.pipeline import Job, exporting, held_out, policy, preference, round, training
from lowvram_ft.preference.judging import Judged
from lowvram_ft.preference.records import Answer, PreferenceTask
from lowvram_ft.preference.tasks import Supply, write_supply
from lowvram_ft.progress import Progress
from lowvram_ft.recipe import DataSection, PreferenceSection, load
from lowvram_ft.run_dir import append_jsonl, read_jsonl
from lowvram_ft.training.stage import Trained

PLAYED_MODEL = "smollm2-135m"
"""Its config is known, and its weights are not looked at where training and export are played."""
FAILS = "import solution\n\n\ndef test_it():\n    assert solution is None\n"
"""A test file that fails on any code."""
Solves = Callable[[str, int, int], bool]
"""Whether a model (by its file) solves the task of this number, in the answer of this number."""


@dataclass
class Answering:
    """A model that knows a good test file for every row that ships with the kit.

    Attributes:
        model: the file that it stands for.
        solves: which answers are good ones.
        asked: every prompt that it was asked, as (model, task, greedy).
        stops_after: how many prompts are answered before the user presses Ctrl-C; None for all.
    """

    model: str
    solves: Solves
    asked: list[tuple[str, int, bool]]
    stops_after: int | None = None
    name: str = "scripted"

    def generate(self, prompts: Sequence[str], sampling: Sampling, n: int = 1) -> list[list[Completion]]:
        found = []
        for prompt in prompts:
            if self.stops_after is not None:
                if self.stops_after == 0:
                    raise KeyboardInterrupt
                self.stops_after -= 1
            number, test = self._row(prompt)
            self.asked.append((self.model, number, sampling.temperature == 0))
            numbers = range(sampling.first, sampling.first + n)
            texts = [test if self.solves(self.model, number, i) else FAILS for i in numbers]
            found.append([Completion(text, 10, 20, "stop", 0.1, 0.1) for text in texts])
        return found

    def close(self) -> None:
        """Nothing is held."""

    @staticmethod
    def _row(prompt: str) -> tuple[int, str]:
        for number, row in enumerate(ROWS):
            if row.code.strip() in prompt:
                return number, row.test
        return -1, FAILS


ROWS = tuple(load_rows(DataSection(source="samples", subset="functions", max_read=12)))


@dataclass
class Played:
    """What the played parts saw.

    Attributes:
        asked: see `Answering`.
        opened: every model that was opened, in order.
        trained: every training: step's folder, adapter that it began with, and the pair set's lines.
        exported: every GGUF that was written.
        said: what a person reads.
        solves: which answers are good ones.
        stops_after: see `Answering`; for the next model that is opened.
    """

    asked: list[tuple[str, int, bool]] = field(default_factory=list)
    opened: list[str] = field(default_factory=list)
    trained: list[tuple[Path, Path | None, list[dict[str, Any]]]] = field(default_factory=list)
    exported: list[Path] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    solves: Solves = lambda _model, _task, answer: answer % 2 == 0
    stops_after: int | None = None

    def open(self, gguf: Path | None, section: PreferenceSection, n_ctx: int) -> Callable[[], Generator]:
        """In place of `lowvram_ft.preference.sampling.open_policy`."""
        del n_ctx
        model = section.url or str(gguf)

        def opened() -> Generator:
            self.opened.append(section.url or Path(model).name)
            stops, self.stops_after = self.stops_after, None
            return Answering(model, self.solves, self.asked, stops)

        return opened

    def collect(self, path: Path, section: PreferenceSection, *_: Any, **__: Any) -> Supply:
        """In place of `lowvram_ft.preference.tasks.supplied`: rows that ship with the kit, the first ones held out."""
        tasks = [PreferenceTask(f"rows/{row.id}", row.group, "rows", row.code, row.module) for row in ROWS]
        n = section.held_out_tasks
        supply = Supply(tuple(tasks[n : n + section.max_tasks]), tuple(tasks[:n]), {"played": True})
        write_supply(path, supply)
        return supply

    def judge(self, tasks: Any, answers: Sequence[Answer], judged: Path, progress: Any) -> list[Judged]:
        """In place of `lowvram_ft.preference.judging.judge_answers`."""
        del tasks, progress
        known = {record["key"] for record in read_jsonl(judged)}
        append_jsonl(judged, *({"key": answer.key} for answer in answers if answer.key not in known))
        return [_judged(answer) for answer in answers]

    def evaluate(self, opened: Any, tasks: Any, section: Any, samples: Path, step: str, progress: Any) -> Any:
        """In place of `lowvram_ft.evaluation.evaluate.evaluate`."""
        del section, progress
        known = {r["key"]: r for r in read_jsonl(samples) if r["step"] == step}
        model = None
        for task in tasks:
            key = f"{step}/{task.id}"
            if key not in known:
                model = model or opened()
                text = model.generate([task.prompt], Sampling())[0][0].text
                good = text != FAILS
                scores = Scores(True, 1, int(good), good, good, 1.0, 1.0, 0.5 if good else 0.0)
                known[key] = {
                    "key": key,
                    "step": step,
                    "suite": task.suite,
                    "task": task.id,
                    "scores": scores.to_json(),
                }
                append_jsonl(samples, known[key])
        return {"suites": summarize(known.values())}

    def train(self, name: str, recipe: Any, model: Path, engine: Any, plan: Any, out: Path, **rest: Any) -> Trained:
        """In place of `lowvram_ft.training.stage.train_stage`."""
        del name, recipe, model, engine, plan
        pairs = rest["pairs"]
        files = sorted(pairs.glob("*.jsonl")) if pairs is not None else []
        lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
        self.trained.append((out, rest["adapter"], lines))
        (out / "adapter").mkdir(parents=True, exist_ok=True)
        (out / "adapter" / "adapter_model.safetensors").write_text(f"{out.name} from {rest['adapter']}")
        return Trained(out / "adapter", {"steps": 1, "first_loss": 1.0, "last_loss": 0.5})

    def export(self, base: Path, adapter: Path | None, out: Path, *_: Any) -> dict[str, Any]:
        """In place of `lowvram_ft.export.export_model`."""
        del base
        self.exported.append(out)
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(f"GGUF of {adapter}")
        out.with_suffix(".Modelfile").write_text(f"FROM ./{out.name}\n")
        facts = {"gguf": str(out), "modelfile": str(out.with_suffix(".Modelfile")), "sha256": f"sha of {adapter}"}
        return {**facts, "quant": "F16", "size_bytes": 1, "seconds": 0.0}


class Told(Progress):
    """Keeps what it is told."""

    def __init__(self, said: list[str]) -> None:
        super().__init__(quiet=True)
        self._said = said

    def say(self, text: str) -> None:
        self._said.append(text)


def play(monkeypatch: pytest.MonkeyPatch, played: Played) -> None:
    """Put the played parts in place."""
    monkeypatch.setattr(policy, "open_policy", played.open)
    monkeypatch.setattr(preference, "supplied", played.collect)
    monkeypatch.setattr(preference, "from_folder", lambda _: None)
    monkeypatch.setattr(round, "judge_answers", played.judge)
    monkeypatch.setattr(held_out, "evaluate", played.evaluate)
    monkeypatch.setattr(exporting, "provenance", lambda *_: {})
    monkeypatch.setattr("lowvram_ft.preference.sampling.refuse_evaluation_tasks", lambda *_: None)
    monkeypatch.setattr("lowvram_ft.training.recovery.out_of_memory.free_memory", lambda: None)
    monkeypatch.setattr("gc.collect", lambda *_: 0)  # nothing large is made here, and it takes half a second
    monkeypatch.setattr(Job, "model_folder", lambda self: Path(self.plan()["base"]))
    monkeypatch.setattr(training, "train_stage", played.train)
    monkeypatch.setattr(exporting, "export_model", played.export)
    monkeypatch.setattr(exporting, "verify_model", lambda *_, **__: {"ok": True, "kind": "file", "scores": {}})


def _judged(answer: Answer) -> Judged:
    good = answer.text != FAILS
    return Judged(
        key=answer.key, task=answer.task, text=answer.text, test=answer.text, n_mutants=2, n_tests=1, mixed=(), idle=(),
        fate="passes_and_kills" if good else "fails", mutation_score=0.5 if good else 0.0, coverage=1.0,
        passing=("test",) if good else (), failing=() if good else ("test_it",), killed=(0,) if good else (), hacks=(),
        flaky="" if good else None, reason="played", duration_s=0.0, n_tokens=answer.n_tokens,
    )  # fmt: skip


def write_preference_recipe(
    folder: Path, model: Path | str = PLAYED_MODEL, text: str = "", stages: str = "", **preference: Any
) -> Path:
    """Write a recipe of a stage ``sft`` and a stage ``d`` of pairs, unless ``stages`` says otherwise.

    Args:
        folder: where to write ``tiny.toml``.
        model: the base model.
        text: more TOML at its end.
        stages: ``[[stages]]`` tables.
        preference: keys of ``[preference]``.
    """
    settings: dict[str, Any] = {
        "samples_per_task": 4, "max_tasks": 4, "max_new_tokens": 64, "winning_score": 0.1, "parts": False,
        "max_length_bias": 100.0,
    }  # fmt: skip

    lines = [f"{key} = {json.dumps(value)}" for key, value in (settings | preference).items()]
    path = folder / "tiny.toml"
    path.write_text(
        f"""
schema_version = 1

[model]
base = {json.dumps(str(model))}

[data]
source = "samples"
subset = "functions"
max_read = 10
eval_share = 0.2

[quantization]
load_in_4bit = false

[lora]
r = 8
lora_alpha = 16

[train]
max_length = 2048
per_device_train_batch_size = 1
gradient_accumulation_steps = 1
gradient_checkpointing = false
max_steps = 2
learning_rate = 1e-3

[preference]
{chr(10).join(lines)}

[export]
quant = "F16"
n_ctx = 2048
require_stop = false
verify_rows = 0

[bench]
max_prompts = 1
max_new_tokens = 8

{text}
"""
        + (stages or '[[stages]]\nname = "sft"\n\n[[stages]]\nname = "d"\ntrain.method = "dpo"\n'),
        encoding="utf-8",
    )
    return path


def job_of(recipe: Path, out: Path, played: Played, *overrides: str) -> Job:
    """The recipe in a run directory."""
    return Job(load(str(recipe), overrides), out, Told(played.said), "test")
