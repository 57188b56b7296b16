"""Recipes: TOML files that describe a training stage, or a pipeline of stages.

A recipe is read in layers; a later one wins, key by key:

1. the defaults of the sections below,
2. the file named by ``extends``: beside the recipe, or one that ships with the kit (one level),
3. the recipe itself,
4. in a pipeline: the pipeline file's own sections, then the keys written inline in its ``[[stages]]`` entry,
5. ``--set section.key=value``.

`load` returns a `Resolved` recipe: one `Stage` or several, each with frozen sections, and where every value came
from. All problems of a recipe are reported together, before anything is downloaded.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lowvram_ft.errors import RecipeError
from lowvram_ft.recipe.sections import SECTIONS, Recipe, trained_and_evaluated

DEFAULT = "default"
EVALUATIONS = ("before", "after")
"""What the evaluations of the base and of the last stage are called; others have the name of their stage."""


@dataclass(frozen=True)
class Stage:
    """One stage of a resolved recipe.

    Attributes:
        name: folder name of the stage in a run directory.
        recipe: its sections.
        origin: ``"section.key"`` to the file (or ``default``, ``--set``) that the value came from.
    """

    name: str
    recipe: Recipe
    origin: Mapping[str, str]


@dataclass(frozen=True)
class Resolved:
    """A recipe or a pipeline, resolved. Export, bench and eval follow the last stage's sections."""

    name: str
    path: Path
    stages: tuple[Stage, ...]

    @property
    def final(self) -> Recipe:
        """The sections of the last stage."""
        return self.stages[-1].recipe

    def to_json(self) -> dict[str, Any]:
        """Every value, stage by stage, with where it came from."""
        return {
            "name": self.name,
            "stages": [
                {
                    "name": stage.name,
                    "recipe": stage.recipe.model_dump(mode="json"),
                    "origin": dict(stage.origin),
                }
                for stage in self.stages
            ],
        }

    def digest(self) -> str:
        """A hash of every value (not of where it came from): what makes two runs the same run.

        Who watches a training changes nothing of it, and is left out.
        """
        watched = {"train": {"report_to"}}
        values = [[stage.name, stage.recipe.model_dump(mode="json", exclude=watched)] for stage in self.stages]
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def recipes_dir() -> Path:
    """Folder of the recipes that ship with the kit: package data in a wheel, the checkout in an editable install."""
    package = Path(__file__).parent.parent
    shipped = package / "recipes"
    return shipped if shipped.is_dir() else package.parent / "recipes"


def shipped_recipes() -> tuple[Path, ...]:
    """Every recipe that ships with the kit (``models.toml``, a table of facts, is none)."""
    return tuple(sorted(path for path in recipes_dir().glob("*.toml") if path.name != "models.toml"))


def find(name: str) -> Path:
    """Find a recipe by path, or by the name of one that ships with the kit.

    Raises:
        RecipeError: there is none of that name; the message lists those that ship.
    """
    path = Path(name)
    if path.is_file():
        return path
    shipped = recipes_dir() / (name if name.endswith(".toml") else f"{name}.toml")
    if path.parent == Path() and shipped.is_file() and shipped.name != "models.toml":
        return shipped
    known = ", ".join(recipe.stem for recipe in shipped_recipes())
    raise RecipeError([f"{name}: no such recipe; give the path of a .toml file, or one of: {known}"])


def load(name: str, overrides: Sequence[str] = ()) -> Resolved:
    """Read, layer and validate a recipe.

    Args:
        name: path of a TOML file, or name of a recipe that ships with the kit.
        overrides: ``section.key=value`` entries, applied to every stage.

    Raises:
        RecipeError: with every problem found, one line each.
    """
    path = find(name)
    text = _read(path)
    problems: list[str] = []
    over = _parse_overrides(overrides, problems)
    stages: list[Stage] = []
    entries = text.get("stages")
    own = {key: value for key, value in text.items() if key != "stages"}
    if entries is None:
        layers = [*_with_parent(path, own, problems), *over]
        _add_stage(stages, path.stem, path, layers, problems)
    elif not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        problems.append(f"{path}: stages: is not a list of tables; write [[stages]] once for each stage")
    else:
        for number, entry in enumerate(entries, 1):
            _pipeline_stage(path, number, entry, own, over, stages, problems)
        names = [stage.name for stage in stages]
        problems += [f"{path}: stages: the name {n} is used twice; give each a name" for n in _twice(names)]
    if stages and stages[-1].recipe.eval.after_each_stage:
        problems += [
            f"{path}: stages: {stage.name}: is the name of an evaluation (eval.after_each_stage); give it another"
            for stage in stages
            if stage.name in EVALUATIONS
        ]
    if path.stem == "base":
        problems.append(f"{path}: its exports would have the names of its base model's; give the file another name")
    for file in _overlaps(stages):
        problems.append(
            f"{path}: data.path, eval.suites: {file} is both trained on and evaluated on; use different files"
        )
    if problems:
        raise RecipeError(problems)
    return Resolved(name=path.stem, path=path, stages=tuple(stages))


def files_of(path: Path) -> tuple[Path, ...]:
    """Every file that a recipe is read from: itself, what it extends, its stages' recipes and what those extend.

    Args:
        path: of a recipe that `load` has read.
    """
    text = _read(path)
    entries = text.get("stages", [])
    found = [path]
    for name in [text.get("extends"), *(entry.get("recipe") for entry in entries)]:
        parent = _beside(path, str(name)) if name is not None else None
        if parent is not None:
            found += files_of(parent)
    return tuple(dict.fromkeys(found))


Layer = tuple[str, Mapping[str, Any]]


