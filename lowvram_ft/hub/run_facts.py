"""What a run says of the model that came out of it, as far as others may read it.

Settings, counts, metrics and versions. Never a row, a task, an answer, a path, or the name of private data.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lowvram_ft.data.sources import SOURCES
from lowvram_ft.errors import LowvramError
from lowvram_ft.hub.licences import UNKNOWN, Licence, licence_of
from lowvram_ft.hub.names import withheld
from lowvram_ft.models import known_models
from lowvram_ft.recipe import load
from lowvram_ft.recipe.layers import DEFAULT
from lowvram_ft.run_dir import RunDir

OWN = "files of the author's own"
_OWN_TASKS = ("repository:", "installed:")


@dataclass(frozen=True)
class StageFacts:
    """A stage that has been trained.

    Attributes:
        name: of the stage, where the recipe ships with the kit; else its number.
        settings: the recipe's sections, as JSON.
        result: of its training step.
        data: what it learned from, in a few words.
        hub_id: of a public data set; None for other data.
        licence: of the data.
        own: whether that is data of the user's own.
    """

    name: str
    settings: Mapping[str, Any]
    result: Mapping[str, Any]
    data: str
    hub_id: str | None
    licence: Licence
    own: bool


@dataclass(frozen=True)
class RunFacts:
    """A run, up to the stage whose adapter is passed on.

    Attributes:
        base: as the run calls it.
        recipe: name of the recipe, where it ships with the kit and repeats the run; else None.
        command: the command that repeats the run.
        recipe_text: the recipe of that command, where it is not one that ships with the kit; without private names.
        stages: those that were trained, the first one first.
        evaluation: suite to ``before``, ``after`` and ``difference``, where this very stage was evaluated.
        verification: of the GGUF; None where there is none.
        bench: latency; None where it was not measured.
        gates: of the recipe, with their verdicts.
        export: the step that wrote the GGUF; None where there is none.
        versions: packages to versions.
        started: when the run began.
    """

    base: str
    recipe: str | None
    command: str
    recipe_text: str | None
    stages: tuple[StageFacts, ...]
    evaluation: Mapping[str, Mapping[str, Any]]
    verification: Mapping[str, Any] | None
    bench: Mapping[str, Any] | None
    gates: tuple[Mapping[str, Any], ...]
    export: Mapping[str, Any] | None
    versions: Mapping[str, str]
    started: str

    @property
    def own_data(self) -> bool:
        """Whether anything that it was trained on is the user's own."""
        return any(stage.own for stage in self.stages)


def run_of(path: Path) -> Path | None:
    """The run directory that a file or a folder lies in, such as ``RUN/stages/NAME/adapter``; else None."""
    absolute = path.absolute()
    for folder in (absolute, *absolute.parents[:4]):
        if (folder / "run.json").is_file():
            return folder
    return None


def read_run(run: Path, stage: str | None = None) -> RunFacts:
    """What ``run.json`` says.

    Args:
        run: the run directory.
        stage: whose model is passed on; the last one by default.

    Raises:
        RunDirectoryError: it is no run directory, or damaged.
    """
    data = RunDir(run).data
    steps, stages = data["steps"], data["recipe"]["stages"]
    names = [each["name"] for each in stages]
    last = names.index(stage) if stage in names else len(names) - 1
    base = steps.get("plan", {}).get("base") or stages[0]["recipe"]["model"]["base"]
    recipe, command, text = _repeated_by(data["recipe"], base)
    is_last = last == len(names) - 1
    return RunFacts(
        base=base,
        recipe=recipe,
        command=command,
        recipe_text=text,
        stages=tuple(
            _stage(each, number, recipe is not None, steps) for number, each in enumerate(stages[: last + 1], 1)
        ),
        evaluation=_evaluation(steps, names[last], is_last),
        verification=steps.get("verify") if is_last else None,
        bench=steps.get("bench") if is_last else None,
        gates=tuple(steps.get("gates", {}).get("gates", ())) if is_last else (),
        export=steps.get("export" if is_last else f"export_stage:{names[last]}"),
        versions=data["versions"],
        started=str(data["started"]),
    )


def _evaluation(steps: Mapping[str, Any], stage: str, is_last: bool) -> dict[str, dict[str, Any]]:
    before, after = steps.get("eval:before"), steps.get("eval:after" if is_last else f"eval:{stage}")
    if after is None:
        return {}
    if is_last:
        differences = steps.get("compare", {}).get("suites", {})
    else:
        compared = steps.get("compare:stages", {}).get("stages", ())
        differences = next((each["since_base"] for each in compared if each["name"] == stage), {})
    return {
        suite: {
            "before": before["suites"].get(suite) if before else None,
            "after": means,
            "difference": differences.get(suite),
        }
        for suite, means in after["suites"].items()
    }


