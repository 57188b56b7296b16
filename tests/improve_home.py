"""A home of `improve` with logs, a model in use, and steps that take no time, for tests."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lowvram_ft.data.duplicates.inside import Inside
from lowvram_ft.data.row import build_prompt
from lowvram_ft.data.split import group_hash
from lowvram_ft.evaluation.suites.task import Task
from lowvram_ft.improve import registry
from lowvram_ft.improve.craft import Craft, Trained
from lowvram_ft.improve.home import Home
from lowvram_ft.improve.material import Material
from lowvram_ft.progress import Progress
from lowvram_ft.recipe import PreferenceSection, Recipe, Resolved
from lowvram_ft.run_dir import append_jsonl, write_json
from lowvram_ft.testgen.attempts.answers import LoggedAnswer

QUIET = Progress(quiet=True)
WORDS = ("alpha", "bravo", "delta", "gamma", "kappa", "omega", "sigma", "theta", "zeta", "iota")


def code_for(number: int) -> str:
    """A function unlike every other one, long enough to have near duplicates."""
    draw = random.Random(number)
    lines = [f"def work_{number}(values, limit):", "    total = 0"]
    for step in range(14):
        name, other = draw.choice(WORDS), draw.choice(WORDS)
        operator, compared = draw.choice("+-*"), draw.choice(("<", ">", "==", "!=", "<=", ">="))
        lines += draw.choice(
            (
                [f"    {name}_{step} = [one {operator} {step} for one in values if one {compared} limit]"],
                [f"    if len(values) {compared} {draw.randrange(9)}:", f"        total {operator}= {step}"],
                [f"    for {other} in range({step}):", f"        total {operator}= {other} {operator} limit"],
                [f"    while total {compared} -{step}:", f"        total = {step} - limit", "        break"],
                [f'    {name}_{step} = {{"{other}": total, "{name}": limit {operator} {step}}}'],
            )
        )  # fmt: skip
    return "\n".join([*lines, "    return total", ""])


def is_held_out(repository: str, module: str) -> bool:
    """The rule, written down once more."""
    return group_hash(f"{repository}/{module}", 0) < 0.3 * 2**64


def modules(repository: str, held_out: bool, count: int) -> list[str]:
    """Names of modules on one side."""
    names = (f"pkg.mod_{number}" for number in range(10_000))
    return [name for name in names if is_held_out(repository, name) == held_out][:count]


def answer(code: str, text: str = "def test_x():\n    assert 1\n", **changes: Any) -> LoggedAnswer:
    facts: dict[str, Any] = {
        "unit": "work",
        "code": code,
        "prompt": build_prompt(code),
        "text": text,
        "sample": 0,
        "turn": 0,
        "fate": "passes",
        "disputes": False,
        "score": 0.5,
        "kept": True,
        "n_tokens": 9,
        "finish": "stop",
        "seconds": 0.1,
    }
    return LoggedAnswer(**facts | changes)


def log(home: Home, repository: str, module: str, one: LoggedAnswer, **more: Any) -> None:
    about = {
        "repository": repository,
        "root": f"/src/{repository}",
        "module": module,
        "time": "2026-01-02T03:04:05+0000",
    }
    append_jsonl(home.answers, {**dataclasses.asdict(one), **about, "model": "m", **more})


def log_trace(
    home: Home, repository: str, module: str, code: str, fixed: str = "def test_y():\n    assert 2\n"
) -> None:
    about = {
        "repository": repository,
        "root": f"/src/{repository}",
        "module": module,
        "time": "2026-01-03T03:04:05+0000",
    }
    failed = {"failed_test": "def test_y():\n    assert 0\n", "failure_log": "E assert 0"}
    append_jsonl(home.traces, {"code": code, "fixed_test": fixed, **failed, **about})


def make_home(tmp_path: Path, repository: str = "shop", held_out: int = 20, learnt: int = 6) -> Home:
    """Logs of one repository, and generation 0 in use."""
    home = Home(tmp_path / "data", tmp_path / "cache")
    for side, count in ((True, held_out), (False, learnt)):
        for place, module in enumerate(modules(repository, side, count)):
            log(home, repository, module, answer(code_for(place + 1000 * side)))
    begin(home)
    return home


def begin(home: Home, number: int = 0) -> None:
    model = model_files(home.root.parent / f"model-{number}", f"model {number}")
    facts: dict[str, Any] = {"parent": None, "base": "b", "recipe": {}, "repositories": {}, "trained": [], "time": "t"}
    registry.place(home, number, model.adapter, model.gguf, facts)
    registry.adopt(home, number)


def model_files(folder: Path, text: str) -> Trained:
    """An adapter and a GGUF, as far as files go."""
    (folder / "adapter").mkdir(parents=True, exist_ok=True)
    (folder / "adapter" / "adapter_model.safetensors").write_text(f"weights of {text}")
    write_json(folder / "adapter" / "adapter_config.json", {"r": 8, "lora_alpha": 16})
    (folder / "out.gguf").write_text(f"gguf of {text}")
    return Trained(folder / "adapter", folder / "out.gguf")


Solves = Callable[[str, Sequence[Task]], Mapping[str, bool]]


@dataclasses.dataclass
class Steps:
    """What was done, and what each model solves.

    Attributes:
        solves: text of a GGUF and tasks, to whether it solves each.
        done: names of the steps, in order.
    """

    solves: Solves
    done: list[str] = dataclasses.field(default_factory=list)
    materials: list[Material] = dataclasses.field(default_factory=list)
    recipes: list[Resolved] = dataclasses.field(default_factory=list)
    tasks: list[Task] = dataclasses.field(default_factory=list)

    def craft(self) -> Craft:
        """The steps themselves."""
        return Craft(lambda _: Inside([]), lambda codes: [True] * len(codes), self._pair, self._train, self._solve)

    def _pair(
        self,
        material: Material,
        section: PreferenceSection,
        method: str,
        folder: Path,
        judged: Path,
        progress: Progress,
    ) -> dict[str, Any]:
        self.materials.append(material)
        facts = folder / "pairs.json"
        if not facts.is_file():
            self.done.append("pair")
            more = {"chosen": "x", "rejected": "y", "completion": "x", "module": "solution"}
            rows = [{"id": t.id, "group": t.group, "code": t.code, **more} for t in material.tasks]
            for name in ("pairs.jsonl", "winners.jsonl"):
                (folder).mkdir(parents=True, exist_ok=True)
                (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
            write_json(facts, {"pairs": len(rows), "winners": len(rows), "left_out": 0})
        return dict(json.loads(facts.read_text()))

    def _train(self, resolved: Resolved, folder: Path, progress: Progress) -> Trained:
        self.done.append("train")
        self.recipes.append(resolved)
        return model_files(folder, f"model after {resolved.final.model.adapter} seed {resolved.final.train.seed}")

    def _solve(
        self, gguf: Path, tasks: Sequence[Task], recipe: Recipe, samples: Path, progress: Progress
    ) -> dict[str, bool]:
        self.done.append("solve")
        self.tasks = list(tasks)
        return dict(self.solves(gguf.read_text(), tasks))