def _pipeline_stage(
    path: Path,
    number: int,
    entry: Mapping[str, Any],
    own: Mapping[str, Any],
    over: Sequence[Layer],
    stages: list[Stage],
    problems: list[str],
) -> None:
    layers: list[Layer] = []
    base = entry.get("recipe")
    if base is not None:
        parent = _beside(path, str(base))
        if parent is None:
            problems.append(f"{path}: stages[{number}].recipe: {_not_found(path, str(base))}")
            return
        layers = _with_parent(parent, _read(parent), problems)
    layers.append((path.name, own))
    inline = {key: value for key, value in entry.items() if key not in ("recipe", "name")}
    layers.append((f"{path.name} [[stages]] {number}", inline))
    name = str(entry.get("name") or Path(str(base or f"stage_{number}")).stem)
    _add_stage(stages, name, path, [*layers, *over], problems)


def _with_parent(path: Path, text: Mapping[str, Any], problems: list[str]) -> list[Layer]:
    """The layers of one file: what it extends (one level), then itself."""
    own = {key: value for key, value in text.items() if key != "extends"}
    extends = text.get("extends")
    if extends is None:
        return [(path.name, own)]
    parent = _beside(path, str(extends))
    if parent is None:
        problems.append(f"{path}: extends: {_not_found(path, str(extends))}")
        return [(path.name, own)]
    above = _read(parent)
    if "extends" in above:
        problems.append(f"{path}: extends: {parent.name} extends another recipe itself; one level only")
    return [(parent.name, {key: value for key, value in above.items() if key != "extends"}), (path.name, own)]


def _beside(path: Path, name: str) -> Path | None:
    """The recipe that another one names: beside it, or else among those that ship with the kit."""
    if (path.parent / name).is_file():
        return path.parent / name
    try:
        return find(name) if Path(name).parent == Path() else None
    except RecipeError:
        return None


def _not_found(path: Path, name: str) -> str:
    return f"no such file ({path.parent / name}); name a recipe beside this one, or one that ships with the kit"


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise RecipeError([f"{path}: is not valid TOML ({error}); mend that line"]) from error
    except UnicodeDecodeError as error:
        raise RecipeError(
            [f"{path}: is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8"]
        ) from error


def _parse_overrides(overrides: Sequence[str], problems: list[str]) -> list[Layer]:
    layers: list[Layer] = []
    for item in overrides:
        key, equals, raw = item.partition("=")
        section, dot, name = key.strip().partition(".")
        if not (equals and dot and section and name):
            problems.append(f"--set {item}: is not section.key=value; for example --set train.max_steps=20")
            continue
        try:
            value = tomllib.loads(f"value = {raw}")["value"]
        except tomllib.TOMLDecodeError:
            value = raw
        layers.append(("--set", {section: {name: value}}))
    return layers


def _add_stage(stages: list[Stage], name: str, path: Path, layers: Sequence[Layer], problems: list[str]) -> None:
    merged: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for source, layer in layers:
        for key, value in layer.items():
            if isinstance(value, dict):
                table = merged.setdefault(key, {})
                if not isinstance(table, dict):
                    continue
                table.update(value)
                origin.update({f"{key}.{inner}": source for inner in value})
            else:
                merged[key] = value
                origin[key] = source
    try:
        recipe = Recipe.model_validate(merged)
    except ValidationError as error:
        for item in error.errors():
            line = _problem(path, item, origin)
            if line not in problems:
                problems.append(line)
        return
    for section in SECTIONS:
        for key in type(getattr(recipe, section)).model_fields:
            origin.setdefault(f"{section}.{key}", DEFAULT)
    stages.append(Stage(name=name, recipe=recipe, origin=origin))


def _problem(path: Path, item: Any, origin: Mapping[str, str]) -> str:
    """One line of a validation error: where, what, what to do."""
    parts = [str(part) for part in item["loc"]]
    where = ".".join(parts)
    section = parts[0] if parts else ""
    inside = (name for key, name in origin.items() if key.startswith(f"{section}."))
    source = origin.get(".".join(parts[:2])) or origin.get(section) or next(inside, path.name)
    file = source if source == "--set" else str(path.parent / source)
    if item["type"] == "extra_forbidden":
        return f"{file}: {where}: unknown setting; {_did_you_mean(parts)}"
    got = item["input"]
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "value_error":
        return f"{file}: {where + ': ' if len(parts) != 1 else where + '.'}{message}".replace(": : ", ": ")
    return f"{file}: {where}: {message[0].lower()}{message[1:]} (got {got!r})"


def _did_you_mean(parts: Sequence[str]) -> str:
    every = {f"{s}.{k}": k for s in SECTIONS for k in Recipe.model_fields[s].default.__class__.model_fields}
    if len(parts) == 1:
        close = difflib.get_close_matches(parts[0], SECTIONS, n=1)
        homes = [name for name, key in every.items() if key == parts[0]]
        guess = close or homes
        return f"did you mean {guess[0]}?" if guess else f"the sections are {', '.join(SECTIONS)}"
    own = [key for name, key in every.items() if name.startswith(f"{parts[0]}.")]
    close = difflib.get_close_matches(parts[1], own, n=1)
    if close:
        return f"did you mean {parts[0]}.{close[0]}?"
    elsewhere = [name for name, key in every.items() if key == parts[1]]
    return f"did you mean {elsewhere[0]}?" if elsewhere else f"[{parts[0]}] has: {', '.join(own)}"


def _overlaps(stages: Sequence[Stage]) -> list[str]:
    """Files that any stage trains on and any stage is evaluated on: the last stage carries what the first learnt."""
    every = [trained_and_evaluated(trained.recipe.data, judged.recipe.eval) for trained in stages for judged in stages]
    return list(dict.fromkeys(file for found in every for file in found))


def _twice(names: Sequence[str]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1})