def _stage(each: Mapping[str, Any], number: int, shipped: bool, steps: Mapping[str, Any]) -> StageFacts:
    settings = each["recipe"]
    section = settings["data"]
    source = SOURCES[section["source"]]
    result = steps.get(f"train:{each['name']}", {})
    name = each["name"] if shipped else f"stage {number}"
    if settings["train"]["method"] != "sft":
        data, licence, own = _answered(each["name"], settings, steps)
        hub_id = None
    elif section["source"] == "samples":
        data, hub_id, licence, own = "the rows that ship with lowvram-ft", None, licence_of(source.licence), False
        data += f" ({section['subset']})" if section["subset"] else ""
    elif section["path"] is None and section["hub_id"] in (None, source.hub_id) and source.hub_id is not None:
        data, hub_id, licence, own = source.hub_id, source.hub_id, licence_of(source.licence), False
    else:
        # rows of a public source in a file of one's own: what licence that source has, they still have
        of_source = licence_of(source.licence)
        data, hub_id, licence, own = f"{OWN} ({section['source']})", None, of_source, True
    return StageFacts(name, settings, result, data, hub_id, licence, own)


def _answered(name: str, settings: Mapping[str, Any], steps: Mapping[str, Any]) -> tuple[str, Licence, bool]:
    """What a stage that learns from answers learned from: in words, under which licence, whether it is the user's own.

    The answers are the model's. What they are about is code, whose licences the pairs name.
    """
    section = settings["preference"]
    own = section["pairs"] is not None or any(task.startswith(_OWN_TASKS) for task in section["tasks"])
    rows = settings["data"]["source"]
    if "rows" in section["tasks"]:
        own = own or settings["data"]["path"] is not None or (SOURCES[rows].hub_id is None and rows != "samples")
    of_pairs = [step.get("licences", {}) for key, step in steps.items() if key.startswith(f"pairs:{name}/")]
    licences = {text for found in of_pairs for text in found}
    tasks = ", ".join(
        str(withheld("preference.tasks", task, ())).replace(":PLACEHOLDER", "") for task in section["tasks"]
    )
    words = f"the model's own answers, judged by running them, for code of: {tasks.replace('_', ' ')}"
    if "rows" in section["tasks"] and rows != "samples" and not own:
        licences.add(SOURCES[rows].licence)
        words += f" ({SOURCES[rows].hub_id or rows})"
    known = [licence_of(text) for text in sorted(licences)]
    asking = [licence for licence in known if licence.known and not licence.permissive]
    if own:
        return words, UNKNOWN, True
    return words, asking[0] if asking else licence_of("Apache-2.0"), False


def _repeated_by(recipe: Mapping[str, Any], base: str) -> tuple[str | None, str, str | None]:
    """The recipe that ships with the kit, the command, and the recipe's text where it is another one."""
    public = {base, *known_models(), *(source.hub_id for source in SOURCES.values() if source.hub_id)}
    public |= {
        stage["recipe"]["model"]["base"] for stage in recipe["stages"] if stage["recipe"]["model"]["base"] in public
    }
    over = _overrides(recipe["stages"])
    if over is not None and _is_shipped(recipe, over):
        shown = [f"{key}={_as_toml(withheld(key, value, public))}" for key, value in over.items()]
        parts = ["lowvram-ft", "run", recipe["name"], *(part for text in shown for part in ("--set", text))]
        return recipe["name"], shlex.join(parts), None
    return None, "lowvram-ft run recipe.toml", _recipe_text(recipe["stages"], public)


def _overrides(stages: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """What ``--set`` changed; None where it cannot be told."""
    found: dict[str, Any] = {}
    for stage in stages:
        for key, origin in stage["origin"].items():
            if origin == "--set":
                section, _, inner = key.partition(".")
                found[key] = stage["recipe"][section][inner] if inner else stage["recipe"][section]
    return None if any(value is None for value in found.values()) else dict(sorted(found.items()))


def _is_shipped(recipe: Mapping[str, Any], over: Mapping[str, Any]) -> bool:
    """Whether a recipe of the kit's, with what was overridden, is the recipe of the run, value for value."""
    name = str(recipe["name"])
    if any(sign in name for sign in "./\\"):
        return False
    try:
        again = load(name, [f"{key}={_as_toml(value)}" for key, value in over.items()])
    except LowvramError:
        return False
    ran = [[stage["name"], stage["recipe"]] for stage in recipe["stages"]]
    return ran == [[stage.name, stage.recipe.model_dump(mode="json")] for stage in again.stages]


def _recipe_text(stages: Sequence[Mapping[str, Any]], public: set[str]) -> str:
    """The recipe as a pipeline in TOML, every setting that is no default; a private name is ``PLACEHOLDER``."""
    lines = ["schema_version = 1"]
    for number, stage in enumerate(stages, 1):
        lines += ["", "[[stages]]", f'name = "stage_{number}"']
        for key, origin in sorted(stage["origin"].items()):
            section, _, inner = key.partition(".")
            if origin == DEFAULT or not inner:
                continue
            value = withheld(key, stage["recipe"][section][inner], public)
            if value is not None:
                lines.append(f"{key} = {_as_toml(value)}")
    return "\n".join(lines) + "\n"


def _as_toml(value: Any) -> str:
    """A value of a recipe in TOML: JSON is the same there, but for null, which none has."""
    return json.dumps(value, ensure_ascii=False)
