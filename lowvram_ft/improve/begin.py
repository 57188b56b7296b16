"""The model that improving begins with: of a finished run, or an adapter and its base."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

from lowvram_ft import models
from lowvram_ft.errors import ModelError, RunDirectoryError, UsageError
from lowvram_ft.export import export_model, provenance
from lowvram_ft.improve import registry
from lowvram_ft.improve.attempt import next_number
from lowvram_ft.improve.home import Home
from lowvram_ft.improve.ledger import Ledger
from lowvram_ft.improve.recipe import sections_of
from lowvram_ft.improve.registry import Generation
from lowvram_ft.improve.work import abandon
from lowvram_ft.inference.adapter import CONFIG, adapter_folder
from lowvram_ft.inference.in_use import InUse, read_in_use, write_in_use
from lowvram_ft.progress import Progress
from lowvram_ft.recipe import LoraSection, ModelSection, Recipe
from lowvram_ft.run_dir import RunDir


def register(home: Home, source: Path, base: str | None, progress: Progress) -> Generation:
    """Copy a model here and put it into use; the one before, if there is one, stays for a rollback.

    Args:
        home: where.
        source: a run directory that has been exported, or a PEFT folder.
        base: the base model of a PEFT folder; by default what the folder says.
        progress: where a person reads what is going on.

    Raises:
        UsageError: it is neither.
        RunDirectoryError: the run has not been exported.
        ModelError: the base cannot be used.
    """
    adapter = adapter_folder(source) if source.is_dir() else None
    if (source / "run.json").is_file() and base is not None:
        raise UsageError("--base: is for an adapter; a run knows its own")
    with home.alone():
        registry.sweep(home)
        abandon(home, "another model was registered")
        number = next_number(home)
        if (source / "run.json").is_file():
            adapter, gguf, facts = _of_run(source)
        elif adapter is not None:
            gguf = home.work / "registered.gguf"
            facts = _of_adapter(adapter, base, gguf, progress)
        else:
            raise UsageError(f"--from {source}: is neither a run directory nor an adapter's folder; give one of them")
        more: dict[str, Any] = {"parent": None, "repositories": {}, "trained": [], "source": str(source.resolve())}
        now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        found = registry.place(home, number, adapter, gguf, {**facts, **more, "time": now})
        _put_into_use(home, number)
        Ledger(home.ledger).note("registered", generation=number)
        shutil.rmtree(home.work, ignore_errors=True)
    return found


def _put_into_use(home: Home, number: int) -> None:
    before = read_in_use(home.root)
    history = () if before is None else (*before.history, before.generation)
    adopted = () if before is None else before.adopted
    write_in_use(home.root, InUse(number, history, (*adopted, number)))


def _of_run(folder: Path) -> tuple[Path, Path, dict[str, Any]]:
    data = RunDir(folder).data
    steps, stage = data["steps"], data["recipe"]["stages"][-1]
    adapter = folder / "stages" / stage["name"] / "adapter"
    if "export" not in steps or not (adapter / CONFIG).is_file():
        raise RunDirectoryError(f"{folder}: has not been trained and exported; run its command to the end first")
    gguf = folder / "export" / Path(steps["export"]["gguf"]).name
    if not gguf.is_file():
        raise RunDirectoryError(f"{gguf}: is gone; export the run again")
    recipe = Recipe.model_validate_json(json.dumps(stage["recipe"]))
    return adapter, gguf, _recipe_facts(recipe, steps["plan"]["base"], adapter)


def _of_adapter(adapter: Path, base: str | None, gguf: Path, progress: Progress) -> dict[str, Any]:
    config = json.loads((adapter / CONFIG).read_text(encoding="utf-8"))
    name = base or str(config.get("base_model_name_or_path") or "")
    if not name:
        raise ModelError(f"{adapter}: does not say which base model it is of; give --base")
    recipe = Recipe()
    model = models.resolve(name)
    gguf.parent.mkdir(parents=True, exist_ok=True)
    export_model(models.materialize(model), adapter, gguf, recipe.export, progress, provenance(model, [adapter]))
    return _recipe_facts(recipe, model.id, adapter)


def _recipe_facts(recipe: Recipe, base: str, adapter: Path) -> dict[str, Any]:
    """The recipe with the base and the rank that the adapter has."""
    config = json.loads((adapter / CONFIG).read_text(encoding="utf-8"))
    folder = Path(base).expanduser()
    model = ModelSection(base=str(folder.resolve()) if folder.is_dir() else base)
    lora = LoraSection(**recipe.lora.model_dump() | {"r": int(config["r"]), "lora_alpha": int(config["lora_alpha"])})
    changed = recipe.model_copy(update={"model": model, "lora": lora})
    return {"base": model.base, "recipe": sections_of(changed)}
