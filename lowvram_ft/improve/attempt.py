"""An attempt: what it is made of, frozen when it begins, so that a killed one goes on with the same."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lowvram_ft.improve.home import Home
from lowvram_ft.improve.ledger import Ledger
from lowvram_ft.improve.material import HeldOut, Material
from lowvram_ft.improve.memory import code_digest
from lowvram_ft.inference.in_use import read_in_use
from lowvram_ft.preference.records import Answer, PreferenceTask
from lowvram_ft.recipe.sections import Method
from lowvram_ft.run_dir import read_json, write_json


@dataclass(frozen=True)
class Settings:
    """What the user says of an attempt.

    Attributes:
        method: how it is learnt from answers: ``dpo`` or ``rft``.
        overrides: ``section.key=value`` of its recipe.
        suites: further tasks that both models answer.
        max_tasks: of each suite.
        again: try even where nothing is new.
    """

    method: Method = "dpo"
    overrides: tuple[str, ...] = ()
    suites: tuple[str, ...] = ()
    max_tasks: int | None = None
    again: bool = False


@dataclass(frozen=True)
class Attempt:
    """One attempt.

    Attributes:
        id: its name in the ledger.
        number: of the generation that it would be.
        parent: of the generation that it continues, and is held against.
        signature: changes with what is learnt, and how; not with the model that learns, nor with the seed.
        seed: of its training.
        settings: what the user said.
        material: what it learns from, and is judged by.
        time: when it began.
    """

    id: str
    number: int
    parent: int
    signature: str
    seed: int
    settings: Settings
    material: Material
    time: str

    @property
    def held_out(self) -> list[str]:
        """Digests of the modules and suites that it is judged by: a module that was edited since is the same one."""
        return held_out_digests(self.material, self.settings)


def held_out_digests(material: Material, settings: Settings) -> list[str]:
    """See `Attempt.held_out`."""
    groups = {code_digest(task.group) for task in material.held_out}
    return sorted(groups | {code_digest(f"suite {suite}") for suite in settings.suites})


def signature_of(material: Material, settings: Settings) -> str:
    """See `Attempt.signature`."""
    facts = [material.digest, settings.method, list(settings.overrides)]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def begin(home: Home, material: Material, settings: Settings, parent: int) -> Attempt:
    """Freeze an attempt, whole or not at all."""
    ledger = Ledger(home.ledger)
    signature = signature_of(material, settings)
    tried = sum(line["event"] == "ended" and line.get("signature") == signature for line in ledger.lines())
    now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    number = next_number(home)
    attempt = Attempt(f"{number}-{signature}-{tried}", number, parent, signature, tried, settings, material, now)
    clear(home)
    write_json(home.attempt, dataclasses.asdict(attempt) | {"material": _material_json(material)})
    return attempt


def current(home: Home) -> Attempt | None:
    """The attempt that is under way; None where there is none."""
    if not home.attempt.is_file():
        return None
    found = read_json(home.attempt)
    own = found["settings"]
    settings = Settings(own["method"], tuple(own["overrides"]), tuple(own["suites"]), own["max_tasks"], own["again"])
    return Attempt(**{**found, "settings": settings, "material": _material(found["material"])})


def clear(home: Home) -> None:
    """Remove the attempt that is under way, and what was made for it."""
    home.attempt.unlink(missing_ok=True)
    if home.work.is_dir():
        forget_prepared(home)
        shutil.rmtree(home.work)


def forget_prepared(home: Home) -> None:
    """Remove sets in the cache that were prepared from what lies here: they hold the user's code."""
    for card in (home.cache / "prepared").glob("*/README.md"):
        if str(home.root) in card.read_text(encoding="utf-8", errors="replace"):
            shutil.rmtree(card.parent, ignore_errors=True)


def next_number(home: Home) -> int:
    """One that no generation ever had."""
    numbers = {int(path.name) for path in home.models.glob("*") if path.name.isdigit()}
    found = read_in_use(home.root)
    numbers |= set(found.adopted) if found is not None else set()
    numbers |= {int(line["generation"]) for line in Ledger(home.ledger).lines() if line.get("generation") is not None}
    return max(numbers, default=-1) + 1


def pairs_folder(home: Home) -> Path:
    """Where the pair set of the attempt under way lies."""
    return home.work / "pairs"


def run_folder(home: Home) -> Path:
    """Where the attempt under way is trained."""
    return home.work / "run"


def _material_json(material: Material) -> dict[str, Any]:
    return {
        "tasks": [task.to_json() for task in material.tasks],
        "answers": [answer.to_json() for answer in material.answers],
        "fates": dict(material.fates),
        "traces": list(material.traces),
        "held_out": [dataclasses.asdict(task) for task in material.held_out],
        "left_out": dict(material.left_out),
        "repositories": dict(material.repositories),
    }


def _material(data: Mapping[str, Any]) -> Material:
    return Material(
        tasks=tuple(map(PreferenceTask.from_json, data["tasks"])),
        answers=tuple(map(Answer.from_json, data["answers"])),
        fates=data["fates"],
        traces=tuple(data["traces"]),
        held_out=tuple(HeldOut(**task) for task in data["held_out"]),
        left_out=data["left_out"],
        repositories=data["repositories"],
    )
